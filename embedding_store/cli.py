"""Command line of the store: parse, call, print."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from embedding_store import (
    commands_compare,
    commands_lifecycle,
    commands_promote,
    commands_query,
)
from embedding_store.errors import Corrupted, NotFound, StoreError
from embedding_store.manifest import GateEntry, Manifest
from embedding_store.options import As, Ref, Store
from embedding_store.output import emit, emit_document
from embedding_store.search import SearchableVersion
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
for area in (commands_query, commands_promote, commands_compare, commands_lifecycle):
    app.add_typer(area.app)


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
            "state": one.state,
            "aliases": " ".join(one.aliases),
            "refused by": " ".join(one.refused),
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
        found = index.certificate if index else None
        recall = f"{found.recall:.4f} ({found.low:.4f} to {found.high:.4f})" if found else None
        tables.append({"table": name, **described, **searched, "recall": recall})
    emit(tables, "table", title="tables")
    if manifest.gates:
        emit([_gate(one) for one in manifest.gates], "table", title=_judged(manifest))
    if manifest.alignment:
        emit(
            [one.model_dump(exclude={"tables"}) for one in manifest.alignment.groups],
            "table",
            title=f"rotations from version {manifest.alignment.to.version}",
        )
    moves = [
        {"alias": one.alias, "move": one.sequence, "reason": one.reason, "actor": one.actor}
        for alias in named
        for one in store.alias_log(alias)[-1:]
    ]
    if moves:
        emit(moves, "table", title="last moves")


def _gate(gate: GateEntry) -> dict[str, Any]:
    bound = f">= {gate.at_least}" if gate.at_least is not None else f"<= {gate.at_most}"
    value = None if gate.value is None else f"{gate.value:.4g}"
    verdict = "passed" if gate.passed else "FAILED"
    return {"gate": gate.name, "": verdict, "value": value, "bound": bound, "says": gate.says}


def _judged(manifest: Manifest) -> str:
    """Title of the gates."""
    beside = manifest.reviewed_against
    against = f", beside version {beside}" if beside else ", without a version to compare with"
    return f"gates{against}: {'refused' if manifest.refused else 'passed'}"


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


def main(arguments: list[str] | None = None) -> None:
    """Entry point; `arguments` instead of the process's own, for tests."""
    try:
        app(arguments)
    except StoreError as error:
        sys.stderr.write(f"embedding-store: {error}\n")
        codes = {NotFound: EXIT_NOT_FOUND, Corrupted: EXIT_CORRUPTED}
        kinds = (code for kind, code in codes.items() if isinstance(error, kind))
        sys.exit(next(kinds, EXIT_REFUSED))


if __name__ == "__main__":
    main()
