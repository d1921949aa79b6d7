"""Ids as whole numbers while a job works: the source's own, or places in a sorted list of names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.query import Rows, View, connect, sql_text

_BATCH_ROWS = 1 << 18
_NUMBERED = ("user", "item")


@dataclass(frozen=True)
class Ids:
    """One kind of id.

    Attributes:
        path: Parquet file `<kind>_id, number, word` by number; None: ids are whole numbers
            themselves, and each is its own word.
        names: ids by number; None as above.
    """

    path: Path | None
    names: pa.Array | None

    def back(self, numbers: NDArray[np.int64]) -> pa.Array:
        """Ids of the source from numbers."""
        found = pa.array(numbers)
        return found if self.names is None else self.names.take(found).cast(self.type)

    @property
    def type(self) -> pa.DataType:
        """Arrow type of the source's ids."""
        is_name = self.names is not None and pa.types.is_large_string(self.names.type)
        return pa.string() if is_name else pa.int64()

    def words_of(self, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
        """What stands for each number in a draw, the same in every night."""
        return (numbers if self.path is None else self._words()[numbers]).view(np.uint64)

    def save_words(self, path: Path) -> Path | None:
        """Write the words of all numbers, int64; nothing where a number is its own word."""
        if self.path is None:
            return None
        self._words().tofile(path)
        return path

    def _words(self) -> NDArray[np.int64]:
        words: NDArray[np.int64] = pq.read_table(self.path, columns=["word"])["word"].to_numpy()
        return words


def numbered(tables: Mapping[str, Rows], folder: Path) -> tuple[dict[str, Rows], Ids, Ids]:
    """`tables` in which the ids of `events` are whole numbers, and how to come back from them.

    Integer ids are taken as they are. Names are numbered in their sorted order, which is good for
    this run alone: another night has other names.

    Returns:
        Tables, users, items.
    """
    with connect(tables) as connection:
        types = connection.sql("select user_id, item_id from events limit 0").to_arrow_table()
    if not any(pa.types.is_string(field.type) for field in types.schema):
        return dict(tables), Ids(None, None), Ids(None, None)
    made = {kind: _number(kind, tables, folder) for kind in _NUMBERED}
    renamed = {name: rows for name, rows in tables.items() if name != "events"}
    renamed |= {"named_events": tables["events"]}
    renamed |= {f"{kind}_numbers": one.path for kind, one in made.items() if one.path}
    return {**renamed, "events": View("prepare/numbered_events")}, made["user"], made["item"]


def _number(kind: str, tables: Mapping[str, Rows], folder: Path) -> Ids:
    path = folder / f"{kind}_numbers.parquet"
    with connect(tables) as connection:
        reader = connection.sql(sql_text(f"prepare/{kind}_numbers")).to_arrow_reader(_BATCH_ROWS)
        with pq.ParquetWriter(path, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
    names = pq.read_table(path, columns=[f"{kind}_id"])[f"{kind}_id"]
    if pa.types.is_string(names.type):
        names = names.cast(pa.large_string())  # one array of them may pass 2 GiB
    return Ids(path, names.combine_chunks())
