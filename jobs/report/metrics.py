"""How good scores are: AUC, UAUC, NDCG, log loss, calibration, and their user bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metric = Callable[[Floats], Floats]  # user weights (n_users, b) -> values (b,)

_PROBABILITY_FLOOR = 1e-7  # float32 probabilities round to 0 and 1 beyond this
_CELLS = 500_000  # rows x resamples at once: what stays in a core's cache
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Interval:
    """An estimate on the data at hand, and the 2.5 and 97.5 percentiles over resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class UserBootstrap:
    """Intervals from resampling users; None where a metric is not defined on the data."""

    auc: Interval | None
    uauc: Interval | None
    n_users: int
    n_users_counted: int  # with both classes: those that UAUC averages
    n_resamples: int


@dataclass(frozen=True)
class Calibration:
    """Rows in bins of equal width by predicted probability; empty bins are left out.

    Attributes:
        n_rows: (n_filled,) rows in the bin.
        predicted: (n_filled,) mean predicted probability.
        observed: (n_filled,) share of positive labels.
        low: (n_filled,) lower end of the 95 % Wilson interval of `observed`.
        high: (n_filled,) upper end of it.
    """

    n_rows: Ints
    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats


def _labels_and_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    """Both as flat arrays of one length, after labels were seen to be 0 or 1, scores finite."""
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"labels have shape {y.shape}, scores {s.shape}")
    if not np.isfinite(s).all():
        raise ValueError(f"score {int(np.argmin(np.isfinite(s)))} is not finite")
    if not np.isin(y, (0, 1)).all():
        raise ValueError(f"labels are {np.unique(y)[:5].tolist()}, expected 0 and 1")
    return y.astype(bool), s


def _codes(users: ArrayLike, n_rows: int) -> tuple[Ints, int]:
    """Users as dense numbers 0..n-1, whatever their type, and n."""
    values = np.asarray(users)
    if values.shape != (n_rows,):
        raise ValueError(f"users have shape {values.shape} for {n_rows} rows")
    found, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), len(found)


