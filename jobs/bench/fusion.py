"""Late fusion: the logits of several systems blended by a logistic regression on valid.

The control of methods.md 14 D: an LLM that was told what other systems know must beat itself
without it, blended with them afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.bench.entries import FusionEntry
from jobs.bench.evidence import SPLIT_NAMES, BenchRows
from jobs.bench.kept import Doubles
from jobs.bench.runs import SeedRun, SystemRuns
from jobs.errors import JobError

_RIDGE = 1e-3  # of weights on standardised logits: only where rows do not decide, as with twins
_MOST_STEPS, _MOST_HALVINGS, _CONVERGED = 100, 40, 1e-12
_FITTED_ON, _JUDGED_ON = SPLIT_NAMES[1:]


@dataclass(frozen=True)
class Blend:
    """`intercept + sum of weight x logit`: a weight for each part."""

    weights: tuple[float, ...]
    intercept: float

    def logits(self, parts: Sequence[Doubles]) -> Doubles:
        """(n,) of the parts' logits, each (n,)."""
        return self.intercept + np.asarray(self.weights) @ np.stack(parts)


def fitted_blend(parts: Sequence[Doubles], labels: NDArray[np.floating]) -> Blend:
    """The blend with the highest likelihood of the labels, by Newton steps.

    Args:
        parts: logits of each part, (n,).
        labels: (n,) 0 or 1.

    Raises:
        JobError: no rows, or all of one class.
    """
    if len(np.unique(labels)) < 2:
        raise JobError(f"{_FITTED_ON} has {len(labels)} rows of one class; weights need both")
    logits = np.stack(parts).T
    centre, scale = logits.mean(axis=0), logits.std(axis=0)
    scale[scale == 0] = 1.0  # a part that says the same of every row: its weight will be zero
    columns = np.column_stack([(logits - centre) / scale, np.ones(len(labels))])
    found = _newton(columns, labels.astype(np.float64))
    weights = found[:-1] / scale
    return Blend(tuple(weights.tolist()), float(found[-1] - weights @ centre))


def _newton(columns: Doubles, labels: Doubles) -> Doubles:
    """Weights of `columns` that minimise the penalised loss; the last column is not penalised."""
    penalty = np.append(np.full(columns.shape[1] - 1, _RIDGE), 0.0)

    def loss(weights: Doubles) -> float:
        said = columns @ weights
        return float(np.sum(np.logaddexp(0, said) - labels * said) + penalty @ weights**2 / 2)

    weights = np.zeros(columns.shape[1])
    for _ in range(_MOST_STEPS):
        said = np.exp(-np.logaddexp(0, -columns @ weights))
        gradient = columns.T @ (said - labels) + penalty * weights
        curvature = (columns * (said * (1 - said))[:, None]).T @ columns + np.diag(penalty)
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        before = loss(weights)
        # A whole step can overshoot where labels part cleanly; a short enough one never does.
        shorter = (weights - step * 0.5**times for times in range(_MOST_HALVINGS))
        weights = next((each for each in shorter if loss(each) < before), weights)
        if before - loss(weights) <= _CONVERGED * before:
            break
    return weights


# -- a row of the bench ----------------------------------------------------------------------------


def fused(entry: FusionEntry, parts: Sequence[SystemRuns], rows: BenchRows) -> SystemRuns:
    """The row that blends others, seed by seed; without one of them it says why there is none.

    Args:
        entry: what was asked for.
        parts: the rows that it names, in its order.
        rows: of the bench, for the labels of valid.
    """
    title = entry.title or " + ".join(part.title for part in parts)
    settings = {"of": list(entry.of)}
    lost = [part for part in parts if part.not_measured]
    if lost:
        why = f"{lost[0].title} is not measured"
        return SystemRuns(entry, title, settings, (), None, why)
    try:
        runs, blends = _by_seed(parts, rows.of(_FITTED_ON).labels)
    except JobError as error:
        return SystemRuns(entry, title, settings, (), str(error))
    fitted = {
        "weights": [list(blend.weights) for blend in blends],
        "intercepts": [blend.intercept for blend in blends],
    }
    return SystemRuns(entry, title, settings | fitted, tuple(runs), None)


def _by_seed(
    parts: Sequence[SystemRuns], labels: NDArray[np.floating]
) -> tuple[list[SeedRun], list[Blend]]:
    runs, blends = [], []
    for seed in _seeds(parts):
        own = [_run_of(part, seed) for part in parts]
        blend = fitted_blend([run.scores[_FITTED_ON] for run in own], labels)
        scores = {
            split: blend.logits([run.scores[split] for run in own])
            for split in (_FITTED_ON, _JUDGED_ON)
        }
        known = [run.frozen for run in own if run.frozen is not None]
        frozen = blend.logits(known) if len(known) == len(own) else None
        runs.append(SeedRun(seed, scores, None, frozen))
        blends.append(blend)
    return runs, blends


def _seeds(parts: Sequence[SystemRuns]) -> list[int]:
    """Seeds that all parts with several have in common; one of a single seed joins every one.

    Raises:
        JobError: a part failed, lacks scores, or shares no seed with the others.
    """
    for part in parts:
        if part.error:
            raise JobError(f"its part {part.entry.name} failed")
        for split in (_FITTED_ON, _JUDGED_ON):
            if any(split not in run.scores for run in part.runs):
                raise JobError(f"its part {part.entry.name} has no scores of {split}")
    several = [[run.seed for run in part.runs] for part in parts if len(part.runs) > 1]
    if not several:
        return [parts[0].runs[0].seed]
    common = [seed for seed in several[0] if all(seed in seeds for seeds in several)]
    if not common:
        said = "; ".join(f"{p.entry.name}: {[run.seed for run in p.runs]}" for p in parts)
        raise JobError(f"its parts have no seed in common ({said})")
    return common


def _run_of(part: SystemRuns, seed: int) -> SeedRun:
    if len(part.runs) == 1:
        return part.runs[0]
    return next(run for run in part.runs if run.seed == seed)
