"""Event partitions: newly arrived rows, judged and written by event day and the day that knows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.contract import RowGroups
from jobs.files import sha256_file
from jobs.prepare.arrivals.ledger import Part
from jobs.query import Limits, Rows, View, connect, sql_text

ROWS_OF_A_TASK = 4_000_000  # judged at once; more only where one event day has more
_ROW_GROUP = 131_072
_BATCH = 65_536
_EPOCH = date(1970, 1, 1)
_PLACE = ("event_day", "known_day")
_KEPT = ("user_id", "item_id", "rating", "rated_at", "ingested_at", "source_row", "corrects")


@dataclass(frozen=True)
class JudgeTask:
    """Newly arrived rows of some event days.

    Attributes:
        arrived: files of rows that could be read, of any days.
        standing: partitions of these event days that earlier arrivals wrote.
        first: first event day of the task.
        last: its last.
        later_replaces: whether a later delivery of the same user, item and time is a correction.
        folder: where new files go; only this task writes there.
        limits: what DuckDB may use.
    """

    arrived: tuple[Path, ...]
    standing: tuple[Path, ...]
    first: date
    last: date
    later_replaces: bool
    folder: Path
    limits: Limits


@dataclass(frozen=True)
class Judged:
    """What a task wrote.

    Attributes:
        parts: partitions; `path` is where they lie now.
        n_corrections: by the day that knows them.
        rejected: `source_row, known_day, reason` of the other rows.
    """

    parts: tuple[Part, ...]
    n_corrections: dict[date, int]
    rejected: Path


def tasks_of(
    rows_by_event_day: dict[date, int], standing: Sequence[Part], home: Path
) -> Iterator[tuple[date, date, tuple[Path, ...]]]:
    """Ranges of event days of about `ROWS_OF_A_TASK` rows, each with the partitions it meets."""
    days = sorted(rows_by_event_day)
    sizes = dict(rows_by_event_day)
    for part in standing:
        if part.event_day in sizes:
            sizes[part.event_day] += part.n_rows
    start, n_rows = 0, 0
    for place, day in enumerate(days):
        n_rows += sizes[day]
        if n_rows >= ROWS_OF_A_TASK or place == len(days) - 1:
            held = frozenset(days[start : place + 1])
            met = tuple(home / part.path for part in standing if part.event_day in held)
            yield days[start], day, met
            start, n_rows = place + 1, 0


def judge(task: JudgeTask) -> Judged:
    """Judge the rows of a task and write its partitions. The same rows give the same bytes."""
    task.folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Rows] = {
        "arrived_rows": list(task.arrived),
        "days": pa.table(
            {"first": pa.array([task.first]), "last": pa.array([task.last])},
        ),
        "arrived": View("prepare/arrived_events"),
    }
    if task.standing:
        tables["event_rows"] = list(task.standing)
    name = "prepare/standing_events" if task.standing else "prepare/no_standing_events"
    tables["standing"] = View(name)
    writer = _PartWriter(task.folder)
    rejected = task.folder / "rejected.parquet"
    with connect(tables, task.limits) as connection:
        relation = connection.sql(
            sql_text("prepare/judged_events"), params={"later_replaces": task.later_replaces}
        )
        reader = relation.to_arrow_reader(_BATCH)
        with pq.ParquetWriter(rejected, _rejected_schema()) as rejects:
            for batch in reader:
                is_event = pc.is_null(batch["verdict"])
                writer.add(batch.filter(is_event))
                rejects.write_table(_rejected(batch.filter(pc.invert(is_event))))
    return Judged(tuple(writer.close()), writer.n_corrections, rejected)


def _rejected_schema() -> pa.Schema:
    return pa.schema(
        [("source_row", pa.int64()), ("known_day", pa.date32()), ("reason", pa.string())]
    )


def _rejected(batch: pa.RecordBatch) -> pa.Table:
    columns = [batch["source_row"], batch["known_day"], batch["verdict"]]
    return pa.Table.from_arrays(columns, schema=_rejected_schema())


class _PartWriter:
    """Cuts rows, which come in the order of their partitions, into one file for each."""

    def __init__(self, folder: Path) -> None:
        self.n_corrections: dict[date, int] = {}
        self._folder = folder
        self._parts: list[Part] = []
        self._place: tuple[int, int] | None = None  # days since 1970 of the open partition
        self._file: pq.ParquetWriter | None = None
        self._groups = RowGroups(_ROW_GROUP)
        self._n_rows = 0

    def add(self, rows: pa.RecordBatch) -> None:
        """Write rows that follow those before."""
        if not rows.num_rows:
            return
        places = [rows[name].cast(pa.int32()).to_numpy() for name in _PLACE]
        changes = np.flatnonzero((np.diff(places[0]) != 0) | (np.diff(places[1]) != 0)) + 1
        starts = [0, *changes.tolist(), rows.num_rows]
        for start, end in pairwise(starts):
            place = (int(places[0][start]), int(places[1][start]))
            self._write(place, pa.Table.from_batches([rows.slice(start, end - start)]))

    def close(self) -> list[Part]:
        """End the last file; all parts."""
        self._end()
        return self._parts

    def _write(self, place: tuple[int, int], rows: pa.Table) -> None:
        kept = rows.select(_KEPT)
        if place != self._place:
            self._end()
            self._place = place
            self._file = pq.ParquetWriter(
                self._path(),
                kept.schema,
                compression="zstd",
                use_dictionary=["user_id", "item_id", "rating"],
                write_page_checksum=True,
            )
        self._n_rows += rows.num_rows
        if n_corrections := rows.num_rows - rows["corrects"].null_count:
            day = _day(place[1])
            self.n_corrections[day] = self.n_corrections.get(day, 0) + n_corrections
        assert self._file is not None
        for group in self._groups.add(kept):
            self._file.write_table(group, row_group_size=_ROW_GROUP)

    def _path(self) -> Path:
        assert self._place is not None
        return self._folder / f"{self._place[0]}-{self._place[1]}.parquet"

    def _end(self) -> None:
        if self._file is None or self._place is None:
            return
        for group in self._groups.rest():
            self._file.write_table(group, row_group_size=_ROW_GROUP)
        self._file.close()
        path = self._path()
        self._parts.append(
            Part(
                event_day=_day(self._place[0]),
                known_day=_day(self._place[1]),
                path=str(path),
                sha256=sha256_file(path),
                n_bytes=path.stat().st_size,
                n_rows=self._n_rows,
            )
        )
        self._file, self._place, self._n_rows = None, None, 0
        self._groups = RowGroups(_ROW_GROUP)


def _day(days_since_1970: int) -> date:
    return _EPOCH + timedelta(days=days_since_1970)


def final_path(part: Part) -> str:
    """Name below the home of a partition, from what it holds."""
    name = f"known={part.known_day}-{part.sha256[:12]}.parquet"
    return f"tables/events/event_day={part.event_day}/{name}"
