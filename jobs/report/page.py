"""metrics.json as a page: one HTML file that needs no network and runs no script."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from jobs.report import charts, score_charts
from jobs.report.attention_chart import NARROW, WIDE, attention_chart
from jobs.report.figures import Estimate, Outcome, Verdict
from jobs.report.map_chart import map_chart
from jobs.report.night_figures import NightMetrics
from jobs.report.time_chart import FIGURES, over_time
from jobs.report.verdicts import against_model

_MINUS, _NONE = "\u2212", Markup('<span title="none">\u2013</span>')
ICONS = {
    Outcome.BETTER: "\u25b2",
    Outcome.SAME: "\u25cf",
    Outcome.WORSE: "\u25bc",
    Outcome.UNKNOWN: "?",
}
_CLAIMS = {
    Outcome.BETTER: "Better than",
    Outcome.SAME: "No better and no worse than",
    Outcome.WORSE: "Worse than",
}
_ISO_DAY = re.compile(r"\b\d{4}-\d\d-\d\d\b")
_MANY = 100  # from here on a figure without a unit of its own is shown without decimals


# -- figures in words ----------------------------------------------------------------------------


def _number(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def _signed(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{value:+.{digits}f}".replace("-", _MINUS)


def _short(value: float | None) -> str:
    """Whole numbers without decimals, small ones with three significant digits."""
    if value is None:
        return _NONE
    if value == int(value) or abs(value) >= _MANY:
        return f"{value:,.0f}".replace("-", _MINUS)
    return f"{value:.3g}".replace("-", _MINUS)


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}".replace("%", "\u202f%")


def _count(value: int | None) -> str:
    return _NONE if value is None else f"{value:,}"


def _memory(n_bytes: int | None) -> str:
    """In mebibytes, from one gibibyte on in gibibytes."""
    if n_bytes is None:
        return _NONE
    mebibytes = n_bytes / 2**20
    return f"{mebibytes:.0f}\u202fMiB" if mebibytes < 1024 else f"{mebibytes / 1024:.1f}\u202fGiB"


def _day(value: date | None) -> str:
    return _NONE if value is None else value.isoformat()


def _interval(estimate: Estimate | None, *, is_difference: bool = False, digits: int = 3) -> str:
    if estimate is None or estimate.low is None or estimate.low == estimate.high:
        return ""
    show = _signed if is_difference else _number
    return f"{show(estimate.low, digits)} to {show(estimate.high, digits)}"


def _whole_days(text: str) -> Markup:
    """A sentence in which no line breaks inside a day."""
    return Markup(_ISO_DAY.sub(r'<span class="whole">\g<0></span>', str(escape(text))))


def environment(*packages: str) -> Environment:
    """Templates of `packages`, those of this one (styles), and filters for figures."""
    loaders = [PackageLoader(name, "templates") for name in (*packages, "jobs.report")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,  # titles and raw rows are other people's text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "short": _short,
        "share": _share,
        "count": _count,
        "memory": _memory,
        "day": _day,
        "interval": _interval,
        "whole_days": _whole_days,
    }
    return environment


# -- the page ------------------------------------------------------------------------------------


def headline(night: NightMetrics) -> str:
    """The verdict in a few words."""
    outcome, previous = night.verdict.outcome, night.previous
    if outcome is Outcome.UNKNOWN:
        return "No verdict on tonight's version"
    if previous is None:
        return f"{_CLAIMS[outcome]} the strongest control; there is no night before"
    if previous.day == night.day - timedelta(days=1):
        return f"{_CLAIMS[outcome]} last night's version"
    when = f" of {previous.day}" if previous.day else ""
    return f"{_CLAIMS[outcome]} the version before, {previous.version}{when}"


def render(night: NightMetrics) -> str:
    """The page; the same figures give the same bytes."""
    control = night.control
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            night=night,
            headline=headline(night),
            icons={outcome.value: icon for outcome, icon in ICONS.items()},
            model=night.systems[0],
            control=control,
            own=night.find("test", "all", night.model),
            beside=night.find("test", "all", control.name) if control else None,
            against=night.compare("test", "all", control.name) if control else None,
            sizes={size.split: size for size in night.data.splits},
            others=beside_other_models(night),
            failed=[gate for gate in night.gates if not gate.passed],
            charts=_charts(night),
        )
    )


def beside_other_models(night: NightMetrics) -> list[Verdict]:
    """The model against every other model of tonight's version, on all test rows."""
    model, *rest = (system for system in night.systems if not system.is_control)
    found = ((other, night.compare("test", "all", other.name)) for other in rest)
    return [
        against_model(model.title, other.title, comparison.auc)
        for other, comparison in found
        if comparison
    ]


def _charts(night: NightMetrics) -> dict[str, Any]:
    """Every picture of the page; None where there is nothing to draw."""
    attention = pa.Table.from_pylist([each.model_dump() for each in night.attention])
    return {
        "systems": [charts.intervals(night, metric) for metric in ("auc", "uauc")],
        "slices": [score_charts.slice_differences(night, metric) for metric in ("auc", "uauc")],
        "time": [over_time(night, figure) for figure in FIGURES],
        "calibration": charts.calibration(night, "test"),
        "histogram": charts.histogram(night, "test"),
        "lift": score_charts.lift(night, "test"),
        "gain": score_charts.gain(night, "test"),
        "drift": score_charts.score_drift(night),
        "attention": {
            width: attention_chart(attention, size) if night.attention else None
            for width, size in (("wide", WIDE), ("narrow", NARROW))
        },
        "map": {
            width: map_chart(night.map, is_wide=width == "wide") if night.map else None
            for width in ("wide", "narrow")
        },
    }
