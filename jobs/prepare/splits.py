"""Labels, train, valid and test, and histories as offsets into one list of positives per user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from jobs.datasets import DOMAINS, HISTORIES, ITEMS, SPLITS
from jobs.errors import NotAvailable
from jobs.job import Declared, Run, main
from jobs.prepare.arrivals.ahead import ahead
from jobs.prepare.engine import Engine, EngineConfig, open_engine
from jobs.prepare.events import events_as_of
from jobs.prepare.splitting.assemble import Tables
from jobs.prepare.splitting.ids import Ids, numbered
from jobs.prepare.splitting.negatives import Negatives, Popularity
from jobs.prepare.splitting.offsets import SPLITS as SPLIT_NAMES
from jobs.prepare.splitting.offsets import TRAIN
from jobs.prepare.splitting.protocols import Protocol, Terms, protocol_of
from jobs.prepare.splitting.ranges import Range, prepare
from jobs.prepare.splitting.shuffle import SLICE_ROWS, Scan, scan, user_ranges
from jobs.query import Rows, query

IMPLICIT = "implicit"
EARLIEST, LATEST = datetime(1, 1, 1), datetime(9999, 12, 31)


class SplitsConfig(EngineConfig):
    """Lengths of the windows; the published splits have their own by the calendar."""

    valid_days: int | None = Field(
        None, ge=1, description="days before the test window; the domain's own by default"
    )
    test_days: int | None = Field(
        None,
        ge=0,
        description="days before the as-of day, the domain's own by default; 0: train and valid "
        "reach up to midnight",
    )


@dataclass(frozen=True)
class Sampling:
    """Negatives as the domain asks for them; see `jobs.prepare.splitting.negatives`."""

    per_positive: int
    popularity_power: float
    seed: int


@dataclass(frozen=True)
class Work:
    """What every step needs: where tasks run, and where they put things."""

    engine: Engine
    folder: Path


def split_tables(
    tables: Mapping[str, Rows],
    protocol: Protocol,
    terms: Terms,
    sampling: Sampling | None,
    work: Work,
) -> Tables:
    """Splits and histories of the events in `tables`, as streams that can be read once.

    Three steps, each linear in the number of rows. A scan cuts the labelled events into slices,
    each sorted by user, on disk. A range of users, a million rows of it, is brought together from
    all slices, ordered, and run through with running sums. The ranges are laid one after the other.

    Args:
        tables: `events`, and `items` if the protocol reads them.
        protocol: how to label and split.
        terms: values for the protocol.
        sampling: negatives, for feedback that is positive only.
        work: engine and an empty folder.
    """
    numbered_tables, users, items = numbered(tables, work.folder)
    negatives = None
    if sampling is not None and sampling.per_positive:
        negatives = _negatives(numbered_tables, terms, sampling, (users, items), work)
    scans = _scans(numbered_tables, protocol, terms, work)
    slices = tuple(one for made in work.engine.map(scan, scans) for one in made)
    paths = tuple(one.path for one in slices)
    ranges = [
        Range(
            slices=paths,
            users=bounds,
            path=work.folder / f"range-{number:05d}.rows",
            is_strict=protocol.is_strict,
            leaves_out=protocol.leaves_out,
            negatives=negatives,
        )
        for number, bounds in enumerate(user_ranges(slices, SLICE_ROWS))
    ]
    return Tables(list(work.engine.map(prepare, ranges)), users, items)


def _scans(tables: Mapping[str, Rows], protocol: Protocol, terms: Terms, work: Work) -> list[Scan]:
    """One scan, or as many as the engine wants, cut at midnights."""
    n_scans = work.engine.n_scans if protocol.is_divisible else 1
    parameters = protocol.parameters(terms)
    bounds = [EARLIEST, *_midnights(tables, n_scans), LATEST]
    pieces: list[dict[str, Any]] = [
        {"since": since, "until": until} for since, until in pairwise(bounds)
    ]
    if not protocol.is_divisible:
        pieces = [{}]
    return [
        Scan(
            tables=tables,
            query=protocol.query,
            parameters={**parameters, **piece},
            folder=work.folder,
            name=f"scan-{number:04d}",
            limits=work.engine.scan_limits,
        )
        for number, piece in enumerate(pieces)
    ]


def _midnights(tables: Mapping[str, Rows], n_pieces: int) -> list[datetime]:
    """Where to cut the time of the events into pieces of about as many rows each."""
    if n_pieces < 2:
        return []
    days = query("prepare/events_per_day", tables)
    until = np.cumsum(days["n_events"].to_numpy())
    if not len(until):
        return []
    marks = np.searchsorted(until, until[-1] * np.arange(1, n_pieces) / n_pieces)
    chosen = days["day"].take(np.unique(marks)).to_pylist()
    return [datetime.combine(day, time()) for day in chosen]


def _negatives(
    tables: Mapping[str, Rows],
    terms: Terms,
    sampling: Sampling,
    ids: tuple[Ids, Ids],
    work: Work,
) -> Negatives:
    users, items = ids
    counted = query(
        "prepare/item_popularity", tables, day=terms.day, positive_rating=terms.positive_rating
    )
    numbers = counted["item_id"].to_numpy()
    popularity = Popularity.of(
        items=numbers,
        words=items.words_of(numbers),
        first_at=counted["first_at"].to_numpy(),
        counts=counted["n_positives"].to_numpy(),
        power=sampling.popularity_power,
    )
    popularity.save(work.folder / "popularity.int64")
    return Negatives(
        per_positive=sampling.per_positive,
        seed=sampling.seed,
        popularity=work.folder / "popularity.int64",
        user_words=users.save_words(work.folder / "user_words.int64"),
    )


# -- the job ---------------------------------------------------------------------------------------


def _terms(domain: Mapping[str, Any], config: SplitsConfig, day: date) -> Terms:
    return Terms(
        day=day,
        positive_rating=domain["positive_rating"],
        valid_days=config.valid_days or domain["valid_days"],
        test_days=domain["test_days"] if config.test_days is None else config.test_days,
    )


def _sampling(domain: Mapping[str, Any]) -> Sampling | None:
    if domain["feedback"] != IMPLICIT:
        return None
    return Sampling(
        per_positive=domain["negatives_per_positive"],
        popularity_power=domain["popularity_power"],
        seed=domain["negatives_seed"],
    )


def _nothing_to_train_on(tables: Mapping[str, Rows], protocol: Protocol, terms: Terms) -> str:
    span = query("prepare/event_span", tables).to_pylist()[0]
    said = f"{span['n_events']} events"
    if span["n_events"]:
        said += f" from {span['first']:%Y-%m-%d} to {span['last']:%Y-%m-%d}"
    return f"train is empty: {said}; {protocol.train(terms)}"


def job(config: SplitsConfig, run: Run) -> None:
    """Split the day's events by the domain's protocol and write rows and histories."""
    domain = run.read(DOMAINS).to_pylist()[0]
    protocol = protocol_of(domain["split_protocol"])
    terms = _terms(domain, config, run.day)
    tables = events_as_of(run)
    if protocol.reads_items:
        tables = {**tables, "items": run.locate(ITEMS)}
    with open_engine(config) as engine:
        made = split_tables(
            tables, protocol, terms, _sampling(domain), Work(engine, run.workspace())
        )
    run.write_stream(SPLITS, made.splits_schema, ahead(made.splits()))
    run.write_stream(HISTORIES, made.histories_schema, ahead(made.histories()))
    counts = made.counts
    if SPLIT_NAMES[TRAIN] not in counts.rows:
        raise NotAvailable(_nothing_to_train_on(tables, protocol, terms))
    for name, n_rows in counts.rows.items():
        run.metric(f"rows: {name}", n_rows)
    run.metric("positive_share", counts.n_positive / counts.n_rows)
    run.metric("warm_share", counts.n_warm / counts.n_rows)
    if domain["feedback"] == IMPLICIT:
        run.metric("negatives_missing", made.n_missing)


DECLARED = Declared("splits", SplitsConfig, job)

if __name__ == "__main__":
    main(DECLARED)
