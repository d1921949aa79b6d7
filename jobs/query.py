"""Run one file of `sql/` on the tables it is given, and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

SQL = Path(__file__).resolve().parents[1] / "sql"


def sql_text(name: str) -> str:
    """Text of `sql/<name>.sql`."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def query(name: str, tables: Mapping[str, pa.Table], **parameters: Any) -> pa.Table:
    """Result of `sql/<name>.sql` over `tables`, with `$parameters` bound as values.

    The connection is new and in memory, holds only the tables given, sees no Python variable and
    no file.
    """
    with connect(tables) as connection:
        return connection.sql(sql_text(name), params=parameters or None).to_arrow_table()


def connect(tables: Mapping[str, pa.Table]) -> duckdb.DuckDBPyConnection:
    """A closed-in DuckDB connection on which exactly `tables` can be read, in UTC."""
    connection = duckdb.connect(config={"python_enable_replacements": "false"})
    for table, rows in tables.items():
        connection.register(table, rows)
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection
