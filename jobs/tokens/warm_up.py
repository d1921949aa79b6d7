"""Contrastive warm-up: a mapper learns where its targets lie before the LLM reads its tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from jobs.collab.sides import Passes
from jobs.collab.streams import stream
from jobs.errors import JobError
from jobs.tokens.alignment import ContrastConfig, contrastive_loss, token_cosine
from jobs.tokens.mappers import Mapper

_FEWEST = 3  # rows with a target: one to ask for, one to learn from, one to tell it from


class WarmUpConfig(ContrastConfig):
    """How a mapper is warmed up (methods.md 7.4)."""

    max_epochs: int = Field(default=50, ge=0, description="epochs at most")
    patience: int = Field(default=10, gt=0, description="epochs without a better MRR")
    batch_size: int = Field(default=512, gt=1, description="ids of a step at most")
    learning_rate: float = Field(default=1e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW, on matrices alone")
    held_out: float = Field(default=0.1, gt=0, lt=1, description="share of ids that are asked for")
    n_candidates: int = Field(default=1000, gt=1, description="targets an id is sought among")


class Epoch(NamedTuple):
    """One line of the log."""

    number: int  # 0 is the mapper before it learned
    loss: float | None  # mean over the steps, in nats; None at 0
    mrr: float  # of held-out ids
    token_cosine: float  # mean over held-out ids of the cosine of two tokens of one id


@dataclass(frozen=True)
class WarmedUp:
    """How a warm-up went; the mapper holds the weights of the best epoch.

    Attributes:
        curve: one a epoch, from 0.
        best: the first of the highest MRR.
        chance: what the MRR of random tokens is expected to be.
        n_learned: ids with a target that were learned from.
        n_held_out: ids that were asked for.
    """

    curve: tuple[Epoch, ...]
    best: Epoch
    chance: float
    n_learned: int
    n_held_out: int

    def figures(self, prefix: str) -> dict[str, float]:
        """Metrics for a manifest, their names begun with `prefix`."""
        found = {
            "mrr_before": self.curve[0].mrr,
            "mrr": self.best.mrr,
            "mrr_chance": self.chance,
            "best_epoch": float(self.best.number),
            "n_epochs": float(self.curve[-1].number),
            "token_cosine": self.best.token_cosine,
        }
        return {f"{prefix}_warm_up_{name}": value for name, value in found.items()}


def warm_up(
    mapper: Mapper, inputs: Tensor, targets: Tensor, config: WarmUpConfig, seed: int
) -> WarmedUp:
    """Train a mapper alone to point at its targets; the inputs are fixed.

    A tenth of the ids is held out; training stops when their retrieval no longer improves, and
    the best epoch's weights are kept. The mapper's scale, to which cosines are blind, stays.
    The same seed, device and number of threads give the same bits.

    Args:
        mapper: learns in place, on the device it is on.
        inputs: (n, d_in).
        targets: (n, n_tokens, d_llm) of unit length; rows of zeros are left out.
        config: see `WarmUpConfig`.
        seed: of the order and of who is held out.

    Raises:
        JobError: too few rows have a target, or the loss is not finite.
    """
    device = mapper.scale.device
    inputs, targets = inputs.detach().to(device), targets.detach().to(device)
    known = (targets.abs().amax(dim=(1, 2)) > 0).nonzero()[:, 0].cpu()
    if len(known) < _FEWEST:
        raise JobError(
            f"{len(known)} of {len(targets)} ids have a target to align to, {_FEWEST} are needed; "
            "tune without profiles or with no warm-up epochs"
        )
    shuffled = known[torch.randperm(len(known), generator=stream(seed, "held out of warm-up"))]
    n_held_out = min(max(round(config.held_out * len(known)), 1), len(known) - 2)
    retrieval = Retrieval(inputs, targets, shuffled, n_held_out, config)
    order = stream(seed, "order of warm-up")
    learned = np.sort(shuffled[n_held_out:].numpy())
    passes = Passes(learned, config.batch_size, order)
    curve = [Epoch(0, None, *retrieval.of(mapper))]
    best, weights = curve[0], _copied(mapper)
    for number, loss in enumerate(_epochs(mapper, inputs, targets, passes, config), start=1):
        curve.append(Epoch(number, loss, *retrieval.of(mapper)))
        if curve[-1].mrr > best.mrr:
            best, weights = curve[-1], _copied(mapper)
        if number - best.number >= config.patience:
            break
    mapper.load_state_dict(weights)
    return WarmedUp(tuple(curve), best, retrieval.chance, len(learned), n_held_out)


def _copied(mapper: Mapper) -> dict[str, Tensor]:
    return {name: weights.detach().clone() for name, weights in mapper.state_dict().items()}


def _epochs(
    mapper: Mapper, inputs: Tensor, targets: Tensor, passes: Passes, config: WarmUpConfig
) -> Iterator[float]:
    """The mean loss of each epoch, when it is over."""
    optimizer = _optimizer(mapper, config)
    for number in range(1, config.max_epochs + 1):
        losses = []
        for _ in range(passes.n_batches):
            rows = passes.draw().to(inputs.device)
            loss = contrastive_loss(mapper.mapped(inputs[rows]), targets[rows], config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        if not np.isfinite(mean):
            raise JobError(
                f"the warm-up's loss is {mean} in epoch {number}; look for NaN among the inputs "
                "and targets, or lower its learning rate"
            )
        yield mean


def _optimizer(mapper: Mapper, config: WarmUpConfig) -> torch.optim.AdamW:
    learning = [weights for name, weights in mapper.named_parameters() if name != "scale"]
    decayed = [weights for weights in learning if weights.dim() > 1]
    others = [weights for weights in learning if weights.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


class Retrieval:
    """Are the targets of held-out ids found by their tokens, among up to 1,000 candidates?

    A token's rank is that of its own target, by cosine, among the different targets of the
    candidates; those nearly the same as its own are left out, as they are in the loss. The mean
    over ids and tokens of 1 / rank is the MRR.

    Args:
        inputs: (n, d_in).
        targets: (n, n_tokens, d_llm).
        shuffled: rows with a target in an order of chance: first those held out, then others.
        n_held_out: how many are held out; of more than there are candidates, the first are asked.
        config: number of candidates, what is nearly the same.

    Attributes:
        chance: the MRR expected of tokens that know nothing: the mean of H(c) / c over c targets,
            H(c) = 1 + 1/2 + ... + 1/c.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        shuffled: Tensor,
        n_held_out: int,
        config: WarmUpConfig,
    ) -> None:
        candidates = shuffled[: config.n_candidates].to(inputs.device)
        self._inputs = inputs[candidates[:n_held_out]]
        self._quizzes = [
            _quiz(targets[candidates, m].float(), len(self._inputs), config.same_target_cosine)
            for m in range(targets.shape[1])
        ]
        self.chance = _mean([quiz.chances() for quiz in self._quizzes])

    @torch.no_grad()
    def of(self, mapper: Mapper) -> tuple[float, float]:
        """MRR and `token_cosine` of the held-out ids."""
        tokens = mapper.mapped(self._inputs)
        ranks = [quiz.ranks(tokens[:, m]) for m, quiz in enumerate(self._quizzes)]
        return _mean([rank.double().reciprocal() for rank in ranks]), token_cosine(tokens)


