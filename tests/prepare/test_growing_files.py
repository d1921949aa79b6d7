"""Files that grow or change in place, and rows that are let back in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from jobs.datasets import ARRIVALS, EVENT_TOTALS, QUARANTINED_EVENTS
from jobs.errors import SourceError
from jobs.prepare.arrivals.releases import AcceptedRow, Release, raw_sha256, save_release
from tests.prepare.conftest import Night
from tests.prepare.growing_shop import DAYS, HEADER, ratings, reasons

Nights = Callable[..., Night]
ONE, TWO, THREE, FOUR = DAYS

# -- a file that grows ---------------------------------------------------------------------------

TABLE = """\
domain: shop
events:
  files: [events.csv]
  format: csv
  columns: {user_id: user, item_id: item, rating: stars, at: at}
  user_id: {type: string}
  item_id: {type: integer}
  at: {form: iso}
feedback: {kind: rating, minimum: 1, maximum: 5, positive_from: 4}
items: {files: [items.csv], format: csv, columns: {item_id: item, title: title}}
quarantine: {max_share: 1.0}
"""
ROWS = [
    "ann,1,5,2026-01-01 10:00:00",
    "ann,1,5,2026-01-01 10:00:00",
    "bob,1,x,",
    "bob,1,4,2026-01-02 10:00:00",
    "cy,1,3,2026-01-03 10:00:00",
]


def write_table(folder: Path, rows: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tidemark.yaml").write_text(TABLE)
    (folder / "items.csv").write_text("item,title\n1,Alien\n2,Heat\n")
    (folder / "events.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return folder


def test_rows_that_turn_up_in_a_file_are_known_from_the_night_that_found_them(
    night: Nights, tmp_path: Path
) -> None:
    folder = write_table(tmp_path / "table", ROWS)
    night(TWO).ingest(folder)
    assert ratings(night(TWO)) == {("ann", 1): 5.0, ("bob", 1): 4.0}
    late = ["zoe,2,4,2026-01-01 09:00:00", "bob,2,y,"]  # among the old rows, not after them
    write_table(folder, [*late, *ROWS, "cy,2,5,2026-01-03 11:00:00"])
    night(THREE).ingest(folder)
    assert ratings(night(THREE)) == {
        ("ann", 1): 5.0,
        ("bob", 1): 4.0,
        ("zoe", 2): 4.0,
        ("cy", 1): 3.0,
        ("cy", 2): 5.0,
    }
    totals = night(THREE).table(EVENT_TOTALS).to_pylist()[0]
    assert (totals["n_rows_in"], totals["n_events"], totals["n_quarantined"]) == (8, 5, 3)
    before = night(TWO).sha256("ingest")
    night(TWO).ingest(folder)
    assert night(TWO).sha256("ingest") == before


def test_a_rating_that_is_changed_in_its_place_is_a_correction(
    night: Nights, tmp_path: Path
) -> None:
    folder = write_table(tmp_path / "table", ROWS)
    night(TWO).ingest(folder)
    write_table(folder, [row.replace("bob,1,4", "bob,1,2") for row in ROWS])
    night(THREE).ingest(folder)
    assert ratings(night(TWO))["bob", 1] == 4.0
    assert ratings(night(THREE))["bob", 1] == 2.0
    write_table(folder, [row.replace("bob,1,4", "bob,1,2") for row in [*ROWS, ROWS[0]]])
    night(FOUR).ingest(folder)
    assert ratings(night(FOUR))["bob", 1] == 2.0
    assert [r for _, _, r in reasons(night(FOUR))].count("duplicate") == 2


def test_rows_that_are_gone_from_a_file_are_refused_and_restated_on_demand(
    night: Nights, tmp_path: Path
) -> None:
    folder = write_table(tmp_path / "table", ROWS)
    night(TWO).ingest(folder)
    write_table(folder, [row for row in ROWS if not row.startswith("bob,1,4")])
    with pytest.raises(SourceError, match=r"events\.csv has lost 1 of the rows that were read"):
        night(THREE).ingest(folder)
    night(THREE).ingest(folder, restate=True)
    assert ratings(night(THREE)) == {("ann", 1): 5.0, ("cy", 1): 3.0}
    fresh = night(THREE, "fresh")
    fresh.ingest(folder)
    assert ratings(fresh) == ratings(night(THREE))
    shutil.rmtree(fresh.home.root)


def as_parquet(folder: Path) -> Path:
    """The same table as Parquet, a row group a row, with times of their own type."""
    rows = csv.read_csv(folder / "events.csv")
    pq.write_table(rows, folder / "events.parquet", row_group_size=1)
    mapping = TABLE.replace("events.csv", "events.parquet").replace(
        "parquet]\n  format: csv", "parquet]\n  format: parquet"
    )
    (folder / "tidemark.yaml").write_text(mapping.replace("form: iso", "form: native"))
    return folder


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_that_does_not_change_gives_the_same_nights_in_any_order(
    night: Nights, tmp_path: Path, form: str
) -> None:
    rows = [row.replace(",x,", ",9,2026-01-02 09:00:00") for row in ROWS]
    folder = write_table(tmp_path / "table", [*rows, "cy,2,1,2026-01-04 10:00:00"])
    if form == "parquet":
        as_parquet(folder)
    for name, order in (("a", (FOUR, TWO, THREE)), ("b", (TWO, THREE, FOUR, TWO))):
        for day in order:
            night(day, name).ingest(folder)
    for day in (TWO, THREE, FOUR):
        assert night(day, "a").sha256("ingest") == night(day, "b").sha256("ingest")
    assert ratings(night(THREE, "a")) == {("ann", 1): 5.0, ("bob", 1): 4.0, ("cy", 1): 3.0}


def test_a_row_is_known_from_its_arrival_or_else_from_the_night_that_found_it(
    night: Nights, tmp_path: Path
) -> None:
    folder = write_table(tmp_path / "table", [])
    arrival = "  ingested_at: {column: loaded, form: iso}\nfeedback"
    (folder / "tidemark.yaml").write_text(TABLE.replace("feedback", arrival, 1))
    rows = [
        "ann,1,5,2026-01-01 10:00:00,2026-01-02 00:00:00",  # at midnight sharp: in time
        "bob,1,4,2026-01-01 10:00:00,2026-01-02 00:00:01",
        "cy,1,3,2026-01-01 10:00:00,2026-01-03 12:00:00",
    ]

    def write(*more: str) -> None:
        text = "\n".join([f"{HEADER},loaded", *rows, *more]) + "\n"
        (folder / "events.csv").write_text(text)

    write()
    for day, users in ((ONE, {"ann"}), (TWO, {"ann", "bob"})):
        night(day).ingest(folder)
        assert {user for user, _ in ratings(night(day))} == users
    write("dan,1,2,2026-01-01 10:00:00,2026-01-01 23:00:00")  # says that it was there before
    night(THREE).ingest(folder)
    assert {user for user, _ in ratings(night(THREE))} == {"ann", "bob", "cy", "dan"}
    night(TWO).ingest(folder)
    assert {user for user, _ in ratings(night(TWO))} == {"ann", "bob"}


# -- rows that are let back in -------------------------------------------------------------------


def release(tonight: Night, line: int, known_from: date, **row: object) -> None:
    """Let a row of the third delivery or the first back in, as `row`."""
    rows = tonight.table(QUARANTINED_EVENTS).to_pylist()
    of = next(r for r in rows if r["line"] == line and r["reason"].startswith(("unp", "rating o")))
    save_release(
        tonight.home,
        Release(
            source_file=of["source_file"],
            line=line,
            raw_sha256=raw_sha256(of["raw"]),
            known_from=known_from,
            row=AcceptedRow.model_validate(row),
            who="a test",
            why="a typing error",
        ),
    )


def test_a_released_row_is_an_event_from_its_night_on(
    shop: Path, expected: dict[date, dict[str, str]], night: Nights
) -> None:
    night(TWO).ingest(shop)
    at = "2026-01-01T13:00:00"
    release(night(TWO), 6, THREE, user_id="cy", item_id=1, rating=4, rated_at=at)
    night(FOUR).ingest(shop)
    night(THREE).ingest(shop)
    assert ratings(night(THREE))["cy", 1] == 4.0
    assert ("01", 6, "unparsable rating") not in reasons(night(THREE))
    night(TWO).ingest(shop)
    assert night(TWO).sha256("ingest") == expected[TWO]
    assert night(FOUR).table(ARRIVALS)["n_released"].to_pylist() == [0, 0, 1, 0]
    counts = night(FOUR).table(EVENT_TOTALS).to_pylist()[0]
    assert (counts["n_rows_in"], counts["n_events"], counts["n_quarantined"]) == (20, 11, 9)


def test_a_released_row_that_is_a_duplicate_goes_back_with_that_reason(
    shop: Path, night: Nights
) -> None:
    night(THREE).ingest(shop)
    at = "2026-01-03T08:00:00"
    release(night(THREE), 5, FOUR, user_id="bob", item_id=2, rating=5, rated_at=at)
    night(FOUR).ingest(shop)
    assert ("03", 5, "duplicate") in reasons(night(FOUR))
    assert ("03", 5, "rating out of range") not in reasons(night(FOUR))
    shown = night(FOUR).table(QUARANTINED_EVENTS).to_pylist()
    assert "dan,2,9,2026-01-03 08:00:00" in {row["raw"] for row in shown}


def test_a_release_of_another_row_than_the_one_that_is_there_is_refused(
    shop: Path, night: Nights
) -> None:
    night(TWO).ingest(shop)
    at = "2026-01-01T13:00:00"
    release(night(TWO), 6, THREE, user_id="cy", item_id=1, rating=4, rated_at=at)
    path = next((night(TWO).home.root / "releases").glob("*.json"))
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"raw_sha256": "0" * 64}))
    with pytest.raises(SourceError, match="is no longer the row that was released"):
        night(THREE).ingest(shop)
    path.write_text(json.dumps(said | {"line": 99}))
    with pytest.raises(SourceError, match="line 99 is not in the quarantine"):
        night(THREE).ingest(shop)
