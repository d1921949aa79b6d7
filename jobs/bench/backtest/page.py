"""backtest.json as a page: one HTML file that needs no network and runs no script."""

from __future__ import annotations

from jobs.bench.backtest import charts
from jobs.bench.backtest.figures import BacktestFigures
from jobs.bench.backtest.scores import MODEL
from jobs.report.figures import Estimate, Outcome
from jobs.report.page import environment

_ICONS = {
    Outcome.BETTER: "\u25b2",
    Outcome.SAME: "\u25cf",
    Outcome.WORSE: "\u25bc",
    Outcome.UNKNOWN: "?",
}
_CLAIMS = {
    Outcome.BETTER: "beats the strongest control",
    Outcome.SAME: "cannot be told apart from the strongest control",
    Outcome.WORSE: "is worse than the strongest control",
}


def _against_strongest(figures: BacktestFigures) -> Estimate | None:
    """The difference of AUC to the strongest control, if it has an interval."""
    found = figures.compare(figures.systems[1].name) if len(figures.systems) > 1 else None
    estimate = found.auc if found else None
    return estimate if estimate and estimate.low is not None else None


def outcome(figures: BacktestFigures) -> Outcome:
    """Where the paired interval of the difference of AUC to the strongest control lies."""
    difference = _against_strongest(figures)
    if difference is None or difference.low is None or difference.high is None:
        return Outcome.UNKNOWN
    if difference.low > 0:
        return Outcome.BETTER
    return Outcome.WORSE if difference.high < 0 else Outcome.SAME


def sentence_of(figures: BacktestFigures) -> str:
    """The model against the strongest control, in words."""
    difference = _against_strongest(figures)
    if difference is None:
        return "No verdict: too few rows or users, or rows of one class only."
    control = figures.systems[1]
    model_auc, control_auc = (
        found.auc.value
        for found in (figures.find(MODEL), figures.find(control.name))
        if found and found.auc
    )
    sentence = (
        f"Over {figures.n_rows:,} events the nightly version {_CLAIMS[outcome(figures)]}, "
        f"{control.title.lower()}: AUC {model_auc:.3f} against {control_auc:.3f}, a difference of "
        f"{difference.value:+.3f} (95 % interval {difference.low:+.3f} to {difference.high:+.3f})."
    )
    return sentence.replace("-0.", "\u22120.")


def render(figures: BacktestFigures) -> str:
    """The page; the same figures give the same bytes."""
    found = outcome(figures)
    return (
        environment("jobs.bench.backtest")
        .get_template("backtest.html.j2")
        .render(
            figures=figures,
            tone=found.value,
            icon=_ICONS[found],
            sentence=sentence_of(figures),
            model=figures.find(MODEL),
            control=figures.systems[1] if len(figures.systems) > 1 else None,
            charts=[
                {"wide": make(figures, is_wide=True), "narrow": make(figures, is_wide=False)}
                for make in (charts.by_period, charts.so_far)
            ],
        )
    )
