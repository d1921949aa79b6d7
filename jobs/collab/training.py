"""The tables of a matrix factorisation while they learn, a step at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jobs.collab.factors import Factors, Floats, Ratings
from jobs.collab.fused import FusedRatings, fused_epoch, fused_ratings
from jobs.collab.history_map import HistoryMap
from jobs.collab.pace import aligned_steps
from jobs.collab.row_adam import Table
from jobs.collab.sides import Drawn, DualAlignment, State, part_of
from jobs.collab.streams import stream


class Touched(NamedTuple):
    """Rows of a table that a step reads, each once, as a leaf of the graph."""

    table: Table
    rows: Tensor  # (k,) distinct
    leaf: Tensor  # (k, d + 1) factor, then bias
    places: Tensor  # (n,) which of the k rows each wanted one is

    @property
    def wanted(self) -> Tensor:
        """(n, d + 1) rows in the order asked."""
        return self.leaf[self.places]


def touch(table: Table, wanted: Tensor) -> Touched:
    """The rows `wanted` (n,), which may hold a row more than once."""
    rows, places = torch.unique(wanted, return_inverse=True)
    return Touched(table, rows, table.weights[rows].requires_grad_(), places)


class Priors(NamedTuple):
    """Precisions by column, and how many events share the penalty of a row."""

    shared: Tensor  # (d + 1,) already divided by the number of events
    user: Tensor  # (d + 1,)
    item: Tensor  # (d + 1,)
    n_of_user: Tensor  # (n_users,)
    n_of_item: Tensor  # (n_items,)


class Step(NamedTuple):
    """What one step reads: the events of a batch, what the alignment has drawn, the history."""

    users: Tensor  # (n,) rows
    items: Tensor  # (n,) rows
    labels: Tensor  # (n,) 0 or 1, float32
    drawn: Drawn | None
    # With a map from histories, else None:
    map: Tensor | None  # (d_x, d) a leaf
    keeps: Tensor | None  # (n, 1) 0: without the user's row
    of_events: Tensor | None  # (n, d_x) profiles
    of_drawn: Tensor | None  # (a, d_x) profiles of the drawn users


class Losses(NamedTuple):
    """Means over the step, before the move; alignment unweighted."""

    total: Tensor
    rating: Tensor
    items: Tensor
    users: Tensor


def losses_of(
    step: Step,
    shared: Touched,
    user: Touched,
    item: Touched,
    priors: Priors,
    biased: bool,
    alignment: DualAlignment | None,
    history: HistoryMap | None,
) -> Losses:
    """All the arithmetic of a step: its loss, from leaves alone, and nothing moved.

    This is the definition of the objective. A faster path gives the gradients of `total` to the
    same leaves (of `shared`, `user`, `item`, of `step.drawn` and `step.map`), and a test holds the
    two together; it may leave cases that it does not know to this one.

    `user` holds the users of the events, then those of the alignment; `item` likewise.
    """
    n = len(step.labels)
    user_rows, item_rows = user.wanted, item.wanted
    users, items = user_rows[:n], item_rows[:n]
    scored = users
    if step.keeps is not None:  # the bias stays: leniency is not what histories shall explain
        scored = torch.cat([users[:, :-1] * step.keeps, users[:, -1:]], dim=1)
    if step.of_events is not None and step.map is not None:
        scored = scored + functional.pad(step.of_events @ step.map, (0, 1))
    logits = _logits(shared.leaf, scored, items, biased)
    rating = functional.binary_cross_entropy_with_logits(logits, step.labels)
    penalty = _penalty(step, shared.leaf, users, items, priors)
    total = rating + penalty
    if history is not None and step.map is not None:
        total = total + history.penalty(step.map, int(priors.n_of_user.sum()))
    of_items = of_users = rating.new_zeros(())
    if alignment is not None and step.drawn is not None:
        aligned = user_rows[n:, :-1]
        if step.of_drawn is not None and step.map is not None:
            aligned = aligned + step.of_drawn @ step.map
        of_items, of_users = alignment.losses(step.drawn, aligned, item_rows[n:, :-1])
        item_weight, user_weight = alignment.weights
        total = total + item_weight * of_items
        if user_weight > 0:
            total = total + user_weight * of_users
    return Losses(total, rating.detach(), of_items.detach(), of_users.detach())


def _logits(shared: Tensor, user: Tensor, item: Tensor, biased: bool) -> Tensor:
    if not biased:
        return (user[:, :-1] * item[:, :-1]).sum(dim=1)
    user = user + shared
    return (user[:, :-1] * item[:, :-1]).sum(dim=1) + user[:, -1] + item[:, -1]


def _penalty(step: Step, shared: Tensor, user: Tensor, item: Tensor, priors: Priors) -> Tensor:
    """The batch's share, as a mean over its events, of -log prior / n_events."""
    of_user = user.square() @ priors.user / priors.n_of_user[step.users]
    of_item = item.square() @ priors.item / priors.n_of_item[step.items]
    return ((of_user + of_item).mean() + (shared.square() @ priors.shared).sum()) / 2


