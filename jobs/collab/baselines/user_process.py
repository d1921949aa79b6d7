"""What a user's own events say of an item: a Gaussian process over items and time, user by user.

Each user's departures from the item means are a draw of a process with a known covariance: a level
of the user's own, tastes along the items' loadings, some of which fade, and nearness of texts. Its
posterior mean is the best linear guess from all that the user did, and costs one Cholesky a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from jobs.collab.baselines.counts import DAY_US
from jobs.collab.factors import Ints
from jobs.job import Config

Doubles = NDArray[np.float64]


class UserProcessConfig(Config):
    """Prior variances of a user's departures, as departures of a probability."""

    level_variance: float = Field(default=0.02, ge=0, description="of a user's own level")
    taste: float = Field(default=0.5, ge=0, description="weight of tastes that stay")
    fading_taste: float = Field(default=0.0, ge=0, description="weight of tastes that fade")
    fading_days: float = Field(default=365.0, gt=0, description="after which 1/e of them is left")
    text_variance: float = Field(default=0.03, ge=0, description="of a taste for a text")
    text_scale: float = Field(default=0.3, gt=0, description="1 - cosine at which 1/e is shared")
    noise_variance: float = Field(default=0.2, gt=0, description="of a label around its mean")
    liked_beyond: float = Field(
        default=0.3,
        ge=0,
        description="departure of a positive whose negatives are hidden: later than train",
    )
    newest: int = Field(default=2_000, gt=0, description="events of a user that count, at most")


@dataclass(frozen=True)
class UserEvents:
    """What is known of one user.

    Attributes:
        items: (m,) item rows; those with labels first, then positives beyond train.
        times: (m,) microseconds since 1970.
        departures: (m,) label minus item mean; `liked_beyond` for positives beyond train.
        n_labelled: how many have labels.
    """

    items: Ints
    times: Ints
    departures: Doubles
    n_labelled: int


def departures(
    events: UserEvents,
    items: Ints,
    times: Ints,
    n_seen: Ints,
    loadings: Doubles,
    vectors: Doubles,
    config: UserProcessConfig,
) -> Doubles:
    """Posterior mean departure of a user at some items.

    With K the covariance of the user's first m events and k that of them with the row,
    k^T (K + noise I)^-1 y. The Cholesky factor of a leading block is the leading block of the
    factor, so rows that see different numbers of events share one.

    Args:
        events: of the user.
        items: (n,) item rows to tell.
        times: (n,) microseconds since 1970.
        n_seen: (n,) a row looks at the first so many events.
        loadings: (n_items, d) of the tastes.
        vectors: (n_items, d_llm) of unit length.
        config: variances.

    Returns:
        (n,) departures; 0 where nothing is seen.
    """
    m = int(n_seen.max(initial=0))
    if m == 0:
        return np.zeros(len(items))
    seen, when = events.items[:m], events.times[:m]
    has_label = np.arange(m) < events.n_labelled
    own = _shared(seen, when, seen, when, loadings, vectors, config)
    own += config.level_variance * np.outer(has_label, has_label)
    own[np.diag_indices(m)] += config.noise_variance
    with_rows = _shared(seen, when, items, times, loadings, vectors, config)
    with_rows += config.level_variance * has_label[:, None]
    factor = torch.linalg.cholesky(torch.from_numpy(own))
    said = _solved(factor, events.departures[:m, None])
    weights = _solved(factor, with_rows)
    running = np.vstack([np.zeros(len(items)), np.cumsum(said * weights, axis=0)])
    return running[n_seen, np.arange(len(items))]


def _solved(factor: Tensor, right: Doubles) -> Doubles:
    done: Doubles = torch.linalg.solve_triangular(
        factor, torch.from_numpy(right), upper=False
    ).numpy()
    return done


def _shared(
    items: Ints,
    times: Ints,
    others: Ints,
    other_times: Ints,
    loadings: Doubles,
    vectors: Doubles,
    config: UserProcessConfig,
) -> Doubles:
    """(m, n) covariance of tastes, without the level."""
    taste = np.full((len(items), len(others)), config.taste)
    if config.fading_taste:
        apart_days = np.abs(times[:, None] - other_times) / DAY_US
        taste += config.fading_taste * np.exp(-apart_days / config.fading_days)
    shared = taste * (loadings[items] @ loadings[others].T)
    if config.text_variance:
        cosines = vectors[items] @ vectors[others].T
        shared += config.text_variance * np.exp((cosines - 1) / config.text_scale)
    return shared
