"""The part of a user's factor that comes from the history: a linear map, trained beside the MF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from jobs.collab.factors import Floats, Ints
from jobs.collab.row_adam import RowAdam
from jobs.collab.streams import stream
from jobs.collab.visible import HistoryTaste, Visible
from jobs.job import Config


class HistoryConfig(Config):
    """What users whom training has not seen are given in place of a factor of their own."""

    cold_users: Literal["none", "profile"] = Field(
        default="none", description="a factor of zero, or one mapped from the visible history"
    )
    history_length: int = Field(
        default=50, gt=0, description="newest positives of a history that count in its profile"
    )
    history_pseudo_counts: float = Field(
        default=5.0, ge=0, description="events that everybody has of the common taste"
    )
    history_components: int = Field(
        default=64, gt=0, description="principal components of the items that a profile is made of"
    )
    l2_history: float = Field(
        default=1.0, ge=0, description="prior precision of a column of the map"
    )
    cold_share: float = Field(
        default=0.5, ge=0, lt=1, description="share of train events scored as if nobody knew them"
    )


@dataclass(frozen=True)
class HistoryEvidence:
    """What the map is trained on: what each row may see, and what an item says in a history.

    Attributes:
        votes: (n_items, d_x) what a positive of the item says: an embedding, codes as one-hot.
        train: of the train events. A row must see neither itself nor anything later.
        valid: of the valid events.
        users: of the users of the table, all that is known of them when training ends.
    """

    votes: Floats
    train: Visible
    valid: Visible
    users: Visible


class HistoryMap:
    """Profile of a history, times a matrix that learns.

    The profile is the sum of the votes of the newest positives, over their number plus
    pseudo-counts: an empty history is a profile of zero, hence a factor of zero. Votes are centred
    and cut to their first principal components.
    """

    def __init__(
        self,
        evidence: HistoryEvidence,
        d: int,
        config: HistoryConfig,
        learning_rate: float,
        seed: int,
        device: torch.device,
    ) -> None:
        self._config, self._device = config, device
        votes = principal_components(evidence.votes, config.history_components)
        self._votes = torch.tensor(votes, device=device)
        self._train = _Stretches(evidence.train.latest(config.history_length), device)
        self._users = _Stretches(evidence.users.latest(config.history_length), device)
        self._random = stream(seed, "events as of nobody")
        self.table = RowAdam(torch.zeros(self._votes.shape[1], d, device=device), learning_rate)

    def start_from(self, items: Ints, said: Floats) -> None:
        """Say of `items` (b,) rows what an earlier map said of them, (b, d), as nearly as it can.

        By least squares, and not by its matrix: the principal components turn from night to night.
        """
        votes = self._votes[torch.as_tensor(items, device=self._device)].cpu().numpy()
        found, *_ = np.linalg.lstsq(votes.astype(np.float64), said.astype(np.float64), rcond=None)
        self.table.weights.copy_(torch.tensor(found, dtype=torch.float32))

    def profiles_of_events(self, events: Tensor) -> Tensor:
        """(b, d_x) as each train event may see it."""
        return self._profiles(self._train, events)

    def profiles_of_users(self, users: Tensor) -> Tensor:
        """(b, d_x) as training ends."""
        return self._profiles(self._users, users)

    def _profiles(self, of: _Stretches, rows: Tensor) -> Tensor:
        starts, n = of.starts[rows], of.lengths[rows]
        offsets = n.cumsum(0) - n
        within = torch.arange(int(n.sum()), device=self._device) - offsets.repeat_interleave(n)
        items = of.items[starts.repeat_interleave(n) + within]
        sums = functional.embedding_bag(items, self._votes, offsets, mode="sum")
        return sums / (n + self._config.history_pseudo_counts).clamp(min=1e-9)[:, None]

    def keeps(self, n: int) -> Tensor:
        """(n, 1) 1 for an event that is scored with its user's row, 0 for one without."""
        chance = torch.rand(n, 1, generator=self._random)
        return (chance >= self._config.cold_share).float().to(self._device)

    def penalty(self, weights: Tensor, n_events: int) -> Tensor:
        """The map's share in a step's mean over events, as of the other priors."""
        return self._config.l2_history * weights.square().sum() / n_events / 2

    def tastes_of_users(self) -> Tensor:
        """(n_users, d) the mapped part of every user's factor, as training ends."""
        rows = torch.arange(len(self._users.starts), device=self._device)
        parts = [self.profiles_of_users(some) for some in torch.split(rows, 65_536)]
        return torch.cat(parts) @ self.table.weights

    def taste(self) -> HistoryTaste:
        """The map as it is scored with: folded into one vector an item."""
        of_items = (self._votes @ self.table.weights).cpu().numpy()
        config = self._config
        return HistoryTaste(of_items, config.history_pseudo_counts, config.history_length)

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on; not copied."""
        return {**self.table.state(), "random": self._random.get_state()}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.table.resume(state)
        self._random.set_state(state["random"])


def principal_components(votes: Floats, n: int) -> Floats:
    """(n_items, n) votes less their mean, in the `n` directions that hold most of them.

    What all items say says nothing, and the many directions of an embedding that hold little are
    where a map from few histories would learn noise. A direction's sign is fixed: its largest
    entry is positive.
    """
    centred = votes - votes.mean(axis=0)
    wide = centred.astype(np.float64)
    _, directions = np.linalg.eigh(wide.T @ wide)
    kept = directions[:, ::-1][:, :n]
    largest = np.abs(kept).argmax(axis=0)
    kept = kept * np.sign(kept[largest, np.arange(kept.shape[1])])
    return (wide @ kept).astype(np.float32)


class _Stretches:
    """`Visible` as tensors."""

    def __init__(self, visible: Visible, device: torch.device) -> None:
        self.items = torch.tensor(visible.items, device=device)
        self.starts = torch.tensor(visible.starts, device=device)
        self.lengths = torch.tensor(visible.ends - visible.starts, device=device)