class Batches:
    """The train events on the device, in steps of an order of chance, each once an epoch."""

    def __init__(
        self, train: Ratings, batch_size: int, min_steps: int, seed: int, device: torch.device
    ) -> None:
        self._random = stream(seed, "order of events")
        self._device = device
        self.users = torch.as_tensor(train.users, device=device)
        self.items = torch.as_tensor(train.items, device=device)
        self.labels = torch.as_tensor(train.labels, dtype=torch.float32, device=device)
        self.min_steps = min_steps
        self.n_steps = min(max(math.ceil(len(train) / batch_size), min_steps), len(train))

    def order(self) -> Tensor:
        """(n,) places of events in a new order, drawn on the CPU whatever the device."""
        return torch.randperm(len(self.labels), generator=self._random).to(self._device)

    def epoch(self) -> tuple[Tensor, ...]:
        """Places of the events of each step."""
        return self.order().tensor_split(self.bounds()[1:-1])

    def bounds(self) -> Tensor:
        """(n_steps + 1,) where each step begins in an order, and where the last ends."""
        least, more = divmod(len(self.labels), self.n_steps)
        steps = torch.arange(self.n_steps + 1)
        return steps * least + steps.clamp(max=more)

    def state(self) -> State:
        """What the next order depends on."""
        return {"random": self._random.get_state()}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._random.set_state(state["random"])


