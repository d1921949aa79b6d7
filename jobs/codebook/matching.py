"""Stable numbers for codes: a new codebook takes the numbers of the last one, where items agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Ints = NDArray[np.int64]

UNKNOWN = -1  # the code of an item that the last codebook did not hold


@dataclass(frozen=True)
class Drift:
    """What moved on one level between two codebooks, over the items that both hold.

    Attributes:
        changed: share of these items whose code changed, numbers matched.
        changed_unmatched: the same with the numbers that the quantiser happened to give.
        n_items: how many items both hold.
    """

    changed: float
    changed_unmatched: float
    n_items: int


def matched_numbers(codes: Ints, previous: Ints, n_codes: int) -> Ints:
    """(n_codes,) the number that each new code gets, a permutation.

    Of all ways to give the new codes the old numbers, it is one that leaves most items with the
    code that they had (Kuhn 1955, the Hungarian method, on the counts of members in common). Old
    numbers of n_codes and more cannot be had: a smaller codebook has no such code.

    Args:
        codes: (n,) new codes.
        previous: (n,) last codes of the same items; UNKNOWN where there is none.
        n_codes: K of the new codebook.
    """
    known = (previous != UNKNOWN) & (previous < n_codes)
    places = codes[known] * n_codes + previous[known]
    overlap = np.bincount(places, minlength=n_codes * n_codes).reshape(n_codes, n_codes)
    # of equally good ways, one that moves few numbers
    _, numbers = linear_sum_assignment(2 * n_codes * overlap + np.eye(n_codes), maximize=True)
    return numbers.astype(np.int64)


def drift(codes: Ints, unmatched: Ints, previous: Ints) -> Drift:
    """What moved: all arguments are (n,) codes of one level, of the same items."""
    known = previous != UNKNOWN
    n_items = int(known.sum())
    if not n_items:
        return Drift(0.0, 0.0, 0)
    return Drift(
        changed=float((codes != previous)[known].mean()),
        changed_unmatched=float((unmatched != previous)[known].mean()),
        n_items=n_items,
    )
