"""How far the distribution of the scores moved since the night before."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jobs.report.controls import Floats
from jobs.report.night_figures import CodeDrift, DriftBin, ScoreDrift

_TENTHS = 10
_BINS = 20
_SMOOTHING = 0.5  # rows that each tenth is given, so that an empty one has a logarithm
_KS_95 = 1.3581  # Kolmogorov: P(K <= 1.3581) = 0.95
_LEVEL = "drift_level_"


def score_drift(tonight: Floats, before: Floats) -> ScoreDrift | None:
    """Tonight's probabilities against those of the night before, each on its own rows.

    PSI = sum over tenths of (a - b) ln(a / b), the tenths those of `before`. Two samples of one
    distribution give about 9 (1 / n + 1 / m) on average, so a small night looks as if it drifted;
    the figure stands beside it. KS is the largest distance of the two distribution functions.

    Args:
        tonight: (n,) probabilities.
        before: (m,) probabilities.

    Returns:
        None where one of them is empty.
    """
    if len(tonight) == 0 or len(before) == 0:
        return None
    n, m = len(tonight), len(before)
    inverse = 1 / n + 1 / m
    edges = np.linspace(0, 1, _BINS + 1)
    shares, shares_before = (np.histogram(p, edges)[0] / len(p) for p in (tonight, before))
    return ScoreDrift(
        n_rows=n,
        n_rows_before=m,
        mean=float(tonight.mean()),
        mean_before=float(before.mean()),
        psi=stability_index(tonight, before),
        psi_by_chance=(_TENTHS - 1) * inverse,
        ks=distance(tonight, before),
        ks_by_chance=_KS_95 * inverse**0.5,
        bins=[
            DriftBin(
                low=float(edges[b]),
                high=float(edges[b + 1]),
                tonight=float(shares[b]),
                before=float(shares_before[b]),
            )
            for b in range(_BINS)
        ],
    )


def stability_index(tonight: Floats, before: Floats) -> float:
    """Population stability index of (n,) against (m,), over the tenths of `before`."""
    cuts = np.unique(np.quantile(before, np.arange(1, _TENTHS) / _TENTHS))
    shares = []
    for values in (tonight, before):
        counts = np.bincount(np.searchsorted(cuts, values, side="right"), minlength=len(cuts) + 1)
        shares.append((counts + _SMOOTHING) / (counts.sum() + _SMOOTHING * len(counts)))
    a, b = shares
    return float(((a - b) * np.log(a / b)).sum())


def distance(tonight: Floats, before: Floats) -> float:
    """Kolmogorov and Smirnov's: the largest gap between the two distribution functions."""
    places = np.concatenate([tonight, before])
    below = (
        np.searchsorted(np.sort(values), places, side="right") / len(values)
        for values in (tonight, before)
    )
    a, b = below
    return float(np.abs(a - b).max())


def code_drift(metrics: Mapping[str, float]) -> list[CodeDrift]:
    """Shares of items with another code than the night before, from the figures of `codebook`."""
    return [
        CodeDrift(level=int(name.removeprefix(_LEVEL)), share=value)
        for name, value in sorted(metrics.items())
        if name.startswith(_LEVEL)
    ]
