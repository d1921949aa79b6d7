"""How many rows may be bad: of all that is known, by reason, and of one delivery."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import SourceError
from jobs.home import Home
from jobs.prepare.arrivals.bounds import refuse_bad_arrival
from jobs.prepare.arrivals.intake import Intake
from jobs.prepare.arrivals.ledger import ALWAYS, Arrival, Ledger, Record
from jobs.prepare.sources.mapping_form import Quarantine

D1, D2 = date(2026, 1, 1), date(2026, 1, 2)


def arrival(day: date, n_rows: int, **rejected: int) -> Arrival:
    reasons = {name.replace("_", " "): n for name, n in rejected.items()}
    n_events = n_rows - sum(reasons.values())
    return Arrival(
        known_day=day,
        n_rows=n_rows,
        n_events=n_events,
        n_late=0,
        n_corrections=0,
        n_released=0,
        rejected=reasons,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Nothing has arrived yet."""
    return Ledger(Home(tmp_path), "a" * 64)


def with_history(ledger: Ledger, *arrivals: Arrival) -> Ledger:
    """The same with a night that has run."""
    ledger.folder.mkdir(parents=True)
    ledger.append(
        Record(
            sequence=1,
            after=date.min,
            until=D1,
            files=[],
            parts=[],
            rejected=None,
            item_rows=None,
            catalogue=None,
            released={},
            arrivals=list(arrivals),
        )
    )
    return ledger


def intake(tmp_path: Path, after: date, *arrivals: Arrival) -> Intake:
    rows = [
        {"kind": "event", "source_file": "f.csv", "line": 2, "raw": "?", "reason": reason}
        for each in arrivals
        for reason in each.rejected
    ]
    names = ("kind", "source_file", "raw", "reason")
    schema = pa.schema([(n, pa.string()) for n in names] + [("line", pa.int64())])
    table = pa.Table.from_pylist(rows, schema=schema)
    table = table.append_column("source_row", pa.array([1] * len(rows), pa.int64()))
    pq.write_table(table, tmp_path / "rejected.parquet")
    return Intake(after=after, arrivals=list(arrivals), rejected=tmp_path / "rejected.parquet")


def test_of_the_first_arrival_no_more_than_the_share_may_be_bad(
    ledger: Ledger, tmp_path: Path
) -> None:
    bounds = Quarantine(max_share=0.05)
    refuse_bad_arrival(intake(tmp_path, date.min, arrival(D1, 100, duplicate=5)), ledger, bounds)
    bad = intake(tmp_path, date.min, arrival(D1, 100, duplicate=6))
    with pytest.raises(SourceError, match=r"6 of 100 rows \(6\.0%\) .* 6 duplicate; the first: f"):
        refuse_bad_arrival(bad, ledger, bounds)


def test_an_expected_reason_has_a_bound_of_its_own(ledger: Ledger, tmp_path: Path) -> None:
    bounds = Quarantine(max_share=0.05, expected={"missing user": 0.3})
    both = arrival(D1, 100, missing_user=30, duplicate=5)
    refuse_bad_arrival(intake(tmp_path, date.min, both), ledger, bounds)
    more = intake(tmp_path, date.min, arrival(D1, 100, missing_user=31))
    with pytest.raises(SourceError, match=r"as 'missing user', more than the 30\.0% expected"):
        refuse_bad_arrival(more, ledger, bounds)


def test_a_broken_delivery_is_refused_however_long_the_history_is(
    ledger: Ledger, tmp_path: Path
) -> None:
    bounds = Quarantine(max_share=0.05)
    long = with_history(ledger, arrival(D1, 1_000_000))
    broken = intake(tmp_path, D1, arrival(D2, 100, duplicate=60))
    with pytest.raises(SourceError, match=r"from 2026-01-02 to 2026-01-02, 60 of 100 rows"):
        refuse_bad_arrival(broken, long, bounds)


@pytest.mark.parametrize("n_bad", [9, 20])
def test_a_delivery_may_be_worse_than_usual_within_chance(
    ledger: Ledger, tmp_path: Path, n_bad: int
) -> None:
    long = with_history(ledger, arrival(D1, 1_000_000))
    given = intake(tmp_path, D1, arrival(D2, 9 if n_bad == 9 else 100, duplicate=n_bad))
    refuse_bad_arrival(given, long, Quarantine(max_share=0.05))


def test_rows_that_no_clock_dates_are_no_delivery(ledger: Ledger, tmp_path: Path) -> None:
    long = with_history(ledger, arrival(D1, 1_000_000))
    given = intake(tmp_path, D1, arrival(ALWAYS, 50, missing_timestamp=50))
    refuse_bad_arrival(given, long, Quarantine(max_share=0.05))
