"""Dirt through the whole of ingest: rows are events or quarantined, refusals are one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.datasets import EVENT_TOTALS, EVENTS, ITEMS, QUARANTINED_EVENTS
from jobs.errors import SourceError
from tests.prepare.conftest import Night
from tests.prepare.dirty_sources import (
    DAY,
    FILES,
    FORMATS,
    GOOD,
    LATER,
    NATIVE,
    mapping_text,
    refusal,
    typed,
    write_source,
    write_typed,
)
from tests.prepare.test_bad_inputs import BAD_VALUES, with_bad

Nights = Callable[..., Night]


@pytest.mark.parametrize("kind", FORMATS)
def test_rows_in_are_events_and_quarantined_rows(tmp_path: Path, night: Nights, kind: str) -> None:
    bad = [with_bad(column, value) for column, value, _ in BAD_VALUES]
    source = write_source(tmp_path / "raw", kind, [*GOOD, *bad, GOOD[0]])
    tonight = night(DAY)
    tonight.ingest(source)
    (totals,) = tonight.table(EVENT_TOTALS).to_pylist()
    assert totals["n_rows_in"] == len(GOOD) + len(bad) + 1
    assert totals["n_events"] == len(GOOD) == tonight.table(EVENTS).num_rows
    quarantined = tonight.table(QUARANTINED_EVENTS).to_pylist()
    assert totals["n_quarantined"] == len(quarantined) == len(bad) + 1
    first = len(GOOD) + (2 if kind == "csv" else 1)
    assert [(row["line"], row["reason"], row["column"]) for row in quarantined] == [
        *((first + n, reason, column) for n, (column, _, reason) in enumerate(BAD_VALUES)),
        (first + len(bad), "duplicate", None),
    ]
    assert {row["source_file"] for row in quarantined} == {FILES[kind]}


def test_a_dirty_catalogue_puts_its_rows_and_their_events_aside(
    tmp_path: Path, night: Nights
) -> None:
    source = write_source(tmp_path / "raw", "csv", GOOD)
    titles = b"what,title\ni1,One\ni2,\n,Nameless\ni3,Th\xffree\ni4,Four,more\ni5,Five\ni5,Fifth\n"
    (source / "titles.csv").write_bytes(titles)
    tonight = night(DAY)
    tonight.ingest(source)
    items = {row["item_id"]: row["title"] for row in tonight.table(ITEMS).to_pylist()}
    assert items == {"i1": "One", "i5": "Fifth"}
    rows = tonight.table(QUARANTINED_EVENTS).to_pylist()
    of_items = {(row["line"], row["reason"]) for row in rows if row["kind"] == "item"}
    assert of_items >= {
        (3, "missing title"),
        (4, "missing item"),
        (5, "invalid UTF-8"),
        (6, "wrong number of fields"),
    }
    unknown = [row for row in rows if row["kind"] == "event"]
    assert {row["reason"] for row in unknown} == {"unknown item"}
    (totals,) = tonight.table(EVENT_TOTALS).to_pylist()
    assert totals["n_rows_in"] == len(GOOD) == totals["n_events"] + len(unknown)


ARRIVALS = [
    (None, "missing arrival"),
    (datetime(2026, 1, 1), "event after its delivery"),
    (datetime(9999, 1, 1), "arrival out of range"),
    (datetime(1900, 1, 1), "arrival out of range"),
]


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize(("arrival", "reason"), ARRIVALS)
def test_an_arrival_that_cannot_be_is_quarantined(
    tmp_path: Path, night: Nights, kind: str, arrival: datetime | None, reason: str
) -> None:
    table = typed(what=pa.array([*(row[1] for row in GOOD), "i7"]))
    arrivals = [when + (datetime(2026, 1, 2) - datetime(2026, 1, 1)) for when in whens(table)]
    arrivals[3] = arrival  # type: ignore[call-overload]
    table = table.append_column("loaded", pa.array(arrivals, pa.timestamp("us")))
    arrives = "  ingested_at: {column: loaded, form: native}"
    given = {**NATIVE, "ingested_at": arrives}
    ordered = {"at": given["at"] + "\n" + given["ingested_at"]}
    source = write_typed(tmp_path / "raw", kind, table, **ordered)
    tonight = night(date(2026, 3, 2))
    tonight.ingest(source)
    (bad,) = tonight.table(QUARANTINED_EVENTS).to_pylist()
    assert (bad["line"], bad["reason"]) == (4, reason)
    (totals,) = tonight.table(EVENT_TOTALS).to_pylist()
    assert totals["n_rows_in"] == totals["n_events"] + 1 == 8


def whens(table: pa.Table) -> list[datetime]:
    found: list[datetime] = table["when"].to_pylist()
    return found


# -- deliveries ------------------------------------------------------------------------------------


def deliveries(folder: Path, *names: str) -> Path:
    """A source of one file a day, all of the same rows."""
    source = write_source(folder, "csv", GOOD)
    content = (folder / FILES["csv"]).read_bytes()
    (folder / "ratings").mkdir()
    for name in names:
        (folder / "ratings" / name).write_bytes(content)
    files = '  files: ["ratings/{day}.csv"]'
    (folder / "tidemark.yaml").write_text(mapping_text("csv", files=files))
    return source


@pytest.mark.parametrize("name", ["2026-02-30.csv", "latest.csv", "20260101.csv", "2026-1-1.csv"])
def test_a_delivery_without_a_day_in_its_name_is_refused(tmp_path: Path, name: str) -> None:
    source = deliveries(tmp_path / "raw", "2026-01-01.csv", name)
    refusal(source, name, "a delivery's name holds its day", "YYYY-MM-DD")


def test_a_link_out_of_the_source_is_refused(tmp_path: Path) -> None:
    source = deliveries(tmp_path / "raw", "2026-01-01.csv")
    (tmp_path / "secret.csv").write_text("who,what\n")
    (source / "ratings" / "2026-01-02.csv").symlink_to(tmp_path / "secret.csv")
    refusal(source, "2026-01-02.csv", "leads out of")


def test_no_delivery_at_all_is_refused(tmp_path: Path) -> None:
    refusal(deliveries(tmp_path / "raw"), "ratings/{day}.csv", "no such file")


def test_events_after_their_delivery_are_quarantined(tmp_path: Path, night: Nights) -> None:
    source = deliveries(tmp_path / "raw", "2026-01-03.csv")
    tonight = night(date(2026, 1, 4))
    tonight.ingest(source)
    late = [
        (row["line"], row["reason"], row["column"])
        for row in tonight.table(QUARANTINED_EVENTS).to_pylist()
    ]
    assert late == [(n, "event after its delivery", "when") for n in (6, 7)]
    assert tonight.table(EVENTS).num_rows == len(GOOD) - 2


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("who,what,", "user,what,", "column 'who' is missing"),
        ("form: iso", "form: isoo", "line 8: events.at.form"),
        ("[titles.csv]", "[names.csv]", "names.csv"),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_nothing(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    source = write_source(tmp_path / "raw", "csv", [*GOOD, ["7", "i7", "3", LATER, ""]])
    for path in (source / FILES["csv"], source / "tidemark.yaml"):
        path.write_text(path.read_text().replace(old, new, 1))
    words = ["-m", "jobs.prepare.ingest", "--source", str(source), "--day", str(DAY)]
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "TIDEMARK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ingest {DAY}: ")
    assert said in last
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "home").glob("tables/*/day=*"))


def test_too_many_bad_rows_stop_the_night_with_the_first_of_them(
    tmp_path: Path, night: Nights
) -> None:
    bad = with_bad("stars", "five")
    bounds = {"quarantine": "quarantine: {max_share: 0.05}"}
    source = write_source(tmp_path / "raw", "csv", [*GOOD, bad], **bounds)
    with pytest.raises(SourceError) as error:
        night(DAY).ingest(source)
    assert "1 of 8 rows (12.5%) would be quarantined, more than the 5.0%" in str(error.value)
    assert f"{FILES['csv']}, line 9" in str(error.value)
    assert "five" in str(error.value)
    assert not (tmp_path / "home" / "tables" / "events" / "event_day=2026-01-01").exists()
