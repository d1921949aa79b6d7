"""Item loadings by variational Bayes: what many labels say of which items are liked together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jobs.collab.factors import Ints
from jobs.job import Config

Doubles = NDArray[np.float64]


class BayesianConfig(Config):
    """Size and schedule of the factorisation."""

    n_factors: int = Field(default=8, gt=0, description="length of an item's loading")
    n_rounds: int = Field(default=16, gt=0, description="rounds over users and items")
    first_noise: float = Field(default=0.18, gt=0, description="of labels, until it is learned")
    first_variance: float = Field(default=0.03, gt=0, description="of loadings, likewise")


@dataclass
class _Side:
    """Posterior of the rows of one side: means (n, d), covariances (n, d, d)."""

    means: Doubles
    covariances: Doubles
    rows: _Grouped


@dataclass(frozen=True)
class _Grouped:
    """Events grouped by the rows of one side."""

    starts: Ints  # (n + 1,)
    others: Ints  # (n_events,) row of the other side
    values: Doubles  # (n_events,)

    @classmethod
    def of(cls, keys: Ints, others: Ints, values: Doubles, n: int) -> _Grouped:
        order = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=n))])
        return cls(starts, others[order], values[order])


def bayesian_loadings(
    users: Ints,
    items: Ints,
    departures: Doubles,
    n_users: int,
    n_items: int,
    config: BayesianConfig,
    seed: int,
) -> Doubles:
    """(n_items, d) posterior means of loadings q in departure = <x_user, q_item> + noise.

    Mean-field variational Bayes (Lim and Teh 2007): x ~ N(0, I), q ~ N(0, diag(v)), both sides with
    full covariances in turn, v and the noise from their expectations. Unlike a penalised fit it
    knows how little a short history tells: at equal size it is what keeps the loadings of a
    million labels from being noise. As the prior of x is I, <q_i, q_j> is the covariance of
    departures at i and j. Items without events have loading 0.

    Args:
        users: (n,) user rows.
        items: (n,) item rows.
        departures: (n,) label minus the item's mean.
        n_users: rows of the user side.
        n_items: rows of the item side.
        config: size and schedule.
        seed: of the first loadings.
    """
    d = config.n_factors
    random = np.random.default_rng(seed)
    first = random.normal(0, 0.1, (n_items, d))
    spread = np.tile(np.eye(d) * config.first_variance / 10, (n_items, 1, 1))
    of_items = _Side(first, spread, _Grouped.of(items, users, departures, n_items))
    of_users = _Side(
        np.zeros((n_users, d)),
        np.tile(np.eye(d), (n_users, 1, 1)),
        _Grouped.of(users, items, departures, n_users),
    )
    noise, variance = config.first_noise, np.full(d, config.first_variance)
    seen = np.flatnonzero(np.diff(of_items.rows.starts))
    for _ in range(config.n_rounds):
        _update(of_users, of_items, np.ones(d), noise)
        noise = _update(of_items, of_users, variance, noise) / len(departures)
        diagonals = np.einsum("nkk->nk", of_items.covariances[seen])
        variance = np.maximum((of_items.means[seen] ** 2 + diagonals).mean(axis=0), 1e-8)
    return of_items.means


def _update(side: _Side, other: _Side, variance: Doubles, noise: float) -> float:
    """Posterior of one side given the other's; the expected squared error of all events."""
    prior, error, starts = np.diag(1 / variance), 0.0, side.rows.starts
    for row in range(len(starts) - 1):
        events = slice(starts[row], starts[row + 1])
        if events.start == events.stop:
            side.means[row], side.covariances[row] = 0, np.diag(variance)
            continue
        found, values = side.rows.others[events], side.rows.values[events]
        design = other.means[found]
        moments = design.T @ design + other.covariances[found].sum(axis=0)
        covariance = np.linalg.inv(prior + moments / noise)
        mean = covariance @ (design.T @ values) / noise
        side.means[row], side.covariances[row] = mean, covariance
        error += float(values @ values - 2 * mean @ (design.T @ values))
        error += float(np.sum(moments * (np.outer(mean, mean) + covariance)))
    return max(error, 1e-6 * len(side.rows.values))
