"""A network on histories while it learns: batches, Adam, priors on biases, unseen ids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from jobs.collab.baselines.networks import FittedNetwork, Seen
from jobs.collab.baselines.windows import batch_of, items_in_windows, moments
from jobs.collab.factors import Floats, first_biases, log_odds
from jobs.collab.streams import stream
from jobs.collab.systems import Evidence, Labelled
from jobs.job import Config


class LearnerConfig(Config):
    """How a network on histories learns.

    `l2` is `weight_decay` inside Adam, as the papers trained. Biases have Gaussian priors instead,
    spread over a row's events as in `jobs.collab.mf.MfConfig`.
    """

    learning_rate: float = Field(default=1e-3, gt=0, description="Adam step")
    l2: float = Field(default=1e-4, ge=0, description="weight decay, inside Adam")
    decoupled: bool = Field(default=False, description="weight decay beside Adam, as in AdamW")
    l2_user_bias: float = Field(default=3.0, ge=0, description="prior precision of a user's bias")
    l2_item_bias: float = Field(default=0.5, ge=0, description="prior precision of an item's bias")
    unseen: Literal["zero", "mean"] = Field(
        default="zero", description="embedding of an id that no train row has"
    )
    init_sd: float = Field(
        default=0.025, gt=0, description="standard deviation of initial embeddings of ids"
    )
    batch_size: int = Field(default=2048, gt=0, description="rows in a step, at most")
    min_steps: int = Field(
        default=16, gt=0, description="steps in an epoch, at least: few rows get small batches"
    )


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own generator, which dropout draws from, seeded for a block and then put back."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(stream(seed, "network").initial_seed())
        yield


class NetworkLearner:
    """See `jobs.collab.baselines.training.Learner`; to be used inside `own_randomness`.

    Args:
        fitted: the network, whose weights are drawn anew.
        evidence: see `jobs.collab.systems.System.fit`.
        config: optimiser and batches.
        seed: of the order of rows.
    """

    def __init__(
        self, fitted: FittedNetwork, evidence: Evidence, config: LearnerConfig, seed: int
    ) -> None:
        self._fitted, self._evidence, self._config = fitted, evidence, config
        self._random = stream(seed, "order of rows")
        windows = moments(evidence.train.requests, evidence.histories)
        self._window_of = torch.from_numpy(np.unique(windows, return_inverse=True)[1])
        self._seen = _seen(evidence, fitted.n_positives)
        # Drawn on the CPU, so that every device starts from the same weights.
        fitted.network.start(config.init_sd)
        fitted.network.to(fitted.device)
        self._l2_per_event = _start_biases(fitted, evidence, config)
        self._fill()
        self._optimizer = _optimizer(fitted, config)

    def epoch(self) -> float:
        """One pass over the train rows in a new order; the mean loss, or NaN."""
        self._fitted.network.train()
        losses = [self._step(self._evidence.train.at(places.numpy())) for places in self._batches()]
        self._fill()
        is_finite = all(bool(weights.isfinite().all()) for weights in self.weights())
        return torch.stack(losses).mean().item() if is_finite else math.nan

    def valid_logits(self) -> Floats:
        """(n_valid,) logits of the valid rows."""
        return self._fitted.score(self._evidence.valid.requests, self._evidence.histories)

    def weights(self) -> Sequence[Tensor]:
        """All weights, and what Dice keeps of the batches."""
        return list(self._fitted.network.state_dict().values())

    def _batches(self) -> Sequence[Tensor]:
        """Rows with one history go together: it is read once, which halves the work of SASRec."""
        shuffled = torch.randperm(int(self._window_of.max()) + 1, generator=self._random)
        order = torch.argsort(shuffled[self._window_of], stable=True)
        n_steps = max(math.ceil(len(order) / self._config.batch_size), self._config.min_steps)
        return order.tensor_split(min(n_steps, len(order)))

    def _step(self, rows: Labelled) -> Tensor:
        fitted = self._fitted
        batch = batch_of(rows.requests, self._evidence.histories, fitted.n_positives)
        batch = batch.to(fitted.device)
        labels = torch.from_numpy(rows.labels).to(fitted.device, torch.float32)
        logits = fitted.network(batch)
        loss = functional.binary_cross_entropy_with_logits(logits, labels)
        for table, l2, ids in zip(
            fitted.network.biases.tables[1:],
            self._l2_per_event,
            (batch.items, batch.users),
            strict=False,
        ):
            loss = loss + (table[ids].square() * l2[ids]).mean() / 2
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def _fill(self) -> None:
        for table in self._fitted.network.id_tables():
            table.fill(self._seen, self._config.unseen)


def _seen(evidence: Evidence, n_positives: int) -> Seen:
    """Whom the train rows move, by the role in which they meet an id."""
    catalogue, requests = evidence.catalogue, evidence.train.requests
    return {
        "user": np.bincount(requests.users, minlength=catalogue.n_users) > 0,
        "target": np.bincount(requests.items, minlength=catalogue.n_items) > 0,
        "history": items_in_windows(requests, evidence.histories, n_positives, catalogue.n_items),
    }


def _start_biases(fitted: FittedNetwork, evidence: Evidence, config: LearnerConfig) -> list[Tensor]:
    """Biases one Newton step from zero, items first, then users on what is left.

    Returns:
        For items and users what an event pays of its row's penalty.
    """
    requests, labels = evidence.train.requests, evidence.train.labels
    offsets = np.full(len(labels), log_odds(labels))
    tables = list(fitted.network.biases.tables)
    per_event = []
    if tables:
        tables[0].data.fill_(offsets[0])
    sides = ((requests.items, config.l2_item_bias), (requests.users, config.l2_user_bias))
    for table, (rows, l2) in zip(tables[1:], sides, strict=False):
        first = first_biases(rows, labels, offsets, len(table), l2)
        offsets += first[rows]
        table.data.copy_(torch.from_numpy(first))
        n_events = np.maximum(np.bincount(rows, minlength=len(table)), 1)
        per_event.append(torch.tensor(l2 / n_events, dtype=torch.float32, device=fitted.device))
    return per_event


def _optimizer(fitted: FittedNetwork, config: LearnerConfig) -> torch.optim.Optimizer:
    """Adam; weight decay spares the biases, which have priors."""
    biases = list(fitted.network.biases.parameters())
    spared = {id(weights) for weights in biases}
    others = [w for w in fitted.network.parameters() if id(w) not in spared]
    groups = [{"params": others, "weight_decay": config.l2}]
    if biases:
        groups.append({"params": biases, "weight_decay": 0.0})
    kind = torch.optim.AdamW if config.decoupled else torch.optim.Adam
    return kind(groups, lr=config.learning_rate, fused=True)
