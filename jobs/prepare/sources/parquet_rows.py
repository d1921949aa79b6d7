"""Rows of a Parquet file, a batch at a time; parts outside a window of time are not read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import SourceError
from jobs.prepare.sources.raw_file import said
from jobs.prepare.sources.source_columns import BROKEN, LINE, RAW, places_of, refuse_nested
from jobs.prepare.sources.source_form import Time
from jobs.prepare.sources.source_values import UNITS_US, checked_text

BATCH_ROWS = 1 << 18
Bounds = tuple[str, Time, tuple[datetime, datetime]]  # column, its form, half-open window


def parquet_batches(
    path: Path, columns: Sequence[str], bounds: Bounds | None
) -> Iterator[pa.RecordBatch]:
    """`#line` (row from 1), `#broken`, `#raw` (both null) and `columns` in their own types.

    Raises:
        SourceError: the file is no Parquet or damaged, or a column is missing or nested.
    """
    try:
        # Buffering ahead keeps every part of the file until the last has been read.
        with pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file:
            places_of(file.schema_arrow.names, columns, str(path))
            refuse_nested(pa.schema([file.schema_arrow.field(name) for name in columns]), str(path))
            for first_row, groups in _runs(file, bounds):
                yield from _run(file, first_row, groups, list(columns))
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{path}: cannot be read as Parquet ({said(error)}); fetch it again"
        ) from error


def _run(
    file: pq.ParquetFile, first_row: int, groups: list[int], columns: list[str]
) -> Iterator[pa.RecordBatch]:
    for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
        yield numbered(_readable(batch.select(columns)), first_row)
        first_row += batch.num_rows


def _readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch`, with U+FFFD for what its writer called text and is none; reading checks nothing."""
    for place, column in enumerate(batch.columns):
        if not _is_sound(column):
            batch = batch.set_column(place, batch.schema.names[place], checked_text(column))
    return batch


def _is_sound(column: pa.Array) -> bool:
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        return False  # most kernels do not know them
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def numbered(batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
    """`batch` with the columns that every reader adds in front."""
    n = batch.num_rows
    added = [
        pa.array(np.arange(first_row, first_row + n, dtype=np.int64)),
        pa.nulls(n, pa.string()),
        pa.nulls(n, pa.large_string()),
    ]
    return pa.RecordBatch.from_arrays(
        [*added, *batch.columns], names=[LINE, BROKEN, RAW, *batch.schema.names]
    )


def _runs(file: pq.ParquetFile, bounds: Bounds | None) -> Iterator[tuple[int, list[int]]]:
    """Row groups that are read, as runs without a gap: number of the first row, and the groups."""
    metadata = file.metadata
    starts = np.cumsum(
        [1] + [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    )
    kept = [n for n in range(metadata.num_row_groups) if _may_hold(metadata.row_group(n), bounds)]
    for _, run in groupby(enumerate(kept), key=lambda pair: pair[1] - pair[0]):
        places = [place for _, place in run]
        yield int(starts[places[0]]), places


def _may_hold(group: pq.RowGroupMetaData, bounds: Bounds | None) -> bool:
    """Whether a row group may hold rows in the window, or rows without a time."""
    if bounds is None:
        return True
    name, time, window = bounds
    found = [
        column
        for n in range(group.num_columns)
        if (column := group.column(n)).path_in_schema == name
    ]
    statistics = found[0].statistics if found and found[0].is_stats_set else None
    if statistics is None or not statistics.has_min_max or statistics.null_count != 0:
        return True
    low, high = (moment(value, time) for value in (statistics.min, statistics.max))
    return low is None or high is None or (low < window[1] and high >= window[0])


def moment(value: Any, time: Time) -> datetime | None:
    """A value of a column of times as a naive moment; None if it tells none by its type alone."""
    if isinstance(value, datetime):
        return value.astimezone(tz=UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, int) and time.form in UNITS_US:
        try:
            return datetime(1970, 1, 1) + timedelta(microseconds=value * UNITS_US[time.form])
        except OverflowError:
            return None
    return None
