"""Nights in any order, twice and killed; late and corrected rows; what is read, what redone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.datasets import ARRIVALS, EVENT_PARTS, EVENT_TOTALS, EVENTS, ITEMS
from jobs.errors import JobError, SourceError
from jobs.home import Home
from tests.conftest import ROOT
from tests.prepare.conftest import Night
from tests.prepare.growing_shop import DAYS, HEADER, make_unreadable, ratings, reasons, write_shop

Nights = Callable[..., Night]
ONE, TWO, THREE, FOUR = DAYS


# -- known answers -------------------------------------------------------------------------------


def test_each_night_has_the_events_that_it_knew(shop: Path, night: Nights) -> None:
    for day in DAYS:
        night(day).ingest(shop)
    first = {("ann", 1): 5.0, ("ann", 2): 3.0, ("bob", 1): 4.0}
    assert ratings(night(ONE)) == first
    second = first | {("ann", 1): 4.0, ("cy", 2): 5.0, ("dan", 1): 3.0}
    assert ratings(night(TWO)) == second
    third = second | {("ann", 1): 5.0, ("bob", 2): 5.0, ("bob", 3): 2.0}
    assert ratings(night(THREE)) == third
    assert ratings(night(FOUR)) == third | {("eve", 1): 2.0, ("eve", 2): 2.0, ("bob", 3): 2.0}


def test_every_row_that_is_no_event_has_its_reason_as_of_the_night(
    shop: Path, night: Nights
) -> None:
    for day in DAYS:
        night(day).ingest(shop)
    first = [("01", 5, "unknown item"), ("01", 6, "unparsable rating"), ("01", 7, "duplicate")]
    assert reasons(night(ONE)) == first
    corrected = ("01", 2, "corrected by a later row")
    second = [corrected, *first, ("02", 4, "conflicting duplicate"), ("02", 6, "missing user")]
    assert reasons(night(TWO)) == second
    assert reasons(night(THREE)) == [
        corrected,
        *first[1:],
        ("02", 2, "corrected by a later row"),
        *second[-2:],
        ("03", 4, "duplicate"),
        ("03", 5, "rating out of range"),
    ]


def test_arrivals_and_totals_count_every_row_once(shop: Path, night: Nights) -> None:
    night(FOUR).ingest(shop)
    counted = [tuple(row.values())[1:] for row in night(FOUR).table(ARRIVALS).to_pylist()]
    # rows, events, late, corrections, quarantined, released
    assert counted == [
        (6, 4, 0, 0, 3, 0),  # the row of item 3 is an event once the catalogue knows it
        (5, 3, 2, 1, 2, 0),
        (4, 2, 1, 1, 2, 0),
        (5, 3, 1, 0, 2, 0),
    ]
    totals = night(FOUR).table(EVENT_TOTALS).to_pylist()[0]
    assert (totals["n_rows_in"], totals["n_events"], totals["n_quarantined"]) == (20, 10, 10)


def test_a_title_changes_only_from_the_night_that_knew_it(shop: Path, night: Nights) -> None:
    titles = {}
    for day in (FOUR, TWO):
        night(day).ingest(shop)
        titles[day] = {row["item_id"]: row["title"] for row in night(day).table(ITEMS).to_pylist()}
    assert titles[TWO] == {1: "Alien", 2: "Heat"}
    assert titles[FOUR] == {1: "Alien", 2: "Heat (1995)", 3: "Ran"}


# -- any order, twice, killed --------------------------------------------------------------------


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(days=st.lists(st.sampled_from(DAYS), min_size=1, max_size=4))
def test_any_days_in_any_order_give_the_same_tables(
    shop: Path,
    expected: dict[date, dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
    days: list[date],
) -> None:
    home = Home(tmp_path_factory.mktemp("any-order") / "home")
    for day in [*days, days[0]]:
        tonight = Night(home, day)
        tonight.ingest(shop)
        assert tonight.sha256("ingest") == expected[day]


def test_a_backfilled_night_is_what_that_night_saw(
    night: Nights, expected: dict[date, dict[str, str]], tmp_path: Path
) -> None:
    for day in DAYS:
        then = write_shop(tmp_path / "growing", until=day)
        night(day).ingest(then)
        assert night(day).sha256("ingest") == expected[day]


def command(source: Path, day: date, *more: str) -> list[str]:
    return ["--day", str(day), "--source", str(source), *more]


def run(home: Home, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.prepare.ingest", *words],
        env={**os.environ, "TIDEMARK_HOME": str(home.root)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_killed_night_leaves_nothing_that_another_run_stumbles_over(
    shop: Path, expected: dict[date, dict[str, str]], tmp_path: Path, night: Nights
) -> None:
    night(TWO).ingest(shop)
    work = tmp_path / "work"
    driver = [sys.executable, "-m", "tests.crash_driver", "jobs.prepare.ingest"]
    where = [str(night(TWO).home.root), str(work)]
    environment = {**os.environ, "TIDEMARK_THREADS": "1"}
    for mode in (["7", "11"], ["retry"]):
        done = subprocess.run(
            [*driver, *where, *mode, "--", *command(shop, FOUR)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
    assert len(answer) > 4
    assert set(answer) == {0}
    for copy in sorted(work.iterdir()):
        survivor = Night(Home(copy), FOUR)
        assert survivor.sha256("ingest") == expected[FOUR]
        earlier = Night(Home(copy), THREE)
        earlier.ingest(shop)
        assert earlier.sha256("ingest") == expected[THREE]
        assert left_over(survivor) == set()


def left_over(tonight: Night) -> set[str]:
    """Partitions on disk that the night, which is the last one, does not name."""
    root = tonight.home.root
    on_disk = {p.relative_to(root).as_posix() for p in root.glob("tables/events/event_day=*/*")}
    named = pq.read_table(tonight.home.output(EVENT_PARTS, tonight.day), partitioning=None)
    return on_disk - set(named["path"].to_pylist())


def test_nights_of_two_days_at_once_wait_for_one_another(
    shop: Path, expected: dict[date, dict[str, str]], tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    environment = {**os.environ, "TIDEMARK_HOME": str(home.root)}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "jobs.prepare.ingest", *command(shop, day)],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for day in (FOUR, TWO)
    ]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    for day in (FOUR, TWO):
        assert Night(home, day).sha256("ingest") == expected[day]


def test_a_dask_cluster_gives_the_same_tables(
    shop: Path, expected: dict[date, dict[str, str]], night: Nights
) -> None:
    night(THREE).ingest(shop, engine="dask")
    assert night(THREE).sha256("ingest") == expected[THREE]


# -- what is read, and what is redone ------------------------------------------------------------


def test_a_night_reads_only_what_is_new(
    expected: dict[date, dict[str, str]], night: Nights, tmp_path: Path
) -> None:
    folder = write_shop(tmp_path / "shop")
    night(THREE).ingest(folder)
    for old in ("ratings/2026-01-01", "ratings/2026-01-02", "ratings/2026-01-03"):
        make_unreadable(folder / f"{old}.csv")
    for old in ("2026-01-01", "2026-01-03"):
        make_unreadable(folder / "items" / f"{old}.csv")
    for day in (FOUR, ONE):
        night(day).ingest(folder)
        assert night(day).sha256("ingest") == expected[day]


def test_a_changed_delivery_is_refused_and_restated_on_demand(
    expected: dict[date, dict[str, str]], night: Nights, tmp_path: Path
) -> None:
    folder = write_shop(tmp_path / "shop")
    for day in DAYS:
        night(day).ingest(folder)
    changed = folder / "ratings" / "2026-01-02.csv"
    changed.write_text(changed.read_text().replace("cy,2,5", "cy,2,3"))
    with pytest.raises(SourceError, match=r"ratings/2026-01-02\.csv has changed since it was read"):
        night(FOUR).ingest(folder)
    assert night(FOUR).sha256("ingest") == expected[FOUR]
    told = night(FOUR).ingest(folder, restate=True).result["restated"]
    assert told["because"] == ["ratings/2026-01-02.csv has changed since it was read"]
    assert told["run_again"] == ["2026-01-03", "2026-01-04"]
    for day in (TWO, THREE, ONE):
        night(day).ingest(folder)
    assert night(ONE).sha256("ingest") == expected[ONE]
    for day in (TWO, THREE, FOUR):
        fresh = night(day, "fresh")
        fresh.ingest(folder)
        assert night(day).sha256("ingest") == fresh.sha256("ingest") != expected[day]


def test_a_lost_partition_is_noticed_and_made_again(
    shop: Path, expected: dict[date, dict[str, str]], night: Nights
) -> None:
    night(FOUR).ingest(shop)
    part = night(FOUR).table(EVENT_PARTS)["path"].to_pylist()[-1]
    (night(FOUR).home.root / part).unlink()
    with pytest.raises(JobError, match="is missing or cut short"):
        night(FOUR).ingest(shop)
    night(FOUR).ingest(shop, restate=True)
    assert night(FOUR).sha256("ingest") == expected[FOUR]
    night(TWO).ingest(shop)
    assert night(TWO).sha256("ingest") == expected[TWO]


def test_a_delivery_that_comes_late_as_a_whole_is_known_from_the_night_that_found_it(
    night: Nights, tmp_path: Path
) -> None:
    folder = write_shop(tmp_path / "shop")
    kept = (folder / "ratings" / "2026-01-02.csv").read_text()
    (folder / "ratings" / "2026-01-02.csv").unlink()
    night(THREE).ingest(folder)
    before = night(THREE).sha256("ingest")
    (folder / "ratings" / "2026-01-02.csv").write_text(kept)
    night(FOUR).ingest(folder)
    assert ("dan", 1) not in ratings(night(THREE))
    assert ratings(night(FOUR))["dan", 1] == 3.0
    night(THREE).ingest(folder)
    assert night(THREE).sha256("ingest") == before
    assert night(FOUR).table(EVENTS).num_rows == 10


def test_a_broken_delivery_stops_the_night_and_nothing_of_it_is_taken(
    night: Nights, tmp_path: Path
) -> None:
    folder = write_shop(tmp_path / "shop")
    text = (folder / "tidemark.yaml").read_text().replace("max_share: 1.0", "max_share: 0.5")
    (folder / "tidemark.yaml").write_text(text)
    night(THREE).ingest(folder)
    good = (folder / "ratings" / "2026-01-04.csv").read_text()
    bad = "".join(f"u{n},1,none,2026-01-04 10:00:00\n" for n in range(40))
    (folder / "ratings" / "2026-01-04.csv").write_text(f"{HEADER}\n{bad}")
    with pytest.raises(SourceError, match="41 unparsable rating"):
        night(FOUR).ingest(folder)
    (folder / "ratings" / "2026-01-04.csv").write_text(good)
    night(FOUR).ingest(folder)
    assert ratings(night(FOUR))["eve", 1] == 2.0


def test_a_delivery_that_was_read_may_be_moved_away(
    night: Nights, tmp_path: Path, expected: dict[date, dict[str, str]]
) -> None:
    folder = write_shop(tmp_path / "shop")
    night(THREE).ingest(folder)
    (folder / "ratings" / "2026-01-01.csv").unlink()
    (folder / "items" / "2026-01-01.csv").unlink()
    night(FOUR).ingest(folder)
    assert night(FOUR).sha256("ingest") == expected[FOUR]
