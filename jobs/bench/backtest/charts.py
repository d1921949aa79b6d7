"""The charts of a backtest: AUC period by period, and of everything up to each day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from jobs.bench.backtest.figures import BacktestFigures
from jobs.bench.backtest.scores import MODEL
from jobs.report.charts import Chart, svg_of, values_of

_WIDE, _NARROW, _HEIGHT = 860, 340, 240
_MODEL, _CONTROL, _MUTED = "var(--model)", "var(--control)", "var(--muted)"
_SETTLED = 0.1  # of all rows: before so many, the AUC so far is noise that hides the rest


def by_period(figures: BacktestFigures, *, is_wide: bool) -> Chart | None:
    """AUC by day or week: the nightly version with its interval, the strongest control dashed."""
    rows = [
        {"start": str(p.start), "control": p.control_auc, **p.auc.model_dump()}
        for p in figures.periods
        if p.auc is not None
    ]
    if len(rows) < 2:
        return None
    unit = "day" if figures.periods[0].n_days == 1 else "week"
    base = _base(rows, is_wide=is_wide)
    band = (
        base.transform_filter("isValid(datum.low)")
        .mark_area(color=_MODEL, opacity=0.18)
        .encode(y=_auc_axis("low"), y2="high:Q")
    )
    lowest, highest = (pick(rows, key=lambda r: r["value"]) for pick in (min, max))
    told = [r for r in rows if r["control"] is not None]
    wins = sum(r["value"] > r["control"] for r in told)
    said = f"Above the strongest control in {wins} of {len(told)} {unit}s."
    return _chart(
        band + _lines(base, has_dots=True),
        f"by-period-{'wide' if is_wide else 'narrow'}",
        f"AUC by {unit} over {len(rows)} {unit}s: lowest {lowest['value']:.2f} from "
        f"{lowest['start']}, highest {highest['value']:.2f} from {highest['start']}. {said}",
        f"AUC by {unit}, the 95 % interval over users shaded. {said}",
        is_wide=is_wide,
    )


def so_far(figures: BacktestFigures, *, is_wide: bool) -> Chart | None:
    """AUC of all rows from the first day up to each day, once a tenth of them has come."""
    if len(figures.systems) < 2:
        return None
    control = figures.systems[1].name
    n_rows, rows = 0, []
    for day in figures.days:
        n_rows += day.n_rows
        model, other = (day.auc_so_far[name] for name in (MODEL, control))
        if model is not None and n_rows >= _SETTLED * figures.n_rows:
            rows.append({"start": str(day.day), "value": model, "control": other})
    if len(rows) < 2:
        return None
    first, last = rows[0], rows[-1]
    return _chart(
        _lines(_base(rows, is_wide=is_wide), has_dots=False),
        f"so-far-{'wide' if is_wide else 'narrow'}",
        f"AUC of all rows up to each day: {first['value']:.3f} on {first['start']}, "
        f"{last['value']:.3f} on {last['start']}, when the strongest control has "
        f"{last['control']:.3f}.",
        "AUC of all rows from the first day up to each day, from the day on when a tenth of all "
        "rows had come.",
        is_wide=is_wide,
    )


def _base(rows: Sequence[dict[str, Any]], *, is_wide: bool) -> alt.Chart:
    is_long = rows[0]["start"][:7] < rows[-1]["start"][:7] and len(rows) > 20
    return alt.Chart(values_of(rows)).encode(
        x=alt.X("start:T", title=None, scale=alt.Scale(type="utc")).axis(
            tickCount=min(8 if is_wide else 4, len(rows) - 1),
            format="%b %Y" if is_long else "%-d %b",
            labelOverlap="greedy",
            labelFlush=False,
        )
    )


def _auc_axis(field: str, digits: int = 2) -> alt.Y:
    axis = alt.Axis(tickCount=5, format=f".{digits}f")
    return alt.Y(f"{field}:Q", title="AUC", scale=alt.Scale(zero=False, nice=True), axis=axis)


def _lines(base: alt.Chart, *, has_dots: bool) -> alt.LayerChart:
    dots = alt.OverlayMarkDef(color=_MODEL, size=24, filled=True, opacity=1) if has_dots else False
    control = base.transform_filter("isValid(datum.control)").mark_line(
        color=_CONTROL, strokeWidth=2, strokeDash=[5, 3]
    )
    model = base.mark_line(color=_MODEL, strokeWidth=2, point=dots)
    digits = 2 if has_dots else 3  # the curve of all rows so far moves little
    control, model = (
        line.encode(y=_auc_axis(field, digits))
        for line, field in ((control, "control"), (model, "value"))
    )
    return control + model


def _chart(
    layers: alt.LayerChart, name: str, alternative: str, caption: str, *, is_wide: bool
) -> Chart:
    sized = layers.properties(width=_WIDE if is_wide else _NARROW, height=_HEIGHT)
    return Chart(svg_of(sized, name, alternative), caption)
