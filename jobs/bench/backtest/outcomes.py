"""What happened in the period: every event with its label, kept away from the nights."""

from __future__ import annotations

from datetime import date, datetime, time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.bench.backtest.nights import run_job
from jobs.bench.backtest.plan import Folder, Plan
from jobs.datasets import SPLITS
from jobs.errors import JobError

_ASKED = ("row", "user_id", "item_id", "rated_at")


def find_outcomes(plan: Plan, folder: Folder) -> None:
    """Bring in all events up to `plan.known_by`, and write down those to score, without labels.

    The jobs are those of a night, as of the day on which the period is known: labels, late rows,
    corrections and sampled negatives are what the warehouse makes of them.

    Raises:
        JobError: a job failed, or the period has no events.
    """
    given = {
        "source": plan.source,
        "split_protocol": "rolling",
        "valid_days": 1,
        "test_days": (plan.known_by - plan.first).days,
    }
    for job in ("ingest", "splits"):
        try:
            run_job(job, plan.known_by, folder.outcomes, given)
        except JobError as error:
            raise JobError(f"the events of the period, {job}: {error}") from error
    rows = outcomes(plan, folder)
    if not rows.num_rows:
        raise JobError(
            f"{plan.source}: no event from {plan.first} to {plan.last}, as known on "
            f"{plan.known_by}; give other days, or a later --known-by"
        )
    aside = folder.requests.with_suffix(".aside")
    pq.write_table(rows.select(_ASKED), aside)
    aside.replace(folder.requests)


def outcomes(plan: Plan, folder: Folder) -> pa.Table:
    """Rows of SPLITS from `plan.first` to `plan.last`."""
    path = folder.outcomes.output(SPLITS, plan.known_by)
    rows = pq.read_table(path, partitioning=None)
    rows = rows.filter(pc.equal(rows["split"], "test"))
    return between(rows, plan.first, plan.scored_by(plan.nights()[-1])[1])


def between(rows: pa.Table, first: date, end: date) -> pa.Table:
    """Rows from midnight of `first` on and before midnight of `end`."""
    since, until = (
        pa.scalar(datetime.combine(day, time()), rows["rated_at"].type) for day in (first, end)
    )
    at = rows["rated_at"]
    return rows.filter(pc.and_(pc.greater_equal(at, since), pc.less(at, until)))
