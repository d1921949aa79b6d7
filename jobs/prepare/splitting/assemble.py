"""Splits and histories as tables: ranges of users one after the other, in the order of keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import JobError
from jobs.prepare.splitting.ids import Ids
from jobs.prepare.splitting.offsets import SPLITS, TRAIN
from jobs.prepare.splitting.order import distinct
from jobs.prepare.splitting.ranges import Prepared
from jobs.prepare.splitting.shuffle import numbers

_MAX_ROWS = 2**31 - 1  # `row` is an int32


@dataclass
class Counts:
    """What went by while the table of splits was written."""

    rows: dict[str, int] = field(default_factory=dict)
    n_positive: int = 0
    n_warm: int = 0

    @property
    def n_rows(self) -> int:
        """Of all splits."""
        return sum(self.rows.values())


class Tables:
    """The two tables of the job, as streams.

    Args:
        ranges: in the order of users.
        users: ids of the source from numbers.
        items: the same.
    """

    def __init__(self, ranges: Sequence[Prepared], users: Ids, items: Ids) -> None:
        self._ranges, self._users, self._items = ranges, users, items
        self.counts = Counts()
        self.n_missing = sum(one.n_missing for one in ranges)
        self.splits_schema = pa.schema(
            [
                ("split", pa.string()),
                ("row", pa.int32()),
                ("user_id", users.type),
                ("item_id", items.type),
                ("label", pa.int8()),
                ("rated_at", pa.timestamp("us")),
                ("history_end", pa.int32()),
                ("is_warm", pa.bool_()),
            ]
        )
        self.histories_schema = pa.schema(
            [("user_id", users.type), ("item_ids", pa.list_(items.type))]
        )

    def splits(self) -> Iterator[pa.RecordBatch]:
        """Rows by split, user and time; `counts` is complete afterwards."""
        train_items = self._train_items()
        for code, name in enumerate(SPLITS):
            n_rows = 0
            for one in self._ranges:
                with pa.memory_map(str(one.rows)) as file:
                    batch = pa.ipc.open_file(file).get_batch(code)
                    if not batch.num_rows:
                        continue
                    if n_rows + batch.num_rows > _MAX_ROWS:
                        raise JobError(f"{name} has more than {_MAX_ROWS:,} rows")
                    yield self._split_rows(name, n_rows, batch, train_items)
                    n_rows += batch.num_rows
            if n_rows:
                self.counts.rows[name] = n_rows

    def histories(self) -> Iterator[pa.RecordBatch]:
        """Users in the order of their ids, with their positives, oldest first."""
        for one in self._ranges:
            with pa.memory_map(str(one.histories)) as file:
                batch = pa.ipc.open_file(file).get_batch(0)
                lists = batch.column("item_ids")
                items = self._items.back(numbers(lists.values, np.int64))
                yield pa.RecordBatch.from_arrays(
                    [
                        self._users.back(numbers(batch.column("user_id"), np.int64)),
                        pa.ListArray.from_arrays(lists.offsets, items),
                    ],
                    schema=self.histories_schema,
                )

    def _train_items(self) -> pa.Array:
        found = [np.fromfile(one.train_items, np.int64) for one in self._ranges]
        return pa.array(distinct(np.concatenate([np.empty(0, np.int64), *found])))

    def _split_rows(
        self, name: str, first: int, batch: pa.RecordBatch, train_items: pa.Array
    ) -> pa.RecordBatch:
        n_rows = batch.num_rows
        items = batch.column("item_id")
        is_warm = batch.column("has_train_user")
        if name != SPLITS[TRAIN]:  # both are there by definition
            is_warm = pc.and_(is_warm, pc.is_in(items, value_set=train_items))
        self.counts.n_positive += pc.sum(batch.column("label"), min_count=0).as_py()
        self.counts.n_warm += is_warm.true_count
        return pa.RecordBatch.from_arrays(
            [
                pa.repeat(name, n_rows),
                pa.array(np.arange(first, first + n_rows, dtype=np.int64).astype(np.int32)),
                self._users.back(numbers(batch.column("user_id"), np.int64)),
                self._items.back(numbers(items, np.int64)),
                batch.column("label"),
                batch.column("rated_at").view(pa.timestamp("us")),
                batch.column("history_end"),
                is_warm,
            ],
            schema=self.splits_schema,
        )
