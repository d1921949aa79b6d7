"""Adam that moves only the rows a batch has touched, and the dense form that the papers used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Table(Protocol):
    """A table of weights that learns by rows."""

    weights: Tensor

    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """Move `rows` (b,), distinct, along `gradient` (b, d)."""

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, the weights included; not copied."""

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""


class RowAdam:
    """Adam (Kingma and Ba 2015) with moments and step counts of each row's own.

    A row outside the batch keeps its weights and its moments, so a step costs its batch and not
    the table, and a row that never occurs stays as it was initialised. The bias correction counts
    the row's own steps: with the global count a row that first occurs late would jump by more
    than three learning rates.

    Args:
        weights: (n, d) float32, changed in place.
        learning_rate: step size.
    """

    def __init__(self, weights: Tensor, learning_rate: float) -> None:
        self.weights = weights
        self.learning_rate = learning_rate
        self._mean, self._square = _zeros_like(weights), _zeros_like(weights)
        self._n_steps = torch.zeros(len(weights), 1, device=weights.device)

    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """Move `rows` (b,), distinct, along `gradient` (b, d)."""
        if len(rows) == len(self.weights) and rows.equal(
            torch.arange(len(rows), device=rows.device)
        ):
            self._step_all(gradient)
            return
        n_steps = self._n_steps[rows] + 1
        mean = self._mean[rows].mul_(BETA1).add_(gradient, alpha=1 - BETA1)
        square = self._square[rows].mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        scale = (square / (1 - BETA2**n_steps)).sqrt_().add_(EPSILON)
        change = mean / (1 - BETA1**n_steps) / scale
        self._n_steps[rows], self._mean[rows], self._square[rows] = n_steps, mean, square
        self.weights.index_add_(0, rows, change, alpha=-self.learning_rate)

    def _step_all(self, gradient: Tensor) -> None:
        """`step` in place, for a table that is all in the batch: a layer's weights."""
        self._n_steps += 1
        self._mean.mul_(BETA1).add_(gradient, alpha=1 - BETA1)
        self._square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        scale = (self._square / (1 - BETA2**self._n_steps)).sqrt_().add_(EPSILON)
        scale.mul_(1 - BETA1**self._n_steps)
        self.weights.addcdiv_(self._mean, scale, value=-self.learning_rate)

    def state(self) -> dict[str, Tensor]:
        """Weights, both moments and the step counts; not copied."""
        return {
            "weights": self.weights,
            "mean": self._mean,
            "square": self._square,
            "n_steps": self._n_steps,
        }

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        for name, mine in self.state().items():
            mine.copy_(state[name])


def _zeros_like(weights: Tensor) -> Tensor:
    if weights.device.type != "cpu":
        return torch.zeros_like(weights)
    # Not torch.zeros: numpy asks for huge pages, and rows are looked up all over the table.
    return torch.from_numpy(np.zeros(weights.shape, np.float32))


class DenseAdam:
    """torch's Adam with L2 in the gradient, over the whole table: the published MF's optimiser.

    Every row moves in every step, also one that never occurs: Adam scales the tiny L2 gradient up
    to a full step, which drags unseen rows to zero. Kept for parity with the papers.
    """

    def __init__(self, weights: Tensor, learning_rate: float, weight_decay: float) -> None:
        self.weights = weights
        self._optimizer = torch.optim.Adam([weights], lr=learning_rate, weight_decay=weight_decay)

    def step(self, rows: Tensor, gradient: Tensor) -> None:
        """Move the whole table, with `gradient` (b, d) at `rows` (b,) and zero elsewhere."""
        self.weights.grad = torch.zeros_like(self.weights).index_copy_(0, rows, gradient)
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Weights and what torch's Adam keeps of them; not copied."""
        kept = self._optimizer.state_dict()["state"].get(0, {})
        return {"weights": self.weights, **kept}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            self.weights.copy_(state["weights"])
        kept = {name: value.clone() for name, value in state.items() if name != "weights"}
        if kept:
            whole = self._optimizer.state_dict()
            self._optimizer.load_state_dict({**whole, "state": {0: kept}})
