"""The means of the training labels: what any system must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from jobs.collab.baselines.kept import expect, floats
from jobs.collab.baselines.training import check
from jobs.collab.factors import Floats
from jobs.collab.systems import Evidence, Fitted, Histories, Requests, System, Tensors
from jobs.report.controls import SMOOTHING, smoothed_mean

_FLOOR = 1e-3  # means are held this far from 0 and 1: a logit is finite


class ItemMean(System):
    """Smoothed mean label of the item."""

    title: ClassVar[str] = "Item mean"

    smoothing: float = Field(default=SMOOTHING, gt=0, description="rows at the global mean")

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Means of train; neither chance nor epochs are in them."""
        check(evidence)
        rows, labels = evidence.train.requests, evidence.train.labels
        every = np.arange(evidence.catalogue.n_items)
        means = smoothed_mean(rows.items, labels, every, self.smoothing)
        return FittedMeans(np.zeros(0, np.float32), _log_odds(means))

    def restore(self, tensors: Tensors) -> Fitted:
        """The two tables."""
        return _restored(tensors)


class ItemUserMean(System):
    """Smoothed mean label of the item plus that of the user.

    The published control ranks by the plain sum of the two means. It is put on the scale of logits
    by one straight line, the tangent at the global mean, which keeps that ranking.
    """

    title: ClassVar[str] = "Item mean + user mean"

    smoothing: float = Field(default=SMOOTHING, gt=0, description="rows at the global mean")

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Means of train; neither chance nor epochs are in them."""
        check(evidence)
        rows, labels = evidence.train.requests, evidence.train.labels
        mu = float(np.clip(labels.mean(dtype=np.float64), _FLOOR, 1 - _FLOOR))
        tables = []
        for keys, n in (
            (rows.users, evidence.catalogue.n_users),
            (rows.items, evidence.catalogue.n_items),
        ):
            means = smoothed_mean(keys, labels, np.arange(n), self.smoothing)
            tables.append((means - mu) / (mu * (1 - mu)))
        users, items = tables
        return FittedMeans(users.astype(np.float32), (items + np.log(mu / (1 - mu))).astype("f4"))

    def restore(self, tensors: Tensors) -> Fitted:
        """The two tables."""
        return _restored(tensors)


def _log_odds(means: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Floats:
    held = np.clip(means, _FLOOR, 1 - _FLOOR)
    return np.log(held / (1 - held)).astype(np.float32)


def _restored(tensors: Tensors) -> FittedMeans:
    expect(tensors, {"user_logits": (None,), "item_logits": (None,)})
    return FittedMeans(floats(tensors, "user_logits"), floats(tensors, "item_logits"))


@dataclass(frozen=True)
class FittedMeans:
    """A logit for each item, and one for each user that is added to it.

    Attributes:
        user_logits: (n_users,), or (0,) where users do not count.
        item_logits: (n_items,).
    """

    user_logits: Floats
    item_logits: Floats

    @property
    def n_epochs(self) -> int:
        """Nothing is trained by passes."""
        return 0

    def score(self, requests: Requests, histories: Histories) -> Floats:
        """(n,) logits."""
        of_items = self.item_logits[requests.items]
        return of_items + self.user_logits[requests.users] if len(self.user_logits) else of_items

    def tensors(self) -> Tensors:
        """Both tables."""
        return {"user_logits": self.user_logits, "item_logits": self.item_logits}
