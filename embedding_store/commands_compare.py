"""Commands that look at versions side by side, back in time, and at what they are made of."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from embedding_store.compare import Lineage, id_changes, lineage, space_diff, table_diffs
from embedding_store.errors import BadInput
from embedding_store.export import ExportFormat
from embedding_store.export import export as exported
from embedding_store.options import As, At, Ref, Store, TableName
from embedding_store.output import emit, emit_document
from embedding_store.rebuild import rebuild_check
from embedding_store.store import EmbeddingStore

EXIT_DIFFERS = 4  # of the command line: a file is not what was published

app = typer.Typer()


@app.command(epilog="Example: embedding-store diff 1 2 --format json")
def diff(
    a: Annotated[str, typer.Argument(help="A version's number or an alias.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    store: Store,
    table: Annotated[
        str | None, typer.Option("--table", help="List each id of this table that differs.")
    ] = None,
    format: As = "table",
) -> None:
    """Compare two versions: ids, rows, norms, neighbours, what a rotation leaves, and spaces."""
    opened = EmbeddingStore(store)
    with opened.open(a) as one, opened.open(b) as other:
        about = {"a": one.version, "b": other.version}
        if table is not None:
            emit(id_changes(one[table], other[table]), format, about, f"ids of {table}")
            return
        tables = [asdict(row) for row in table_diffs(one, other)]
        space = space_diff(one.space, other.space)
    if format == "json":
        emit_document({**about, "rows": tables, "space": space})
        return
    emit(tables, format, about, "tables")
    if format == "table" and space:
        emit(space, format, about, "spaces differ")


@app.command(epilog="Example: embedding-store why item_semantics 30 --at 2")
def why(
    table: TableName,
    id: Annotated[str, typer.Argument(help="An id of the table.")],
    store: Store,
    at: At = "production",
    format: As = "table",
) -> None:
    """Tell where a row comes from: its version, its run, the inputs, and since when it stands."""
    opened = EmbeddingStore(store)
    with opened.open(at, verify="off") as version:
        key_type = version[table].entry.key_type
    found = lineage(opened, version.version, table, _id(id, table, key_type))
    if format == "json":
        emit_document(_document(found, table, id))
    elif format == "csv":
        emit(_columns(found), format, {"version": found.version.version})
    else:
        _show(found, table, id)


def _id(text: str, table: str, key_type: str) -> int | str:
    """What was typed, as the type that the table's ids have."""
    try:
        return text if key_type == "string" else int(text)
    except ValueError as error:
        raise BadInput(f"ids of {table} are numbers ({error})") from error


def _facts(found: Lineage) -> dict[str, Any]:
    manifest = found.version.manifest
    return {
        "version": found.version.version,
        "day": manifest.day,
        "created": manifest.created_at,
        "run_key": manifest.run_key,
        "attempt": manifest.attempt,
        "manifest_sha256": found.version.manifest_sha256,
        "code_version": found.version.attributes.get("code_version"),
        "first_version": found.first_version,
        "older_versions_read": "all" if found.complete else "not all: the rest cannot be read",
    }


def _columns(found: Lineage) -> list[dict[str, Any]]:
    return [
        {"column": name, "unchanged_since": version, "day": day}
        for name, (version, day) in found.since.items()
    ]


def _document(found: Lineage, table: str, id: str) -> dict[str, Any]:
    inputs = [one.model_dump() for one in found.version.manifest.inputs]
    about = {"table": table, "id": id, **_facts(found)}
    return {**about, "columns": _columns(found), "inputs": inputs}


def _show(found: Lineage, table: str, id: str) -> None:
    facts = [{"what": name, "value": str(value)} for name, value in _facts(found).items()]
    emit(facts, "table", title=f"{table}, id {id}")
    emit(_columns(found), "table", title="columns")
    inputs = [
        {"input": one.name, "day": one.day, "rows": one.n_rows, "sha256": one.sha256}
        for one in found.version.manifest.inputs
    ]
    emit(inputs, "table", title="inputs of its run")


@app.command(epilog="Example: embedding-store rebuild --check 1")
def rebuild(
    store: Store,
    ref: Ref = "production",
    check: Annotated[
        bool, typer.Option("--check", help="Compare only; there is nothing else it could do.")
    ] = False,
    format: As = "table",
) -> None:
    """Make sidecars and indexes once more from Parquet; exit code 4 if a byte differs."""
    if not check:
        raise BadInput("a published version never changes, so rebuild only compares: give --check")
    with EmbeddingStore(store).open(ref) as version:
        found = rebuild_check(version)
        about = {"version": version.version}
    rows = [
        {"file": one.file, "equal": one.is_equal, "published": one.published, "now": one.rebuilt}
        for one in found
    ]
    emit(rows, format, about, "made again from Parquet")
    if not all(one.is_equal for one in found):
        raise typer.Exit(EXIT_DIFFERS)


@app.command(epilog="Example: embedding-store export production --format lance --to exported")
def export(
    store: Store,
    to: Annotated[Path, typer.Option("--to", help="Folder that gets a dataset for each table.")],
    format: Annotated[
        ExportFormat, typer.Option("--format", help="Needs tidemark with the extra of that name.")
    ],
    ref: Ref = "production",
    tables: Annotated[
        list[str] | None, typer.Option("--table", help="Only this one; may be repeated.")
    ] = None,
) -> None:
    """Write a version's tables as Lance or Delta Lake datasets."""
    with EmbeddingStore(store).open(ref) as version:
        paths = exported(version, format, to, tables or ())
        about = {"version": version.version}
    rows = [{"table": name, "path": str(path)} for name, path in paths.items()]
    emit(rows, "table", about, "exported")
