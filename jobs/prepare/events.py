"""The events of a day, as its night knew them, for queries."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from jobs.datasets import EVENT_PARTS, WITHDRAWN_EVENTS
from jobs.errors import NotAvailable
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import Run
from jobs.query import Rows, View


def events_as_of(run: Run) -> dict[str, Rows]:
    """Tables for `jobs.query.connect`, one of them `events` with the columns of EVENTS.

    What is read is recorded as an input of `run`.

    Raises:
        NotAvailable: see `Run.locate`; also if a partition is not what the snapshot says.
    """
    parts = run.read(EVENT_PARTS)
    for path, sha256 in zip(parts["path"].to_pylist(), parts["sha256"].to_pylist(), strict=True):
        whole = run.home.root / path
        if not whole.is_file() or sha256_file(whole) != sha256:
            raise NotAvailable(
                f"{whole} is not the partition that the events of {run.day} are made of "
                f"(sha256 {sha256[:12]}...); restore it, or run ingest with --restate"
            )
    return event_tables(
        [run.home.root / path for path in parts["path"].to_pylist()], run.locate(WITHDRAWN_EVENTS)
    )


def event_tables(parts: list[Path], withdrawn: Path) -> dict[str, Rows]:
    """The same from the files themselves."""
    return {
        "event_rows": parts,
        "withdrawn_events": withdrawn,
        "events": View("prepare/events"),
    }


def events_on_disk(home: Home, parts: Path, withdrawn: Path) -> dict[str, Rows]:
    """The same from the paths of the two snapshots, not verified."""
    names = pq.read_table(parts, columns=["path"], partitioning=None)["path"].to_pylist()
    return event_tables([home.root / name for name in names], withdrawn)
