"""What the jobs before publish leave of a small night; the model in it is known."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pyarrow as pa

from jobs.datasets import (
    HISTORIES,
    ITEM_FACTORS,
    ITEM_SEMANTICS,
    ITEMS,
    PROJECTORS,
    SPLITS,
    USER_FACTORS,
    Dataset,
)
from jobs.home import Home
from jobs.job import Config, Outcome, Run, execute, mark_checked
from jobs.publish import PublishConfig, intact, job
from tests.report import tiny_night
from tests.report.tiny_night import COLD_USER, DIM, GLOBAL_BIAS, N_ITEMS, Truth

FIRST, SECOND, THIRD = (date(2026, 3, day) for day in (1, 2, 3))
SPACE = {"fingerprint": "f" * 64, "dim": 4, "dtype": "float32"}
USERS = tiny_night.ids("u", np.arange(COLD_USER), as_text=False)
ITEM_IDS = tiny_night.ids("i", np.arange(N_ITEMS), as_text=False)


def commit(home: Home, day: date, tables: list[tuple[Dataset, pa.Table]]) -> None:
    """What the jobs before publish would have left, checked."""
    for producer in sorted({dataset.producer for dataset, _ in tables}):
        own = [(dataset, table) for dataset, table in tables if dataset.producer == producer]
        with Run(producer, day, Config(), home) as run:
            for dataset, table in own:
                run.write(dataset, table)
            if producer == "align":
                run.write_tensors(PROJECTORS, {"global_bias": np.array([GLOBAL_BIAS], "f4")})
        for dataset, _ in own:
            mark_checked(home, dataset, day)


def column(matrix: np.ndarray) -> pa.Array:
    rows = np.ascontiguousarray(matrix, np.float32)
    return pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])


def factors(key: str, ids: pa.Array, vectors: np.ndarray, biases: np.ndarray) -> pa.Table:
    rows = {key: ids, "factor": column(vectors), "bias": biases.astype("f4")}
    return pa.table({**rows, "n_events": pa.array([1] * len(vectors), pa.int32())})


def night(home: Home, day: date, truth: Truth, *, turn: np.ndarray, seed: int = 3) -> None:
    """Every input of publish that a night cannot do without; `truth` is its model, turned."""
    users, items = truth.user_factors[:COLD_USER] @ turn, truth.item_factors @ turn
    raw = np.random.default_rng(seed).normal(size=(N_ITEMS, 4))
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    semantics = {"item_id": ITEM_IDS, "content_key": [f"k{n}" for n in range(N_ITEMS)]}
    rows = tiny_night.splits(tiny_night.planted(), (), as_text=False)  # users stay who they are
    listed = pa.array([[]], pa.list_(pa.int64()))
    catalogue = {"item_id": ITEM_IDS, "title": [f"Film {n}" for n in range(N_ITEMS)]}
    items_table = pa.table({**catalogue, "first_row": pa.array(range(N_ITEMS), pa.int64())})
    semantics_table = pa.table({**semantics, "raw": column(raw), "vector": column(unit)})
    commit(
        home,
        day,
        [
            (ITEMS, items_table),
            (SPLITS, rows),
            (HISTORIES, pa.table({"user_id": rows["user_id"][:1], "item_ids": listed})),
            (
                ITEM_SEMANTICS,
                semantics_table.replace_schema_metadata({"space": json.dumps(SPACE)}),
            ),
            (USER_FACTORS, factors("user_id", USERS, users, truth.user_biases[:COLD_USER])),
            (ITEM_FACTORS, factors("item_id", ITEM_IDS, items, truth.item_biases)),
        ],
    )


def publish(home: Home, day: date, **settings: object) -> Outcome:
    config = PublishConfig(**settings)
    return execute("publish", config, day, home, job, intact=intact)


def turn(seed: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(DIM, DIM)))
    return q