def _mean(parts: list[Tensor]) -> float:
    values = torch.cat(parts)
    return float(values.mean()) if len(values) else 0.0


class _Quiz(NamedTuple):
    """One token's part: which of the different targets is mine?"""

    asked: Tensor  # (a,) of the held-out ids, those that have a target for this token
    own: Tensor  # (a,) row of their target
    targets: Tensor  # (c, d_llm) that differ
    is_rival: Tensor  # (a, c)

    def ranks(self, tokens: Tensor) -> Tensor:
        """(a,) from 1."""
        scores = functional.normalize(tokens[self.asked].float(), dim=1) @ self.targets.T
        own = scores.gather(1, self.own[:, None])
        return 1 + (~(scores < own) & self.is_rival).sum(dim=1)  # NaN is last

    def chances(self) -> Tensor:
        """(a,) expected 1 / rank of a token that knows nothing."""
        n_targets = self.is_rival.sum(dim=1) + 1
        places = torch.arange(1, len(self.targets) + 1, device=n_targets.device)
        harmonic = places.double().reciprocal().cumsum(0)
        return harmonic[n_targets - 1] / n_targets


def _quiz(targets: Tensor, n_asked: int, same_cosine: float) -> _Quiz:
    """Of candidates' targets (c, d_llm), the first `n_asked` of them held out."""
    known = targets.abs().amax(dim=1) > 0
    different, place = torch.unique(targets[known], dim=0, return_inverse=True)
    asked = known[:n_asked].nonzero()[:, 0]
    own = place[: len(asked)]
    is_rival = different[own] @ different.T <= same_cosine
    return _Quiz(asked, own, different, is_rival.scatter(1, own[:, None], False))
