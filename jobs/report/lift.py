"""Lift: how many positives stand among the rows with the highest scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jobs.report.controls import Floats, System
from jobs.report.evaluate import ScoredRows
from jobs.report.night_figures import LiftTenth

_TENTHS = 10


def positives_of_tenths(labels: NDArray[np.generic], scores: Floats) -> Floats:
    """(10,) positives in each tenth of the rows, the highest scores first.

    Rows that tie share their positives evenly, and a row on a border belongs to both sides in
    parts: the order of equal scores cannot change the figure.

    Args:
        labels: (n,) 0 or 1, n > 0.
        scores: (n,) finite.
    """
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    positives = np.bincount(group, weights=labels.astype(np.float64))
    # The share of rows before each group against the positives before it: straight inside a group.
    rows_before = np.concatenate([[0], np.cumsum(sizes)])
    positives_before = np.concatenate([[0.0], np.cumsum(positives)])
    borders = np.linspace(0, len(labels), _TENTHS + 1)
    return np.diff(np.interp(borders, rows_before, positives_before))


def lift_tenths(rows: ScoredRows, systems: Sequence[System]) -> list[LiftTenth]:
    """The tenths of each system; none where a split holds no positive or fewer than ten rows."""
    n_rows, n_positives = len(rows.labels), int(rows.labels.sum())
    if n_rows < _TENTHS or n_positives == 0:
        return []
    found = []
    for system in systems:
        positives = positives_of_tenths(rows.labels, system.scores)
        captured = np.cumsum(positives) / n_positives
        shares = positives * _TENTHS / n_rows
        found += [
            LiftTenth(
                split=rows.split,
                system=system.name,
                tenth=place + 1,
                n_rows=n_rows / _TENTHS,
                positive_share=float(shares[place]),
                lift=float(shares[place] * n_rows / n_positives),
                captured=float(captured[place]),
            )
            for place in range(_TENTHS)
        ]
    return found
