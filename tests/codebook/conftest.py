"""A night with planted item vectors and a handful of opinions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.check import check
from jobs.datasets import DOMAINS, ITEM_SEMANTICS, ITEM_TEXTS, SPLITS, Dataset
from jobs.home import Home
from jobs.job import Config, Outcome, Run, execute, mark_checked
from jobs.vector_columns import as_column

SPACE = {"fingerprint": "f" * 64, "dim": 8, "dtype": "float32"}

DOMAIN = {
    "domain": "toy",
    "item_noun": "Movie",
    "feedback": "rating",
    "minimum": 1.0,
    "maximum": 5.0,
    "positive_rating": 4.0,
    "negatives_per_positive": 0,
    "popularity_power": 0.0,
    "negatives_seed": 0,
    "split_protocol": "rolling",
    "valid_days": 10,
    "test_days": 10,
    "max_age_days": None,
    "max_row_change": None,
}
_ARROW = {
    "string": pa.string(),
    "float32": pa.float32(),
    "int32": pa.int32(),
    "int64": pa.int64(),
}


@dataclass(frozen=True)
class Opinion:
    """A row of the splits."""

    split: str
    user: Any
    item: Any
    label: int
    at: datetime


def unit_rows(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def splits_of(opinions: list[Opinion], ids: pa.DataType) -> pa.Table:
    places: dict[str, int] = {}
    rows = []
    for each in opinions:
        rows.append(places.get(each.split, 0))
        places[each.split] = rows[-1] + 1
    return pa.table(
        {
            "split": pa.array([each.split for each in opinions], pa.string()),
            "row": pa.array(rows, pa.int32()),
            "user_id": pa.array([each.user for each in opinions], ids),
            "item_id": pa.array([each.item for each in opinions], ids),
            "label": pa.array([each.label for each in opinions], pa.int8()),
            "rated_at": pa.array([each.at for each in opinions], pa.timestamp("us")),
            "history_end": pa.array([0] * len(opinions), pa.int32()),
            "is_warm": pa.array([True] * len(opinions), pa.bool_()),
        }
    )


@dataclass(frozen=True)
class Toy:
    """A home in which the jobs before the codebook have run."""

    home: Home

    def given(
        self,
        day: date,
        items: list[Any],
        vectors: np.ndarray,
        opinions: list[Opinion],
        ids: pa.DataType | None = None,
        **domain: Any,
    ) -> None:
        """What those jobs left on a day, checked."""
        ids = ids or pa.int64()
        item_ids = pa.array(items, ids)
        titles = [f"Film {item}" for item in items]
        semantics = pa.table(
            {
                "item_id": item_ids,
                "content_key": [f"{n:064x}" for n in range(len(items))],
                "raw": as_column(vectors),
                "vector": as_column(vectors),
            }
        ).replace_schema_metadata({"space": json.dumps(SPACE)})
        texts = {"item_id": item_ids, "title": titles, "text": [f"Movie: {t}" for t in titles]}
        assert DOMAINS.columns is not None
        schema = pa.schema({name: _ARROW[kind] for name, kind in DOMAINS.columns.items()})
        self._commit("ingest", day, DOMAINS, pa.Table.from_pylist([DOMAIN | domain], schema))
        self._commit("splits", day, SPLITS, splits_of(opinions, ids))
        self._commit("item_texts", day, ITEM_TEXTS, pa.table(texts))
        self._commit("distil", day, ITEM_SEMANTICS, semantics)

    def _commit(self, producer: str, day: date, dataset: Dataset, table: pa.Table) -> None:
        with Run(producer, day, Config(), self.home) as run:
            run.write(dataset, table)
        mark_checked(self.home, dataset, day)

    def run(self, name: str, config: Config, job: Any, day: date, **more: Any) -> Outcome:
        """Run a job and the checks of its tables."""
        outcome = execute(name, config, day, self.home, job, **more)
        check(name, day, self.home)
        return outcome

    def read(self, dataset: Dataset, day: date) -> pa.Table:
        """A committed table."""
        with Run("reader", day, Config(), self.home) as run:
            return run.read(dataset)


@pytest.fixture
def toy(home: Home) -> Toy:
    return Toy(home)


Night = Callable[..., None]
