"""The way to the compiled rating steps, for tables on the CPU and where numba is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.collab.row_adam import BETA1, BETA2, RowAdam, Table

if TYPE_CHECKING:
    from jobs.collab.compiled import Events, Pulls, Rate, Rows, Side
    from jobs.collab.sides import DualAlignment
    from jobs.collab.training import Batches, Priors

_SETTLED = 20_000  # steps after which 1 - 0.999^n is 1 in float32


class Pulled(NamedTuple):
    """What an alignment lays on factors in one step, times its weights, and its losses."""

    user_rows: Tensor  # (a,) distinct
    user_gradients: Tensor  # (a, d)
    item_rows: Tensor  # (b,) distinct
    item_gradients: Tensor  # (b, d)
    of_items: float
    of_users: float


def pull(alignment: DualAlignment, users: Tensor, items: Tensor) -> Pulled:
    """Draw rows, move the alignment's own weights, and say where factors are drawn to.

    Args:
        alignment: has the losses.
        users: (n_users, d) factors as they are.
        items: (n_items, d) likewise.
    """
    drawn = alignment.begin()
    of_users, of_items = (
        table[rows].requires_grad_() for table, rows in ((users, drawn.users), (items, drawn.items))
    )
    item_loss, user_loss = alignment.losses(drawn, of_users, of_items)
    item_weight, user_weight = alignment.weights
    total = item_weight * item_loss
    if user_weight > 0:
        total = total + user_weight * user_loss
    leaves = [of_users, of_items, *drawn.leaves]
    found: Sequence[Tensor | None] = [None] * len(leaves)
    if total.requires_grad:  # not where nobody drawn has anything to be aligned to
        found = torch.autograd.grad(total, leaves, allow_unused=True)
    alignment.step(drawn, found[2:])
    user_gradients, item_gradients = (
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves[:2], found[:2], strict=True)
    )
    return Pulled(
        drawn.users,
        user_gradients.detach(),
        drawn.items,
        item_gradients.detach(),
        item_loss.item(),
        user_loss.item(),
    )


def fused_epoch(
    fused: FusedRatings,
    order: Tensor,
    bounds: Tensor,
    aligned: Sequence[bool],
    alignment: DualAlignment | None,
    user: Table,
    item: Table,
) -> tuple[float, float, float]:
    """All steps of an epoch; the means of the cross-entropy and of the alignment losses.

    Args:
        fused: has the tables.
        order: (n,) places of events.
        bounds: (n_steps + 1,) where each step begins in `order`, and where the last ends.
        aligned: (n_steps,) whether a step aligns.
        alignment: has the losses.
        user: as `fused` has it.
        item: likewise.
    """
    starts = [k for k, aligns in enumerate(aligned) if aligns] if alignment is not None else []
    # Steps in a row that do not align are one call.
    calls = sorted({0, *starts})
    losses = np.zeros(3)
    for first, end in zip(calls, [*calls[1:], len(aligned)], strict=True):
        pulled = None
        if alignment is not None and aligned[first]:
            pulled = pull(alignment, user.weights[:, :-1], item.weights[:, :-1])
            losses[1:] += pulled.of_items, pulled.of_users
        losses[0] += fused.steps(order, bounds[first : end + 1], pulled)
    rating, items, users = losses / [len(aligned), max(len(starts), 1), max(len(starts), 1)]
    return float(rating), float(items), float(users)


class FusedRatings:
    """Rating steps in compiled code: the moves of `losses_of` without history and with biases.

    It shares the memory of the tables, and keeps nothing from step to step.

    Args:
        batches: the train events.
        shared: (1, d + 1) taste and global bias.
        user: (n_users, d + 1).
        item: (n_items, d + 1).
        priors: of their rows.
    """

    def __init__(
        self,
        batches: Batches,
        shared: RowAdam,
        user: RowAdam,
        item: RowAdam,
        priors: Priors,
    ) -> None:
        from jobs.collab.compiled import Events  # 1 s, and only where it is used

        # Another memory layout would be compiled anew.
        columns = (batches.users, batches.items, batches.labels)
        self._events: Events = Events(*(np.ascontiguousarray(c.numpy()) for c in columns))
        self._shared = _rows(shared, priors.shared, torch.ones(1, dtype=torch.long))
        self._user = _rows(user, priors.user, priors.n_of_user)
        self._item = _rows(item, priors.item, priors.n_of_item)
        self._rate = _rate(user.learning_rate)
        self._d = user.weights.shape[1] - 1
        self._users = self._items = self._room(0)

    def steps(self, order: Tensor, bounds: Tensor, pulled: Pulled | None) -> float:
        """Several steps, the first with what pulls; the sum of their mean cross-entropies.

        Args:
            order: (n,) places of events.
            bounds: (n_steps + 1,) where each step begins in `order`, and where the last ends.
            pulled: what an alignment lays on rows in the first step.
        """
        from jobs.collab.compiled import steps

        of_users, of_items = self._pulls(pulled)
        needed = int(bounds.diff().max()) + max(len(of_users.rows), len(of_items.rows))
        if needed > len(self._users.wanted):
            self._users, self._items = self._room(needed), self._room(needed)
        return steps(
            order.numpy(),
            bounds.numpy(),
            self._events,
            self._user,
            self._item,
            self._shared,
            self._users,
            self._items,
            of_users,
            of_items,
            self._rate,
        )

    def _pulls(self, pulled: Pulled | None) -> tuple[Pulls, Pulls]:
        from jobs.collab.compiled import Pulls

        if pulled is None:
            none = Pulls(np.zeros(0, np.int64), np.zeros((0, self._d), np.float32))
            return none, none
        return (
            Pulls(pulled.user_rows.numpy(), pulled.user_gradients.contiguous().numpy()),
            Pulls(pulled.item_rows.numpy(), pulled.item_gradients.contiguous().numpy()),
        )

    def _room(self, n: int) -> Side:
        from jobs.collab.compiled import Side

        return Side(
            wanted=np.zeros(n, np.int64),
            rows=np.zeros(n, np.int64),
            counts=np.zeros(n, np.int32),
            gradients=np.zeros((n + 1, self._d + 1), np.float32),
            bases=np.zeros(n, np.float32),
        )


def _rows(table: RowAdam, l2: Tensor, n_events: Tensor) -> Rows:
    from jobs.collab.compiled import Rows

    state = {name: tensor.numpy() for name, tensor in table.state().items()}
    return Rows(
        weights=state["weights"],
        mean=state["mean"],
        square=state["square"],
        n_steps=state["n_steps"],
        slots=np.full(len(state["weights"]), -1, np.int32),
        n_events=n_events.numpy(),
        l2_factor=np.float32(l2[0]),
        l2_bias=np.float32(l2[-1]),
    )


def _rate(learning_rate: float) -> Rate:
    from jobs.collab.compiled import Rate

    n = np.arange(1, _SETTLED + 1)
    first, second = (1 / (1 - beta**n) for beta in (BETA1, BETA2))
    return Rate(
        np.float32(learning_rate),
        np.concatenate([[1], first]).astype(np.float32),  # a row has made a step when it is asked
        np.concatenate([[1], second]).astype(np.float32),
    )


def fused_ratings(
    batches: Batches, shared: Table, user: Table, item: Table, priors: Priors
) -> FusedRatings | None:
    """Compiled steps of these tables; None where they are not to be had."""
    if find_spec("numba") is None or user.weights.device.type != "cpu":
        return None
    if not (
        isinstance(shared, RowAdam) and isinstance(user, RowAdam) and isinstance(item, RowAdam)
    ):
        return None
    return FusedRatings(batches, shared, user, item, priors)
