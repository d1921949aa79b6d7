"""What SASRec and DIN are made of: tables of ids, biases, scoring, tensors that are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from jobs.collab.baselines.kept import N_EPOCHS, epochs_tensor
from jobs.collab.baselines.training import refuse_strangers
from jobs.collab.baselines.windows import Batch, batch_of, moments
from jobs.collab.factors import Floats
from jobs.collab.systems import Histories, Requests, Tensors

_CHUNK = 4096  # rows scored at once
Biased = Literal["none", "item", "user_item"]
Role = Literal["user", "target", "history"]  # as what a train row meets an id
Seen = dict[Role, NDArray[np.bool_]]
SIZES = "n_users_n_items"  # the tensor beside the weights that says how long the tables are


class IdTable(nn.Module):
    """An embedding for each id, and zeros for UNKNOWN.

    Args:
        n: ids.
        d: length of an embedding.
        roles: a train row that has an id in one of these roles moves its embedding.
    """

    def __init__(self, n: int, d: int, *roles: Role) -> None:
        super().__init__()
        self.roles = roles
        # Row 0 is nobody's: UNKNOWN is -1, so every id is looked up one row further on.
        self.weight = nn.Parameter(torch.empty(n + 1, d))

    def forward(self, rows: Tensor) -> Tensor:
        """(...) row numbers -> (..., d)."""
        return functional.embedding(rows + 1, self.weight, padding_idx=0)

    @torch.no_grad()
    def fill(self, seen: Seen, how: Literal["zero", "mean"]) -> None:
        """Set the rows of ids that train has not seen to zero, or to the mean of the others."""
        is_seen = np.logical_or.reduce([seen[role] for role in self.roles])
        mask = torch.from_numpy(np.append(False, is_seen)).to(self.weight.device)
        has_mean = how == "mean" and bool(is_seen.any())
        self.weight[~mask] = self.weight[mask].mean(dim=0) if has_mean else 0.0
        self.weight[0] = 0.0


class Biases(nn.Module):
    """Global bias + item bias + user bias, as many of them as `which` names."""

    def __init__(self, n_users: int, n_items: int, which: Biased) -> None:
        super().__init__()
        lengths = {"none": (), "item": (1, n_items), "user_item": (1, n_items, n_users)}[which]
        self.tables = nn.ParameterList(torch.zeros(n) for n in lengths)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """(n,) what the biases say of rows."""
        total = torch.zeros(len(items), device=items.device)
        for table, rows in zip(self.tables, (torch.zeros_like(items), items, users), strict=False):
            total = total + table[rows]
        return total


class Network(nn.Module, ABC):
    """Logits of rows from their user, their item and the positives before them."""

    def __init__(self, n_users: int, n_items: int, which: Biased) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        self.biases = Biases(n_users, n_items, which)

    @abstractmethod
    def match(self, batch: Batch) -> Tensor:
        """(n,) logits without biases."""

    def forward(self, batch: Batch) -> Tensor:
        """(n,) logits."""
        return self.match(batch) + self.biases(batch.users, batch.items)

    @torch.no_grad()
    def start(self, init_sd: float) -> None:
        """Draw the first weights: ids N(0, init_sd), linear layers as Glorot and Bengio 2010."""
        for module in self.modules():
            if isinstance(module, IdTable):
                nn.init.normal_(module.weight, 0, init_sd)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def id_tables(self) -> Iterator[IdTable]:
        """All tables of ids."""
        return (module for module in self.modules() if isinstance(module, IdTable))


@dataclass(frozen=True)
class FittedNetwork:
    """A network that has learned; see `jobs.collab.systems.Fitted`.

    Attributes:
        network: its weights.
        n_positives: last visible positives that it reads.
        device: where it lies.
        n_epochs: passes over the train rows behind it.
    """

    network: Network
    n_positives: int
    device: torch.device
    n_epochs: int

    @torch.inference_mode()
    def score(self, requests: Requests, histories: Histories) -> Floats:
        """(n,) finite logits."""
        refuse_strangers("user", requests.users, self.network.n_users)
        refuse_strangers("item", requests.items, self.network.n_items)
        self.network.eval()
        # Rows with the same history come together: it is read once.
        order = np.argsort(moments(requests, histories), kind="stable")
        logits = np.empty(len(requests), dtype=np.float32)
        for start in range(0, len(order), _CHUNK):
            rows = order[start : start + _CHUNK]
            batch = batch_of(requests.at(rows), histories, self.n_positives)
            logits[rows] = self.network(batch.to(self.device)).numpy(force=True)
        return logits

    def tensors(self) -> Tensors:
        """All weights, the lengths of the tables, and the number of epochs."""
        made: Tensors = {
            SIZES: np.array([self.network.n_users, self.network.n_items]),
            N_EPOCHS: epochs_tensor(self.n_epochs),
        }
        for name, weights in self.network.state_dict().items():
            made[name] = weights.numpy(force=True)
        return made
