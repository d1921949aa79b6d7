"""Better, same or worse, in one sentence: against the version before, and against a control."""

from __future__ import annotations

from collections.abc import Sequence

from jobs.report.controls import System
from jobs.report.evaluate import FEWEST_USERS
from jobs.report.figures import Comparison, Estimate, Outcome, Quality, Verdict
from jobs.report.night_figures import Previous

_CLAIMS = {
    Outcome.BETTER: "is better than",
    Outcome.SAME: "cannot be told apart from",
    Outcome.WORSE: "is worse than",
}


def outcome_of(difference: Estimate | None) -> Outcome:
    """Where the 95 % interval of a difference lies; unknown where there is none."""
    if difference is None or difference.low is None or difference.high is None:
        return Outcome.UNKNOWN
    if difference.low > 0:
        return Outcome.BETTER
    return Outcome.WORSE if difference.high < 0 else Outcome.SAME


def against_control(
    title: str, control: System | None, comparison: Comparison | None, values: Sequence[Quality]
) -> Verdict:
    """The model against the strongest control on test.

    Args:
        title: the model, as a reader knows it.
        control: the strongest one.
        comparison: the model against it on all test rows.
        values: the model's figures and the control's, on all test rows.
    """
    if control is None or comparison is None or comparison.auc is None:
        return _none(title, "the test period holds no rows, or rows of one class only")
    outcome = outcome_of(comparison.auc)
    if outcome is Outcome.UNKNOWN:
        return _none(title, f"the test period holds fewer than {FEWEST_USERS} users")
    model_auc, control_auc = (quality.auc.value for quality in values if quality.auc)
    sentence = (
        f"{title} {_CLAIMS[outcome]} the strongest trivial control on test, "
        f"{control.title.lower()}: AUC {model_auc:.3f} against {control_auc:.3f}, "
        f"{_difference(comparison.auc)}."
    )
    return Verdict(outcome=outcome, against=control.name, sentence=_minus(sentence))


def against_previous(title: str, previous: Previous) -> Verdict:
    """Tonight's version against the one that it follows."""
    name = f"version {previous.version}"
    other = name + (f" of {previous.day}" if previous.day else "")
    outcome = outcome_of(previous.auc)
    if previous.auc is None or outcome is Outcome.UNKNOWN:
        sentence = f"{title} follows {other}, and the two cannot be compared: {previous.says}."
        return Verdict(outcome=Outcome.UNKNOWN, against=name, sentence=sentence)
    figures = ""
    if previous.tonight and previous.before:
        figures = f"AUC {previous.tonight.auc:.3f} against {previous.before.auc:.3f}, "
    sentence = (
        f"{title} {_CLAIMS[outcome]} {other}: {figures}{_difference(previous.auc, digits=4)}, "
        f"on {previous.says}."
    )
    return Verdict(outcome=outcome, against=name, sentence=_minus(sentence))


def against_model(title: str, other: str, difference: Estimate | None) -> Verdict:
    """One model of tonight's version against another one, on all test rows."""
    outcome = outcome_of(difference)
    if difference is None or outcome is Outcome.UNKNOWN:
        return Verdict(
            outcome=outcome, against=other, sentence=f"{title} and {other} cannot be compared."
        )
    sentence = f"{title} {_CLAIMS[outcome]} {other} alone: {_difference(difference)} of AUC."
    return Verdict(outcome=outcome, against=other, sentence=_minus(sentence))


def _difference(found: Estimate, digits: int = 3) -> str:
    return (
        f"a difference of {found.value:+.{digits}f} "
        f"(95 % interval {found.low:+.{digits}f} to {found.high:+.{digits}f})"
    )


def _minus(sentence: str) -> str:
    return sentence.replace("-0.", "\u22120.")


def _none(title: str, reason: str) -> Verdict:
    sentence = f"No verdict on {title}: {reason}, which is too little to judge by."
    return Verdict(outcome=Outcome.UNKNOWN, against=None, sentence=sentence)
