"""What the systems that learn by epochs share: whom train has seen, and when to stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from jobs.collab.factors import UNKNOWN, Floats, Ints
from jobs.collab.systems import Evidence
from jobs.errors import JobError
from jobs.job import Config
from jobs.report.metrics import auc


class Schedule(Config):
    """How long to train."""

    max_epochs: int = Field(default=200, gt=0, description="passes over the train rows at most")
    patience: int = Field(
        default=10, gt=0, description="epochs without a better valid AUC before the end"
    )
    epochs_without_valid: int = Field(default=20, gt=0, description="epochs when valid has no AUC")


class Learner(Protocol):
    """A model while it learns."""

    def epoch(self) -> float:
        """One pass over the train rows in a new order; the mean loss."""

    def valid_logits(self) -> Floats:
        """(n_valid,) logits of the valid rows with the weights as they are."""

    def weights(self) -> Sequence[Tensor]:
        """All that learns, and all state that scoring reads; changed in place by an epoch."""


@dataclass(frozen=True)
class Course:
    """How a training went.

    Attributes:
        n_epochs: passes behind the weights that were kept.
        n_run: passes that were run.
        valid_auc: of the weights that were kept; None where valid was not looked at.
    """

    n_epochs: int
    n_run: int
    valid_auc: float | None


def train(
    learner: Learner, valid_labels: Floats, schedule: Schedule, n_epochs: int | None = None
) -> Course:
    """Run epochs; leave the learner with the weights of the best one.

    The best is the one with the highest valid AUC. Where valid has no AUC (no rows, one class) it
    runs `epochs_without_valid` and keeps the last.

    Args:
        learner: its weights are changed in place.
        valid_labels: (n_valid,) 0 or 1.
        schedule: see `Schedule`.
        n_epochs: run so many, keep the last and look at no valid row.

    Raises:
        JobError: the loss or a logit became NaN or infinite.
    """
    if n_epochs is not None:
        return _fixed(learner, n_epochs)
    if auc(valid_labels, np.zeros(len(valid_labels))) is None:
        return _fixed(learner, schedule.epochs_without_valid)
    best, best_auc, number = 0, -math.inf, 0
    kept: list[Tensor] = []
    for number in range(1, schedule.max_epochs + 1):
        loss, logits = learner.epoch(), learner.valid_logits()
        _refuse_divergence(number, loss, logits)
        value = auc(valid_labels, logits)
        if value is not None and value > best_auc:
            best, best_auc = number, value
            kept = [weights.detach().clone() for weights in learner.weights()]
        elif number - best >= schedule.patience:
            break
    with torch.no_grad():
        for weights, copy in zip(learner.weights(), kept, strict=True):
            weights.copy_(copy)
    return Course(best, number, best_auc)


def _fixed(learner: Learner, n_epochs: int) -> Course:
    if n_epochs < 1:
        raise JobError(f"n_epochs is {n_epochs}; train for at least one")
    for number in range(1, n_epochs + 1):
        _refuse_divergence(number, learner.epoch(), np.zeros(0, np.float32))
    return Course(n_epochs, n_epochs, None)


def _refuse_divergence(number: int, loss: float, logits: Floats) -> None:
    if not (math.isfinite(loss) and np.isfinite(logits).all()):
        raise JobError(f"the weights became NaN or infinite in epoch {number}; lower learning_rate")


def batches(n: int, size: int, random: torch.Generator, min_steps: int = 1) -> Sequence[Tensor]:
    """The rows 0..n-1 in a new order, in batches of about equal length, `size` at most.

    Few rows get small batches, so that a pass has `min_steps` steps where it has the rows for it.
    """
    order = torch.randperm(n, generator=random)
    return order.tensor_split(min(max(math.ceil(n / size), min_steps), n))


def check(evidence: Evidence) -> None:
    """Refuse evidence from which nothing can be learned.

    Raises:
        JobError: no train rows, or a user or item outside the catalogue.
    """
    catalogue = evidence.catalogue
    if len(evidence.train) == 0:
        raise JobError("there are no train rows to fit to; give a later day or a longer period")
    for part, rows in (("train", evidence.train.requests), ("valid", evidence.valid.requests)):
        refuse_strangers(f"{part} user", rows.users, catalogue.n_users)
        refuse_strangers(f"{part} item", rows.items, catalogue.n_items)


def refuse_strangers(what: str, rows: Ints, n: int) -> None:
    """Refuse row numbers outside a table of `n` rows.

    Raises:
        JobError: names the range that is there.
    """
    if len(rows) and (rows.min() < 0 or rows.max() >= n):
        raise JobError(f"{what} rows run from {rows.min()} to {rows.max()} in a table of {n}")


def places(known: Ints, rows: Ints) -> Ints:
    """Place of each row number among `known`, ascending; UNKNOWN for one that is not there."""
    if len(known) == 0:
        return np.full(len(rows), UNKNOWN)
    found = np.minimum(np.searchsorted(known, rows), len(known) - 1)
    return np.where(known[found] == rows, found, UNKNOWN)
