"""Scores of a day: those of the version that was serving at midnight, controls beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedding_store.errors import StoreError
from embedding_store.lookup import Version, open_version
from jobs.bench.backtest.beside import Beside
from jobs.datasets import HISTORIES, SPLITS
from jobs.errors import JobError
from jobs.home import Home
from jobs.report.controls import GLOBAL_MEAN, System, controls
from jobs.report.evaluate import occurrences
from jobs.score.ctr_scores import score_rows

MODEL, MODEL_TITLE = "nightly", "The nightly version"
CONTROL_TITLES = {"item_user_mean": "Item mean + user mean", "item_mean": "Item mean"}


class KnowsTheDay(JobError):
    """A version was asked for scores of a day that it has seen."""


@dataclass(frozen=True)
class Known:
    """What was known at a midnight.

    Attributes:
        splits: SPLITS of the night.
        histories: HISTORIES of the night: where a version gives a factor to users whom it does not
            know, it comes from here.
        beside: other systems that were fitted that midnight.
    """

    splits: pa.Table
    histories: pa.Table
    beside: Beside | None = None

    @classmethod
    def of(cls, home: Home, night: date, beside: Beside | None = None) -> Known:
        """From the tables of a night."""
        splits, histories = (
            pq.read_table(home.output(dataset, night), partitioning=None)
            for dataset in (SPLITS, HISTORIES)
        )
        return cls(splits, histories, beside)


def score_days(requests: pa.Table, known: Known, home: Home, version: int) -> pa.Table:
    """What each row was given, before anybody knew how it ended.

    Args:
        requests: row, user_id, item_id, rated_at; there are no labels to look at.
        known: at the midnight before.
        home: of the nights.
        version: that was serving.

    Returns:
        A row for each request: its scores by system, and how often the night had seen its user
        and its item.

    Raises:
        KnowsTheDay: a row is older than the version.
        JobError: the version cannot be read.
    """
    try:
        with open_version(home.store, version) as opened:
            _refuse_seen(requests, opened)
            logits, probabilities = _of_version(requests, opened, known.histories)
    except StoreError as error:
        raise JobError(str(error)) from error
    users, items = (requests[name].to_numpy() for name in ("user_id", "item_id"))
    own = System(MODEL, MODEL_TITLE, logits, probabilities)
    seen = {
        "n_of_user": occurrences(known.splits["user_id"].to_numpy(), users),
        "n_of_item": occurrences(known.splits["item_id"].to_numpy(), items),
    }
    columns = {name: requests[name] for name in requests.column_names}
    columns["version"] = pa.repeat(pa.scalar(version, pa.int64()), requests.num_rows)
    columns |= {name: pa.array(counts) for name, counts in seen.items()}
    others = known.beside.scores(requests) if known.beside else ()
    for system in (own, *_means(known.splits, users, items), *others):
        columns[system.name] = pa.array(system.scores)
        columns[f"{system.name}_probability"] = pa.array(system.probabilities)
    return pa.table(columns)


def _refuse_seen(requests: pa.Table, version: Version) -> None:
    first = pc.min(requests["rated_at"]).as_py()
    if first is not None and first.date() < date.fromisoformat(version.day):
        raise KnowsTheDay(
            f"version {version.version} knows everything before {version.day}, so it cannot score "
            f"an event of {first.date()}"
        )


def _of_version(
    requests: pa.Table, version: Version, histories: pa.Table
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities as the job `score` gives them; it is told no label."""
    n = requests.num_rows
    owners = pc.index_in(
        requests["user_id"].combine_chunks(), value_set=histories["user_id"].combine_chunks()
    )
    lengths = pc.list_value_length(histories["item_ids"].combine_chunks())
    blank = {
        "split": pa.repeat(pa.scalar("test"), n),
        "row": requests["row"],
        "user_id": requests["user_id"],
        "item_id": requests["item_id"],
        "label": pa.repeat(pa.scalar(0, pa.int8()), n),
        "is_warm": pa.repeat(pa.scalar(False), n),
        # All of a history as of midnight may be seen, and nothing of a user without one.
        "history_end": pc.fill_null(lengths.take(owners), 0),
    }
    scored, _ = score_rows(pa.table(blank), version, histories)
    logits, probabilities = (scored[name].to_numpy() for name in ("logit", "probability"))
    return logits.astype(np.float64), probabilities.astype(np.float64)


def _means(known: pa.Table, users: np.ndarray, items: np.ndarray) -> Iterator[System]:
    """Means of all that was known that midnight."""
    seen_users, seen_items, labels = (
        known[name].to_numpy() for name in ("user_id", "item_id", "label")
    )
    for system in controls(seen_users, seen_items, labels, users, items):
        if system.name != GLOBAL_MEAN:
            yield system


def write_scores(path: Path, scores: pa.Table) -> None:
    """All at once: what is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".aside")
    pq.write_table(scores, aside)
    aside.replace(path)
