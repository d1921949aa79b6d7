"""What training will cost, measured on a few steps of the real work."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from jobs import manifest
from jobs.llm.course import CourseConfig, planned_steps
from jobs.llm.schedule import Step
from jobs.llm.training import Rows, Trainer

_STEPS = 3
_ENOUGH_S = 30.0


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that was held at once: on a GPU by torch, on a CPU by the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return manifest.peak_memory_bytes()


def estimate_of(trainer: Trainer, train: Rows, valid: Rows, config: CourseConfig) -> dict[str, Any]:
    """Tokens, memory and time of a run; the weights have moved afterwards, so throw them away.

    The first batch holds the longest sequences, which take the most memory; it is not timed.
    """
    planned = planned_steps(train, config)
    trainer.step(_largest(train, trainer.batch_tokens), train, 0.0)
    tokens_per_s = _training_speed(trainer, train, planned)
    valid_per_s = _scoring_speed(trainer, valid)
    n_tokens = sum(step.n_tokens for step in planned)
    n_evaluations = 2 + (len(planned) - 1) // config.eval_steps
    valid_tokens = sum(valid.lengths)
    seconds = n_tokens / tokens_per_s + n_evaluations * valid_tokens / valid_per_s
    weights = sum(weight.numel() for weight in trainer.learned.values())
    return {
        "train_rows": train.n_answers,
        "train_tokens": n_tokens,
        "steps": len(planned),
        "valid_rows": valid.n_answers,
        "valid_tokens": valid_tokens,
        "evaluations": n_evaluations,
        "train_tokens_per_s": round(tokens_per_s, 1),
        "valid_tokens_per_s": round(valid_per_s, 1),
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak_memory_bytes(trainer.device) / 2**20),
        "checkpoint_mb": round(4 * 4 * weights / 2**20, 1),  # weights, two moments, the best
        "batch_tokens": trainer.batch_tokens,  # less than asked for where memory fell short
        "device": str(trainer.device),
        "dtype": str(trainer.model.dtype).removeprefix("torch."),
    }


def _largest(train: Rows, batch_tokens: int) -> Step:
    """A step of one full batch of the longest sequences."""
    lengths = np.array(train.lengths)
    order = np.argsort(-lengths, kind="stable")
    n = max(1, batch_tokens // int(lengths[order[0]]))
    return Step(0, 0, order[:n], int(lengths[order[:n]].sum()))


def _training_speed(trainer: Trainer, train: Rows, planned: list[Step]) -> float:
    started, n_tokens = time.monotonic(), 0
    for step in planned[:_STEPS]:
        trainer.step(step, train, 0.0)  # ends with the gradient's norm on the CPU: a full stop
        n_tokens += step.n_tokens
        if time.monotonic() - started > _ENOUGH_S:
            break
    return n_tokens / (time.monotonic() - started)


def _scoring_speed(trainer: Trainer, valid: Rows) -> float:
    """Tokens of valid in a second; infinite where there are none."""
    some: list[Any] = []
    for sequence in valid.sequences:
        some.append(sequence)
        if sum(map(len, some)) >= 2 * trainer.batch_tokens:
            break
    if not some:
        return float("inf")
    started = time.monotonic()
    trainer.score(Rows(valid.name, some, valid.labels, valid.users, valid.numbers))
    return sum(map(len, some)) / (time.monotonic() - started)
