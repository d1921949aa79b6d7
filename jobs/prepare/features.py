"""What a night knows of rows, items and users in plain numbers: means, counts, age, popularity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import Field

from jobs.datasets import (
    DOMAINS,
    ITEM_FEATURES,
    ITEMS,
    ROW_FEATURES,
    SPLITS,
    USER_FEATURES,
    Dataset,
)
from jobs.job import Config, Declared, Run, main
from jobs.query import Rows, connect, sql_text

_BATCH_ROWS = 65_536


class FeaturesConfig(Config):
    """How far means are drawn to the global mean, and how long popularity remembers."""

    smoothing: float = Field(
        5.0, gt=0, description="rows at the global mean that every mean begins with"
    )
    popularity_days: int = Field(30, ge=1, description="days before the as-of midnight that count")


def _schema(dataset: Dataset, given: pa.Schema) -> pa.Schema:
    """Names and types of `dataset` with the ids of `given`; DuckDB calls every column nullable."""
    assert dataset.columns is not None
    return pa.schema([given.field(name) for name in dataset.columns])


def _write(
    run: Run, dataset: Dataset, tables: Mapping[str, Rows], parameters: Mapping[str, Any]
) -> int:
    """Stream the answer of the dataset's query into it; returns the number of rows."""
    with connect(tables) as connection:
        asked = connection.sql(sql_text(f"prepare/{dataset.name}"), params=dict(parameters))
        reader = asked.to_arrow_reader(_BATCH_ROWS)
        return run.write_stream(dataset, _schema(dataset, reader.schema), reader)


def job(config: FeaturesConfig, run: Run) -> None:
    """Write the features of every row of the splits, every item and every user."""
    domain = run.read(DOMAINS).to_pylist()[0]
    splits, items = run.locate(SPLITS), run.locate(ITEMS)
    shared = {
        "smoothing": config.smoothing,
        "sampled_negatives": domain["negatives_per_positive"] > 0,
    }
    lately = {"popularity_days": config.popularity_days}
    n_rows = _write(run, ROW_FEATURES, {"splits": splits}, shared | lately)
    n_items = _write(
        run,
        ITEM_FEATURES,
        {"splits": splits, "items": items},
        {**shared, **lately, "day": run.day},
    )
    n_users = _write(run, USER_FEATURES, {"splits": splits}, shared)
    run.metric("rows", n_rows)
    run.metric("items", n_items // 2)
    run.metric("users", n_users // 2)


DECLARED = Declared("features", FeaturesConfig, job)

if __name__ == "__main__":
    main(DECLARED)
