"""Matrix factorisation with biases, fitted to binary labels; arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from jobs.collab.factors import Factors, Floats, Ratings, first_biases, log_odds
from jobs.collab.row_adam import DenseAdam, RowAdam, Table
from jobs.collab.streams import stream
from jobs.errors import JobError
from jobs.job import Config
from jobs.report.metrics import auc


class MfConfig(Config):
    """Matrix factorisation: size, priors and schedule.

    The `l2_*` are precisions of Gaussian priors on a whole row: its penalty is spread over the
    row's own events, so that one value suits rare and frequent rows, small and large data.
    """

    n_factors: int = Field(default=64, gt=0, description="length of a user's or item's factor")
    biases: bool = Field(default=True, description="global, user and item bias")
    l2_factor: float = Field(default=1.0, ge=0, description="prior precision of a factor")
    l2_user_bias: float = Field(default=3.0, ge=0, description="prior precision of a user's bias")
    l2_item_bias: float = Field(default=0.5, ge=0, description="prior precision of an item's bias")
    l2_taste: float = Field(default=3.0, ge=0, description="prior precision of the common taste")
    init_sd: float = Field(default=0.01, gt=0, description="standard deviation of initial factors")
    optimizer: Literal["rows", "dense"] = Field(
        default="rows", description="a step moves the rows in its batch, or all as in the papers"
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="L2 inside Adam, dense optimizer only"
    )
    learning_rate: float = Field(default=5e-3, gt=0, description="Adam step of the tables")
    batch_size: int = Field(default=1024, gt=0, description="events in a step, at most")
    min_steps: int = Field(
        default=20, gt=0, description="steps in an epoch, at least: few events get small batches"
    )
    max_epochs: int = Field(default=60, gt=0, description="passes over the train events at most")
    patience: int = Field(
        default=8, gt=0, description="epochs without a better valid AUC before the end"
    )
    epochs_without_valid: int = Field(default=20, gt=0, description="epochs when valid has no AUC")
    seed: int = Field(default=0, ge=0, description="of initial factors and of the order of events")


PUBLISHED_MF = MfConfig(
    n_factors=256,
    biases=False,
    l2_factor=0,
    optimizer="dense",
    weight_decay=1e-4,
    learning_rate=1e-3,
    batch_size=2048,
    min_steps=1,
    max_epochs=1000,
    patience=30,
)


@dataclass(frozen=True)
class Epoch:
    """How an epoch went; `valid_auc` is None where valid rows are absent or of one class."""

    number: int  # from 1
    loss: float  # mean over steps of the binary cross-entropy, in nats
    alignment_loss: float  # mean over steps, 0 without alignment
    valid_auc: float | None


@dataclass(frozen=True)
class Fit:
    """Weights of the best epoch, and the course of training."""

    factors: Factors
    best: Epoch
    n_epochs: int


class Alignment(Protocol):
    """A loss on item factors beside that of the ratings, with weights of its own."""

    weight: float

    def next_items(self) -> Tensor:
        """(b,) distinct item rows for the next step, from the whole catalogue."""

    def loss(self, items: Tensor, factors: Tensor) -> Tensor:
        """Loss of `factors` (b, d), the current ones of `items` (b,)."""

    def parameters(self) -> Sequence[Tensor]:
        """Weights that learn with it."""

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move those weights."""


