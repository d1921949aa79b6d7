"""How good the model and the strongest control were day by day, or week by week."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from jobs.report import metrics
from jobs.report.controls import System
from jobs.report.evaluate import Mask, Resampling, ScoredRows, estimate_of, periods
from jobs.report.night_figures import NightPeriod

_RESAMPLES = 300  # a point of a curve needs no third digit


def over_time(
    rows: ScoredRows, systems: Sequence[System], resampling: Resampling
) -> list[NightPeriod]:
    """Figures by day, or by week when the split is longer than 60 days.

    Args:
        rows: of one split.
        systems: the model first; it alone gets intervals.
        resampling: of the users, 300 times at most.
    """
    n = min(resampling.n, _RESAMPLES)
    return [
        _period(rows, start, n_days, mask, system, Resampling(0 if number else n, resampling.seed))
        for start, n_days, mask in periods(rows)
        for number, system in enumerate(systems)
    ]


def _period(
    rows: ScoredRows,
    start: date,
    n_days: int,
    mask: Mask,
    system: System,
    resampling: Resampling,
) -> NightPeriod:
    users, labels = rows.users[mask], rows.labels[mask]
    scores, probabilities = system.scores[mask], system.probabilities[mask]
    if resampling.n:
        drawn = metrics.user_bootstrap(users, labels, scores, n=resampling.n, seed=resampling.seed)
        auc = estimate_of(drawn.auc, drawn.n_users)
        uauc = estimate_of(drawn.uauc, drawn.n_users_counted)
    else:
        auc = estimate_of(metrics.auc(labels, scores), 0)
        uauc = estimate_of(metrics.uauc(users, labels, scores)[0], 0)
    return NightPeriod(
        split=rows.split,
        start=start,
        n_days=n_days,
        n_rows=len(labels),
        system=system.name,
        auc=auc,
        uauc=uauc,
        log_loss=metrics.log_loss(labels, probabilities),
        ece=metrics.ece(labels, probabilities),
    )
