"""Run one file of `sql/` on the tables it is given, and on nothing else, within a memory limit."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from jobs.errors import JobError

SQL = Path(__file__).resolve().parents[1] / "sql"


@dataclass(frozen=True)
class View:
    """A table that is itself a query without parameters over the tables named before it."""

    name: str  # of a file of `sql/`


# What a query can read; of a sequence, at least one.
Rows: TypeAlias = "pa.Table | pa.RecordBatchReader | Path | Sequence[Path] | View"


@dataclass(frozen=True)
class Limits:
    """What one DuckDB may use. Decides how fast an answer comes, never the answer.

    Attributes:
        memory: as DuckDB writes it, "4GiB"; None: its own default, 80 % of the machine.
        threads: None: one for each core.
        spill: folder for what does not fit into memory; None: the system's temporary folder.
    """

    memory: str | None = None
    threads: int | None = None
    spill: Path | None = None

    @classmethod
    def from_environment(cls) -> Limits:
        """TIDEMARK_MEMORY_LIMIT, TIDEMARK_THREADS and TIDEMARK_SPILL, where they are set."""
        threads, spill = os.environ.get("TIDEMARK_THREADS"), os.environ.get("TIDEMARK_SPILL")
        return cls(
            memory=os.environ.get("TIDEMARK_MEMORY_LIMIT") or None,
            threads=int(threads) if threads else None,
            spill=Path(spill) if spill else None,
        )

    def shared(self, n: int) -> Limits:
        """What each of `n` DuckDBs side by side may use."""
        if n == 1:
            return self
        memory = self.memory and f"{_bytes_of(self.memory) // n} B"
        threads = max((self.threads or os.cpu_count() or 1) // n, 1)
        return Limits(memory=memory, threads=threads, spill=self.spill)

    def settings(self, spill: str) -> dict[str, str]:
        """DuckDB's own names for the limits."""
        given = {"memory_limit": self.memory, "threads": self.threads, "temp_directory": spill}
        return {name: str(value) for name, value in given.items() if value is not None}


def _bytes_of(memory: str) -> int:
    size = re.fullmatch(r"([0-9.]+) *([kmgt]?)(i?)b?", memory.strip().lower())
    if size is None:
        raise JobError(f"TIDEMARK_MEMORY_LIMIT: '{memory}' is no amount of memory such as 4GiB")
    unit = (1024 if size[3] else 1000) ** " kmgt".index(size[2] or " ")
    return int(float(size[1]) * unit)


def sql_text(name: str) -> str:
    """Text of `sql/<name>.sql`."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def query(name: str, tables: Mapping[str, Rows], **parameters: Any) -> pa.Table:
    """Result of `sql/<name>.sql` over `tables`, with `$parameters` bound as values.

    The connection is new and in memory, holds only the tables given, sees no Python variable and
    no other file.
    """
    with connect(tables) as connection:
        return connection.sql(sql_text(name), params=parameters or None).to_arrow_table()


@contextmanager
def connect(
    tables: Mapping[str, Rows], limits: Limits | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A closed-in DuckDB connection on which exactly `tables` can be read, in UTC.

    A path, or several of one form, is read as Parquet where it lies; what does not fit into the
    memory limit spills into a folder that is gone afterwards.
    """
    limits = limits or Limits.from_environment()
    if limits.spill:
        limits.spill.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidemark-spill-", dir=limits.spill) as spill:
        connection = duckdb.connect(
            config={
                "python_enable_replacements": "false",
                "TimeZone": "UTC",
                "autoinstall_known_extensions": "false",
                **limits.settings(spill),
            }
        )
        try:
            _attach(connection, tables)
            yield connection
        finally:
            connection.close()


def _attach(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Rows]) -> None:
    files: list[str] = []
    for table, rows in tables.items():
        if isinstance(rows, (pa.Table, pa.RecordBatchReader)):
            connection.register(table, rows)
            continue
        if isinstance(rows, View):
            connection.sql(sql_text(rows.name)).create_view(table, replace=False)
            continue
        paths = [str(path) for path in ([rows] if isinstance(rows, Path) else rows)]
        relation = connection.read_parquet(paths, hive_partitioning=False)
        relation.create_view(table, replace=False)
        files += paths
    if files:
        connection.execute("set allowed_paths = ?", [files])
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
