"""What every kind of source is read into before the common part of ingest begins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from jobs.errors import SourceError


@dataclass(frozen=True)
class Domain:
    """What a source is about; becomes the one row of `domains`."""

    domain: str
    item_noun: str
    positive_rating: float
    split_protocol: str

    def table(self) -> pa.Table:
        """The domain as a table of one row."""
        schema = pa.schema(
            [
                ("domain", pa.string()),
                ("item_noun", pa.string()),
                ("positive_rating", pa.float32()),
                ("split_protocol", pa.string()),
            ]
        )
        return pa.Table.from_pylist([vars(self)], schema=schema)


@dataclass(frozen=True)
class RawWarehouse:
    """One source, parsed but not yet judged.

    Attributes:
        domain: what the source is about.
        ratings: `source_file, line, raw, source_row, user_id, item_id, rating, rated_at,
            ingested_at, reason`; one row per row of the source, good or bad. `reason` is null
            where the row could be read.
        catalogue: `item_id, title`; one row per item.
        appearances: `item_id, source_row`, from which an item's first appearance follows.
    """

    domain: Domain
    ratings: pa.Table
    catalogue: pa.Table
    appearances: pa.Table


def read_bytes(path: Path) -> bytes:
    """Content of a source file.

    Raises:
        SourceError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
