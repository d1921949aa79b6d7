"""Codes as tables and back: `item_codes` and `codebook`, and their like made of labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.vector_columns import as_column, as_matrix

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

ABOUT = b"codes"  # schema metadata key: n_levels, n_codes, and how the codes came about


def item_codes_table(items: pa.Array, codes: Ints, about: Mapping[str, Any]) -> pa.Table:
    """Items and their codes (n, n_levels); `about` goes into the schema's metadata."""
    starts = np.arange(0, codes.size + 1, codes.shape[1], dtype=np.int32)
    lists = pa.ListArray.from_arrays(pa.array(starts), pa.array(codes.reshape(-1), pa.int16()))
    table = pa.table({"item_id": items, "codes": lists})
    return table.replace_schema_metadata({ABOUT: json.dumps(dict(about), sort_keys=True)})


def codes_matrix(column: pa.ChunkedArray) -> Ints:
    """(n, n_levels) of a column of lists that are equally long."""
    flat = pc.list_flatten(column).combine_chunks().to_numpy(zero_copy_only=False)
    return flat.astype(np.int64).reshape(len(column), -1)


def about_codes(table: pa.Table) -> dict[str, Any]:
    """n_levels, n_codes and the rest of what `item_codes_table` was told."""
    return json.loads(table.schema.metadata[ABOUT])


def codebook_table(
    codes: Ints,
    centroids: Floats,
    lifted: Floats,
    titles: pa.ChunkedArray,
    shown: list[list[list[int]]],
) -> pa.Table:
    """CODEBOOK: one row a level and code.

    Args:
        codes: (n, n_levels) of the items.
        centroids: (n_levels, n_codes, n_dims).
        lifted: (n_levels, n_codes, d_llm).
        titles: (n,) of the items.
        shown: rows of items by level and code, as `audit.top_members`.
    """
    n_levels, n_codes = centroids.shape[:2]
    points = {
        "centroid": as_column(centroids.reshape(n_levels * n_codes, -1)),
        "lifted": as_column(lifted.reshape(n_levels * n_codes, -1)),
    }
    return about_table(codes, n_codes, points, titles, shown)


def about_table(
    codes: Ints,
    n_codes: int,
    columns: Mapping[str, Any],
    titles: pa.ChunkedArray,
    shown: list[list[list[int]]],
) -> pa.Table:
    """Level, code, what `columns` say of each, how many items have it, and titles of some."""
    n_levels = codes.shape[1]
    counts = np.stack([np.bincount(level, minlength=n_codes) for level in codes.T])
    top_titles = [
        titles.take(pa.array(rows, pa.int64())).to_pylist() for level in shown for rows in level
    ]
    return pa.table(
        {
            "level": pa.array(np.repeat(np.arange(n_levels), n_codes), pa.int16()),
            "code": pa.array(np.tile(np.arange(n_codes), n_levels), pa.int16()),
            **columns,
            "n_items": pa.array(counts.reshape(-1), pa.int32()),
            "top_titles": pa.array(top_titles, pa.list_(pa.string())),
        }
    )


def lifted_of(codebook: pa.Table) -> Floats:
    """(n_levels, n_codes, d_llm) of a table of codes, whose rows are sorted by its key."""
    n_levels = pc.max(codebook["level"]).as_py() + 1
    return as_matrix(codebook["lifted"]).reshape(n_levels, len(codebook) // n_levels, -1)
