"""Matrix factorisation with biases, fitted to binary labels; arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from jobs.collab.factors import Factors, Floats, Ratings, first_biases, log_odds
from jobs.collab.history_map import HistoryMap
from jobs.collab.row_adam import DenseAdam, RowAdam, Table
from jobs.collab.sides import DualAlignment, State
from jobs.collab.streams import stream
from jobs.collab.training import Batches, Priors, Trainer, joined
from jobs.collab.visible import HistoryTaste, Visible
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
    compiled: Literal["auto", "never"] = Field(
        default="auto",
        description="steps in compiled code on the CPU, where numba is installed; the last bits "
        "depend on it",
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
    alignment_loss: float  # of items, mean over steps, 0 without alignment
    valid_auc: float | None
    user_alignment_loss: float = 0.0


@dataclass(frozen=True)
class Fit:
    """Weights of the best epoch, and the course of training.

    Attributes:
        factors: users' and items'; a user's holds what is mapped from the history.
        best: the epoch whose weights these are.
        n_epochs: how many there were.
        common_taste: (d,) what all users share, which is part of the item biases of `factors`.
        own_factors: (n_users, d) user factors without what is mapped from histories.
        history: what users without a factor are given; None without a map.
        is_fused: whether rating steps ran in compiled code.
    """

    factors: Factors
    best: Epoch
    n_epochs: int
    common_taste: Floats
    own_factors: Floats
    history: HistoryTaste | None
    is_fused: bool = False


@dataclass(frozen=True)
class Start:
    """Where training begins.

    Attributes:
        factors: with own user factors, and item biases that do not hold the common taste.
        common_taste: (d,).
    """

    factors: Factors
    common_taste: Floats


@dataclass(frozen=True)
class Standing:
    """Where a fit stands after an epoch: all that the rest of it depends on.

    Attributes:
        number: epochs done.
        best: the best of them.
        trainer: `Trainer.state`.
        kept: the weights of the best one.
    """

    number: int
    best: Epoch
    trainer: State
    kept: list[Tensor]


class Keeper(Protocol):
    """Where a fit's standing is kept, so that a killed one can go on."""

    def newest(self) -> Standing | None:
        """The last standing that was kept whole."""

    def offer(self, standing: Standing) -> None:
        """Keep this one, if it is time to."""


def fit(
    train: Ratings,
    valid: Ratings,
    n_users: int,
    n_items: int,
    config: MfConfig,
    alignment: DualAlignment | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    *,
    history: HistoryMap | None = None,
    valid_sees: Visible | None = None,
    start: Start | None = None,
    keeper: Keeper | None = None,
    device: torch.device | None = None,
) -> Fit:
    """Factors and biases that minimise cross-entropy + priors + weighted alignment losses.

    Bit for bit the same for the same arguments, device and number of threads, also when it was
    killed and went on from what `keeper` had kept. One step is `jobs.collab.training.losses_of`
    and the moves of `Trainer`.

    Args:
        train: events of known users and items.
        valid: events to stop on: the weights of the epoch with the best AUC are kept. Without
            both classes there, training runs for `config.epochs_without_valid`.
        n_users: rows of the user table.
        n_items: rows of the item table; items without events are welcome.
        config: sizes, priors, schedule.
        alignment: losses on factors, whose own weights are left at those of the best epoch.
        on_epoch: told after every epoch.
        history: the map for users without a factor, left likewise.
        valid_sees: what the valid rows may see of their users, for that map.
        start: where to begin; None: at random factors and smoothed means.
        keeper: goes on from where it stands, and is offered every epoch.
        device: of all tables; None is the CPU. `alignment` and `history` must be on it.

    Raises:
        JobError: no train events, a row number outside its table, or weights that diverge.
    """
    _check(train, n_users, n_items)
    device = device or torch.device("cpu")
    start = start or Start(
        first_factors(train, n_users, n_items, config), np.zeros(config.n_factors, np.float32)
    )
    trainer = _trainer(train, start, config, alignment, history, device)
    at = _resumed(keeper, trainer)
    can_stop = auc(valid.labels, np.zeros(len(valid))) is not None
    last = config.max_epochs if can_stop else config.epochs_without_valid
    while at.number < last and at.number - at.best.number < config.patience:
        epoch = _epoch(at.number + 1, trainer, valid, valid_sees)
        is_better = _is_better(epoch, at.best)
        best, kept = (epoch, trainer.snapshot()) if is_better else (at.best, at.kept)
        at = Standing(epoch.number, best, trainer.state(), kept)
        if keeper is not None:
            keeper.offer(at)
        on_epoch(epoch)
    trainer.restore(at.kept)
    return Fit(
        factors=trainer.factors(),
        best=at.best,
        n_epochs=at.number,
        common_taste=trainer.common_taste(),
        own_factors=trainer.own_factors(),
        history=None if history is None else history.taste(),
        is_fused=trainer.is_fused,
    )


