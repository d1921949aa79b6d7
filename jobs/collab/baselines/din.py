"""DIN as a CTR model: the last positives weighed by the item at hand, fitted to true labels."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from jobs.collab.baselines.network_systems import NetworkSystem
from jobs.collab.baselines.networks import IdTable, Network
from jobs.collab.baselines.windows import Batch

_MOMENTUM = 0.1  # share of a batch in the running statistics
_EPSILON = 1e-8  # added to a variance


class Din(NetworkSystem):
    """Deep interest network (Zhou et al. 2018), as the papers' CTR model.

    score = head([item, sum over positives h of unit(item, h) h, user]).
    `PUBLISHED_DIN` has less weight decay, as the papers' factorisations; DIN's own is not told.
    """

    title: ClassVar[str] = "DIN"

    n_positives: int = Field(default=10, gt=0, description="last visible positives that are read")
    n_factors: int = Field(
        default=64, ge=3, description="a third of it for each of user, item and positive"
    )
    n_unit: tuple[int, ...] = Field(
        default=(64, 16), description="widths of the unit that weighs a positive"
    )
    n_head: tuple[int, ...] = Field(default=(200, 80), description="widths of the head")
    dropout: float = Field(
        default=0.2, ge=0, lt=1, description="share of zeroed activations, in the head"
    )
    learning_rate: float = Field(default=1e-3, gt=0, description="Adam step")
    l2: float = Field(default=1e-2, ge=0, description="weight decay, inside Adam")

    def network(self, n_users: int, n_items: int) -> DinNetwork:
        """See `NetworkSystem.network`."""
        return DinNetwork(n_users, n_items, self)


PUBLISHED_DIN = Din(l2=1e-4)


class Dice(nn.Module):
    """x (p + (1 - p) alpha), p = sigmoid of x standardised by its batch (Zhou et al. 2018, eq. 3).

    A batch's own mean and variance in training, their running means in scoring: a score does not
    depend on the rows beside it.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(n))
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("variance", torch.ones(n))

    def forward(self, x: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        mean, variance = self.mean, self.variance
        if self.training and len(x):
            variance, mean = torch.var_mean(x, dim=0, correction=0)
            with torch.no_grad():
                self.mean.lerp_(mean, _MOMENTUM)
                self.variance.lerp_(variance, _MOMENTUM)
        p = torch.sigmoid((x - mean) * torch.rsqrt(variance + _EPSILON))
        return x * (p + (1 - p) * self.alpha)


def _layers(n_input: int, widths: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Linear, Dice, dropout for each width; then Linear to one number."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(n_input, width), Dice(width), nn.Dropout(dropout)]
        n_input = width
    return nn.Sequential(*layers, nn.Linear(n_input, 1))


class DinNetwork(Network):
    """Tables of users, items and positives, the unit that weighs a positive, and the head."""

    def __init__(self, n_users: int, n_items: int, config: Din) -> None:
        super().__init__(n_users, n_items, config.biases)
        d = config.n_factors // 3
        self.users = IdTable(n_users, d, "user")
        self.items = IdTable(n_items, d, "target")
        self.positives = IdTable(n_items, d, "history")
        self.unit = _layers(4 * d, config.n_unit, dropout=0.0)
        self.head = _layers(3 * d, config.n_head, config.dropout)

    def match(self, batch: Batch) -> Tensor:
        """(n,) what the head says."""
        item = self.items(batch.items)
        pooled = self.pooled(item, batch.windows[batch.window_of])
        return self.head(torch.cat([item, pooled, self.users(batch.users)], dim=1)).squeeze(1)

    def pooled(self, item: Tensor, windows: Tensor) -> Tensor:
        """Sum of weight * positive over each row's window, with weights that are no softmax.

        Args:
            item: (n, d) embeddings of the items at hand.
            windows: (n, length) item rows, left-padded with UNKNOWN.

        Returns:
            (n, d); zero for an empty window.
        """
        is_real = windows >= 0
        # Only real places reach the unit, so that padding is not in the statistics of Dice.
        h = self.positives(windows[is_real])
        q = item.unsqueeze(1).expand(-1, windows.shape[1], -1)[is_real]
        weights = self.unit(torch.cat([q, h, q - h, q * h], dim=1))
        laid_out = h.new_zeros(*windows.shape, h.shape[1])
        laid_out[is_real] = weights * h
        return laid_out.sum(dim=1)
