"""LightGCN (He et al. 2020) on binary labels, as the CoLLM tables ran it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from jobs.collab.baselines.factorised import FittedFactors, ratings_of
from jobs.collab.baselines.training import Schedule, batches, check, train
from jobs.collab.factors import Factors, Floats, Ints, Ratings, first_biases, log_odds
from jobs.collab.row_adam import DenseAdam
from jobs.collab.streams import stream
from jobs.collab.systems import Evidence, Fitted, System, Tensors


class LightGcn(Schedule, System):
    """Factors averaged over the layers of the graph of positives; the logit is their product.

    Binary cross-entropy on both classes instead of the paper's BPR, as in the tables we compare
    with. Users and items without train rows get zero vectors: the published runs give them random
    rows, which Adam's L2 drags to zero within the first epochs.
    """

    title: ClassVar[str] = "LightGCN"

    n_factors: int = Field(default=64, gt=0, description="length of a user's or item's factor")
    n_layers: int = Field(default=2, ge=0, description="hops; 0 is a matrix factorisation")
    init_sd: float = Field(default=0.1, gt=0, description="standard deviation of initial factors")
    learning_rate: float = Field(default=1e-2, gt=0, description="Adam step")
    weight_decay: float = Field(default=1e-4, ge=0, description="L2 inside Adam")
    batch_size: int = Field(default=2048, gt=0, description="rows in a step, at most")
    min_steps: int = Field(default=10, gt=0, description="steps in an epoch, at least")
    biases: bool = Field(default=False, description="global, user and item bias; not published")
    l2_user_bias: float = Field(default=3.0, ge=0, description="of the first biases")
    l2_item_bias: float = Field(default=0.5, ge=0, description="of the first biases")
    max_epochs: int = Field(default=1000, gt=0, description="passes over the train rows at most")
    patience: int = Field(
        default=100, gt=0, description="epochs without a better valid AUC before the end"
    )

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Propagated factors of the users and items in train."""
        check(evidence)
        known = np.unique(evidence.train.requests.users)
        rows = ratings_of(evidence.train, known)
        valid = ratings_of(evidence.valid, known)
        learner = _Learner(rows, valid, len(known), evidence.catalogue.n_items, self, seed)
        course = train(learner, valid.labels, self, n_epochs)
        return FittedFactors(learner.factors(), known, course.n_epochs)

    def restore(self, tensors: Tensors) -> Fitted:
        """The propagated tables; the graph is not needed any more."""
        return FittedFactors.restored(tensors, self.n_factors)


def normalised_graph(users: Ints, items: Ints, n_users: int, n_items: int) -> Tensor:
    """D^-1/2 A D^-1/2 of the bipartite graph, He et al. 2020, equation 8.

    Args:
        users: (n_edges,) user of each positive; a repeated pair counts once.
        items: (n_edges,) its item.
        n_users: the first nodes.
        n_items: the nodes after them.

    Returns:
        (n_users + n_items, same) sparse and symmetric; a node without edges has an empty row.
    """
    n = n_users + n_items
    edges = np.unique(np.stack([users, items + n_users]), axis=1)
    both = np.concatenate([edges, edges[::-1]], axis=1)
    degrees = np.bincount(both[0], minlength=n)
    weights = 1 / np.sqrt(degrees[both[0]] * degrees[both[1]])
    indices = torch.from_numpy(both)
    return torch.sparse_coo_tensor(
        indices, torch.tensor(weights, dtype=torch.float32), (n, n), check_invariants=True
    ).coalesce()


def propagated(graph: Tensor, weights: Tensor, n_layers: int) -> Tensor:
    """(n, d) mean of the layers 0..n_layers: sum of graph^l @ weights / (n_layers + 1)."""
    layer, total = weights, weights.clone()
    for _ in range(n_layers):
        layer = torch.sparse.mm(graph, layer)
        total += layer
    return total / (n_layers + 1)


