"""Rows of a table in a DuckDB file, opened read-only, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from jobs.errors import SourceError
from jobs.prepare.sources.parquet_rows import BATCH_ROWS, Bounds
from jobs.prepare.sources.raw_file import said
from jobs.prepare.sources.source_columns import BROKEN, LINE, RAW, places_of, refuse_nested
from jobs.prepare.sources.source_form import Time
from jobs.prepare.sources.source_values import UNITS_US

_TIMES = ("TIMESTAMP", "DATE")  # how the names of DuckDB's types of time begin
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")


@contextmanager
def opened_duckdb(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection that can reach nothing but the file.

    Raises:
        SourceError: the file is missing, none of DuckDB's, or open for writing elsewhere.
    """
    try:
        connection = duckdb.connect(
            str(path),
            read_only=True,
            config={"TimeZone": "UTC", "autoinstall_known_extensions": "false", "threads": "1"},
        )
    except duckdb.Error as error:
        raise SourceError(
            f"{path}: cannot be opened as a DuckDB file ({said(error)}); a process that writes to "
            "it must close it first"
        ) from error
    try:
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")
        yield connection
    finally:
        connection.close()


def tables_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Names of the tables, `schema.table`."""
    found = connection.sql(
        "select table_schema, table_name from information_schema.tables "
        "where table_type = 'BASE TABLE' order by all"
    ).fetchall()
    return [f"{schema}.{table}" for schema, table in found]


def duckdb_batches(
    path: Path, table: str, columns: Sequence[str], bounds: Bounds | None
) -> Iterator[pa.RecordBatch]:
    """`#line` (the table's row number from 1), `#broken`, `#raw` (both null) and `columns`.

    Raises:
        SourceError: the file cannot be read, or the table or a column is missing, or one is nested.
    """
    with opened_duckdb(path) as connection:
        full = table if "." in table else f"main.{table}"
        if full not in (found := tables_of(connection)):
            raise SourceError(
                f"{path}: no table '{table}'; found {', '.join(found[:20]) or 'none'}; "
                "say which in `table`"
            )
        try:
            yield from _rows(connection, path, full, columns, bounds)
        except duckdb.Error as error:
            raise SourceError(f"{path}: table '{table}' cannot be read ({said(error)})") from error


def _rows(
    connection: duckdb.DuckDBPyConnection,
    path: Path,
    table: str,
    columns: Sequence[str],
    bounds: Bounds | None,
) -> Iterator[pa.RecordBatch]:
    source = ".".join(quoted(part) for part in table.split("."))
    types = {
        name: kind
        for name, kind, *_ in connection.sql(f"describe {source}").fetchall()  # checked and quoted
    }
    where = f"{path}, table {table}"
    places_of(list(types), columns, where)
    condition, parameters = _in_window(types, bounds)
    names = ", ".join(quoted(name) for name in columns)
    relation = connection.sql(
        f"select rowid + 1 as line, {names} from {source} where {condition}", params=parameters
    )
    refuse_nested(relation.limit(0).to_arrow_table().schema, where)
    for batch in relation.to_arrow_reader(BATCH_ROWS):
        n = batch.num_rows
        added = [batch[0], pa.nulls(n, pa.string()), pa.nulls(n, pa.large_string())]
        yield pa.RecordBatch.from_arrays(
            [*added, *batch.columns[1:]], names=[LINE, BROKEN, RAW, *columns]
        )


def quoted(name: str) -> str:
    """An identifier that is known to exist, as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _in_window(types: dict[str, str], bounds: Bounds | None) -> tuple[str, dict[str, Any]]:
    """A condition that keeps rows in the window and rows without a time, and its parameters."""
    if bounds is None:
        return "true", {}
    name, time, window = bounds
    low, high = window
    counts = types[name] in _INTEGERS and time.form in UNITS_US
    if not counts and not types[name].startswith(_TIMES):
        return "true", {}
    column = quoted(name)
    condition = f"({column} is null or ({column} >= $low and {column} < $high))"
    if counts:
        return condition, {"low": _count(low, time), "high": _count(high, time)}
    return condition, {"low": low, "high": high}


def _count(moment: datetime, time: Time) -> int:
    return (moment - datetime(1970, 1, 1)) // timedelta(microseconds=UNITS_US[time.form])
