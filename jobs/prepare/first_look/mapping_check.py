"""What a mapping would do on a day: the real preparation, in a home that is thrown away."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.check import check as check_tables
from jobs.datasets import ARRIVALS, DOMAINS, EVENT_TOTALS, QUARANTINED_EVENTS, Dataset
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Run, execute
from jobs.prepare.arrivals.arrivals import Source, Work, bring_up_to
from jobs.prepare.arrivals.bounds import refuse_too_many_bad_rows
from jobs.prepare.arrivals.ledger import ALWAYS
from jobs.prepare.arrivals.snapshot import Snapshot, Totals
from jobs.prepare.engine import open_engine
from jobs.prepare.ingest import IngestConfig, domain_table
from jobs.prepare.sources.last_day import last_day
from jobs.prepare.sources.mapping import recognise
from jobs.prepare.sources.raw_file import catalogue_files, raw_files
from jobs.prepare.splits import SplitsConfig
from jobs.prepare.splits import job as split_job
from jobs.query import Limits, query

_DEFAULTS = SplitsConfig.model_validate({})


@dataclass
class Forecast:
    """What the night of a day would make of a source.

    Attributes:
        files: how many raw files that night would know, of events and of items.
        totals: rows in, events, quarantined, late, users, items, first and last event.
        reasons: `kind`, `reason`, `n_rows`, `share` of the rows of its kind that were quarantined
            or became events, and an example: `source_file, line, column, value, raw`.
        arrivals: counts of each night, the oldest first; `known_day` is None for the rows that no
            clock dates.
        splits: rows of train, valid and test; empty if there can be none.
        stops: why a run would stop, one line each; empty if it would go through.
    """

    domain: str
    day: date
    source: str
    files: dict[str, int]
    totals: dict[str, Any]
    reasons: list[dict[str, Any]]
    arrivals: list[dict[str, Any]]
    splits: dict[str, int] = field(default_factory=dict)
    positive_share: float | None = None
    warm_share: float | None = None
    stops: list[str] = field(default_factory=list)


def forecast(path: Path, day: date | None = None) -> Forecast:
    """Prepare one day of a source in a temporary home and say what came of it.

    Nothing is kept. The bounds of the quarantine and the contracts stop nothing here: that they
    would is said.

    Args:
        path: a mapping, or what `jobs.prepare.sources.mapping.recognise` takes.
        day: as-of day; by default the first that knows every event.

    Raises:
        SourceError: the mapping or a file cannot be read.
    """
    mapping, root = recognise(path)
    source = Source(mapping, root)
    day = day or last_day(mapping, root) + timedelta(days=1)
    if spill := Limits.from_environment().spill:
        spill.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tidemark-check-", dir=spill) as folder:
        home = Home(Path(folder))
        totals = _ingest(source, path, day, home)
        made = Forecast(
            domain=mapping.domain,
            day=day,
            source=str(path),
            files={
                "events": len(raw_files(mapping, root, day)),
                "items": len(catalogue_files(mapping, root, day)),
            },
            totals=_table(home, EVENT_TOTALS, day).to_pylist()[0],
            reasons=_reasons(home, day),
            arrivals=_arrivals(home, day),
        )
        _judge(made, source, totals, home)
    return made


def _ingest(source: Source, path: Path, day: date, home: Home) -> Totals:
    """The job `ingest` without its bounds."""
    config = IngestConfig.model_validate({"source": str(path)})
    with Run("ingest", day, config, home) as run, open_engine(config) as engine:
        workspace = run.workspace()
        work = Work(home, engine, workspace, run.log, accept=lambda intake: None)
        ledger = bring_up_to(day, source, work, restate=False).ledger
        run.write(DOMAINS, domain_table(source.mapping))
        folder = workspace / "snapshot"
        return Snapshot(run, ledger, source.mapping, source.root, folder, engine.limits).write()


def _judge(made: Forecast, source: Source, totals: Totals, home: Home) -> None:
    """Say what would stop a run, and what it would train on if it went through."""
    try:
        refuse_too_many_bad_rows(totals, source.mapping.quarantine)
    except JobError as error:
        made.stops.append(_one_line(error))
    if not totals.n_events:
        return
    try:
        check_tables("ingest", made.day, home)
    except JobError as error:
        made.stops.append(_one_line(error))
        return
    try:
        splits = execute("splits", _DEFAULTS, made.day, home, split_job).manifest.metrics
    except JobError as error:
        made.stops.append(_one_line(error))
        return
    named = {name.removeprefix("rows: "): int(n) for name, n in splits.items() if "rows: " in name}
    made.splits = named
    made.positive_share, made.warm_share = splits["positive_share"], splits["warm_share"]


def _one_line(error: JobError) -> str:
    return " ".join(str(error).split())


def _table(home: Home, dataset: Dataset, day: date) -> pa.Table:
    return pq.read_table(home.output(dataset, day), partitioning=None)


def _reasons(home: Home, day: date) -> list[dict[str, Any]]:
    rows = query(
        "prepare/quarantined_examples",
        {"quarantined_events": home.output(QUARANTINED_EVENTS, day)},
    )
    return [{**row, **row.pop("example")} for row in rows.to_pylist()]


def _arrivals(home: Home, day: date) -> list[dict[str, Any]]:
    rows = _table(home, ARRIVALS, day).sort_by("known_day").to_pylist()
    return [{**r, "known_day": None if r["known_day"] == ALWAYS else r["known_day"]} for r in rows]
