"""The sides that alignment draws to the LLM's space: items to texts, users to profiles."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from jobs.collab.factors import Floats, Ints
from jobs.collab.infonce import (
    InfoNceConfig,
    backward_info_nce,
    catalogue_info_nce,
    info_nce,
    near_twins,
    sampled_info_nce,
    twins,
)
from jobs.collab.row_adam import RowAdam
from jobs.collab.streams import stream
from jobs.tokens.projector import Projector

State = dict[str, Tensor]


def part_of(state: Mapping[str, Tensor], name: str) -> State:
    """The tensors that are named `name/...`, without it."""
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def as_tensor(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """The array on the device; on the CPU its memory is shared, and must not be written to."""
    with warnings.catch_warnings():
        # A table's memory is read-only, which torch warns of as it cannot hold itself to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)


@dataclass(frozen=True)
class Targets:
    """Where the rows of one side shall point.

    Attributes:
        vectors: (n, d_llm) of unit length; a row of zeros has no target and is left out.
        groups: (n,) equal where the text is equal; None if all differ.
        popularity: (n,) train events, for sampled negatives; None: all alike.
    """

    vectors: Floats
    groups: Ints | None = None
    popularity: Ints | None = None


class Passes:
    """Rows in batches of about equal size, each row once a pass, in an order of chance.

    The order is drawn on the CPU whatever the device, so that a seed means one order.
    """

    def __init__(self, rows: Ints, batch_size: int, random: torch.Generator) -> None:
        self._rows, self._random = torch.as_tensor(rows), random
        self.n_batches = max(math.ceil(len(rows) / batch_size), 1)
        self._order = torch.zeros(0, dtype=torch.long)
        self._next = self.n_batches

    def draw(self) -> Tensor:
        """(b,) distinct rows; a pass goes on where the last step left it."""
        if self._next == self.n_batches:
            order = torch.randperm(len(self._rows), generator=self._random)
            self._order, self._next = self._rows[order], 0
        least, more = divmod(len(self._order), self.n_batches)  # as `tensor_split` cuts, one part
        start = self._next * least + min(self._next, more)
        end = start + least + (self._next < more)
        self._next += 1
        return self._order[start:end]

    def state(self) -> State:
        """What the next batch depends on."""
        at = torch.tensor([self._next])
        return {"order": self._order, "next": at, "random": self._random.get_state()}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._order, self._next = state["order"], int(state["next"])
        self._random.set_state(state["random"])


class Negatives:
    """Items of the catalogue by (1 + popularity)^power, with replacement."""

    def __init__(self, popularity: Ints, config: InfoNceConfig, random: torch.Generator) -> None:
        mass = (1.0 + popularity) ** config.negatives_power
        self._q = torch.as_tensor(mass / mass.sum())
        self._n, self._random = config.n_negatives, random
        self.log_expected = (self._q.log() + math.log(self._n)).float()  # (n_items,) log(K q)

    def draw(self) -> Tensor:
        """(K,) rows."""
        return torch.multinomial(self._q, self._n, replacement=True, generator=self._random)

    def state(self) -> State:
        """What the next draw depends on."""
        return {"random": self._random.get_state()}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._random.set_state(state["random"])


class Drawn(NamedTuple):
    """What alignment looks at in one step, and the weights of its own that will learn from it."""

    users: Tensor  # (a,) distinct rows of the user table, on the device
    items: Tensor  # (b,) distinct rows of the item table
    leaves: list[Tensor]  # projectors' weights, then the semantics of `items` where they learn


class ItemSide:
    """InfoNCE between projected item factors and item embeddings, over the whole catalogue.

    Items are drawn from the catalogue and not from the events: each once a pass, in an order of
    its own, so that items without events are aligned too and popular ones are not their own false
    negatives.
    """

    def __init__(
        self, targets: Targets, config: InfoNceConfig, seed: int, device: torch.device
    ) -> None:
        n = len(targets.vectors)
        self._config = config
        self.vectors = as_tensor(targets.vectors, device)
        self._groups: Tensor | None = None
        if targets.groups is not None and len(np.unique(targets.groups)) < n:
            self._groups = as_tensor(targets.groups, device)
        self.passes = Passes(np.arange(n), config.aligned_items, stream(seed, "order of items"))
        popularity = np.zeros(n, np.int64) if targets.popularity is None else targets.popularity
        self.negatives = (
            Negatives(popularity, config, stream(seed, "negatives"))
            if config.negatives == "sampled"
            else None
        )

    def loss(self, items: Tensor, projected: Tensor, targets: Tensor) -> Tensor:
        """Of `projected` (b, d_llm) and unit `targets` (b, d_llm) of the distinct `items` (b,)."""
        groups, temperature = self._groups, self._config.temperature
        excluded = None if groups is None else twins(groups[items])
        if self._config.negatives == "batch":
            return info_nce(projected, targets, temperature, excluded)
        backward = backward_info_nce(projected, targets, temperature, excluded)
        if self.negatives is None:
            forward = catalogue_info_nce(
                projected, items, targets, self.vectors, temperature, groups
            )
        else:
            sample = self.negatives.draw()
            log_expected = self.negatives.log_expected[sample].to(items.device)
            sample = sample.to(items.device)
            forward = sampled_info_nce(
                projected,
                items,
                targets,
                sample,
                self.vectors[sample],
                log_expected,
                temperature,
                groups,
            )
        return (forward + backward) / 2


class UserSide:
    """InfoNCE between projected user factors and profiles, over the users that have a profile.

    Each user once a pass, so none is twice in a batch. Users of nearly the same profile are no
    negatives of each other: with few tastes in the world they are what would go wrong.
    """

    def __init__(
        self, targets: Targets, config: InfoNceConfig, seed: int, device: torch.device
    ) -> None:
        self._config = config
        self.vectors = as_tensor(targets.vectors, device)
        rows = np.flatnonzero(np.abs(targets.vectors).max(axis=1, initial=0) > 0)
        self.passes = Passes(rows, config.aligned_users, stream(seed, "order of users"))

    def loss(self, users: Tensor, projected: Tensor) -> Tensor:
        """Of `projected` (a, d_llm) of the distinct `users` (a,)."""
        targets = self.vectors[users]
        excluded = near_twins(targets, self._config.same_profile_cosine)
        return info_nce(projected, targets, self._config.temperature, excluded)


class DualAlignment:
    """A loss on user and item factors beside that of the ratings, with weights of its own.

    Args:
        items: the catalogue's targets.
        users: the users' profiles in the LLM's space; None leaves that side out.
        d_cf: length of a factor.
        config: see `InfoNceConfig`.
        learning_rate: of the factors, which that of trainable semantics is a share of.
        seed: of the projectors' first weights and of all orders.
        device: of all tensors.
    """

    def __init__(
        self,
        items: Targets,
        users: Targets | None,
        d_cf: int,
        config: InfoNceConfig,
        learning_rate: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.device = config, device
        self.item_side = ItemSide(items, config, seed, device)
        uses_users = users is not None and config.user_alignment_weight > 0
        self.user_side = UserSide(users, config, seed, device) if users and uses_users else None
        d_llm = items.vectors.shape[1]
        shape = (d_cf, config.n_hidden, d_llm)
        self.projector = Projector.random(*shape, stream(seed, "projector")).to(device)
        self.user_projector = self.projector
        projectors = [self.projector]
        if config.user_projector == "own" and self.user_side is not None:
            self.user_projector = Projector.random(*shape, stream(seed, "user projector")).to(
                device
            )
            projectors.append(self.user_projector)
        # Not torch.optim, whose first use imports the compiler: 1.6 s that a small night feels.
        self._weights: list[Tensor] = [
            weights for each in projectors for weights in each.parameters()
        ]
        self._tables = [
            RowAdam(weights.detach().view(len(weights), -1), config.projector_learning_rate)
            for weights in self._weights
        ]
        self._first = self.item_side.vectors
        self.semantics: RowAdam | None = None
        if config.semantics == "trainable":
            self.semantics = RowAdam(self._first.clone(), config.semantics_rate * learning_rate)
            self.item_side.vectors = self.semantics.weights

    @property
    def weights(self) -> tuple[float, float]:
        """Of the items' loss and of the users'."""
        config = self.config
        return config.alignment_weight, config.user_alignment_weight if self.user_side else 0.0

    def begin(self) -> Drawn:
        """What the next step looks at."""
        nobody = torch.zeros(0, dtype=torch.long)
        users = self.user_side.passes.draw() if self.user_side else nobody
        items = self.item_side.passes.draw() if self.config.alignment_weight > 0 else nobody
        users, items = users.to(self.device), items.to(self.device)
        leaves = list(self._weights)
        if self.semantics is not None:
            leaves.append(self.semantics.weights[items].requires_grad_())
        return Drawn(users, items, leaves)

    def losses(self, drawn: Drawn, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """InfoNCE of the item factors (b, d_cf) and of the user factors (a, d_cf) of a step."""
        of_items, of_users = items.new_zeros(()), users.new_zeros(())
        if len(drawn.items):
            if self.semantics is None:
                targets = self.item_side.vectors[drawn.items]
            else:
                targets = functional.normalize(drawn.leaves[-1], dim=1)
            of_items = self.item_side.loss(drawn.items, self.projector(items), targets)
        if self.user_side is not None and len(drawn.users):
            of_users = self.user_side.loss(drawn.users, self.user_projector(users))
        return of_items, of_users

    def step(self, drawn: Drawn, gradients: Sequence[Tensor | None]) -> None:
        """Move the weights behind `drawn.leaves`; a leaf without a gradient stays."""
        for table, gradient in zip(self._tables, gradients, strict=False):
            if gradient is not None:
                rows = torch.arange(len(gradient), device=self.device)
                table.step(rows, gradient.view_as(table.weights))
        if self.semantics is not None and gradients[-1] is not None:
            self.semantics.step(drawn.items, gradients[-1])
            # Only their directions are targets; kept at unit length, a cosine is a product.
            rows = self.semantics.weights[drawn.items]
            self.semantics.weights[drawn.items] = functional.normalize(rows, dim=1)

    def drift(self) -> float | None:
        """||E' - E|| / ||E|| of the whole table of semantics; None where they are frozen."""
        if self.semantics is None:
            return None
        return float((self.semantics.weights - self._first).norm() / self._first.norm())

    def learned(self) -> list[Tensor]:
        """The weights whose best values are kept."""
        tables = [*self._tables, *([self.semantics] if self.semantics is not None else [])]
        return [table.weights for table in tables]

    def state(self) -> State:
        """All that the rest of a run depends on, by "part/name"; not copied."""
        return {f"{a}/{b}": c for a, part in self._parts().items() for b, c in part.state().items()}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, part in self._parts().items():
            part.resume(part_of(state, name))

    def _parts(self) -> dict[str, RowAdam | Passes | Negatives]:
        parts: dict[str, RowAdam | Passes | Negatives] = {
            f"projector{n}": table for n, table in enumerate(self._tables)
        }
        parts["items"] = self.item_side.passes
        if self.item_side.negatives is not None:
            parts["negatives"] = self.item_side.negatives
        if self.user_side is not None:
            parts["users"] = self.user_side.passes
        if self.semantics is not None:
            parts["semantics"] = self.semantics
        return parts
