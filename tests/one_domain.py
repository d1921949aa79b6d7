"""DOMAINS as ingest writes it, for tests that need one and no ingest."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from jobs.datasets import DOMAINS

_TYPES = {
    "string": pa.string(),
    "float32": pa.float32(),
    "int32": pa.int32(),
    "int64": pa.int64(),
}
_DEFAULTS = {
    "domain": "tiny",
    "item_noun": "Movie",
    "feedback": "rating",
    "minimum": 1.0,
    "maximum": 5.0,
    "positive_rating": 4.0,
    "negatives_per_positive": 0,
    "popularity_power": 0.0,
    "negatives_seed": 0,
    "split_protocol": "rolling",
    "valid_days": 1,
    "test_days": 1,
    "max_age_days": None,
    "max_row_change": None,
}


def one_domain(**values: Any) -> pa.Table:
    """One row: films that are rated from 1 to 5, and `values` where they differ."""
    assert DOMAINS.columns is not None
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in DOMAINS.columns.items()])
    return pa.Table.from_pylist([{**_DEFAULTS, **values}], schema=schema)
