"""Little warehouses: SPLITS, HISTORIES and titles as the preparation jobs leave them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from jobs.datasets import DOMAINS, HISTORIES, ITEM_TEXTS, SPLITS
from jobs.home import Home
from jobs.job import Config, Run, mark_checked
from tests.conftest import DAY
from tests.one_domain import one_domain

T0 = datetime(2026, 1, 1)
WORDS = ["Toy", "Story", "The", "Rings", "Lord", "Emma", "Answer", "Yes", "(1995)", "?", "movies"]


class Warehouse(NamedTuple):
    """Tables, and the titles by item id."""

    splits: pa.Table
    histories: pa.Table
    titles: dict[int, str]

    @property
    def item_ids(self) -> pa.Array:
        """Ids of the items, ascending."""
        return pa.array(sorted(self.titles), pa.int64())

    @property
    def title_list(self) -> list[str]:
        """Titles in the order of `item_ids`."""
        return [self.titles[item] for item in sorted(self.titles)]


Event = tuple[int, int, int, int]  # user, second, item, label


def warehouse(
    events: Sequence[Event],
    titles: dict[int, str],
    borders: tuple[int, int] = (10**6, 10**6),
    *,
    sees_ties: bool = False,
) -> Warehouse:
    """The tables that these events make.

    Args:
        events: in any order; those of one user and second keep theirs.
        titles: by item.
        borders: seconds at which valid and test begin.
        sees_ties: as the published split has it, where a row sees those of its own second before
            it; else it sees earlier seconds alone.
    """
    ordered = sorted(events, key=lambda event: (event[0], event[1]))
    rows, positives = [], {user: [] for user, *_ in ordered}
    counts = dict.fromkeys(("train", "valid", "test"), 0)
    seconds: dict[int, list[int]] = {user: [] for user in positives}
    for user, second, item, label in ordered:
        split = ("train", "valid", "test")[sum(second >= border for border in borders)]
        n_before = sum(past < second for past in seconds[user])
        end = len(seconds[user]) if sees_ties else n_before
        rows.append((split, counts[split], user, item, label, T0 + timedelta(seconds=second), end))
        counts[split] += 1
        if label:
            positives[user].append(item)
            seconds[user].append(second)
    columns = list(zip(*rows, strict=True))
    splits = pa.table(
        {
            "split": pa.array(columns[0]),
            "row": pa.array(columns[1], pa.int32()),
            "user_id": pa.array(columns[2], pa.int64()),
            "item_id": pa.array(columns[3], pa.int64()),
            "label": pa.array(columns[4], pa.int8()),
            "rated_at": pa.array(columns[5], pa.timestamp("us")),
            "history_end": pa.array(columns[6], pa.int32()),
            "is_warm": pa.array([True] * len(rows)),
        }
    ).sort_by([("split", "ascending"), ("row", "ascending")])
    histories = pa.table(
        {
            "user_id": pa.array(list(positives), pa.int64()),
            "item_ids": pa.array(list(positives.values()), pa.list_(pa.int64())),
        }
    )
    return Warehouse(splits, histories, titles)


def random_warehouse(seed: int, n_users: int = 4, most: int = 18) -> Warehouse:
    """Users with 1 to `most` events, many of them at one second, over all three splits."""
    random = np.random.default_rng(seed)
    titles = {
        10 * item + 3: " ".join(random.choice(WORDS, size=random.integers(1, 5)))
        for item in range(max(30, most))
    }
    ids = sorted(titles)
    events = []
    for user in range(n_users):
        n = int(random.integers(1, most + 1))
        seconds = np.sort(random.integers(0, max(2, n // 2), size=n))
        for second, item in zip(seconds, random.choice(ids, size=n, replace=False), strict=True):
            events.append((user, int(second), int(item), int(random.random() < 0.6)))
    borders = (int(random.integers(1, most // 2)), int(random.integers(1, most // 2)))
    return warehouse(
        events, titles, (min(borders), max(borders)), sees_ties=bool(random.random() < 0.5)
    )


def commit(made: Warehouse, home: Home) -> None:
    """What ingest, splits and item_texts leave behind them."""
    texts = {
        "item_id": made.item_ids,
        "title": made.title_list,
        "text": [f"Movie: {title}" for title in made.title_list],
    }
    written = [
        (DOMAINS, one_domain()),
        (SPLITS, made.splits),
        (HISTORIES, made.histories),
        (ITEM_TEXTS, pa.table(texts)),
    ]
    for producer in sorted({dataset.producer for dataset, _ in written}):
        with Run(producer, DAY, Config(), home) as run:
            for dataset, table in written:
                if dataset.producer == producer:
                    run.write(dataset, table)
    for dataset, _ in written:
        mark_checked(home, dataset, DAY)
