"""What a matrix factorisation is fitted to and what it is: ratings, factors, first biases."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 65_536
UNKNOWN = -1  # the row number of a user whom training has not seen

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Ratings:
    """Rated events by row number.

    Attributes:
        users: (n,) rows of the user table; UNKNOWN is allowed outside training.
        items: (n,) rows of the item table.
        labels: (n,) 0 or 1.
    """

    users: Ints
    items: Ints
    labels: Floats

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Factors:
    """What a logit is made of: global_bias + user_bias + item_bias + <user_factor, item_factor>.

    Attributes:
        user_factors: (n_users, d).
        user_biases: (n_users,).
        item_factors: (n_items, d).
        item_biases: (n_items,).
        global_bias: log odds of a positive label.
    """

    user_factors: Floats
    user_biases: Floats
    item_factors: Floats
    item_biases: Floats
    global_bias: float

    def is_finite(self) -> bool:
        """Whether no number has become NaN or infinite."""
        tables = (self.user_factors, self.user_biases, self.item_factors, self.item_biases)
        return math.isfinite(self.global_bias) and all(np.isfinite(t).all() for t in tables)

    def logits(self, users: Ints, items: Ints, unknown: Floats | None = None) -> Floats:
        """(n,) logits of (user, item) rows.

        Args:
            users: (n,) rows of the user table, or UNKNOWN.
            items: (n,) rows of the item table.
            unknown: (n, d) factors to give to the rows whose user is UNKNOWN, as
                `visible.HistoryTaste.factors` makes them; without it such a user has the factor
                zero. The bias is zero in any case.
        """
        is_known = users != UNKNOWN
        rows = np.where(is_known, users, 0)
        personal = self.user_biases[rows] + self._products(rows, items)
        if unknown is None:
            personal = np.where(is_known, personal, 0)
        else:
            taste = np.einsum("nd,nd->n", unknown, self.item_factors[items])
            personal = np.where(is_known, personal, taste)
        return self.global_bias + self.item_biases[items] + personal

    def _products(self, users: Ints, items: Ints) -> Floats:
        """(n,) <user factor, item factor>, for some rows at once: gathered rows take memory."""
        products = np.empty(len(users), dtype=np.float32)
        for start in range(0, len(users), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            left, right = self.user_factors[users[some]], self.item_factors[items[some]]
            products[some] = np.einsum("nd,nd->n", left, right)
        return products


def log_odds(labels: Floats) -> float:
    """Log odds of a positive label, with half a row of each class added so that it is finite."""
    n_positives = float(labels.sum())
    return math.log((n_positives + 0.5) / (len(labels) - n_positives + 0.5))


def first_biases(
    rows: Ints, labels: Floats, offsets: NDArray[np.float64], n: int, l2: float
) -> NDArray[np.float64]:
    """One Newton step from zero to the MAP biases of one side.

    b = sum(y - p) / (sum p (1 - p) + l2) over a row's events, with p = sigmoid(offset): a smoothed
    mean in log odds. It spares the first epochs and makes a short history safe.

    Args:
        rows: (n_events,) row of each event.
        labels: (n_events,) 0 or 1.
        offsets: (n_events,) logits of what is already known of each event.
        n: rows of the table.
        l2: prior precision.

    Returns:
        (n,) biases; 0 for a row without events.
    """
    p = 1 / (1 + np.exp(-offsets))
    slope = np.bincount(rows, labels - p, n)
    curvature = np.bincount(rows, p * (1 - p), n) + l2
    return np.divide(slope, curvature, out=np.zeros(n), where=curvature > 0)
