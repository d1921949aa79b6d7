"""One raw file, read and parsed once: its rows of some days, aside until they are judged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.files import sha256_file
from jobs.prepare.arrivals.ledger import ALWAYS, Signature
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.parse import Parser, parse_file, parsed_schema
from jobs.prepare.sources.raw_file import RawFile
from jobs.query import query

_DAY_US = 86_400_000_000
_NEVER = np.iinfo(np.int32).max
_BATCH_ROWS = 131_072  # of a row group of the spool


@dataclass(frozen=True)
class SpoolTask:
    """A raw file, and which of its rows are wanted.

    Attributes:
        after: rows that were known by this day by their own clock are not wanted; `date.min`
            where all are.
        until: nor are those that become known later than this day.
        can_skip: whether parts of the file without wanted rows need not be read.
        path: where the wanted rows go.
    """

    mapping: Mapping
    file: RawFile
    after: date
    until: date
    can_skip: bool
    path: Path


@dataclass(frozen=True)
class Spooled:
    """What a task found.

    Attributes:
        n_read: rows that were read, wanted or not.
        n_later: of those, rows of days after `until`.
        n_wanted: rows in the spool.
        sha256: of the raw file.
        n_bytes: its size before it was read.
        mtime_ns: its time of change before it was read.
        days: what the spool holds of each day; empty for a file with a day in its name.
    """

    task: SpoolTask
    n_read: int
    n_later: int
    n_wanted: int
    sha256: str
    n_bytes: int
    mtime_ns: int
    days: dict[date, Signature]


def spool_together(tasks: tuple[SpoolTask, ...]) -> list[Spooled]:
    """Read and parse some raw files of one source, one after the other."""
    with Parser(tasks[0].mapping) as parser:
        return [spool(task, parser) for task in tasks]


def spool(task: SpoolTask, parser: Parser) -> Spooled:
    """Read and parse a raw file in bounded memory.

    The spool has the columns of `parse_events` and `own_day` (the day that knows the row by its own
    clock), `known_day` (the same, until it turns out that the row came later) and `event_day`.
    """
    status = task.file.path.stat()
    n_read = n_later = n_wanted = 0
    writer: pq.ParquetWriter | None = None
    for rows in parse_file(task.mapping, task.file, window=_window(task), parser=parser):
        own_day = own_days(rows, task.mapping, task.file)
        is_wanted = (own_day > _days(task.after)) & (own_day <= _days(task.until))
        n_read += len(own_day)
        n_later += int((own_day > _days(task.until)).sum())
        n_wanted += int(is_wanted.sum())
        dated = _dated(rows, own_day).filter(pa.array(is_wanted))
        if writer is None:
            writer = pq.ParquetWriter(task.path, dated.schema, compression="lz4")
        writer.write_table(dated, row_group_size=_BATCH_ROWS)
    if writer:
        writer.close()
    return Spooled(
        task,
        n_read=n_read,
        n_later=n_later,
        n_wanted=n_wanted,
        sha256=sha256_file(task.file.path),
        n_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        days=_signatures(task) if task.file.known_from is None and n_wanted else {},
    )


def _signatures(task: SpoolTask) -> dict[date, Signature]:
    rows = query("prepare/day_signatures", {"spooled": task.path}).to_pylist()
    return {row.pop("own_day"): Signature(**row) for row in rows}


def _window(task: SpoolTask) -> tuple[datetime, datetime] | None:
    """Times of the wanted rows; one microsecond more, for what arrived at midnight sharp."""
    if not task.can_skip or task.after == date.min:
        return None
    start, end = (datetime.combine(day, time()) for day in (task.after, task.until))
    return start, end + timedelta(microseconds=1)


def _days(day: date) -> int:
    return (day - ALWAYS).days


def own_days(rows: pa.Table, mapping: Mapping, file: RawFile) -> np.ndarray:
    """Day (n_rows,) that knows each row by its own clock, in days since 1970.

    The midnight that ends the day of a delivery, or the first one at or after `ingested_at`, and
    never before the end of the event's own day. A row without any time: `ALWAYS`.
    """
    if file.known_from is not None:
        return np.full(rows.num_rows, _days(file.known_from.date()), dtype=np.int64)
    ingested, event = _microseconds(rows, "ingested_at"), _microseconds(rows, "rated_at")
    by_arrival = -(-ingested // _DAY_US)
    by_event = event // _DAY_US + 1
    has_arrival = ~_is_null(rows, "ingested_at")
    has_event = ~_is_null(rows, "rated_at")
    if mapping.events.ingested_at is None:
        return np.where(has_event, by_event, 0)
    # A bad row keeps its own arrival, whatever time it claims to be of.
    is_good = _is_null(rows, "reason")
    known = np.where(is_good & has_event, np.maximum(by_arrival, by_event), by_arrival)
    return np.where(has_arrival, known, 0)


def _is_null(rows: pa.Table, name: str) -> np.ndarray:
    return pc.is_null(rows[name]).to_numpy()


def _microseconds(rows: pa.Table, name: str) -> np.ndarray:
    return pc.fill_null(rows[name].cast(pa.int64()), 0).to_numpy()


def _dated(rows: pa.Table, own_day: np.ndarray) -> pa.Table:
    days = pa.array(own_day.astype(np.int32)).cast(pa.date32())
    event_days = rows["rated_at"].cast(pa.date32())
    dated = rows.append_column("own_day", days).append_column("known_day", days)
    dated = dated.append_column("event_day", event_days)
    if "title" not in dated.column_names:
        dated = dated.append_column("title", pa.nulls(len(own_day), pa.string()))
    return dated


def total_rows(spooled: Spooled) -> int | None:
    """All rows of the raw file; None where only reading it whole would tell."""
    if _window(spooled.task) is None:
        return spooled.n_read
    if spooled.task.mapping.events.format == "parquet":
        return int(pq.read_metadata(spooled.task.file.path).num_rows)
    return spooled.n_read if spooled.task.mapping.events.format == "csv" else None


def empty_spool(mapping: Mapping, path: Path) -> Path:
    """A spool without rows, so that there is one to query where nothing is new."""
    pq.write_table(_dated(parsed_schema(mapping).empty_table(), np.empty(0, np.int64)), path)
    return path
