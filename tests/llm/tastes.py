"""A warehouse in which the title alone tells what is liked: what training must find."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.check import check
from jobs.datasets import BY_NAME, DOMAINS, HISTORIES, ITEM_TEXTS, SPLITS
from jobs.home import Home
from jobs.job import Config, Run, mark_checked
from tests.conftest import DAY
from tests.one_domain import one_domain

T0 = datetime(2026, 1, 1)
KINDS = ("Lord", "Emma")  # the first is liked, the second is not
N_ITEMS = 24


def title(item: int) -> str:
    return f"{KINDS[item % 2]} {item}"


def rows_of(user: int, n_train: int, n_valid: int, seed: int) -> list[dict[str, Any]]:
    """A user's events in time order; every second pair shares its moment."""
    items = np.random.default_rng((seed, user)).permutation(N_ITEMS)[: n_train + n_valid]
    rows: list[dict[str, Any]] = []
    liked: list[int] = []
    for place, item in enumerate(items.tolist()):
        moment = place - place % 4 // 3  # places 2 and 3 of each four tie
        earlier = sum(1 for at in liked if at < moment)
        rows.append(
            {
                "split": "train" if place < n_train else "valid",
                "user_id": user,
                "item_id": item,
                "label": 1 - item % 2,
                "rated_at": T0 + timedelta(hours=moment),
                "history_end": earlier,
                "is_warm": True,
            }
        )
        if item % 2 == 0:
            liked.append(moment)
    return rows


def tables(
    n_users: int = 32, n_train: int = 12, n_valid: int = 6, seed: int = 0
) -> dict[str, pa.Table]:
    """DOMAINS, SPLITS, HISTORIES and ITEM_TEXTS."""
    rows = [row for user in range(n_users) for row in rows_of(user, n_train, n_valid, seed)]
    rows.sort(key=lambda row: row["split"])
    numbers: dict[str, int] = {}
    for row in rows:
        row["row"] = numbers[row["split"]] = numbers.get(row["split"], -1) + 1
    splits = pa.schema(
        {
            "split": pa.string(),
            "row": pa.int32(),
            "user_id": pa.int64(),
            "item_id": pa.int64(),
            "label": pa.int8(),
            "rated_at": pa.timestamp("us"),
            "history_end": pa.int32(),
            "is_warm": pa.bool_(),
        }.items()
    )
    liked: dict[int, list[int]] = {user: [] for user in range(n_users)}
    for row in sorted(rows, key=lambda row: row["rated_at"]):
        if row["label"]:
            liked[row["user_id"]].append(row["item_id"])
    return {
        DOMAINS.name: one_domain(domain="tastes"),
        SPLITS.name: pa.Table.from_pylist(rows, schema=splits),
        HISTORIES.name: pa.table(
            {
                "user_id": pa.array(list(liked), pa.int64()),
                "item_ids": pa.array(list(liked.values()), pa.list_(pa.int64())),
            }
        ),
        ITEM_TEXTS.name: pa.table(
            {
                "item_id": pa.array(range(N_ITEMS), pa.int64()),
                "title": [title(item) for item in range(N_ITEMS)],
                "text": [f"Movie: {title(item)}" for item in range(N_ITEMS)],
            }
        ),
    }


def commit(home: Home, made: dict[str, pa.Table], day: date = DAY) -> None:
    """Write the tables as their jobs would, and mark them as checked."""
    datasets = [BY_NAME[name] for name in made]
    for producer in dict.fromkeys(dataset.producer for dataset in datasets):
        with Run(producer, day, Config(), home) as run:
            for dataset in datasets:
                if dataset.producer == producer:
                    run.write(dataset, made[dataset.name])
    for dataset in datasets:
        mark_checked(home, dataset, day)


def checked(home: Home, job: str) -> list[str]:
    """Names of the tables of `job` that passed their checks."""
    return check(job, DAY, home)
