"""Runs jobs of the chain in this process, with their checks, for tests that need a home."""

from __future__ import annotations

from datetime import date

from jobs.check import check
from jobs.home import Home
from jobs.job import Outcome, declared_by, execute
from tests.conftest import DAY


def run_job(job: str, home: Home, day: date = DAY, **fields: object) -> Outcome:
    """One job of the chain with its checks; `fields` set its config."""
    declared = declared_by(job)
    outcome = execute(
        job,
        declared.config_class(**fields),
        day,
        home,
        declared.job,
        sources=declared.sources,
        intact=declared.intact,
    )
    check(job, day, home)
    return outcome
