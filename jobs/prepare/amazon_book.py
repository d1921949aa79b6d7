"""Amazon-Book: reviews and metadata of the 2018 dump (json.gz) as Parquet beside their mapping."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import JobError, SourceError
from jobs.files import sha256_file, sync_directory, sync_file
from jobs.job import EXIT_FAILED
from jobs.prepare.sources.mapping import AMAZON_REVIEWS
from jobs.query import connect, sql_text

REVIEWS, METADATA = AMAZON_REVIEWS, "meta_Books.json.gz"
MARKER = "amazon-book.json"
_MAPPING = Path(__file__).parent / "sources" / "mappings" / "amazon-book.yaml"
_REVIEW_FIELDS = ("reviewerID", "asin", "overall", "unixReviewTime")
_BOOK_FIELDS = ("asin", "title")
_NO_OBJECT = "no_json_object"  # holds the line that is none, for the quarantine
_FORM = 1  # raise it when the same files give other Parquet
_BATCH_ROWS = 65_536
_MAX_LINE_BYTES = 64 << 20
_SHOWN = 200


@dataclass(frozen=True)
class Written:
    """What became of the dump.

    Attributes:
        folder: is a source for `ingest`.
        is_new: whether anything was written now.
        n_reviews: rows of `reviews.parquet`: lines of the dump, good or bad.
        n_books: rows of `books.parquet`: the last line of each book.
        n_earlier: lines of metadata that a later one of the same book replaced.
    """

    folder: Path
    is_new: bool
    n_reviews: int
    n_books: int
    n_earlier: int


def is_dump(folder: Path) -> bool:
    """Whether the two files of the dump lie in `folder`."""
    return (folder / REVIEWS).is_file() and (folder / METADATA).is_file()


def write_amazon_book(source: Path, folder: Path) -> Written:
    """Convert the dump once, all of it or nothing; what stands from the same files is left alone.

    Args:
        source: folder of the two files of the dump.
        folder: gets `reviews.parquet`, `books.parquet` and `tidemark.yaml`.

    Raises:
        SourceError: a file is missing, damaged or no such dump, or `folder` holds something else.
    """
    source, folder = (path.expanduser().absolute() for path in (source, folder))
    marker: dict[str, Any] = {
        "what": "Amazon-Book, converted",
        "form": _FORM,
        "sha256": {name: _sha256(source / name) for name in (REVIEWS, METADATA)},
    }
    if last := _standing(folder, marker):
        return last
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        marker |= _convert(source, aside)
        (aside / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        for path in aside.iterdir():
            sync_file(path)
        shutil.rmtree(folder, ignore_errors=True)  # of the same form, or it would not be replaced
        aside.replace(folder)
        sync_directory(folder.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return _written(folder, marker, is_new=True)


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read ({error.strerror}); the dump is {REVIEWS} and {METADATA}"
        ) from error


def _written(folder: Path, marker: dict[str, Any], *, is_new: bool) -> Written:
    counts = (marker["n_reviews"], marker["n_books"], marker["n_earlier"])
    return Written(folder, is_new, *counts)


def _standing(folder: Path, marker: dict[str, Any]) -> Written | None:
    """What an earlier conversion of the same files left in `folder`."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        found = json.loads((folder / MARKER).read_bytes())
        what = found["what"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{folder}: holds something else; give an empty folder") from error
    if what != marker["what"]:
        raise SourceError(f"{folder}: holds something else; give an empty folder")
    is_same = all(found.get(name) == value for name, value in marker.items())
    return _written(folder, found, is_new=False) if is_same else None


def _convert(source: Path, folder: Path) -> dict[str, int]:
    shutil.copyfile(_MAPPING, folder / "tidemark.yaml")
    n_reviews = _write_rows(source / REVIEWS, folder / "reviews.parquet", _REVIEW_FIELDS)
    every_line = folder / "every-line.parquet"
    n_lines = _write_rows(source / METADATA, every_line, _BOOK_FIELDS)
    n_books = _write_last_of_each_book(every_line, folder / "books.parquet")
    every_line.unlink()
    return {"n_reviews": n_reviews, "n_books": n_books, "n_earlier": n_lines - n_books}


def _write_last_of_each_book(every_line: Path, path: Path) -> int:
    """The published protocol keeps the last line of a book, also where it has no title."""
    n_rows = 0
    with connect({"metadata_lines": every_line}) as connection:
        reader = connection.sql(sql_text("prepare/amazon_books")).to_arrow_reader(_BATCH_ROWS)
        with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)
                n_rows += batch.num_rows
    return n_rows


# -- lines -----------------------------------------------------------------------------------------


def _write_rows(dump: Path, path: Path, fields: tuple[str, ...]) -> int:
    """One row for each line of the dump, its fields as text; returns how many."""
    names = ("line", *fields, _NO_OBJECT)
    schema = pa.schema([("line", pa.int64()), *((name, pa.string()) for name in names[1:])])
    n_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for rows in _batches(dump, fields):
            columns = [list(range(n_rows + 1, n_rows + len(rows) + 1)), *zip(*rows, strict=True)]
            arrays = [
                pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            n_rows += len(rows)
    if not n_rows:
        raise SourceError(f"{dump}: the file is empty")
    return n_rows


def _batches(dump: Path, fields: tuple[str, ...]) -> Iterator[list[tuple[str | None, ...]]]:
    rows: list[tuple[str | None, ...]] = []
    with gzip.open(dump) as file:
        for line in _lines(dump, file):
            rows.append(_row(line, fields))
            if len(rows) == _BATCH_ROWS:
                yield rows
                rows = []
    if rows:
        yield rows


def _lines(dump: Path, file: gzip.GzipFile) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(_MAX_LINE_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(
                f"{dump}, line {number}: cannot be unpacked ({error}); fetch the file again"
            ) from error
        if not line:
            return
        if len(line) == _MAX_LINE_BYTES:
            raise SourceError(
                f"{dump}, line {number}: longer than {_MAX_LINE_BYTES:,} bytes; expected one JSON "
                "object a line"
            )
        yield line


def _row(line: bytes, fields: tuple[str, ...]) -> tuple[str | None, ...]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        shown = line.decode("utf-8", errors="replace").rstrip("\r\n")[:_SHOWN]
        return (*(None for _ in fields), shown)
    return (*(_text(record.get(name)) for name in fields), None)


def _text(value: Any) -> str | None:
    """A field as the quarantine would show it; NaN is a missing value, as pandas has it."""
    if value is None or value != value:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", errors="replace").decode()  # half a surrogate pair is no text


# -- command ---------------------------------------------------------------------------------------


def main() -> None:
    """Command line: `python -m jobs.prepare.amazon_book --source dump --folder amazon-book`."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.prepare.amazon_book",
        description=__doc__,
        epilog="example: python -m jobs.prepare.amazon_book --source dump --folder amazon-book",
    )
    parser.add_argument("--source", required=True, type=Path, help=f"{REVIEWS} and {METADATA}")
    parser.add_argument("--folder", required=True, type=Path, help="new folder for the Parquet")
    given = parser.parse_args()
    try:
        written = write_amazon_book(given.source, given.folder)
    except JobError as error:
        sys.stderr.write(f"amazon_book: {error}\n")
        sys.exit(EXIT_FAILED)
    said = {
        "source": str(written.folder),
        "status": "done" if written.is_new else "unchanged",
        "reviews": written.n_reviews,
        "books": written.n_books,
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
