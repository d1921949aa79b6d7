"""The events of a day, as its night knew them, for queries."""

from __future__ import annotations

from jobs.datasets import EVENTS
from jobs.job import Run
from jobs.query import Rows


def events_as_of(run: Run) -> dict[str, Rows]:
    """Tables for `jobs.query.connect`, one of them `events` with the columns of EVENTS.

    What is read is recorded as an input of `run`.
    """
    return {"events": run.locate(EVENTS)}
