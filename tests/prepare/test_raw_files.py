"""Which raw files there are, when each was known, and what is no file of a source."""

from __future__ import annotations

import zipfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import SourceError
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.raw_file import RawFile, catalogue_files, files_of, opened, raw_files

DAY = date(2026, 1, 10)


def mapping(*files: str, **events: Any) -> Mapping:
    """A mapping of implicit events in CSV."""
    return Mapping.model_validate(
        {
            "domain": "shop",
            "events": {
                "files": files,
                "format": "csv",
                "columns": {"user_id": "user", "item_id": "item", "at": "at"},
                "user_id": {"type": "integer"},
                "item_id": {"type": "string"},
                "at": {"form": "iso"},
                **events,
            },
            "feedback": {"kind": "implicit"},
            "items": {
                "files": ["items/{day}.csv"],
                "format": "csv",
                "columns": {"item_id": "item", "title": "title"},
            },
        }
    )


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("user,item,at\n")


def test_a_delivery_is_known_from_the_midnight_that_ends_its_day(tmp_path: Path) -> None:
    put(tmp_path, *(f"d/2026-01-{n:02}.csv" for n in (8, 9, 10, 11)))
    files = raw_files(mapping("d/{day}.csv"), tmp_path, DAY)
    assert [(f.name, f.known_from) for f in files] == [
        ("d/2026-01-08.csv", datetime(2026, 1, 9)),
        ("d/2026-01-09.csv", datetime(2026, 1, 10)),
    ]


def test_a_file_without_a_day_is_always_known(tmp_path: Path) -> None:
    put(tmp_path, "b.csv", "a.csv")
    files = raw_files(mapping("*.csv"), tmp_path, date(1990, 1, 1))
    assert [(f.name, f.ordinal, f.known_from) for f in files] == [
        ("a.csv", 0, None),
        ("b.csv", 1, None),
    ]


def test_another_delivery_moves_no_files_ordinal(tmp_path: Path) -> None:
    source = mapping("{day}/part-*.csv")
    put(tmp_path, "2026-01-05/part-0.csv", "2026-01-05/part-1.csv", "2026-01-07/part-0.csv")
    before = {f.name: f.ordinal for f in raw_files(source, tmp_path, DAY)}
    put(tmp_path, "2026-01-06/part-0.csv", "2026-01-01/part-0.csv")
    after = {f.name: f.ordinal for f in raw_files(source, tmp_path, DAY)}
    assert after.items() > before.items()
    assert list(after.values()) == sorted(after.values())
    assert before["2026-01-05/part-1.csv"] == before["2026-01-05/part-0.csv"] + 1


def test_a_file_that_two_patterns_name_is_one_file(tmp_path: Path) -> None:
    put(tmp_path, "a.csv")
    assert len(raw_files(mapping("a.csv", "*.csv"), tmp_path, DAY)) == 1


@pytest.mark.parametrize("name", ["d/2026-02-30.csv", "d/january.csv", "d/2026-1-1.csv"])
def test_a_delivery_whose_name_holds_no_day_is_refused(tmp_path: Path, name: str) -> None:
    put(tmp_path, "d/2026-01-01.csv", name)
    with pytest.raises(SourceError, match=r"name holds its day; expected d/YYYY-MM-DD"):
        raw_files(mapping("d/{day}.csv"), tmp_path, DAY)


def test_a_missing_delivery_that_was_promised_is_named(tmp_path: Path) -> None:
    put(tmp_path, *(f"d/2026-01-{n:02}.csv" for n in (5, 6, 9)))
    source = mapping("d/{day}.csv", deliveries={"first": "2026-01-05"})
    with pytest.raises(SourceError, match=r"d/2026-01-07\.csv: this delivery is missing \(2 in"):
        raw_files(source, tmp_path, DAY)
    assert len(raw_files(source, tmp_path, date(2026, 1, 7))) == 2


def test_after_the_last_promised_day_nothing_is_missing(tmp_path: Path) -> None:
    put(tmp_path, "d/2026-01-05.csv", "d/2026-01-06.csv")
    promise = {"first": "2026-01-05", "last": "2026-01-06"}
    source = mapping("d/{day}.csv", deliveries=promise)
    assert len(raw_files(source, tmp_path, date(2027, 1, 1))) == 2


@pytest.mark.parametrize("promise", [{}, {"deliveries": {"first": "2026-01-05"}}])
def test_a_night_before_the_first_delivery_says_which_night_is_the_first(
    tmp_path: Path, promise: dict[str, Any]
) -> None:
    put(tmp_path, "d/2026-01-05.csv")
    with pytest.raises(SourceError, match="first day that can be run is 2026-01-06"):
        raw_files(mapping("d/{day}.csv", **promise), tmp_path, date(2026, 1, 5))


def test_no_file_and_a_link_that_leads_out_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for pattern in ("a.csv", "*.csv"):
        with pytest.raises(SourceError, match=r"cannot be read \(no such file\)"):
            raw_files(mapping(pattern), root, DAY)
    put(tmp_path, "secret.csv")
    (root / "a.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(SourceError, match=r"a\.csv: leads out of"):
        raw_files(mapping("a.csv"), root, DAY)


def test_catalogues_of_the_day_or_later_are_not_known(tmp_path: Path) -> None:
    put(tmp_path, "a.csv", "items/2026-01-08.csv", "items/2026-01-10.csv")
    files = catalogue_files(mapping("a.csv"), tmp_path, DAY)
    assert [file.name for file in files] == ["items/2026-01-08.csv"]
    with pytest.raises(SourceError, match=r"no delivery of items before 2026-01-08; the first"):
        catalogue_files(mapping("a.csv"), tmp_path, date(2026, 1, 8))


def test_a_member_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.csv", b"user,item,at\n" * 9)
    (file_of,) = files_of(mapping("a.csv").events, path, "shop")
    assert file_of == RawFile(path, "a.csv", 0, None, "a.csv")
    said = r"member a\.csv unpacks to 117 bytes, more than the 50"
    with pytest.raises(SourceError, match=said), opened(file_of, max_member_bytes=50):
        pass