class Trainer:
    """The tables while they learn; a row is a factor with its bias as last column.

    The logit is global + user bias + item bias + <taste + user factor, item factor>. The taste
    that all users share lets an item's factor speak for its bias too, which is all that an item
    without events has; `factors` folds it into the item biases. With a map from histories the user
    factor is the row's plus the mapped one.
    """

    def __init__(
        self,
        batches: Batches,
        shared: Table,
        user: Table,
        item: Table,
        priors: Priors,
        biased: bool,
        alignment: DualAlignment | None,
        history: HistoryMap | None,
        may_fuse: bool,
    ) -> None:
        self._batches, self._priors, self._biased = batches, priors, biased
        self._shared, self._user, self._item = shared, user, item
        self.alignment, self.history = alignment, history
        self._aligned = [False] * batches.n_steps
        if alignment is not None:
            passes, n = alignment.config.alignment_passes, alignment.item_side.passes.n_batches
            self._aligned = aligned_steps(batches.n_steps, batches.min_steps, n, passes)
        self._fused: FusedRatings | None = None
        if may_fuse and biased and history is None:
            self._fused = fused_ratings(batches, shared, user, item, priors)

    @property
    def is_fused(self) -> bool:
        """Whether rating steps run in compiled code."""
        return self._fused is not None

    def epoch(self) -> tuple[float, float, float]:
        """One pass over the events in a new order; mean cross-entropy and alignment losses."""
        if self._fused is not None:
            return fused_epoch(
                self._fused,
                self._batches.order(),
                self._batches.bounds(),
                self._aligned,
                self.alignment,
                self._user,
                self._item,
            )
        steps = zip(self._batches.epoch(), self._aligned, strict=True)
        losses = torch.stack([self._step(events, aligns) for events, aligns in steps])
        n_aligned = max(sum(self._aligned), 1)
        rating, items, users = (
            losses.sum(dim=0) / losses.new_tensor([len(losses), n_aligned, n_aligned])
        ).tolist()
        return rating, items, users

    def _step(self, events: Tensor, aligns: bool) -> Tensor:
        """Move what the batch and the alignment touch; (3,) the losses before the move."""
        step = self._begin(events, aligns)
        users, items = step.users, step.items
        if step.drawn is not None:
            users = torch.cat([users, step.drawn.users])
            items = torch.cat([items, step.drawn.items])
        shared = touch(self._shared, torch.zeros(1, dtype=torch.long, device=users.device))
        user, item = touch(self._user, users), touch(self._item, items)
        losses = losses_of(
            step, shared, user, item, self._priors, self._biased, self.alignment, self.history
        )
        self._move(losses.total, step, shared, user, item)
        return torch.stack([losses.rating, losses.items, losses.users])

    def _begin(self, events: Tensor, aligns: bool) -> Step:
        batches, history = self._batches, self.history
        drawn = self.alignment.begin() if aligns and self.alignment is not None else None
        return Step(
            users=batches.users[events],
            items=batches.items[events],
            labels=batches.labels[events],
            drawn=drawn,
            map=None if history is None else history.table.weights.detach().requires_grad_(),
            keeps=None if history is None else history.keeps(len(events)),
            of_events=None if history is None else history.profiles_of_events(events),
            of_drawn=(
                None if history is None or drawn is None else history.profiles_of_users(drawn.users)
            ),
        )

    def _move(self, total: Tensor, step: Step, *touched: Touched) -> None:
        leaves = [each.leaf for each in touched]
        own = [] if step.drawn is None else step.drawn.leaves
        mapped = [] if step.map is None else [step.map]
        gradients = torch.autograd.grad(total, [*leaves, *mapped, *own], allow_unused=True)
        for each, gradient in zip(touched, gradients, strict=False):
            each.table.step(each.rows, gradient)
        if self.history is not None:
            rows = torch.arange(len(self.history.table.weights), device=total.device)
            self.history.table.step(rows, gradients[len(touched)])
        if self.alignment is not None and step.drawn is not None:
            self.alignment.step(step.drawn, gradients[len(touched) + len(mapped) :])

    def factors(self) -> Factors:
        """The weights as they are, with the common taste folded into the item biases.

        A user's factor is that of the row, plus what is mapped from all of the user's history.
        """
        shared, user, item = (t.weights for t in (self._shared, self._user, self._item))
        of_taste = item[:, :-1] @ shared[0, :-1]
        of_users = user[:, :-1]
        if self.history is not None:
            of_users = of_users + self.history.tastes_of_users()
        return Factors(
            user_factors=of_users.cpu().numpy(),
            user_biases=user[:, -1].cpu().numpy(),
            item_factors=item[:, :-1].cpu().numpy(),
            item_biases=(item[:, -1] + of_taste).cpu().numpy(),
            global_bias=float(shared[0, -1]),
        )

    def common_taste(self) -> Floats:
        """(d,) what `factors` folds into the item biases."""
        return self._shared.weights[0, :-1].cpu().numpy().copy()

    def own_factors(self) -> Floats:
        """(n_users, d) user factors without what is mapped from histories."""
        return self._user.weights[:, :-1].cpu().numpy().copy()

    def snapshot(self) -> list[Tensor]:
        """Copies of all weights."""
        return [weights.detach().clone() for weights in self._weights()]

    def restore(self, kept: list[Tensor]) -> None:
        """Bring the weights of a snapshot back."""
        with torch.no_grad():
            for weights, copy in zip(self._weights(), kept, strict=True):
                weights.copy_(copy)

    def _weights(self) -> list[Tensor]:
        tables = [self._shared, self._user, self._item]
        tables += [] if self.history is None else [self.history.table]
        learned = [] if self.alignment is None else self.alignment.learned()
        return [*(table.weights for table in tables), *learned]

    def state(self) -> State:
        """All that the rest of a run depends on, by "part/name"; not copied."""
        return {f"{a}/{b}": c for a, part in self._parts().items() for b, c in part.state().items()}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, part in self._parts().items():
            part.resume(part_of(state, name))

    def _parts(self) -> dict[str, Batches | Table | DualAlignment | HistoryMap]:
        parts: dict[str, Batches | Table | DualAlignment | HistoryMap] = {
            "events": self._batches,
            "shared": self._shared,
            "user": self._user,
            "item": self._item,
        }
        if self.alignment is not None:
            parts["alignment"] = self.alignment
        if self.history is not None:
            parts["history"] = self.history
        return parts


def joined(factors: Floats, biases: Floats) -> Tensor:
    """(n, d + 1) rows of a table: factor, then bias."""
    return torch.from_numpy(np.column_stack([factors, biases]))  # numpy asks for huge pages