class _Learner:
    """One table of factors for users and items, and one of biases that are not propagated.

    The propagation is linear and symmetric, so the gradient of the table is the propagated
    gradient of the propagated table: no graph of autograd through the sparse products.
    """

    def __init__(
        self,
        rows: Ratings,
        valid: Ratings,
        n_users: int,
        n_items: int,
        config: LightGcn,
        seed: int,
    ) -> None:
        self._config, self._valid, self._n_users = config, valid, n_users
        self._random = stream(seed, "order of events")
        self._users = torch.as_tensor(rows.users)
        self._items = torch.as_tensor(rows.items) + n_users
        self._labels = torch.as_tensor(rows.labels)
        positive = rows.labels > 0
        self._graph = normalised_graph(rows.users[positive], rows.items[positive], n_users, n_items)
        self._table = DenseAdam(
            _first_weights(rows, n_users, n_items, config, seed),
            config.learning_rate,
            config.weight_decay,
        )
        biases, self._global = _first_biases(rows, n_users, n_items, config)
        self._biases = DenseAdam(biases, config.learning_rate, config.weight_decay)

    def epoch(self) -> float:
        """One pass over the train rows; the mean cross-entropy."""
        config = self._config
        cuts = batches(len(self._labels), config.batch_size, self._random, config.min_steps)
        return float(torch.stack([self._step(rows) for rows in cuts]).mean())

    def _step(self, rows: Tensor) -> Tensor:
        """Move the whole table, once; the loss before the move."""
        users, items = self._users[rows], self._items[rows]
        table = propagated(self._graph, self._table.weights, self._config.n_layers)
        table.requires_grad_()
        biases = self._biases.weights.detach().requires_grad_()
        logits = (table[users] * table[items]).sum(dim=1) + self._global
        if self._config.biases:
            logits = logits + biases[users, 0] + biases[items, 0]
        loss = functional.binary_cross_entropy_with_logits(logits, self._labels[rows])
        of_table, of_biases = torch.autograd.grad(
            loss, [table, biases], materialize_grads=True, allow_unused=True
        )
        every = torch.arange(len(table))
        self._table.step(every, propagated(self._graph, of_table, self._config.n_layers))
        if self._config.biases:
            self._biases.step(every, of_biases)
        return loss.detach()

    def factors(self) -> Factors:
        """Propagated factors, and biases."""
        table = propagated(self._graph, self._table.weights, self._config.n_layers).numpy()
        biases = self._biases.weights[:, 0].numpy().copy()
        n = self._n_users
        return Factors(table[:n], biases[:n], table[n:], biases[n:], self._global)

    def valid_logits(self) -> Floats:
        """(n_valid,) logits of the valid rows."""
        return self.factors().logits(self._valid.users, self._valid.items)

    def weights(self) -> list[Tensor]:
        """Factors before propagation, and biases."""
        return [self._table.weights, self._biases.weights]


def _first_weights(
    rows: Ratings, n_users: int, n_items: int, config: LightGcn, seed: int
) -> Tensor:
    """(n_users + n_items, d) N(0, init_sd); zero for an item without train rows."""
    parts = [
        torch.randn(n, config.n_factors, generator=stream(seed, side)) * config.init_sd
        for n, side in ((n_users, "users"), (n_items, "items"))
    ]
    parts[1][torch.as_tensor(np.bincount(rows.items, minlength=n_items) == 0)] = 0
    return torch.cat(parts)


def _first_biases(
    rows: Ratings, n_users: int, n_items: int, config: LightGcn
) -> tuple[Tensor, float]:
    """(n_users + n_items, 1) biases one Newton step from zero, and the global bias; else zeros."""
    if not config.biases:
        return torch.zeros(n_users + n_items, 1), 0.0
    start = log_odds(rows.labels)
    offsets = np.full(len(rows), start)
    of_items = first_biases(rows.items, rows.labels, offsets, n_items, config.l2_item_bias)
    offsets += of_items[rows.items]
    of_users = first_biases(rows.users, rows.labels, offsets, n_users, config.l2_user_bias)
    both = np.concatenate([of_users, of_items]).astype(np.float32)
    return torch.as_tensor(both[:, None].copy()), start
