"""What people look at to judge a codebook: how evenly it is used, and what its codes are about."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def code_entropy(counts: Ints) -> float:
    """Entropy in bits of the use of codes; log2 of their number where all are used alike."""
    used = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(used * np.log2(used)).sum())


def top_members(
    codes: Ints, distances: NDArray[np.float32], n_codes: int, n_shown: int
) -> list[list[list[int]]]:
    """Rows of the items nearest to each code's centroid, by level and code; the nearest first.

    Args:
        codes: (n, n_levels).
        distances: (n, n_levels) from the centroid on each level.
        n_codes: codes of a level.
        n_shown: at most so many rows a code.
    """
    shown = []
    for of_level, away in zip(codes.T, distances.T, strict=True):
        order = np.lexsort((away, of_level))
        starts = np.searchsorted(of_level[order], np.arange(n_codes + 1))
        shown.append(
            [order[start : min(start + n_shown, stop)].tolist() for start, stop in pairwise(starts)]
        )
    return shown