def _resumed(keeper: Keeper | None, trainer: Trainer) -> Standing:
    """Where to go on; `trainer` stands there too."""
    found = None if keeper is None else keeper.newest()
    if found is None:
        return Standing(0, Epoch(0, math.inf, math.inf, None), {}, [])
    trainer.resume(found.trainer)
    return found


def _is_better(epoch: Epoch, best: Epoch) -> bool:
    """Without an AUC to compare, the later epoch is."""
    if epoch.valid_auc is None or best.valid_auc is None:
        return True
    return epoch.valid_auc > best.valid_auc


def _epoch(number: int, trainer: Trainer, valid: Ratings, valid_sees: Visible | None) -> Epoch:
    rating_loss, of_items, of_users = trainer.epoch()
    factors = trainer.factors()
    with np.errstate(over="ignore", invalid="ignore"):  # judged in the next line
        unknown = None
        if trainer.history is not None and valid_sees is not None:
            unknown = trainer.history.taste().factors(valid_sees)
        logits = factors.logits(valid.users, valid.items, unknown)
    if not (factors.is_finite() and np.isfinite(logits).all()):
        raise JobError(
            f"the weights became NaN or infinite in epoch {number}; lower --learning-rate"
        )
    return Epoch(number, rating_loss, of_items, auc(valid.labels, logits), of_users)


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


def _trainer(
    train: Ratings,
    start: Start,
    config: MfConfig,
    alignment: DualAlignment | None,
    history: HistoryMap | None,
    device: torch.device,
) -> Trainer:
    first, d = start.factors, config.n_factors
    batches = Batches(train, config.batch_size, config.min_steps, config.seed, device)
    shared = torch.tensor([[*start.common_taste.tolist(), first.global_bias]])
    l2_shared = torch.tensor([config.l2_taste] * d + [0.0]) / len(train)
    priors = Priors(
        shared=l2_shared.to(device),
        user=torch.tensor([config.l2_factor] * d + [config.l2_user_bias], device=device),
        item=torch.tensor([config.l2_factor] * d + [config.l2_item_bias], device=device),
        n_of_user=torch.bincount(batches.users, minlength=len(first.user_factors)),
        n_of_item=torch.bincount(batches.items, minlength=len(first.item_factors)),
    )
    return Trainer(
        batches,
        shared=_table(shared.to(device), config),
        user=_table(joined(first.user_factors, first.user_biases).to(device), config),
        item=_table(joined(first.item_factors, first.item_biases).to(device), config),
        priors=priors,
        biased=config.biases,
        alignment=alignment,
        history=history,
        may_fuse=config.compiled == "auto",
    )


def _table(weights: Tensor, config: MfConfig) -> Table:
    if config.optimizer == "dense":
        return DenseAdam(weights, config.learning_rate, config.weight_decay)
    return RowAdam(weights, config.learning_rate)
