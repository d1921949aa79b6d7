"""What each optimiser step reads and how far it moves: a function of lengths, seed and step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """One optimiser step.

    Attributes:
        number: from 1.
        epoch: from 0.
        sequences: (k,) numbers of the sequences that it reads.
        n_tokens: tokens in them.
    """

    number: int
    epoch: int
    sequences: Ints
    n_tokens: int


def epoch_order(n_sequences: int, seed: int, epoch: int) -> Ints:
    """The order of an epoch; needs no state, so a resumed run finds it again."""
    return np.random.default_rng((seed, epoch)).permutation(n_sequences)


def steps(
    lengths: Sequence[int],
    *,
    step_tokens: int,
    epochs: int,
    seed: int,
    max_tokens: int | None = None,
) -> list[Step]:
    """All steps of a training run.

    A step takes sequences in the epoch's order until it holds `step_tokens` or more; an epoch's
    last step may be smaller, and one of less than half joins the step before it.

    Args:
        lengths: tokens of each sequence.
        step_tokens: tokens of a step, at least.
        epochs: passes over the sequences.
        seed: of the orders.
        max_tokens: the run ends with the step that reaches this many.
    """
    planned: list[Step] = []
    n_read = 0
    for epoch in range(epochs):
        order = epoch_order(len(lengths), seed, epoch)
        for sequences in _epoch_groups(lengths, step_tokens, order):
            n_tokens = sum(lengths[number] for number in sequences)
            planned.append(Step(len(planned) + 1, epoch, np.array(sequences), n_tokens))
            n_read += n_tokens
            if max_tokens is not None and n_read >= max_tokens:
                return planned
    return planned


def _epoch_groups(lengths: Sequence[int], step_tokens: int, order: Ints) -> Iterator[list[int]]:
    done: list[int] = []
    group: list[int] = []
    size = 0
    for number in order.tolist():
        group.append(number)
        size += lengths[number]
        if size >= step_tokens:
            if done:
                yield done
            done, group, size = group, [], 0
    if done and size < step_tokens / 2:
        yield done + group
        return
    yield from (each for each in (done, group) if each)


def learning_rate(
    step: int, n_steps: int, *, peak: float, warmup_steps: int, floor: float = 0.0
) -> float:
    """Learning rate of a step, from 1: linear warm-up to `peak`, then a cosine to floor * peak.

    A warm-up that is longer than a tenth of a short run is cut to that.
    """
    warmup = min(warmup_steps, n_steps // 10)
    if step <= warmup:
        return peak * step / warmup
    share = (step - warmup) / max(n_steps - warmup, 1)
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * min(share, 1.0))) / 2)