class Unaligned:
    """The alignment of a plain MF: it touches no item and costs nothing."""

    weight = 0.0

    def next_items(self) -> Tensor:
        """No items."""
        return torch.zeros(0, dtype=torch.long)

    def loss(self, items: Tensor, factors: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros(())

    def parameters(self) -> Sequence[Tensor]:
        """None."""
        return ()

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Nothing."""


def fit(
    train: Ratings,
    valid: Ratings,
    n_users: int,
    n_items: int,
    config: MfConfig,
    alignment: Alignment | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Fit:
    """Factors and biases that minimise cross-entropy + priors + weight * alignment loss.

    Bit for bit the same for the same arguments and number of threads.

    Args:
        train: events of known users and items.
        valid: events to stop on: the weights of the epoch with the best AUC are kept. Without
            both classes there, training runs for `config.epochs_without_valid`.
        n_users: rows of the user table.
        n_items: rows of the item table; items without events are welcome.
        config: sizes, priors, schedule.
        alignment: loss on item factors, whose own weights are left at those of the best epoch.
        on_epoch: told after every epoch.

    Raises:
        JobError: no train events, a row number outside its table, or weights that diverge.
    """
    _check(train, n_users, n_items)
    trainer = _Trainer(train, n_users, n_items, config, alignment or Unaligned())
    can_stop = auc(valid.labels, np.zeros(len(valid))) is not None
    last = config.max_epochs if can_stop else config.epochs_without_valid
    best = Epoch(0, math.inf, math.inf, None)
    kept: list[Tensor] = []
    for number in range(1, last + 1):
        epoch = _epoch(number, trainer, valid)
        on_epoch(epoch)
        if _is_better(epoch, best):
            best, kept = epoch, trainer.snapshot()
        elif number - best.number >= config.patience:
            break
    trainer.restore(kept)
    return Fit(trainer.factors(), best, number)


def _is_better(epoch: Epoch, best: Epoch) -> bool:
    """Without an AUC to compare, the later epoch is."""
    if epoch.valid_auc is None or best.valid_auc is None:
        return True
    return epoch.valid_auc > best.valid_auc


def _epoch(number: int, trainer: _Trainer, valid: Ratings) -> Epoch:
    rating_loss, alignment_loss = trainer.epoch()
    factors = trainer.factors()
    with np.errstate(over="ignore", invalid="ignore"):  # judged in the next line
        logits = factors.logits(valid.users, valid.items)
    if not (factors.is_finite() and np.isfinite(logits).all()):
        raise JobError(
            f"the weights became NaN or infinite in epoch {number}; lower --learning-rate"
        )
    return Epoch(number, rating_loss, alignment_loss, auc(valid.labels, logits))


def _check(train: Ratings, n_users: int, n_items: int) -> None:
    if len(train) == 0:
        raise JobError("there are no train events to fit factors to; give a later --day")
    for name, rows, n in (("user", train.users, n_users), ("item", train.items, n_items)):
        if rows.min() < 0 or rows.max() >= n:
            raise JobError(f"{name} rows run from {rows.min()} to {rows.max()} in a table of {n}")


def first_factors(train: Ratings, n_users: int, n_items: int, config: MfConfig) -> Factors:
    """Factors N(0, init_sd), and biases one Newton step from zero: items first, then users."""
    d, biased = config.n_factors, config.biases
    noise = [
        torch.randn(n, d, generator=stream(config.seed, side)) * config.init_sd
        for n, side in ((n_users, "users"), (n_items, "items"))
    ]
    start = log_odds(train.labels) if biased else 0.0
    offsets = np.full(len(train), start)
    of_users, of_items = np.zeros(n_users), np.zeros(n_items)
    if biased:
        of_items = first_biases(train.items, train.labels, offsets, n_items, config.l2_item_bias)
        offsets += of_items[train.items]
        of_users = first_biases(train.users, train.labels, offsets, n_users, config.l2_user_bias)
    return Factors(
        user_factors=noise[0].numpy(),
        user_biases=of_users.astype(np.float32),
        item_factors=noise[1].numpy(),
        item_biases=of_items.astype(np.float32),
        global_bias=start,
    )


def _rows(factors: Floats, biases: Floats) -> Tensor:
    """(n, d + 1) rows of a table: factor, then bias."""
    return torch.tensor(np.column_stack([factors, biases]))


class _Gathered(NamedTuple):
    """Rows of a table, each once, as a leaf of the graph."""

    table: Table
    rows: Tensor  # (k,) distinct
    leaf: Tensor  # (k, d + 1)
    places: Tensor  # (n,) which of the k rows each wanted one is

    @property
    def wanted(self) -> Tensor:
        """(n, d + 1) rows in the order asked."""
        return self.leaf[self.places]


def _gather(table: Table, wanted: Tensor) -> _Gathered:
    rows, places = torch.unique(wanted, return_inverse=True)
    return _Gathered(table, rows, table.weights[rows].requires_grad_(), places)


class _Trainer:
    """The tables while they learn; a row is a factor with its bias as last column.

    The logit is global + user bias + item bias + <taste + user factor, item factor>. The taste
    that all users share lets an item's factor speak for its bias too, which is all that an item
    without events has; `factors` folds it into the item biases.
    """

    def __init__(
        self, train: Ratings, n_users: int, n_items: int, config: MfConfig, alignment: Alignment
    ) -> None:
        self._config, self._alignment = config, alignment
        self._random = stream(config.seed, "order of events")
        self._users, self._items = torch.as_tensor(train.users), torch.as_tensor(train.items)
        self._labels = torch.as_tensor(train.labels, dtype=torch.float32)
        first = first_factors(train, n_users, n_items, config)
        shared = torch.zeros(1, config.n_factors + 1)
        shared[0, -1] = first.global_bias
        self._shared = _table(shared, config)
        self._user = _table(_rows(first.user_factors, first.user_biases), config)
        self._item = _table(_rows(first.item_factors, first.item_biases), config)
        d, l2 = config.n_factors, config.l2_factor
        self._shared_l2 = torch.tensor([config.l2_taste] * d + [0.0]) / len(train)
        self._user_l2 = torch.tensor([l2] * d + [config.l2_user_bias])
        self._item_l2 = torch.tensor([l2] * d + [config.l2_item_bias])
        self._n_of_user = torch.bincount(self._users, minlength=n_users)
        self._n_of_item = torch.bincount(self._items, minlength=n_items)

    def epoch(self) -> tuple[float, float]:
        """One pass over the events in a new order; mean cross-entropy and alignment loss."""
        order = torch.randperm(len(self._labels), generator=self._random)
        n_steps = max(math.ceil(len(order) / self._config.batch_size), self._config.min_steps)
        batches = order.tensor_split(min(n_steps, len(order)))
        losses = [self._step(batch) for batch in batches]
        rating_loss, alignment_loss = torch.stack(losses).mean(dim=0).tolist()
        return rating_loss, alignment_loss

    def _step(self, batch: Tensor) -> Tensor:
        """Move what the batch and the alignment touch; (2,) both losses before the move."""
        n, aligned = len(batch), self._alignment.next_items()
        shared = _gather(self._shared, torch.zeros(1, dtype=torch.long))
        user = _gather(self._user, self._users[batch])
        item = _gather(self._item, torch.cat([self._items[batch], aligned]))
        item_rows = item.wanted
        logits = self._logits(shared.leaf, user.wanted, item_rows[:n])
        rating_loss = functional.binary_cross_entropy_with_logits(logits, self._labels[batch])
        alignment_loss = self._alignment.loss(aligned, item_rows[n:, :-1])
        penalty = self._penalty(batch, shared.leaf, user.wanted, item_rows[:n])
        loss = rating_loss + penalty + self._alignment.weight * alignment_loss
        self._move(loss, shared, user, item)
        return torch.stack([rating_loss.detach(), alignment_loss.detach()])

    def _logits(self, shared: Tensor, user: Tensor, item: Tensor) -> Tensor:
        if not self._config.biases:
            return (user[:, :-1] * item[:, :-1]).sum(dim=1)
        user = user + shared
        return (user[:, :-1] * item[:, :-1]).sum(dim=1) + user[:, -1] + item[:, -1]

    def _penalty(self, batch: Tensor, shared: Tensor, user: Tensor, item: Tensor) -> Tensor:
        """The batch's share, as a mean over its events, of -log prior / n_events."""
        of_user = user.square() @ self._user_l2 / self._n_of_user[self._users[batch]]
        of_item = item.square() @ self._item_l2 / self._n_of_item[self._items[batch]]
        return ((of_user + of_item).mean() + (shared.square() @ self._shared_l2).sum()) / 2

    def _move(self, loss: Tensor, *touched: _Gathered) -> None:
        leaves = [gathered.leaf for gathered in touched]
        gradients = torch.autograd.grad(loss, [*leaves, *self._alignment.parameters()])
        for gathered, gradient in zip(touched, gradients, strict=False):
            gathered.table.step(gathered.rows, gradient)
        self._alignment.step(gradients[len(touched) :])

    def factors(self) -> Factors:
        """The weights as they are, with the common taste folded into the item biases."""
        shared, user, item = (t.weights for t in (self._shared, self._user, self._item))
        of_taste = item[:, :-1] @ shared[0, :-1]
        return Factors(
            user_factors=user[:, :-1].numpy(),
            user_biases=user[:, -1].numpy(),
            item_factors=item[:, :-1].numpy(),
            item_biases=(item[:, -1] + of_taste).numpy(),
            global_bias=float(shared[0, -1]),
        )

    def snapshot(self) -> list[Tensor]:
        """Copies of all weights."""
        return [weights.detach().clone() for weights in self._weights()]

    def restore(self, kept: list[Tensor]) -> None:
        """Bring the weights of a snapshot back."""
        with torch.no_grad():
            for weights, copy in zip(self._weights(), kept, strict=True):
                weights.copy_(copy)

    def _weights(self) -> list[Tensor]:
        tables = (self._shared, self._user, self._item)
        return [*(table.weights for table in tables), *self._alignment.parameters()]


def _table(weights: Tensor, config: MfConfig) -> Table:
    if config.optimizer == "dense":
        return DenseAdam(weights, config.learning_rate, config.weight_decay)
    return RowAdam(weights, config.learning_rate)