def _tie_ends(*sorted_keys: NDArray[Any]) -> tuple[Ints, Ints]:
    """For each place in sorted order, the half-open range of places that tie with it."""
    n_rows = len(sorted_keys[0])
    is_new = np.zeros(n_rows, dtype=bool)
    is_new[:1] = True
    for key in sorted_keys:
        is_new[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(is_new)
    run = np.cumsum(is_new) - 1
    return starts[run], np.append(starts[1:], n_rows)[run]


def auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Probability that a positive row scores above a negative one; ties count one half.

    Equal to sklearn's roc_auc_score. From the ranks R (ties averaged) of the positives:
    (sum R - P (P + 1) / 2) / (P N), Mann and Whitney 1947.

    Args:
        labels: (n,) 0 or 1.
        scores: (n,) finite; larger means more likely positive.

    Returns:
        None when the rows hold fewer than two classes, for there AUC is not defined.

    Raises:
        ValueError: shapes differ, a label is neither 0 nor 1, or a score is not finite.
    """
    y, s = _labels_and_scores(labels, scores)
    n_positives = int(y.sum())
    n_pairs = n_positives * (len(y) - n_positives)
    if n_pairs == 0:
        return None
    order = np.argsort(s, kind="stable")
    first, end = _tie_ends(s[order])
    ranks = (first + end + 1) / 2
    return float((ranks[y[order]].sum() - n_positives * (n_positives + 1) / 2) / n_pairs)


def auc_by_user(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> tuple[Ints, Floats]:
    """AUC of each user who has both classes.

    Args:
        users: (n,) integers or strings.
        labels: (n,) 0 or 1.
        scores: (n,) finite.

    Returns:
        (m,) places of those users among the sorted distinct users, and (m,) their AUC.
    """
    y, s = _labels_and_scores(labels, scores)
    codes, n_users = _codes(users, len(y))
    order = np.lexsort((s, codes))
    codes, y = codes[order], y[order]
    first, end = _tie_ends(codes, s[order])
    n_rows = np.bincount(codes, minlength=n_users)
    offset = np.cumsum(n_rows) - n_rows
    ranks = (first + end + 1) / 2 - offset[codes]
    n_positives = np.bincount(codes, weights=y, minlength=n_users)
    rank_sum = np.bincount(codes, weights=ranks * y, minlength=n_users)
    n_pairs = n_positives * (n_rows - n_positives)
    counted = np.flatnonzero(n_pairs)
    wins = rank_sum - n_positives * (n_positives + 1) / 2
    return counted, wins[counted] / n_pairs[counted]


def uauc(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> tuple[float | None, int]:
    """Unweighted mean of the AUC inside each user.

    Users with one row or one class are left out, as the published tables do.

    Returns:
        The mean, None when no user counts, and the number of users that count.
    """
    _, values = auc_by_user(users, labels, scores)
    return (float(values.mean()) if len(values) else None), len(values)


def ndcg(users: ArrayLike, labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Mean over users of NDCG on the user's whole list, without cut-off.

    DCG = sum over positives of 1 / log2(rank + 1); the ideal list has the positives first. Equal
    scores keep the order of the rows. Users without both classes are left out, as in `uauc`.
    """
    y, s = _labels_and_scores(labels, scores)
    codes, n_users = _codes(users, len(y))
    order = np.lexsort((-s, codes))
    codes, y = codes[order], y[order]
    n_rows = np.bincount(codes, minlength=n_users)
    place = np.arange(len(y)) - (np.cumsum(n_rows) - n_rows)[codes]
    gain = np.bincount(codes, weights=y / np.log2(place + 2), minlength=n_users)
    ideal_gain = np.concatenate(
        [[0.0], np.cumsum(1 / np.log2(np.arange(n_rows.max(initial=0)) + 2))]
    )
    n_positives = np.bincount(codes, weights=y, minlength=n_users).astype(np.int64)
    counted = (n_positives > 0) & (n_positives < n_rows)
    if not counted.any():
        return None
    return float((gain[counted] / ideal_gain[n_positives[counted]]).mean())


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float | None:
    """Mean negative log likelihood in nats; None without rows.

    Probabilities are held inside [1e-7, 1 - 1e-7], about what float32 can tell from 0 and 1.
    """
    y, p = _labels_and_scores(labels, probabilities)
    if len(y) == 0:
        return None
    p = np.clip(p, _PROBABILITY_FLOOR, 1 - _PROBABILITY_FLOOR)
    return float(-np.where(y, np.log(p), np.log1p(-p)).mean())


def calibration(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 10) -> Calibration:
    """Predicted against observed, in `n_bins` bins of equal width over [0, 1]."""
    y, p = _labels_and_scores(labels, probabilities)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"probabilities range from {p.min()} to {p.max()}")
    bins = np.minimum((p * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    filled = np.flatnonzero(counts)
    n_rows = counts[filled]
    predicted = np.bincount(bins, weights=p, minlength=n_bins)[filled] / n_rows
    observed = np.bincount(bins, weights=y, minlength=n_bins)[filled] / n_rows
    centre = (observed + _Z95**2 / (2 * n_rows)) / (1 + _Z95**2 / n_rows)
    spread = np.sqrt(observed * (1 - observed) / n_rows + _Z95**2 / (4 * n_rows**2))
    half = _Z95 * spread / (1 + _Z95**2 / n_rows)
    # At 0 and 1 the ends touch the observed share, up to rounding.
    low = np.clip(centre - half, 0, observed)
    high = np.clip(centre + half, observed, 1)
    return Calibration(n_rows, predicted, observed, low, high)


def ece(labels: ArrayLike, probabilities: ArrayLike, n_bins: int = 10) -> float | None:
    """Expected calibration error: mean |observed - predicted| over bins, weighted by rows.

    Guo et al. 2017, equation 3, with bins of equal width; None without rows.
    """
    bins = calibration(labels, probabilities, n_bins)
    if len(bins.n_rows) == 0:
        return None
    gap = np.abs(bins.observed - bins.predicted)
    return float((bins.n_rows * gap).sum() / bins.n_rows.sum())


def user_bootstrap(
    users: ArrayLike, labels: ArrayLike, scores: ArrayLike, *, n: int = 1000, seed: int = 0
) -> UserBootstrap:
    """AUC and UAUC with 95 % intervals over `n` resamples of the users.

    Rows of one user are not independent, so whole users are drawn, with replacement; a user drawn
    twice counts twice. Resamples in which a metric is undefined are left out of its interval.
    """
    return _bootstrap(users, labels, (scores,), n, seed)


def paired_user_bootstrap(
    users: ArrayLike,
    labels: ArrayLike,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    n: int = 1000,
    seed: int = 0,
) -> UserBootstrap:
    """Differences a - b of AUC and of UAUC, with 95 % intervals.

    Both scores meet the same resamples, so what they share cancels out: an interval that excludes
    zero says that one of them is better.
    """
    return _bootstrap(users, labels, (scores_a, scores_b), n, seed)


def _bootstrap(
    users: ArrayLike, labels: ArrayLike, systems: Sequence[ArrayLike], n: int, seed: int
) -> UserBootstrap:
    y = np.asarray(labels)
    codes, n_users = _codes(users, len(y))
    metrics = (
        _difference([_weighted_auc(codes, y, scores) for scores in systems]),
        _difference([_weighted_uauc(codes, y, scores) for scores in systems]),
    )
    drawn = [
        [metric(weights) for metric in metrics] for weights in _resamples(n_users, len(y), n, seed)
    ]
    auc_interval, uauc_interval = (
        _interval(float(metric(np.ones((n_users, 1)))[0]), [batch[place] for batch in drawn])
        for place, metric in enumerate(metrics)
    )
    n_counted = len(auc_by_user(codes, y, systems[0])[0])
    return UserBootstrap(auc_interval, uauc_interval, n_users, n_counted, n)


def _difference(metrics: Sequence[Metric]) -> Metric:
    """The only metric, or the first minus the second."""
    if len(metrics) == 1:
        return metrics[0]
    return lambda weights: metrics[0](weights) - metrics[1](weights)


def _interval(estimate: float, batches: Sequence[Floats]) -> Interval | None:
    if np.isnan(estimate):
        return None
    drawn = np.concatenate([*batches, []])
    drawn = drawn[~np.isnan(drawn)]
    if len(drawn) == 0:
        return None
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Interval(estimate, float(low), float(high))


def _resamples(n_users: int, n_rows: int, n: int, seed: int) -> Iterator[Floats]:
    """How often each user is drawn: batches of (n_users, b) counts, `n` columns in all."""
    random = np.random.default_rng(seed)
    size = max(1, _CELLS // max(n_rows, 1))
    for start in range(0, n if n_users else 0, size):
        b = min(size, n - start)
        drawn = random.integers(0, n_users, (b, n_users)) * b + np.arange(b)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n_users * b).reshape(n_users, b).astype(float)


def _weighted_auc(codes: Ints, labels: ArrayLike, scores: ArrayLike) -> Metric:
    """AUC as a function of user weights (n_users, b) -> (b,); NaN where one class has no weight.

    A positive wins the weight of the negatives below it, and half of those that tie with it.
    """
    y, s = _labels_and_scores(labels, scores)
    order = np.argsort(s, kind="stable")
    first, end = _tie_ends(s[order])
    codes, y = codes[order], y[order]
    # Negatives before a place in sorted order: read off one cumulative sum over negatives alone.
    negatives_before = np.concatenate([[0], np.cumsum(~y)])
    below, upto = negatives_before[first[y]], negatives_before[end[y]]
    positive_users, negative_users = codes[y], codes[~y]

    def metric(weights: Floats) -> Floats:
        negative = np.zeros((len(negative_users) + 1, weights.shape[1]))
        np.cumsum(weights[negative_users], axis=0, out=negative[1:])
        positive = weights[positive_users]
        beaten = negative[below]
        beaten += negative[upto]
        wins = np.einsum("ib,ib->b", positive, beaten) / 2
        return _divide(wins, positive.sum(axis=0) * negative[-1])

    return metric


def _weighted_uauc(codes: Ints, labels: ArrayLike, scores: ArrayLike) -> Metric:
    """UAUC as a function of user weights (n_users, b) -> (b,)."""
    counted, values = auc_by_user(codes, labels, scores)

    def metric(weights: Floats) -> Floats:
        weights = weights[counted]
        return _divide(values @ weights, weights.sum(axis=0))

    return metric


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)
