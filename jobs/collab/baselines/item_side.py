"""The catalogue's side of a fold-in: what is expected of each item, and what goes with what."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.collab.align import AlignConfig, align
from jobs.collab.baselines.bayesian_items import BayesianConfig, bayesian_loadings
from jobs.collab.baselines.factorised import NO_RATINGS, config_values, ratings_of
from jobs.collab.factors import Floats
from jobs.collab.systems import Catalogue, Evidence, Labelled
from jobs.report.controls import SMOOTHING, smoothed_mean
from jobs.tokens.threads import torch_threads

N_KEPT = 2  # item sides in memory: that of this month, and that of the choice of epochs


@dataclass(frozen=True)
class ItemSide:
    """Items as a user's departures are told from.

    Attributes:
        means: (n_items,) probability of a positive from the average user.
        loadings: (n_items, d): <q_i, q_j> is how departures at i and j go together, as
            departures of a probability.
        n_epochs: passes behind it; 0 where that means nothing.
    """

    means: Floats
    loadings: Floats
    n_epochs: int


def aligned_side(
    evidence: Evidence, config: AlignConfig, seed: int, n_epochs: int | None
) -> ItemSide:
    """Items of an aligned matrix factorisation, whose logits become probabilities.

    A logit's step moves the probability by p (1 - p) at the average p, which is what a loading in
    departures of a probability must be scaled by.
    """
    known = np.unique(evidence.train.requests.users)
    given = AlignConfig(**config_values(config, seed, n_epochs))
    with torch_threads(given.n_threads):
        done = align(
            ratings_of(evidence.train, known),
            ratings_of(evidence.valid, known) if n_epochs is None else NO_RATINGS,
            len(known),
            evidence.catalogue.semantics,
            evidence.catalogue.groups,
            given,
        )
    factors = done.factors
    means = 1 / (1 + np.exp(-(factors.global_bias + factors.item_biases.astype(np.float64))))
    step = float(np.mean(means * (1 - means)))
    return ItemSide(
        means.astype(np.float32),
        (step * factors.item_factors).astype(np.float32),
        done.best.number,
    )


def bayesian_side(train: Labelled, n_items: int, config: BayesianConfig, seed: int) -> ItemSide:
    """Smoothed means, and loadings of what is left after them."""
    requests = train.requests
    every = np.arange(n_items)
    means = smoothed_mean(requests.items, train.labels, every, SMOOTHING)
    known, users = np.unique(requests.users, return_inverse=True)
    loadings = bayesian_loadings(
        users,
        requests.items,
        train.labels - means[requests.items],
        len(known),
        n_items,
        config,
        seed,
    )
    return ItemSide(means.astype(np.float32), loadings.astype(np.float32), 0)


class Kept:
    """The last few item sides by what they were learned from, so that a month learns one.

    With it or without it the answer is the same; only the time differs.
    """

    def __init__(self, n: int = N_KEPT) -> None:
        self._n = n
        self._sides: OrderedDict[str, ItemSide] = OrderedDict()

    def get(self, key: str, learn: Callable[[], ItemSide]) -> ItemSide:
        """What is kept under the key, or what `learn` gives."""
        if key not in self._sides:
            self._sides[key] = learn()
        self._sides.move_to_end(key)
        while len(self._sides) > self._n:
            self._sides.popitem(last=False)
        return self._sides[key]


def key_of(settings: str, catalogue: Catalogue, *parts: Labelled) -> str:
    """sha256 over settings, texts and rows: equal where an item side would be."""
    digest = hashlib.sha256(settings.encode())
    for array in (catalogue.semantics, catalogue.groups):
        _add(digest, array)
    for part in parts:
        for array in (part.requests.users, part.requests.items, part.labels):
            _add(digest, array)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, array: NDArray[np.generic]) -> None:
    digest.update(f"{array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
