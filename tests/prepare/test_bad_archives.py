"""Every unreadable or incomplete archive ends in one line that says what, where and what next."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import SourceError
from jobs.prepare.sources.catalogue import read_appearances, read_catalogue
from jobs.prepare.sources.mapping import recognise
from jobs.prepare.sources.parse import parse_file
from jobs.prepare.sources.readers import raw_files
from tests.conftest import DAY

PARQUET_RATINGS = "ratings_since_2000-12.parquet"
PARQUET_APPEARANCES = "ratings_all_partial.parquet"


def read(path: Path) -> list[pa.Table]:
    """Everything that a night reads of the archive; its ratings first."""
    mapping, root = recognise(path)
    ratings = [rows for file in raw_files(mapping, root, DAY) for rows in parse_file(mapping, file)]
    read_appearances(mapping, root)
    return [*ratings, read_catalogue(mapping, root, DAY).items]


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as error:
        read(path)
    said = str(error.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    return said


# -- folders ---------------------------------------------------------------------------------------


def test_a_folder_of_nothing_known_says_what_is(tmp_path: Path) -> None:
    assert "ratings.dat and movies.dat of MovieLens-1M" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("movies.dat", None, "movies.dat: cannot be read (no such file)"),
        ("ratings.dat", b"", "ratings.dat: the file is empty"),
        ("movies.dat", b"", "movies.dat: the file is empty"),
        (
            "ratings.dat",
            b"1::10::5::993945600\n1::20::3::9939",
            "ratings.dat, line 2: the file ends inside the line '1::20::3::9939'",
        ),
        (
            "ratings.dat",
            b"user_id,item_id,rating,timestamp\n" + b"1,10,5,993945600\n" * 20,
            "ratings.dat, line 1: expected user_id::item_id::rating::timestamp, found 'user_id,it",
        ),
        (
            "ratings.dat",
            b"\x7fELF not text at all \x00\xff\n" + b"1::2\n" * 20,
            "ratings.dat, line 2: expected user_id::item_id::rating::timestamp, found '1::2'",
        ),
        (
            "movies.dat",
            b"10::A::Drama\n20::B\n",
            "movies.dat, line 2: wrong number of fields in '20::B'; expected item_id::title",
        ),
        ("movies.dat", b"ten::A::X\n", "movies.dat, line 1: unparsable item in 'ten::A::X'"),
        ("movies.dat", b"10:: ::X\n", "movies.dat, line 1: missing title in '10:: ::X'"),
        ("movies.dat", b"10::A::X\n10::B::X\n", "movies.dat: item 10 is listed more than once"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    archive: Path, file: str, content: bytes | None, said: str
) -> None:
    if content is None:
        (archive / file).unlink()
    else:
        (archive / file).write_bytes(content)
    assert said in refusal(archive)


# -- zips ------------------------------------------------------------------------------------------


def test_a_file_that_is_no_zip(tmp_path: Path) -> None:
    (path := tmp_path / "ml-1m.zip").write_bytes(b"<html>404</html>")
    assert "or the MovieLens-1M zip, but file is not a zip file" in refusal(path)


def test_a_zip_that_was_cut_short(archive_zip: Path) -> None:
    archive_zip.write_bytes(archive_zip.read_bytes()[:-40])
    assert "or the MovieLens-1M zip, but" in refusal(archive_zip)


def test_a_zip_with_a_damaged_member(archive_zip: Path) -> None:
    content = bytearray(archive_zip.read_bytes())
    content[60] ^= 0xFF  # inside the first member's compressed bytes
    archive_zip.write_bytes(content)
    assert f"{archive_zip}:ml-1m/ratings.dat: cannot be unpacked" in refusal(archive_zip)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "photos.zip", "w") as file:
        file.writestr("cat.jpg", b"")
    assert "expected one member ml-1m/ratings.dat (or ratings.dat), found 0 among 1" in refusal(
        path
    )


@pytest.mark.parametrize("name", ["../ratings.dat", "/ml-1m/ratings.dat", "../ml-1m/ratings.dat"])
def test_a_member_whose_name_escapes_is_no_member_of_the_archive(
    archive: Path, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with zipfile.ZipFile(path := tmp_path / "evil.zip", "w") as file:
        file.writestr(name, (archive / "ratings.dat").read_bytes())
        file.write(archive / "movies.dat", "ml-1m/movies.dat")
    assert "expected one member ml-1m/ratings.dat" in refusal(path)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


def test_a_zip_with_two_ratings_is_ambiguous(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "two.zip", "w") as file:
        file.write(archive / "ratings.dat", "ratings.dat")
        file.write(archive / "ratings.dat", "ml-1m/ratings.dat")
    assert "found 2 among 2 members" in refusal(path)


def test_a_member_that_lies_about_its_size_is_refused(archive_zip: Path) -> None:
    """Reading ends at the size that was checked, and then the checksum does not fit."""
    content = bytearray(archive_zip.read_bytes())
    entry = content.index(b"PK\x01\x02")
    assert struct.unpack_from("<I", content, entry + 24)[0] == 103
    struct.pack_into("<I", content, entry + 24, 20)
    archive_zip.write_bytes(content)
    assert "ml-1m/ratings.dat: cannot be unpacked (bad crc-32" in refusal(archive_zip)


def test_an_encrypted_member_is_refused(archive_zip: Path) -> None:
    content = bytearray(archive_zip.read_bytes())
    for signature, flags_at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags_at] |= 1
    archive_zip.write_bytes(content)
    assert "cannot be unpacked" in refusal(archive_zip)


# -- Parquet copies --------------------------------------------------------------------------------

RATINGS = {
    "user_id": [1, 1],
    "item_id": [10, 20],
    "rating": [5, 3],
    "timestamp": [993945600, 993945601],
    "file_row": [1, 2],
}


@pytest.fixture
def parquet(archive: Path) -> Path:
    (archive / "ratings.dat").unlink()
    pq.write_table(pa.table(RATINGS), archive / PARQUET_RATINGS)
    appearances = pa.table({"file_row": [1, 2], "item_id": [10, 20]})
    pq.write_table(appearances, archive / PARQUET_APPEARANCES)
    return archive


def test_a_whole_copy_is_read(parquet: Path) -> None:
    ratings, movies = read(parquet)
    assert ratings["reason"].to_pylist() == [None, None]
    assert ratings["source_row"].to_pylist() == [1, 2]
    assert movies["item_id"].to_pylist() == [10, 20, 30]


@pytest.mark.parametrize("name", [PARQUET_APPEARANCES, "movies.dat"])
def test_a_missing_file_is_named(parquet: Path, name: str) -> None:
    (parquet / name).unlink()
    assert f"{name}: cannot be read" in refusal(parquet)


@pytest.mark.parametrize("n_bytes", [0, 3, 50, -20])
def test_a_copy_that_was_cut_short_is_named(parquet: Path, n_bytes: int) -> None:
    path = parquet / PARQUET_RATINGS
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert f"{path}: cannot be read as Parquet" in refusal(parquet)


def change(column: str, values: list[Any] | None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        columns: dict[str, list[Any]] = {n: v for n, v in RATINGS.items() if n != column}
        if values is not None:
            columns[column] = values
        pq.write_table(pa.table(columns), folder / PARQUET_RATINGS)

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (change("rating", None), "column 'rating' is missing; found user_id, item_id, timestamp"),
        (change("timestamp", [date(2001, 1, 1)] * 2), "column 'timestamp' is date32[day], which"),
        (change("file_row", [1, 1]), "column 'file_row' holds 1 more than once"),
        (change("file_row", [1, None]), "row 2: column 'file_row' is None; expected each row's"),
    ],
)
def test_wrong_columns_are_named(parquet: Path, write: Callable[[Path], None], said: str) -> None:
    write(parquet)
    assert said in refusal(parquet)


def test_a_copy_without_rows_has_no_ratings(parquet: Path) -> None:
    empty = pa.table(RATINGS).slice(0, 0)
    pq.write_table(empty, parquet / PARQUET_RATINGS)
    assert sum(rows.num_rows for rows in read(parquet)[:-1]) == 0
