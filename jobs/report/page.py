"""metrics.json as a page: one HTML file that needs no network and runs no script."""

from __future__ import annotations

from datetime import date

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from jobs.report import charts
from jobs.report.figures import Estimate, NightMetrics, Outcome

_MINUS, _NONE = "\u2212", Markup('<span title="not defined on these rows">\u2013</span>')
_HEADLINES = {
    Outcome.BETTER: ("\u25b2", "Better than the strongest control"),
    Outcome.SAME: ("\u25cf", "No better and no worse than the strongest control"),
    Outcome.WORSE: ("\u25bc", "Worse than the strongest control"),
    Outcome.UNKNOWN: ("?", "No verdict"),
}


def _number(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{value:.{digits}f}".replace("-", _MINUS)


def _signed(value: float | None) -> str:
    return _NONE if value is None else f"{value:+.3f}".replace("-", _MINUS)


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}".replace("%", "\u202f%")


def _count(value: int) -> str:
    return f"{value:,}"


def _day(value: date | None) -> str:
    return _NONE if value is None else value.isoformat()


def _interval(estimate: Estimate | None, *, is_difference: bool = False) -> str:
    if estimate is None or estimate.low is None or estimate.low == estimate.high:
        return ""
    show = _signed if is_difference else _number
    return f"{show(estimate.low)} to {show(estimate.high)}"


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
        "share": _share,
        "count": _count,
        "day": _day,
        "interval": _interval,
    }
    return environment


def render(night: NightMetrics) -> str:
    """The page; the same figures give the same bytes."""
    icon, headline = _HEADLINES[night.verdict.outcome]
    controls = {system.name: system for system in night.systems if system.is_control}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            night=night,
            icon=icon,
            headline=headline,
            model=night.systems[0],
            control=controls.get(night.verdict.against or "")
            or next(iter(controls.values()), None),
            sizes={size.split: size for size in night.data.splits},
            interval_charts=[charts.intervals(night, metric) for metric in ("auc", "uauc")],
            calibration_chart=charts.calibration(night, "test"),
            histogram_chart=charts.histogram(night, "test"),
            time_charts={
                "wide": charts.over_time(night, is_wide=True),
                "narrow": charts.over_time(night, is_wide=False),
            },
        )
    )
