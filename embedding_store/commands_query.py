"""Commands that ask: vectors by id, neighbours, SQL over a version."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from embedding_store.errors import BadInput
from embedding_store.options import As, At, Check, Store, TableName
from embedding_store.output import emit
from embedding_store.search import SearchableSet
from embedding_store.store import EmbeddingStore

app = typer.Typer()


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
    where: Annotated[
        str | None, typer.Option("--where", help="SQL condition on the neighbours.")
    ] = None,
    at: At = "production",
    exact: Annotated[bool, typer.Option("--exact", help="Look at every row.")] = False,
    format: As = "table",
    verify: Check = "full",
) -> None:
    """Print the nearest neighbours of some ids, closest first, with titles where there are any."""
    version = EmbeddingStore(store).open(at, verify=verify)
    vectors = version[table]
    found = vectors.search(ids=_ids(vectors, ids), k=k, exact=exact, where=where)
    rows = found.to_pylist()
    titles = version.values_of("title", vectors.key, found["id"].combine_chunks())
    if titles is not None:
        rows = [{**row, "title": title} for row, title in zip(rows, titles, strict=True)]
    emit(rows, format, {"version": version.version}, f"neighbours in {table}")


@app.command(epilog='Example: embedding-store sql "select title from items where item_id < 30"')
def sql(
    select: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT.")],
    store: Store,
    at: At = "production",
    format: As = "table",
    verify: Check = "full",
) -> None:
    """Print the answer to one SELECT over a version's tables, which it cannot change or leave."""
    version = EmbeddingStore(store).open(at, verify=verify)
    emit(_rows(version.sql(select)), format, {"version": version.version}, "answer")


def _rows(answer: pa.Table) -> list[dict[str, Any]]:
    """Rows to print: vectors as arrays, NaN as nothing."""
    names = answer.column_names
    if double := next((name for name in names if names.count(name) > 1), None):
        raise BadInput(f"two columns are called '{double}'; name one of them with AS")
    columns = [
        [_printable(value, field.type) for value in column.to_pylist()]
        for column, field in zip(answer.columns, answer.schema, strict=True)
    ]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _printable(value: Any, kind: pa.DataType) -> Any:
    """float32 as NumPy's: it is printed in as few digits as give it back."""
    if isinstance(value, float):
        return None if math.isnan(value) else kind.to_pandas_dtype()(value)
    if not (isinstance(value, list) and pa.types.is_fixed_size_list(kind)):
        return value
    is_vector = pa.types.is_floating(kind.value_type)
    return np.array(value, dtype=kind.value_type.to_pandas_dtype()) if is_vector else value


def _ids(table: SearchableSet, texts: Sequence[str]) -> list[int] | list[str]:
    """What was typed, as the type that the table's ids have."""
    if table.entry.key_type == "string":
        return list(texts)
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise BadInput(f"ids of {table.name} are numbers ({error})") from error
