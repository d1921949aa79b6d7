"""From the rows of a split and what systems say about them to the figures of a night."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from jobs.report import metrics
from jobs.report.controls import System
from jobs.report.figures import (
    CalibrationBin,
    Comparison,
    Estimate,
    HistogramBin,
    Period,
    Quality,
)

SLICES = {
    "all": "All",
    "warm": "Warm",
    "cold": "Cold",
    "cold_user": "Cold user",
    "cold_item": "Cold item",
    "warm_3": "Warm, 3+ times",
}
_MOST_DAYS = 60  # beyond it a point a day is noise, and weeks are drawn
_WEEK = 7
FEWEST_USERS = 10  # for an interval
_PERIOD_RESAMPLES = 300
_N_HISTOGRAM_BINS = 20

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ScoredRows:
    """The rows of one split, and every system's word on them, the model first.

    Attributes:
        split: its name.
        users: (n,) integers or strings.
        labels: (n,) 0 or 1.
        days: (n,) datetime64[D].
        slices: name in `SLICES` -> (n,) mask.
        systems: the model, then the controls.
    """

    split: str
    users: NDArray[np.generic]
    labels: NDArray[np.generic]
    days: NDArray[np.datetime64]
    slices: Mapping[str, Mask]
    systems: tuple[System, ...]


@dataclass(frozen=True)
class Resampling:
    """How the user bootstrap draws."""

    n: int
    seed: int


def occurrences(train_keys: NDArray[np.generic], keys: NDArray[np.generic]) -> NDArray[np.int64]:
    """How often each of `keys` (n,) occurs among the keys of the training rows."""
    if len(train_keys) == 0:
        return np.zeros(len(keys), dtype=np.int64)
    known, counts = np.unique(train_keys, return_counts=True)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, counts[place], 0)


def slice_masks(
    n_train_of_user: NDArray[np.int64], n_train_of_item: NDArray[np.int64]
) -> dict[str, Mask]:
    """Masks of `SLICES` from how often each row's user and item occur in training.

    `warm` is the flag of the published split (both occur); `warm_3` is the definition in CoLLM's
    paper (both occur three times or more).
    """
    cold_user, cold_item = n_train_of_user == 0, n_train_of_item == 0
    return {
        "all": np.ones(len(cold_user), dtype=bool),
        "warm": ~cold_user & ~cold_item,
        "cold": cold_user | cold_item,
        "cold_user": cold_user,
        "cold_item": cold_item,
        "warm_3": (n_train_of_user >= 3) & (n_train_of_item >= 3),
    }


def estimate_of(found: metrics.Interval | float | None, n_users: int) -> Estimate | None:
    """What was found as a figure; resampling a handful of users would feign certainty."""
    if found is None:
        return None
    if isinstance(found, float):
        return Estimate(value=found, low=None, high=None)
    if n_users < FEWEST_USERS:
        return Estimate(value=found.value, low=None, high=None)
    return Estimate(value=found.value, low=found.low, high=found.high)


def _quality(rows: ScoredRows, name: str, system: System, resampling: Resampling) -> Quality:
    mask = rows.slices[name]
    users, labels = rows.users[mask], rows.labels[mask]
    scores, probabilities = system.scores[mask], system.probabilities[mask]
    drawn = metrics.user_bootstrap(users, labels, scores, n=resampling.n, seed=resampling.seed)
    return Quality(
        split=rows.split,
        slice=name,
        system=system.name,
        n_rows=len(labels),
        n_users=drawn.n_users,
        n_users_counted=drawn.n_users_counted,
        positive_share=float(labels.mean()) if len(labels) else None,
        auc=estimate_of(drawn.auc, drawn.n_users),
        uauc=estimate_of(drawn.uauc, drawn.n_users_counted),
        ndcg=metrics.ndcg(users, labels, scores),
        log_loss=metrics.log_loss(labels, probabilities),
        ece=metrics.ece(labels, probabilities),
    )


def qualities(rows: ScoredRows, resampling: Resampling) -> list[Quality]:
    """Every system on every slice."""
    return [
        _quality(rows, name, system, resampling) for name in rows.slices for system in rows.systems
    ]


def comparisons(rows: ScoredRows, resampling: Resampling) -> list[Comparison]:
    """The model against each control on every slice, users resampled in pairs."""
    model, *controls = rows.systems
    found = []
    for name, mask in rows.slices.items():
        for control in controls:
            drawn = metrics.paired_user_bootstrap(
                rows.users[mask],
                rows.labels[mask],
                model.scores[mask],
                control.scores[mask],
                n=resampling.n,
                seed=resampling.seed,
            )
            found.append(
                Comparison(
                    split=rows.split,
                    slice=name,
                    system=model.name,
                    against=control.name,
                    auc=estimate_of(drawn.auc, drawn.n_users),
                    uauc=estimate_of(drawn.uauc, drawn.n_users_counted),
                )
            )
    return found


def strongest(rows: ScoredRows) -> list[System]:
    """The controls, the one with the highest AUC on these rows first."""
    controls = rows.systems[1:]
    return sorted(controls, key=lambda c: -(metrics.auc(rows.labels, c.scores) or 0.0))


def periods(rows: ScoredRows) -> Iterator[tuple[date, int, Mask]]:
    """Start, days and mask of each day or, in a split beyond 60 days, of each seven."""
    if len(rows.days) == 0:
        return
    days = rows.days.astype("datetime64[D]").astype(np.int64)
    first = int(days.min())
    n_days = 1 if days.max() - first < _MOST_DAYS else _WEEK
    number = (days - first) // n_days
    for period in np.unique(number):
        start = np.datetime64(first + int(period) * n_days, "D").astype(object)
        yield start, n_days, number == period


def auc_over_time(rows: ScoredRows, control: System | None, resampling: Resampling) -> list[Period]:
    """AUC by day, or by week when the split is longer than 60 days; the model and one control."""
    found = []
    for start, n_days, mask in periods(rows):
        labels = rows.labels[mask]
        drawn = metrics.user_bootstrap(
            rows.users[mask],
            labels,
            rows.systems[0].scores[mask],
            n=min(resampling.n, _PERIOD_RESAMPLES),
            seed=resampling.seed,
        )
        found.append(
            Period(
                split=rows.split,
                start=start,
                n_days=n_days,
                n_rows=len(labels),
                auc=estimate_of(drawn.auc, drawn.n_users),
                control_auc=metrics.auc(labels, control.scores[mask]) if control else None,
            )
        )
    return found


def calibration_bins(
    rows: ScoredRows, systems: Sequence[System], n_bins: int
) -> list[CalibrationBin]:
    """Predicted against observed, bin by bin."""
    found = []
    for system in systems:
        bins = metrics.calibration(rows.labels, system.probabilities, n_bins)
        found += [
            CalibrationBin(
                split=rows.split,
                system=system.name,
                n_rows=int(bins.n_rows[b]),
                predicted=float(bins.predicted[b]),
                observed=float(bins.observed[b]),
                low=float(bins.low[b]),
                high=float(bins.high[b]),
            )
            for b in range(len(bins.n_rows))
        ]
    return found


def score_histogram(rows: ScoredRows) -> list[HistogramBin]:
    """How the model's probabilities lie among positive and among negative rows."""
    if len(rows.labels) == 0:
        return []
    is_positive = rows.labels.astype(bool)
    edges = np.linspace(0, 1, _N_HISTOGRAM_BINS + 1)
    shares = []
    for mask in (is_positive, ~is_positive):
        counts, _ = np.histogram(rows.systems[0].probabilities[mask], edges)
        shares.append(counts / max(int(mask.sum()), 1))
    return [
        HistogramBin(
            split=rows.split,
            low=float(edges[b]),
            high=float(edges[b + 1]),
            positives=float(shares[0][b]),
            negatives=float(shares[1][b]),
        )
        for b in range(_N_HISTOGRAM_BINS)
    ]
