"""Alignment of item factors with item embeddings: a projector learned by InfoNCE."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from jobs.collab.factors import Floats, Ints
from jobs.collab.row_adam import RowAdam
from jobs.collab.streams import stream
from jobs.job import Config
from jobs.tokens.projector import Projector


class InfoNceConfig(Config):
    """How strongly and how item factors are drawn to the item embeddings."""

    alignment_weight: float = Field(
        default=1.0,
        ge=0,
        description="weight of InfoNCE beside the cross-entropy; 0 turns alignment off",
    )
    temperature: float = Field(default=0.4, gt=0, description="divides cosines in InfoNCE")
    n_hidden: int = Field(default=256, gt=0, description="width of the projector's hidden layer")
    aligned_items: int = Field(default=128, gt=1, description="items of the catalogue in a step")
    projector_learning_rate: float = Field(
        default=1e-3, gt=0, description="Adam step of the projector"
    )


def info_nce(
    projected: Tensor, targets: Tensor, temperature: float, groups: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE between paired rows, by cosine (van den Oord et al. 2018, both ways).

    With s_ij = cos(projected_i, targets_j) / temperature, the mean over i of
    -(log softmax_j(s_ij) + log softmax_j(s_ji)) / 2, both at j = i. Rows must be distinct items: a
    double would be its own false negative.

    Args:
        projected: (b, d).
        targets: (b, d), of unit length.
        temperature: divides the cosines.
        groups: (b,) items of one group have the same text, hence the same target, and are no
            negatives of each other; None if all texts differ.

    Returns:
        Scalar, in nats; 0 for one row.
    """
    similarities = functional.normalize(projected, dim=1) @ targets.T / temperature
    if groups is not None:
        is_twin = (groups[:, None] == groups[None, :]).fill_diagonal_(False)
        similarities = similarities.masked_fill(is_twin, -math.inf)
    own = torch.arange(len(projected))
    return (
        functional.cross_entropy(similarities, own) + functional.cross_entropy(similarities.T, own)
    ) / 2


class ItemAlignment:
    """InfoNCE between projected item factors and item embeddings, over the whole catalogue.

    Items are drawn from the catalogue and not from the events: each once a pass, in an order of
    its own, so that items without events are aligned too and popular ones are not their own false
    negatives. The embeddings stay as they are.

    Args:
        targets: (n_items, d_llm) item embeddings of unit length.
        groups: (n_items,) equal where the text is equal.
        d_cf: length of an item factor.
        config: see `InfoNceConfig`.
        seed: of the projector's first weights and of the order of items.
    """

    def __init__(
        self, targets: Floats, groups: Ints, d_cf: int, config: InfoNceConfig, seed: int
    ) -> None:
        self.weight = config.alignment_weight
        self._config = config
        self._random = stream(seed, "order of items")
        self._targets = targets  # may be a memory map: only a step's rows are copied
        has_twins = len(np.unique(groups)) < len(groups)
        self._groups = torch.as_tensor(groups) if has_twins else None
        self.projector = Projector.random(
            d_cf, config.n_hidden, targets.shape[1], stream(seed, "projector")
        )
        # Not torch.optim, whose first use imports the compiler: 1.6 s that a small night feels.
        self._tables = [
            RowAdam(weights.detach().view(len(weights), -1), config.projector_learning_rate)
            for weights in self.projector.parameters()
        ]
        self._batches = self._passes()

    def _passes(self) -> Iterator[Tensor]:
        while True:
            yield from self._one_pass()

    def _one_pass(self) -> Sequence[Tensor]:
        """The catalogue in a new order, cut into batches of about equal size."""
        n = len(self._targets)
        order = torch.randperm(n, generator=self._random)
        return order.tensor_split(math.ceil(n / self._config.aligned_items))

    def next_items(self) -> Tensor:
        """(b,) distinct item rows; a pass goes on where the last step left it."""
        return next(self._batches)

    def loss(self, items: Tensor, factors: Tensor) -> Tensor:
        """InfoNCE of `factors` (b, d_cf) of the distinct `items` (b,)."""
        groups = None if self._groups is None else self._groups[items]
        targets = torch.from_numpy(self._targets[items.numpy()])
        return info_nce(self.projector(factors), targets, self._config.temperature, groups)

    def parameters(self) -> list[Tensor]:
        """The projector's weights."""
        return list(self.projector.parameters())

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step of Adam for the projector."""
        for table, gradient in zip(self._tables, gradients, strict=True):
            table.step(torch.arange(len(gradient)), gradient.view_as(table.weights))
