"""Catalogue files that are new or have changed, each read once: items and from when on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.files import sha256_file
from jobs.prepare.arrivals.changes import is_same
from jobs.prepare.arrivals.ledger import ALWAYS, Ledger, SourceFile
from jobs.prepare.sources.catalogue import REJECTED, catalogue_rows
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.parse import Parser
from jobs.prepare.sources.raw_file import RawFile, catalogue_files

_ROW_BITS = 40


@dataclass(frozen=True)
class NewItems:
    """What an arrival knows of the catalogue.

    Attributes:
        paths: files of `item_id, title, source_row, known_day`, of all items known by now; at
            least one where the mapping has a catalogue.
        new: the one of this arrival, if it brings any.
        rejected: rows that could not be read: `kind, source_file, line, reason, column, value,
            raw, known_day`.
        files: what was read.
    """

    paths: tuple[Path, ...]
    new: Path | None
    rejected: pa.Table | None
    files: tuple[SourceFile, ...]


def read_new_catalogue(
    mapping: Mapping, root: Path, after: date, until: date, ledger: Ledger, workspace: Path
) -> NewItems:
    """Read the catalogue files that arrived in (after, until] or have changed since.

    A delivery is known from the midnight that ends its day. A file without a day counts as always
    known when it is read first; what another version of it says is known from `until` on.

    Raises:
        SourceError: a file cannot be read, or holds bad rows and the mapping refuses them.
    """
    home = ledger.home.root
    earlier = tuple(
        home / s.record.catalogue.path for s in ledger.stretches(after) if s.record.catalogue
    )
    read = {n: file for (kind, n), file in ledger.files(after).items() if kind == "items"}
    tables: list[pa.Table] = []
    rejected: list[pa.Table] = []
    files: list[SourceFile] = []
    with Parser(mapping) as parser:
        for file in catalogue_files(mapping, root, until):
            last = read.get(file.name)
            if last and is_same(file, last):
                continue
            ordinal = file.ordinal if last is None else _next_ordinal(read.values(), files)
            known_day = _known_day(file, after, until, is_new=last is None)
            read_now = _file_read(file, ordinal)
            rows, bad = catalogue_rows(parser, mapping, file)
            tables.append(_placed(rows, ordinal, known_day))
            rejected.append(_dated(bad, known_day))
            files.append(read_now)
    new = workspace / "catalogue.parquet" if tables else None
    if new:
        pq.write_table(pa.concat_tables(tables), new, compression="zstd")
    return NewItems(
        paths=(*earlier, new) if new else earlier,
        new=new,
        rejected=pa.concat_tables(rejected) if rejected else None,
        files=tuple(files),
    )


def _file_read(file: RawFile, ordinal: int) -> SourceFile:
    status = file.path.stat()
    return SourceFile(
        name=file.name,
        kind="items",
        ordinal=ordinal,
        known_from=file.known_from.date() if file.known_from else None,
        n_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        sha256=sha256_file(file.path),
    )


def _next_ordinal(read: Iterable[SourceFile], new: Iterable[SourceFile]) -> int:
    return max(file.ordinal for file in (*read, *new)) + 1


def _known_day(file: RawFile, after: date, until: date, *, is_new: bool) -> date:
    if file.known_from:
        known = file.known_from.date()
        return known if known > after else until
    return ALWAYS if is_new and after == date.min else until


def _placed(rows: pa.Table, ordinal: int, known_day: date) -> pa.Table:
    places = [(ordinal << _ROW_BITS) | line for line in rows["line"].to_pylist()]
    return pa.table(
        {
            "item_id": rows["item_id"],
            "title": rows["title"],
            "source_row": pa.array(places, pa.int64()),
            "known_day": pa.repeat(pa.scalar(known_day), rows.num_rows),
        }
    )


def _dated(bad: pa.Table, known_day: date) -> pa.Table:
    bad = bad.select([*REJECTED, "source_row"])
    kind = pa.repeat(pa.scalar("item"), bad.num_rows)
    days = pa.repeat(pa.scalar(known_day), bad.num_rows)
    return bad.append_column("kind", kind).append_column("known_day", days)
