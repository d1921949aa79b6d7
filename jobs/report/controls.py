"""The trivial controls that any system must beat: means of the training labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

GLOBAL_MEAN = "global_mean"
SMOOTHING = 5.0  # pseudo-rows at the global mean; the published known answers use 5
_PROBABILITY_FLOOR = 1e-3


@dataclass(frozen=True)
class System:
    """What one system says about some rows: scores, which rank, and probabilities."""

    name: str
    title: str
    scores: Floats
    probabilities: Floats


def smoothed_mean(
    train_keys: ArrayLike, train_labels: ArrayLike, keys: ArrayLike, k: float = SMOOTHING
) -> Floats:
    """Mean training label of each key, drawn to the global mean: (sum + k * mu) / (n + k).

    Args:
        train_keys: (n_train,) users or items, integers or strings.
        train_labels: (n_train,) 0 or 1.
        keys: (n,) keys to score; one that training does not know gets mu.
        k: weight of the global mean, in rows; k > 0.

    Returns:
        (n,) means.

    Raises:
        ValueError: no training rows.
    """
    mu = global_mean(train_labels)
    known, codes = np.unique(np.asarray(train_keys), return_inverse=True)
    sums = np.bincount(codes, weights=np.asarray(train_labels, dtype=np.float64))
    means = (sums + k * mu) / (np.bincount(codes) + k)
    wanted = np.asarray(keys)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, means[place], mu)


def global_mean(train_labels: ArrayLike) -> float:
    """Share of positives in training."""
    labels = np.asarray(train_labels, dtype=np.float64)
    if len(labels) == 0:
        raise ValueError("there are no training rows to take a mean of")
    return float(labels.mean())


def controls(
    train_users: ArrayLike,
    train_items: ArrayLike,
    train_labels: ArrayLike,
    users: ArrayLike,
    items: ArrayLike,
    k: float = SMOOTHING,
) -> tuple[System, ...]:
    """Global mean, item mean, and item mean plus user mean, for the rows (users, items).

    The sum of the two means counts the global mean twice, which no rank sees; its probability is
    item mean + user mean - global mean, held inside [0.001, 0.999].
    """
    mu = global_mean(train_labels)
    of_item = smoothed_mean(train_items, train_labels, items, k)
    of_user = smoothed_mean(train_users, train_labels, users, k)
    constant = np.full(len(of_item), mu)
    both = np.clip(of_item + of_user - mu, _PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    return (
        System("item_user_mean", "Item mean + user mean", of_item + of_user, both),
        System("item_mean", "Item mean", of_item, of_item),
        System(GLOBAL_MEAN, "Global mean", constant, constant),
    )
