"""Which rows go through the model together: as many as a budget of tokens holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def token_budget_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[np.ndarray]:
    """Row numbers of each batch, longest rows first.

    Rows of like length meet, so little is padded; the largest batch comes first, so that a machine
    without the memory for it fails at once. The order depends on `lengths` alone, ties by row
    number.

    Args:
        lengths: tokens of each row.
        batch_tokens: rows x longest row of a batch stays within it; a row that is longer by itself
            has a batch to itself.

    Yields:
        (n_rows,) int64, each row number in exactly one batch.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        n_rows = max(1, batch_tokens // max(1, int(sizes[order[start]])))
        yield order[start : start + n_rows]
        start += n_rows
