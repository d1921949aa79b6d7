"""Command line of the store: parse, call, print."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from embedding_store.errors import BadInput, Corrupted, NotFound, StoreError
from embedding_store.integrity import Level
from embedding_store.output import Format, emit, emit_document
from embedding_store.search import SearchableSet, SearchableVersion
from embedding_store.store import EmbeddingStore

EXIT_REFUSED, EXIT_USAGE, EXIT_NOT_FOUND, EXIT_CORRUPTED = 1, 2, 3, 4
_CODES = (
    "Exit codes: 0 done; 1 refused; 2 wrong usage; 3 no such store, version, table or id; "
    "4 a file is not what was published."
)

app = typer.Typer(
    name="embedding-store",
    help="Published versions of embeddings: list, look up, search, verify, promote.",
    epilog=_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _default_store() -> str:
    return str(Path(os.environ.get("TIDEMARK_HOME") or ".tidemark") / "store")


Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="TIDEMARK_STORE",
        default_factory=_default_store,
        show_default="$TIDEMARK_HOME/store, or .tidemark/store",
        help="Root of the store.",
    ),
]
As = Annotated[Format, typer.Option("--format", help="Tables for people, the rest for programs.")]
Ref = Annotated[str, typer.Argument(help="A version's number or an alias.")]
At = Annotated[str, typer.Option("--at", help="A version's number or an alias.")]
Check = Annotated[
    Level,
    typer.Option("--verify", help="full: hash every file; footer: sizes and footers; off: trust."),
]
TableName = Annotated[str, typer.Argument(metavar="TABLE", help="A table of the version.")]


@app.command(epilog="Example: embedding-store ls --format json")
def ls(store: Store, format: As = "table") -> None:
    """List the versions, oldest first, with their tables and aliases."""
    rows = [
        {
            "version": one.version,
            "day": one.day,
            "created": one.created_at,
            "tables": " ".join(f"{name}={rows}" for name, rows in one.rows.items()),
            "bytes": one.bytes,
            "aliases": " ".join(one.aliases),
        }
        for one in EmbeddingStore(store).versions()
    ]
    emit(rows, format, title="versions")


@app.command(epilog="Example: embedding-store show production")
def show(store: Store, ref: Ref = "production", format: As = "table") -> None:
    """Show what is recorded about a version; json prints its manifest, csv its files."""
    opened = EmbeddingStore(store)
    version = opened.open(ref, verify="off")
    if format == "json":
        emit_document({"manifest_sha256": version.manifest_sha256, **version.document})
        return
    if format == "table":
        _show_tables(opened, version)
    files = [
        {"file": one.name, "bytes": one.bytes, "sha256": one.sha256, "rows": one.rows}
        for one in version.manifest.files
    ]
    emit(files, format, {"version": version.version}, "files")


def _show_tables(store: EmbeddingStore, version: SearchableVersion) -> None:
    manifest = version.manifest
    named = [alias for alias, number in store.aliases().items() if number == version.version]
    facts: dict[str, Any] = {
        "version": version.version,
        "aliases": " ".join(named),
        "day": version.day,
        "created": manifest.created_at,
        "run_key": manifest.run_key,
        "manifest sha256": version.manifest_sha256,
        "follows version": manifest.parent.version if manifest.parent else None,
        **{f"space.{name}": value for name, value in version.space.items()},
        **version.attributes,
    }
    emit([{"what": name, "value": str(value)} for name, value in facts.items()], "table")
    tables = []
    for name in version:
        entry, index = manifest.tables[name], manifest.index_of(name)
        described = {"rows": entry.rows, "key": f"{entry.key} {entry.key_type}", "dim": entry.dim}
        searched = {"metric": entry.metric, "index": index.factory if index else None}
        tables.append({"table": name, **described, **searched})
    emit(tables, "table", title="tables")
    moves = [
        {"alias": one.alias, "move": one.sequence, "reason": one.reason, "actor": one.actor}
        for alias in named
        for one in store.alias_log(alias)[-1:]
    ]
    if moves:
        emit(moves, "table", title="last moves")


@app.command(epilog="Example: embedding-store get item_semantics 42 7 --format csv")
def get(
    table: TableName,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, in the order wanted.")],
    store: Store,
    at: At = "production",
    format: As = "table",
    verify: Check = "full",
) -> None:
    """Print the vectors of some ids; of a plain table, its rows."""
    version = EmbeddingStore(store).open(at, verify=verify)
    rows = _found(version[table], _ids(version[table], ids))
    emit(rows, format, {"version": version.version}, table)


def _found(table: SearchableSet, ids: list[int] | list[str]) -> list[dict[str, Any]]:
    if table.dim is None:
        return table.table().take(table.rows_of(ids)).to_pylist()
    vectors = table.vectors_of(ids)
    return [{"id": one, "vector": vector} for one, vector in zip(ids, vectors, strict=True)]


@app.command(epilog="Example: embedding-store search item_semantics --id 42 -k 5")
def search(
    table: TableName,
    ids: Annotated[list[str], typer.Option("--id", help="Whose neighbours; may be repeated.")],
    store: Store,
    k: Annotated[int, typer.Option("-k", min=1, help="How many neighbours.")] = 10,
    at: At = "production",
    exact: Annotated[bool, typer.Option("--exact", help="Look at every row.")] = False,
    format: As = "table",
    verify: Check = "full",
) -> None:
    """Print the nearest neighbours of some ids, closest first, with titles where there are any."""
    version = EmbeddingStore(store).open(at, verify=verify)
    vectors = version[table]
    found = vectors.search(ids=_ids(vectors, ids), k=k, exact=exact)
    rows = found.to_pylist()
    titles = version.values_of("title", vectors.key, found["id"].combine_chunks())
    if titles is not None:
        rows = [{**row, "title": title} for row, title in zip(rows, titles, strict=True)]
    emit(rows, format, {"version": version.version}, f"neighbours in {table}")


@app.command(epilog="Example: embedding-store verify 1")
def verify(
    store: Store,
    ref: Annotated[str | None, typer.Argument(help="A version or alias; all without one.")] = None,
    format: As = "table",
) -> None:
    """Read every byte and report what is not as it was published; exit code 4 if anything is."""
    problems = EmbeddingStore(store).verify(ref)
    rows = [{"file": one.file, "problem": one.problem} for one in problems]
    emit(rows, format, title="problems")
    if problems:
        raise typer.Exit(EXIT_CORRUPTED)


@app.command(epilog='Example: embedding-store promote 1 production --reason "report looked at"')
def promote(
    version: Annotated[int, typer.Argument(help="A version's number.")],
    alias: Annotated[str, typer.Argument(help="The name to move.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the alias's log.")],
    store: Store,
    actor: Annotated[
        str | None, typer.Option("--actor", help="Who.", show_default="the user of this process")
    ] = None,
    expected_prev: Annotated[
        int | None,
        typer.Option("--expected-prev", help="Refuse unless the alias names this (0: nothing)."),
    ] = None,
    format: As = "table",
) -> None:
    """Point an alias at a version; a version of an earlier day is refused."""
    entry = EmbeddingStore(store).promote(
        version,
        alias,
        reason=reason,
        actor=actor or getpass.getuser(),
        expected_prev=expected_prev,
    )
    row = {"alias": alias, "version": entry.version, "move": entry.sequence, "actor": entry.actor}
    emit([row], format, title="promoted")


def _ids(table: SearchableSet, texts: Sequence[str]) -> list[int] | list[str]:
    """What was typed, as the type that the table's ids have."""
    if table.entry.key_type == "string":
        return list(texts)
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise BadInput(f"ids of {table.name} are numbers ({error})") from error


def main(arguments: list[str] | None = None) -> None:
    """Entry point; `arguments` instead of the process's own, for tests."""
    try:
        app(arguments)
    except StoreError as error:
        sys.stderr.write(f"embedding-store: {error}\n")
        codes = {NotFound: EXIT_NOT_FOUND, Corrupted: EXIT_CORRUPTED}
        kinds = (code for kind, code in codes.items() if isinstance(error, kind))
        sys.exit(next(kinds, EXIT_REFUSED))
