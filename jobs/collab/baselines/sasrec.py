"""SASRec as a CTR model: self-attention over the last positives, fitted to true labels."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from jobs.collab.baselines.network_systems import NetworkSystem
from jobs.collab.baselines.networks import IdTable, Network
from jobs.collab.baselines.windows import Batch

_EPSILON = 1e-8  # of layer norms, as published


class SasRec(NetworkSystem):
    """Self-attentive sequential recommendation (Kang and McAuley 2018), as the papers' CTR model.

    score = <state after the last positive, embedding of the item>. The user's id is not read.
    `PUBLISHED_SASREC` has the papers' settings.
    """

    title: ClassVar[str] = "SASRec"

    n_factors: int = Field(default=64, gt=0, description="length of an item's embedding")
    n_blocks: int = Field(default=2, gt=0, description="attention blocks")
    n_heads: int = Field(default=1, gt=0, description="attention heads; they divide n_factors")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="share of zeroed activations")
    masks_padding: bool = Field(
        default=True, description="empty places of a short history take no attention"
    )
    learning_rate: float = Field(default=1e-2, gt=0, description="Adam step")
    l2: float = Field(default=1e-2, ge=0, description="weight decay, inside Adam")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_factors % self.n_heads:
            raise ValueError(f"n_heads ({self.n_heads}) does not divide n_factors")
        return self

    def network(self, n_users: int, n_items: int) -> SasRecNetwork:
        """See `NetworkSystem.network`."""
        return SasRecNetwork(n_users, n_items, self)


PUBLISHED_SASREC = SasRec(masks_padding=False)


class SasRecNetwork(Network):
    """The state of a window, and its product with the item at hand."""

    def __init__(self, n_users: int, n_items: int, config: SasRec) -> None:
        super().__init__(n_users, n_items, config.biases)
        d = config.n_factors
        self.items = IdTable(n_items, d, "target", "history")
        self.positions = nn.Parameter(torch.empty(config.n_positives, d))  # the last is the newest
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(d, _EPSILON)

    @torch.no_grad()
    def start(self, init_sd: float) -> None:
        """See `Network.start`."""
        super().start(init_sd)
        nn.init.normal_(self.positions, 0, init_sd)

    def match(self, batch: Batch) -> Tensor:
        """(n,) products of states and items."""
        states = self.states(batch.windows)[batch.window_of]
        return (states * self.items(batch.items)).sum(dim=1)

    def states(self, windows: Tensor) -> Tensor:
        """(k, length) item rows, left-padded -> (k, d).

        x = (sqrt(d) item + position), zero where the window is empty; then the blocks and a layer
        norm. An empty window has the norm's own bias as its state, which is learned.
        """
        is_real = (windows >= 0).unsqueeze(-1)
        n_places, d = windows.shape[1], self.positions.shape[1]
        x = self.items(windows) * math.sqrt(d) + self.positions[len(self.positions) - n_places :]
        x = self.dropout(x) * is_real
        for block in self.blocks[:-1]:
            x = block(x, is_real, n_places)
        return self.norm(self.blocks[-1](x, is_real, 1)).squeeze(1)  # only the newest is read


class Block(nn.Module):
    """Causal attention with a norm on the query alone, then a position-wise layer.

    With q = LN(x): h = LN(q + attention(q, x, x)), out = h + W2 relu(W1 h), zero at empty places.
    """

    def __init__(self, config: SasRec) -> None:
        super().__init__()
        d = config.n_factors
        self._n_heads, self._masks_padding = config.n_heads, config.masks_padding
        self._dropout_rate = config.dropout
        self.query_norm = nn.LayerNorm(d, _EPSILON)
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.output = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d, _EPSILON)
        self.inner, self.outer = nn.Linear(d, d), nn.Linear(d, d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, is_real: Tensor, n_last: int) -> Tensor:
        """(k, length, d) -> (k, n_last, d), the newest places alone.

        Args:
            x: states of all places.
            is_real: (k, length, 1) false where the window is empty.
            n_last: places that are wanted.
        """
        query = self.query_norm(x[:, -n_last:])
        h = self.norm(query + self._attention(query, x, is_real))
        h = h + self.dropout(self.outer(self.dropout(functional.relu(self.inner(h)))))
        return h * is_real[:, -n_last:]

    def _attention(self, query: Tensor, x: Tensor, is_real: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (self._n_heads, -1)).transpose(1, 2)
            for part in (self.query(query), self.key(x), self.value(x))
        )
        found = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            self._visible(is_real)[..., -query.shape[1] :, :],
            dropout_p=self._dropout_rate if self.training else 0.0,
        )
        return self.output(found.transpose(1, 2).flatten(2))

    def _visible(self, is_real: Tensor) -> Tensor:
        """(k or 1, 1, length, length) which keys, last, a query may look at."""
        n_places = is_real.shape[1]
        square = torch.ones(n_places, n_places, dtype=torch.bool, device=is_real.device)
        visible = square.tril()[None, None]
        if not self._masks_padding:
            return visible
        # An empty place looks at itself: a softmax over nothing would be NaN.
        itself = torch.eye(n_places, dtype=torch.bool, device=is_real.device)
        return visible & (is_real.transpose(1, 2)[:, None] | itself)
