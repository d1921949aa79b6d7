"""Items from catalogue files: what stands, what is quarantined and what is refused."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from jobs.errors import SourceError
from jobs.prepare.sources.catalogue import read_appearances, read_catalogue
from jobs.prepare.sources.last_day import last_day
from jobs.prepare.sources.mapping import Mapping, recognise

DAY = date(2026, 1, 10)
GOOD = "item,title\n" + "".join(f"{n},Item {n}\n" for n in range(1, 6))


def mapping(**items: Any) -> Mapping:
    return Mapping.model_validate(
        {
            "domain": "shop",
            "events": {
                "files": ["events/*.csv"],
                "format": "csv",
                "columns": {"user_id": "user", "item_id": "item", "at": "at"},
                "user_id": {"type": "integer"},
                "item_id": {"type": "integer"},
                "at": {"form": "iso"},
            },
            "feedback": {"kind": "implicit"},
            "items": {
                "files": ["items/{day}.csv"],
                "format": "csv",
                "columns": {"item_id": "item", "title": "title"},
                **items,
            },
        }
    )


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8", newline="")


def test_the_latest_known_delivery_of_an_item_gives_its_title(tmp_path: Path) -> None:
    put(tmp_path, "items/2026-01-01.csv", "item,title\n2,Old\n1,One\n")
    put(tmp_path, "items/2026-01-09.csv", "item,title\n2,New\n")
    put(tmp_path, "items/2026-01-10.csv", "item,title\n2,Later\n3,Three\n")
    found = read_catalogue(mapping(), tmp_path, DAY)
    assert found.items.to_pylist() == [
        {"item_id": 1, "title": "One"},
        {"item_id": 2, "title": "New"},
    ]
    assert (found.n_rows_in, found.rejected.num_rows) == (3, 0)


def test_rows_that_are_no_items_are_quarantined_with_what_is_wrong(tmp_path: Path) -> None:
    put(tmp_path, "items/2026-01-01.csv", GOOD + 'x,A\n6,\n,B\n7,"C\n8,D,\n9,"two\nlines"\n')
    found = read_catalogue(mapping(), tmp_path, DAY)
    assert found.items["item_id"].to_pylist() == [1, 2, 3, 4, 5, 9]
    assert found.items["title"].to_pylist()[-1] == "two lines"
    rejected = found.rejected.to_pylist()
    assert {row["source_file"] for row in rejected} == {"items/2026-01-01.csv"}
    assert [(r["line"], r["reason"], r["column"], r["value"], r["raw"]) for r in rejected] == [
        (7, "unparsable item", "item", "x", "x,A"),
        (8, "missing title", "title", "", "6,"),
        (9, "missing item", "item", "", ",B"),
        (10, "bad quoting", None, None, '7,"C'),
        (11, "wrong number of fields", None, None, "8,D,"),
    ]
    assert found.n_rows_in == 11


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("6,", "line 7: missing title in '6,'; mend it, or say `bad_rows: quarantine` under"),
        ("x,A", "line 7: unparsable item in 'x,A'"),
        ("5,Other", "item 5 is listed more than once; expected one row each"),
    ],
)
def test_a_catalogue_that_must_be_clean_is_refused_for_one_bad_row(
    tmp_path: Path, line: str, said: str
) -> None:
    put(tmp_path, "items/2026-01-01.csv", f"{GOOD}{line}\n")
    with pytest.raises(SourceError) as error:
        read_catalogue(mapping(bad_rows="refuse"), tmp_path, DAY)
    assert said in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "items/2026-01-01.csv"))


def test_a_catalogue_with_a_header_alone_has_no_items(tmp_path: Path) -> None:
    put(tmp_path, "items/2026-01-01.csv", "item,title\n")
    found = read_catalogue(mapping(), tmp_path, DAY)
    assert (found.items.num_rows, found.rejected.num_rows, found.n_rows_in) == (0, 0, 0)


def test_first_appearances_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    appearances = {
        "files": ["all.csv"],
        "format": "csv",
        "columns": {"item_id": "i", "row": "n"},
    }
    put(tmp_path, "all.csv", "n,i\n1,20\n2,10\n")
    table = read_appearances(mapping(appearances=appearances), tmp_path)
    assert table
    assert table.to_pylist() == [
        {"item_id": 20, "source_row": 1},
        {"item_id": 10, "source_row": 2},
    ]
    assert read_appearances(mapping(), tmp_path) is None


def test_an_appearance_without_a_place_is_named(tmp_path: Path) -> None:
    appearances = {
        "files": ["all.csv"],
        "format": "csv",
        "columns": {"item_id": "i", "row": "n"},
    }
    put(tmp_path, "all.csv", "n,i\n1,20\n,10\n")
    with pytest.raises(SourceError, match=r"all\.csv, row 3: column 'n' is ''; expected a number"):
        read_appearances(mapping(appearances=appearances), tmp_path)


# -- the newest day --------------------------------------------------------------------------------


def test_the_newest_day_is_that_of_the_newest_event(tmp_path: Path) -> None:
    put(tmp_path, "events/a.csv", "user,item,at\n1,1,2026-01-05 10:00\n1,1,2250-01-01 10:00\n")
    put(tmp_path, "events/b.csv", "user,item,at\n1,1,2026-01-04 10:00\n1,1,soon\n")
    assert last_day(mapping(), tmp_path) == date(2026, 1, 5)


def test_a_source_without_any_time_has_no_newest_day(tmp_path: Path) -> None:
    put(tmp_path, "events/a.csv", "user,item,at\n1,1,soon\n")
    with pytest.raises(SourceError, match="no event has a time that can be read; see `at` of the"):
        last_day(mapping(), tmp_path)


def test_the_samples_newest_day_is_that_of_its_last_delivery(sample: Path) -> None:
    assert last_day(*recognise(sample)) == date(2026, 3, 6)


def test_the_samples_catalogue_grows_with_its_deliveries(sample: Path) -> None:
    source, root = recognise(sample)
    early, late = (
        read_catalogue(source, root, day) for day in (date(2026, 1, 2), date(2026, 3, 2))
    )
    assert 250 < early.items.num_rows < late.items.num_rows == 400
    assert pc.all(pc.is_in(early.items["item_id"], late.items["item_id"])).as_py()
