"""What a fit may know, and which rows it then scores: the paper's way, or night by night."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

import numpy as np

from jobs.bench.evidence import SPLIT_NAMES, BenchRows, by_time, frozen_at
from jobs.collab.factors import Ints
from jobs.collab.systems import Evidence, Histories, Labelled, Requests

DAY_US = 86_400_000_000  # microseconds


class Protocol(StrEnum):
    """Three answers to what a scored row may know."""

    PAPER = "paper"
    NIGHTLY = "nightly"
    WAREHOUSE = "warehouse"


SAID = {
    Protocol.PAPER: "Fitted on train, stopped and chosen on valid; a row sees the positives before "
    "it as the papers publish them, earlier rows of valid and test included.",
    Protocol.NIGHTLY: "As the product runs: a test day is scored by a fit on everything before "
    "that day's midnight, with histories that end there. Settings and number of epochs are chosen "
    "once, train to valid. The valid figures are those of that one fit on train.",
    Protocol.WAREHOUSE: "As nightly, and the years before the window are train rows too.",
}


@dataclass(frozen=True)
class Scoring:
    """Rows to score at one moment. The labels stay behind.

    Attributes:
        histories: what can be seen at that moment.
        requests: the rows.
        places: (n,) where they stand in `BenchRows.rows`.
    """

    histories: Histories
    requests: Requests
    places: Ints


@dataclass(frozen=True)
class Occasion:
    """One fit, and what it scores."""

    evidence: Evidence
    scorings: tuple[Scoring, ...]


@dataclass(frozen=True)
class Night:
    """A fit at a midnight, and the test days until the next one."""

    fitted: date
    days: tuple[date, ...]


def evidence_of(rows: BenchRows) -> Evidence:
    """Train and valid rows: what settings and epochs are chosen on."""
    return Evidence(
        catalogue=rows.catalogue,
        histories=rows.histories,
        train=by_time(rows.of("train")),
        valid=by_time(rows.of("valid")),
    )


def first_occasion(rows: BenchRows, protocol: Protocol) -> Occasion:
    """The fit on train that stops on valid.

    In the paper protocol it scores valid and test; in the others it is the choice of epochs, and
    scores valid alone.
    """
    names = SPLIT_NAMES[1:] if protocol is Protocol.PAPER else SPLIT_NAMES[1:2]
    scorings = [
        Scoring(rows.histories, rows.rows.requests.at(places), places)
        for places in map(rows.places, names)
    ]
    return Occasion(evidence_of(rows), tuple(scorings))


def as_of_midnight(rows: BenchRows) -> BenchRows:
    """The same rows, each seeing the positives of the days before its own day and no others.

    So a train row knows what it would know if its own day were scored in the night before.
    """
    requests, histories = rows.rows.requests, rows.histories
    if len(requests) == 0:
        return rows
    first = int(requests.times.min() // DAY_US)
    owners = np.repeat(np.arange(len(histories.starts) - 1), np.diff(histories.starts))
    n_days = int(requests.times.max() // DAY_US) - first + 1
    # One number orders all positives by user, then day; the row's own key cuts before its day.
    keys = owners * n_days + (histories.times // DAY_US - first)
    wanted = requests.users * n_days + (requests.times // DAY_US - first)
    ends = np.searchsorted(keys, wanted, side="left") - histories.starts[requests.users]
    return replace(rows, rows=Labelled(replace(requests, history_ends=ends), rows.rows.labels))


def nights(rows: BenchRows, refit_every_days: int = 1) -> list[Night]:
    """The days that have test rows, by the fit that scores them; the first fit is on the first."""
    days = np.unique(rows.of("test").requests.times // DAY_US)
    if len(days) == 0:
        return []
    fitted = days[0] + (days - days[0]) // refit_every_days * refit_every_days
    return [
        Night(_date(day), tuple(_date(each) for each in days[fitted == day]))
        for day in np.unique(fitted)
    ]


def occasion(rows: BenchRows, night: Night) -> Occasion:
    """Everything before the midnight that begins `night.fitted`, and the test rows of its days.

    Test rows of the days before are evidence like any other; nothing of the night's own days is,
    and their positives are in no history.
    """
    midnight = _midnight(night.fitted)
    past = by_time(rows.rows.at(rows.rows.requests.times < midnight))
    nothing = past.at(np.zeros(0, dtype=np.int64))
    histories, _ = frozen_at(rows.histories, nothing.requests, midnight)
    evidence = Evidence(rows.catalogue, histories, past, nothing)
    return Occasion(evidence, tuple(_scorings(rows, night)))


def _scorings(rows: BenchRows, night: Night) -> Iterator[Scoring]:
    test = rows.places("test")
    days = rows.rows.requests.times[test] // DAY_US
    for day in night.days:
        midnight = _midnight(day)
        places = test[days == midnight // DAY_US]
        histories, requests = frozen_at(rows.histories, rows.rows.requests.at(places), midnight)
        yield Scoring(histories, requests, places)


def _midnight(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY_US


def _date(day: int) -> date:
    return np.datetime64(int(day), "D").astype(object)
