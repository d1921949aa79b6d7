"""Rows brought together by user: slices sorted by user on disk, then read range by range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.prepare.arrivals.ahead import ahead
from jobs.prepare.splitting.order import distinct, stable_order
from jobs.query import Limits, Rows, connect, sql_text

Columns = dict[str, NDArray[Any]]

# Columns of a slice, and how they are kept. Ids are whole numbers here: the source's own, or the
# places of names in a dictionary (jobs/prepare/splitting/ids.py).
COLUMNS: dict[str, type[np.generic]] = {
    "user_id": np.int64,
    "item_id": np.int64,
    "rated_at": np.int64,  # microseconds
    "turn": np.int64,  # order of the rows of one user and moment
    "label": np.int8,
    "split": np.int8,
}
SLICE_ROWS = 1 << 20  # a column of a slice or a range stays within a processor's cache
SAMPLE_EVERY = 1 << 12
_BATCH_ROWS = 1 << 18
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True)
class Scan:
    """One task: read the rows of a query into slices.

    Attributes:
        tables: what the query may read, `events` among them.
        query: file of `sql/` with the columns of `COLUMNS`.
        parameters: of the query; they say which stretch of time is read.
        folder: where slices go; all tasks see it.
        name: begins the names of the slices; no other task has it.
        limits: of the DuckDB that reads.
    """

    tables: Mapping[str, Rows]
    query: str
    parameters: Mapping[str, Any]
    folder: Path
    name: str
    limits: Limits
    slice_rows: int = SLICE_ROWS


@dataclass(frozen=True)
class Slice:
    """Rows sorted by user, in one Arrow file.

    Attributes:
        path: the file.
        n_rows: how many rows it holds.
        sample: user of every 4,096th row.
    """

    path: Path
    n_rows: int
    sample: tuple[int, ...] = field(repr=False)


def scan(task: Scan) -> list[Slice]:
    """Write the slices of a scan; the same rows if it is done again."""
    with connect(task.tables, task.limits) as connection:
        rows = connection.sql(sql_text(task.query), params=dict(task.parameters))
        reader = rows.select(*COLUMNS).to_arrow_reader(_BATCH_ROWS)
        return [
            _write_slice(columns, task.folder / f"{task.name}-{number:05d}.arrow")
            for number, columns in enumerate(ahead(_pieces(reader, task.slice_rows)))
        ]


def _pieces(batches: Iterable[pa.RecordBatch], n_rows: int) -> Iterator[list[pa.RecordBatch]]:
    waiting: list[pa.RecordBatch] = []
    n_waiting = 0
    for batch in batches:
        waiting.append(batch)
        n_waiting += batch.num_rows
        if n_waiting >= n_rows:
            yield waiting
            waiting, n_waiting = [], 0
    if n_waiting:
        yield waiting


def numbers(column: pa.Array | pa.ChunkedArray, kind: type[np.generic]) -> NDArray[Any]:
    """An Arrow column without nulls as NumPy numbers; times as microseconds."""
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64()) if isinstance(column, pa.Array) else column
    return np.asarray(column).astype(kind, copy=False)


def _write_slice(batches: list[pa.RecordBatch], path: Path) -> Slice:
    users = _joined(batches, "user_id")
    order = stable_order(users)
    users = users[order]
    arrays = [pa.array(users)]
    arrays += [pa.array(_joined(batches, name)[order]) for name in list(COLUMNS)[1:]]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(COLUMNS))
    write_arrow(path, batch.schema, [batch])
    return Slice(path, len(users), tuple(users[::SAMPLE_EVERY].tolist()))


def _joined(batches: list[pa.RecordBatch], name: str) -> NDArray[Any]:
    return np.concatenate([numbers(batch.column(name), COLUMNS[name]) for batch in batches])


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write an Arrow file that is whole or not there: a killed task leaves no half of one."""
    aside = path.with_suffix(".part")
    with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    aside.replace(path)


# -- by user ---------------------------------------------------------------------------------------


def user_ranges(slices: Iterable[Slice], range_rows: int) -> list[tuple[int, int]]:
    """Ranges of users, inclusive, of about `range_rows` rows each; together they are all users.

    A user is never cut, so a range can be as long as its longest user.
    """
    samples = [np.array(one.sample, np.int64) for one in slices]
    sample = np.sort(np.concatenate([np.empty(0, np.int64), *samples]))
    bounds = distinct(sample[:: max(range_rows // SAMPLE_EVERY, 1)])[1:]
    firsts = [_FIRST, *bounds.tolist()]
    lasts = [*(bounds - 1).tolist(), _LAST]
    return list(zip(firsts, lasts, strict=True))


def rows_of(slices: Iterable[Path], users: tuple[int, int]) -> Columns:
    """The rows of a range of users: slice by slice, in each by user, else as they were read."""
    pieces: dict[str, list[NDArray[Any]]] = {n: [np.empty(0, k)] for n, k in COLUMNS.items()}
    for path in slices:
        with pa.memory_map(str(path)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
            ids = numbers(batch.column("user_id"), np.int64)
            first = int(np.searchsorted(ids, users[0], side="left"))
            end = int(np.searchsorted(ids, users[1], side="right"))
            for name, kind in COLUMNS.items():
                pieces[name].append(numbers(batch.column(name), kind)[first:end].copy())
    return {name: np.concatenate(parts) for name, parts in pieces.items()}
