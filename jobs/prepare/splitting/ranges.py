"""One range of users: its rows in order, with splits and ends of histories, and its histories."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.prepare.splitting.negatives import Negatives, sampled
from jobs.prepare.splitting.offsets import SPLITS, TRAIN, history_ends, leave_last_out, spread
from jobs.prepare.splitting.order import (
    distinct,
    is_ascending,
    lexicographic_order,
    stable_order,
    starts_of_runs,
)
from jobs.prepare.splitting.shuffle import Columns, rows_of, write_arrow

ROWS = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("rated_at", pa.int64()),
        ("history_end", pa.int32()),
        ("label", pa.int8()),
        ("has_train_user", pa.bool_()),
    ]
)
HISTORIES = pa.schema([("user_id", pa.int64()), ("item_ids", pa.list_(pa.int64()))])
_KEY = ("user_id", "rated_at", "turn")


@dataclass(frozen=True)
class Range:
    """One task: order the rows of some users and find what each may see.

    Attributes:
        slices: where the rows are.
        users: first and last user, inclusive.
        path: of the rows that are written, one batch a split; `.lists` beside it has histories.
        is_strict: whether a row sees nothing of its own moment.
        leaves_out: whether splits follow from each user's own last positives.
        negatives: how to sample them; None: labels are the source's.
    """

    slices: tuple[Path, ...]
    users: tuple[int, int]
    path: Path
    is_strict: bool
    leaves_out: bool
    negatives: Negatives | None


@dataclass(frozen=True)
class Prepared:
    """What a task wrote.

    Attributes:
        rows: Arrow file, one batch a split in the order of `SPLITS`, columns `ROWS`.
        histories: Arrow file of one batch, columns `HISTORIES`.
        train_items: int64 file, items of the range's train rows, ascending.
        n_missing: sampled negatives that could not be had, see `jobs.prepare.splitting.negatives`.
    """

    rows: Path
    histories: Path
    train_items: Path
    n_missing: int


def prepare(task: Range) -> Prepared:
    """Write the rows and histories of a range; the same files if it is done again."""
    rows = in_order(rows_of(task.slices, task.users))
    if task.leaves_out:
        rows["split"] = leave_last_out(rows["user_id"], rows["label"])
    rows["history_end"] = history_ends(
        rows["user_id"], rows["rated_at"], rows["label"], is_strict=task.is_strict
    )
    histories = _histories(rows)
    n_missing = 0
    if task.negatives is not None:
        rows, n_missing = sampled(rows, task.negatives)
    done = Prepared(
        rows=task.path,
        histories=task.path.with_suffix(".histories"),
        train_items=task.path.with_suffix(".train"),
        n_missing=n_missing,
    )
    write_arrow(done.histories, HISTORIES, [histories])
    _write_numbers(done.train_items, distinct(rows["item_id"][rows["split"] == TRAIN]))
    write_arrow(done.rows, ROWS, _by_split(rows))
    return done


def in_order(rows: Columns) -> Columns:
    """Rows by user, time and turn.

    Rows mostly arrive in time order, and then one stable order by user is all there is to do.
    """
    columns = rows
    for order_of in (_by_user, _by_all):
        order = order_of(columns)
        ordered = {name: column[order] for name, column in columns.items()}
        if is_ascending([ordered[name] for name in _KEY]):
            return ordered
    raise AssertionError("a lexicographic order does not ascend")


def _by_user(rows: Columns) -> NDArray[np.int64]:
    return stable_order(rows["user_id"])


def _by_all(rows: Columns) -> NDArray[np.int64]:
    return lexicographic_order([rows[name] for name in _KEY])


def _histories(rows: Columns) -> pa.RecordBatch:
    starts = np.flatnonzero(starts_of_runs(rows["user_id"]))
    until = np.concatenate([[0], np.cumsum(rows["label"], dtype=np.int32)])
    offsets = np.append(until[starts], until[-1]).astype(np.int32)
    items = rows["item_id"][rows["label"] == 1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(items))
    return pa.RecordBatch.from_arrays([pa.array(rows["user_id"][starts]), lists], schema=HISTORIES)


def _by_split(rows: Columns) -> list[pa.RecordBatch]:
    starts = starts_of_runs(rows["user_id"])
    first = np.flatnonzero(starts)
    is_train = rows["split"] == TRAIN
    has_train = np.zeros(len(is_train), bool)
    has_train[first] = np.logical_or.reduceat(is_train, first) if len(first) else False
    rows["has_train_user"] = spread(has_train, starts)
    batches = []
    for code in range(len(SPLITS)):
        chosen = np.flatnonzero(rows["split"] == code)
        arrays = [pa.array(rows[name][chosen]) for name in ROWS.names]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=ROWS))
    return batches


def _write_numbers(path: Path, values: NDArray[Any]) -> None:
    aside = path.with_suffix(".train-part")
    values.astype(np.int64).tofile(aside)
    aside.replace(path)
