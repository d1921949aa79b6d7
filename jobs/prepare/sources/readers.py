"""Raw files as streams of Arrow batches: Parquet, CSV and DuckDB, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import SourceError
from jobs.prepare.sources.csv_records import csv_batches
from jobs.prepare.sources.duckdb_rows import duckdb_batches
from jobs.prepare.sources.lines import shown
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.parquet_rows import parquet_batches
from jobs.prepare.sources.raw_file import RawFile, catalogue_files, files_of, opened, raw_files
from jobs.prepare.sources.source_columns import BROKEN, LINE, RAW
from jobs.prepare.sources.source_form import Files, Time
from jobs.prepare.sources.source_values import row_numbers

__all__ = [
    "BROKEN",
    "LINE",
    "RAW",
    "RawFile",
    "catalogue_files",
    "event_batches",
    "file_batches",
    "raw_files",
    "raw_rows",
    "row_texts",
]

Window = tuple[datetime, datetime]
_MAX_ROW = 1 << 32  # of a column that numbers rows: a bit is kept for each, to find doubles
_WINDOW_MARGIN = timedelta(days=1)  # wall times of any zone against UTC


# -- streams ---------------------------------------------------------------------------------------


def event_batches(
    mapping: Mapping,
    file: RawFile,
    *,
    columns: Iterable[str] | None = None,
    window: Window | None = None,
) -> Iterator[pa.RecordBatch]:
    """Rows of a file of events in their order, a batch at a time.

    Args:
        mapping: of the source.
        file: one of `raw_files`.
        columns: of the source; those that `mapping` needs if None.
        window: half-open, UTC: parts of a Parquet or DuckDB file may be left out whose rows are
            all outside it, by `ingested_at` where the mapping names it, else by `at`. Rows without
            a time are never left out, and rows outside it may come all the same.

    Yields:
        `#line` (int64: the row in the file from 1, of CSV the line, or the column that the mapping
        names `row`), `#broken` (why the row has no fields, else null), `#raw` (large_string: the
        line; null unless CSV), then the columns: text of CSV, in their own types otherwise.

    Raises:
        SourceError: the file cannot be read, or a column is missing (the closest name is given).
    """
    events = mapping.events
    time: Time = events.ingested_at or events.at
    name = events.ingested_at.column if events.ingested_at else events.columns.at
    wanted = list(mapping.event_columns if columns is None else columns)
    bounds = None
    if window:
        bounds = (name, time, (window[0] - _WINDOW_MARGIN, window[1] + _WINDOW_MARGIN))
    batches = file_batches(events, file, wanted, bounds=bounds)
    if (row := events.columns.row) and row in wanted:
        return _numbered_by(batches, row, file)
    return batches


def file_batches(
    files: Files,
    file: RawFile,
    columns: Sequence[str],
    *,
    bounds: tuple[str, Time, Window] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Rows of any file of a mapping, as `event_batches` gives them."""
    if files.format == "csv":
        with opened(file) as stream:
            yield from csv_batches(stream, file.shown, files.csv_form, columns)
        return
    if file.member or file.name.endswith(".gz"):
        raise SourceError(f"{file.shown}: {files.format} is read where it lies; unpack it")
    if files.format == "parquet":
        yield from parquet_batches(file.path, columns, bounds)
    else:
        assert files.table
        yield from duckdb_batches(file.path, files.table, columns, bounds)


def _numbered_by(
    batches: Iterator[pa.RecordBatch], row: str, file: RawFile
) -> Iterator[pa.RecordBatch]:
    """The batches with `#line` from the column `row`, each number once."""
    seen = np.zeros(0, bool)
    for batch in batches:
        number = row_numbers(batch[row])
        fits = pc.fill_null(pc.and_(pc.greater(number, 0), pc.less(number, _MAX_ROW)), False)
        if not pc.all(fits, min_count=0).as_py():
            place = pc.index(fits, False).as_py()
            raise SourceError(
                f"{file.shown}, row {batch[LINE][place].as_py()}: column '{row}' is "
                f"{batch[row][place].as_py()}; expected each row's own number from 1"
            )
        of_batch = number.to_numpy()
        if len(of_batch) and of_batch.max() >= len(seen):
            seen = np.concatenate([seen, np.zeros(2 * int(of_batch.max()) + 1 - len(seen), bool)])
        counts = np.unique(of_batch, return_counts=True)
        double = of_batch[seen[of_batch]]
        double = np.concatenate([double, counts[0][counts[1] > 1]])
        if len(double):
            raise SourceError(
                f"{file.shown}: column '{row}' holds {double[0]} more than once; expected each "
                "row's own number"
            )
        seen[of_batch] = True
        yield batch.set_column(0, LINE, number)


# -- single rows -----------------------------------------------------------------------------------


def row_texts(rows: pa.RecordBatch, files: Files) -> list[str]:
    """Each row as the quarantine shows it: the line of a CSV, else its columns as JSON."""
    if files.format == "csv":
        lines = rows[RAW].to_pylist()
        ended = (line.removesuffix("\n").removesuffix("\r") for line in lines)
        return [line.replace("\0", "\ufffd") for line in ended]
    plain = rows.select([name for name in rows.schema.names if not name.startswith("#")])
    return [json.dumps(row, ensure_ascii=False, default=str) for row in plain.to_pylist()]


def raw_rows(mapping: Mapping, root: Path, name: str, lines: Iterable[int]) -> dict[int, str]:
    """Rows of the file `name` of events as the quarantine shows them (`raw`), by line.

    Raises:
        SourceError: there is no such file, or it has no such line.
    """
    files = {file.name: file for file in files_of(mapping.events, root, mapping.domain)}
    if name not in files:
        raise SourceError(f"{root}: no file {shown(name)} among the {len(files)} of its events")
    return texts_of(mapping, files[name], lines)


def texts_of(mapping: Mapping, file: RawFile, lines: Iterable[int]) -> dict[int, str]:
    """The same of a file that is at hand."""
    wanted = pa.array(sorted(set(lines)), pa.int64())
    found: dict[int, str] = {}
    for batch in event_batches(mapping, file):
        rows = batch.filter(pc.is_in(batch[LINE], wanted))
        found |= zip(rows[LINE].to_pylist(), row_texts(rows, mapping.events), strict=True)
        if len(found) == len(wanted):
            return found
    missing = [line for line in wanted.to_pylist() if line not in found]
    if missing:
        raise SourceError(f"{file.shown}: no row at line {missing[0]}; has it changed?")
    return found
