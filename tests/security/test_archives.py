"""Archives that want out of their folder, or to fill the machine; more in tests/prepare."""

from __future__ import annotations

import gzip
import stat
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import SourceError
from jobs.prepare.amazon_book import write_amazon_book
from jobs.prepare.first_look.mapping_check import forecast
from jobs.prepare.sources.mapping import recognise
from jobs.prepare.sources.parse import parse_file
from jobs.prepare.sources.readers import raw_files
from tests.conftest import DAY

RATINGS = b"1::10::5::993945600\n1::20::3::993945601\n"
MOVIES = b"10::A (2001)::Drama\n20::B (2001)::Drama\n"
BOMB_BYTES = 400_000_000


def read(path: Path) -> list[dict[str, Any]]:
    """Every row of the ratings, good or bad."""
    mapping, root = recognise(path)
    (file,) = raw_files(mapping, root, DAY)
    return [row for rows in parse_file(mapping, file) for row in rows.to_pylist()]


def zipped(path: Path, members: dict[str, bytes], mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(info, content)
    return path


def test_the_archive_that_the_bad_ones_are_made_from_is_read(tmp_path: Path) -> None:
    good = {"ml-1m/ratings.dat": RATINGS, "ml-1m/movies.dat": MOVIES}
    rows = read(zipped(tmp_path / "ml-1m.zip", good))
    assert [(row["item_id"], row["reason"]) for row in rows] == [(10, None), (20, None)]


@pytest.mark.parametrize(
    "name",
    [
        "../ml-1m/ratings.dat",
        "ml-1m/../../ratings.dat",
        "ml-1m/../ratings.dat",
        "/ml-1m/ratings.dat",
        "//ml-1m/ratings.dat",
        "C:\\ml-1m\\ratings.dat",
        "..\\ratings.dat",
        "ml-1m/ratings.dat/../../x",
    ],
)
def test_a_member_with_a_name_that_leads_out_is_not_read_and_writes_nothing(
    tmp_path: Path, name: str
) -> None:
    evil = zipped(tmp_path / "ml-1m.zip", {name: RATINGS, "ml-1m/movies.dat": MOVIES})
    with pytest.raises(SourceError, match=r"expected one member ml-1m/ratings\.dat"):
        read(evil)
    assert list(tmp_path.iterdir()) == [evil]


def test_a_member_that_is_a_link_is_the_text_of_the_link_and_is_not_followed(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "secret.dat"
    secret.write_bytes(RATINGS)
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("ml-1m/ratings.dat")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, f"{secret}\n")
        archive.writestr("ml-1m/movies.dat", MOVIES)
    (row,) = read(path)
    assert (row["reason"], row["raw"]) == ("wrong number of fields", str(secret))


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One line of 400 MB that packs into 400 KB."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.gz"
    block = b"0" * 4_000_000
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(BOMB_BYTES // len(block)):
            file.write(block)
    assert path.stat().st_size < BOMB_BYTES / 100
    return path


def test_a_packed_csv_that_never_ends_a_line_is_refused_before_it_fills_the_memory(
    bomb: Path, tmp_path: Path
) -> None:
    (tmp_path / "events.csv.gz").hardlink_to(bomb)
    (tmp_path / "tidemark.yaml").write_text(
        "domain: shop\n"
        'events: {files: ["events.csv.gz"], format: csv, '
        "csv: {header: false, columns: [u, i, t, title]}, "
        "columns: {user_id: u, item_id: i, at: t}, user_id: {type: integer}, "
        "item_id: {type: integer}, at: {form: iso}}\n"
        "feedback: {kind: implicit}\n"
        "items: {from: events, title: title}\n"
    )
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=r"events\.csv\.gz, line 1: longer than"):
            forecast(tmp_path / "tidemark.yaml", DAY)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BOMB_BYTES / 2


def test_a_packed_dump_that_never_ends_a_line_is_refused_before_it_fills_the_memory(
    bomb: Path, tmp_path: Path
) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    for name in ("Books_5.json.gz", "meta_Books.json.gz"):
        (dump / name).hardlink_to(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=r"line 1: longer than .* bytes"):
            write_amazon_book(dump, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BOMB_BYTES / 2
