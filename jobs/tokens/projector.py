"""The map from a collaborative factor into the LLM's input space."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from jobs.errors import JobError

_CHUNK = 65_536  # rows projected at once


class Projector(nn.Module):
    """Linear(d_cf, n_hidden), GELU, Linear(n_hidden, d_llm)."""

    def __init__(self, d_cf: int, n_hidden: int, d_llm: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_cf, n_hidden)
        self.output = nn.Linear(n_hidden, d_llm)

    @classmethod
    def random(cls, d_cf: int, n_hidden: int, d_llm: int, random: torch.Generator) -> Projector:
        """Weights N(0, 1 / fan-in), biases zero; the same for the same state of `random`."""
        projector = cls(d_cf, n_hidden, d_llm)
        for layer in (projector.hidden, projector.output):
            nn.init.normal_(layer.weight, 0, 1 / math.sqrt(layer.in_features), generator=random)
            nn.init.zeros_(layer.bias)
        return projector

    @classmethod
    def of(cls, tensors: Mapping[str, NDArray[np.float32]]) -> Projector:
        """The projector that `tensors` wrote; tensors of other names are ignored.

        Raises:
            JobError: a weight is missing or of another shape than the rest.
        """
        try:
            n_hidden, d_cf = tensors["hidden.weight"].shape
            projector = cls(d_cf, n_hidden, len(tensors["output.bias"]))
            names = projector.state_dict().keys()
            projector.load_state_dict({name: torch.tensor(tensors[name]) for name in names})
        except (KeyError, RuntimeError) as error:
            raise JobError(f"these are not the weights of a projector: {error}") from error
        return projector

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """hidden.weight (n_hidden, d_cf), output.weight (d_llm, n_hidden), and a bias of each."""
        return {name: weights.numpy(force=True) for name, weights in self.state_dict().items()}

    def forward(self, factors: Tensor) -> Tensor:
        """(n, d_cf) -> (n, d_llm)."""
        return self.output(functional.gelu(self.hidden(factors)))

    @torch.inference_mode()
    def project(self, factors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d_cf) -> (n, d_llm), without gradients, a chunk at a time."""
        projected = np.empty((len(factors), self.output.out_features), dtype=np.float32)
        for start in range(0, len(factors), _CHUNK):
            rows = slice(start, start + _CHUNK)
            projected[rows] = self(torch.tensor(factors[rows])).numpy()
        return projected
