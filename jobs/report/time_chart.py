"""AUC, UAUC, log loss and ECE day by day: the model, with the strongest control beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from jobs.report.charts import CONTROL, HEIGHT, MODEL, MUTED, WIDTH, Chart, svg_of, values_of
from jobs.report.night_figures import NightMetrics, NightPeriod

FIGURES = {"auc": "AUC", "uauc": "UAUC", "log_loss": "Log loss", "ece": "ECE"}
_LOWER_IS_BETTER = ("log_loss", "ece")


def over_time(night: NightMetrics, figure: str) -> Chart | None:
    """One figure by day or week; None where fewer than two of them have it.

    Args:
        night: the figures.
        figure: name in `FIGURES`.
    """
    rows = _rows(night.periods, figure, night.model)
    if len(rows) < 2:
        return None
    is_daily = night.periods[0].n_days == 1
    dates = alt.X("start:T", title=None, scale=alt.Scale(type="utc")).axis(
        tickCount=4, format="%-d %b" if is_daily else "%b %Y", labelOverlap="greedy"
    )
    y = alt.Scale(zero=False, nice=True)
    base = alt.Chart(values_of(rows)).encode(x=dates, detail="split:N")
    band = base.transform_filter("isValid(datum.low)").mark_area(color=MODEL, opacity=0.18)
    axis = alt.Axis(tickCount=5, format=".2f", title=FIGURES[figure])
    band = band.encode(y=alt.Y("low:Q", scale=y, axis=axis), y2="high:Q")
    control = base.transform_filter("isValid(datum.control)").mark_line(
        color=CONTROL, strokeWidth=2, strokeDash=[5, 3]
    )
    control = control.encode(y=alt.Y("control:Q", scale=y, axis=axis))
    dots = alt.OverlayMarkDef(color=MODEL, size=24, filled=True, opacity=1)
    model = base.mark_line(color=MODEL, strokeWidth=2, point=dots)
    model = model.encode(y=alt.Y("value:Q", scale=y, axis=axis))
    chart = alt.layer(band, control, model, *_borders(rows)).properties(
        width=WIDTH - 60, height=HEIGHT - 40
    )
    unit = "day" if is_daily else "week"
    return Chart(
        svg_of(chart, f"over-time-{figure.replace('_', '-')}", _said(rows, figure, unit)),
        _caption(rows, figure, unit),
    )


def _rows(periods: Sequence[NightPeriod], figure: str, model: str) -> list[dict[str, Any]]:
    """The model's periods that have the figure, each with the control's."""
    beside = {(p.split, p.start): _value(p, figure) for p in periods if p.system != model}
    found = []
    for period in (p for p in periods if p.system == model):
        value = _value(period, figure)
        if value is None:
            continue
        estimate = getattr(period, figure) if figure in ("auc", "uauc") else None
        found.append(
            {
                "start": str(period.start),
                "split": period.split,
                "value": value,
                "low": estimate.low if estimate else None,
                "high": estimate.high if estimate else None,
                "control": beside.get((period.split, period.start)),
            }
        )
    return found


def _value(period: NightPeriod, figure: str) -> float | None:
    found = getattr(period, figure)
    return found.value if hasattr(found, "value") else found


def _borders(rows: Sequence[dict[str, Any]]) -> tuple[alt.Chart, alt.Chart]:
    """Where each split begins, and its name."""
    starts: dict[str, str] = {}
    for row in rows:
        starts.setdefault(row["split"], row["start"])
    marks = alt.Chart(
        values_of([{"start": start, "text": split} for split, start in starts.items()])
    ).encode(x=alt.X("start:T", scale=alt.Scale(type="utc")))
    names = marks.mark_text(align="left", baseline="bottom", dx=3, dy=-3, fontSize=12, color=MUTED)
    return (
        marks.mark_rule(color=MUTED, strokeDash=[2, 3]),
        names.encode(text="text:N", y=alt.value(0)),
    )


def _wins(rows: Sequence[dict[str, Any]], figure: str) -> str:
    both = [row for row in rows if row["control"] is not None]
    sign = -1 if figure in _LOWER_IS_BETTER else 1
    n = sum(sign * (row["value"] - row["control"]) > 0 for row in both)
    return f"{n} of {len(both)}"


def _said(rows: Sequence[dict[str, Any]], figure: str, unit: str) -> str:
    lowest, highest = (pick(rows, key=lambda r: r["value"]) for pick in (min, max))
    return (
        f"{FIGURES[figure]} by {unit} over {len(rows)} {unit}s: lowest {lowest['value']:.2f} from "
        f"{lowest['start']}, highest {highest['value']:.2f} from {highest['start']}; the model is "
        f"better than the strongest control in {_wins(rows, figure)} {unit}s."
    )


def _caption(rows: Sequence[dict[str, Any]], figure: str, unit: str) -> str:
    words = f"{FIGURES[figure]} by {unit}"
    if any(row["low"] is not None for row in rows):
        words += ", 95 % interval shaded"
    words += f"; better than the control in {_wins(rows, figure)} {unit}s"
    if figure in _LOWER_IS_BETTER:
        words += ". Lower is better"
    if figure == "ece":
        words += "; few rows make it high by chance"
    return words + "."
