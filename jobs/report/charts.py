"""The charts of the page: Vega-Lite specifications turned into inline SVG, without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup, escape

from jobs.report.controls import GLOBAL_MEAN
from jobs.report.figures import Estimate
from jobs.report.night_figures import NightMetrics

WIDTH, HEIGHT = 400, 220  # small, so that letters stay readable on a phone
_LABEL_WIDTH = 165
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
# Colours are the page's own variables: one SVG serves light, dark and print.
MODEL, CONTROL = "var(--model)", "var(--control)"
_POSITIVE, _NEGATIVE = "var(--model)", "var(--warm)"
INK, MUTED, GRID = "var(--ink)", "var(--muted)", "var(--grid)"


@dataclass(frozen=True)
class Chart:
    """A picture, what it shows in words for those who cannot see it, and its caption."""

    svg: Markup
    caption: str


def svg_of(chart: alt.TopLevelMixin, name: str, alternative: str) -> Markup:
    """The chart as an SVG element that stands in HTML: no namespace, no fixed size, own ids."""
    spec = (
        chart.configure(font=_FONT, background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=MUTED,
            titleColor=INK,
            gridColor=GRID,
            domainColor=MUTED,
            tickColor=MUTED,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
        )
        .to_dict()
    )
    svg = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    svg = re.sub(r'<text [^>]*opacity="0"[^>]*>[^<]*</text>', "", svg)  # labels that overlap
    svg = re.sub(r' (?:role|aria-[a-z]+|xmlns(?::xlink)?|pointer-events)="[^"]*"', "", svg)
    svg = re.sub(r'(id="|url\(#)', rf"\1{name}-", svg)  # ids are shared by a whole page
    opening = f'<svg role="img" aria-label="{escape(alternative)}" class="chart" '
    return Markup(re.sub(r'^<svg .*?(?=viewBox=")', lambda _: opening, svg))


def values_of(rows: Sequence[dict[str, Any]]) -> alt.Data:
    """Rows as a chart takes them, inside the specification."""
    return alt.Data(values=list(rows))


def _said(estimate: Estimate) -> str:
    if estimate.low is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def intervals(night: NightMetrics, metric: str) -> Chart | None:
    """Each system's AUC or UAUC on test as a dot with its 95 % interval.

    Args:
        night: the figures.
        metric: `auc` or `uauc`.
    """
    rows, said = [], []
    for system in night.systems:
        estimate: Estimate | None = getattr(night.find("test", "all", system.name), metric)
        if estimate is None or system.name == GLOBAL_MEAN:  # 0.5 by nature, and far from the rest
            continue
        rows.append(
            {
                "system": system.title,
                **estimate.model_dump(),
                "colour": "control" if system.is_control else "model",
                "text": f"{estimate.value:.3f}",
            }
        )
        said.append(f"{system.title} {_said(estimate)}")
    if not rows:
        return None
    base = alt.Chart(values_of(rows)).encode(
        y=alt.Y("system:N", sort=None, title=None).axis(
            ticks=False,
            domain=False,
            labelPadding=10,
            labelColor=INK,
            labelLimit=_LABEL_WIDTH,
            minExtent=_LABEL_WIDTH,  # the reader's font may be wider than the one measured with
        ),
        color=alt.Color("colour:N", legend=None).scale(
            domain=["model", "control"], range=[MODEL, CONTROL]
        ),
    )
    axis = alt.Axis(title=metric.upper(), tickCount=4, format=".2f", labelFlush=False)
    low = alt.X("low:Q", axis=axis, scale=alt.Scale(zero=False, nice=True))
    whisker = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=3)
    whisker = whisker.encode(x=low, x2="high:Q")
    dot = base.mark_circle(size=110, opacity=1).encode(x="value:Q")
    figure = base.mark_text(dy=-13, fontSize=12).encode(x="value:Q", text="text:N")
    chart = (whisker + dot + figure).properties(width=WIDTH - _LABEL_WIDTH, height=44 * len(rows))
    name = metric.upper()
    return Chart(
        svg_of(chart, f"intervals-{metric}", f"{name} on test: {'; '.join(said)}."),
        f"{name} on test, with 95 % intervals from resampling users.",
    )


def calibration(night: NightMetrics, split: str) -> Chart | None:
    """Predicted against observed probability, the model and the strongest control."""
    bins = [b for b in night.calibration if b.split == split]
    if not bins:
        return None
    model = night.systems[0]
    rows = [
        {**b.model_dump(), "colour": "model" if b.system == model.name else "control"} for b in bins
    ]
    scale = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format="%", tickCount=5)
    base = alt.Chart(values_of(rows)).encode(
        x=alt.X("predicted:Q", title="Predicted probability", scale=scale, axis=axis),
        color=alt.Color("colour:N", legend=None).scale(
            domain=["model", "control"], range=[MODEL, CONTROL]
        ),
    )
    observed = alt.Y("observed:Q", title="Share of positives", scale=scale, axis=axis)
    own = base.transform_filter("datum.colour == 'model'")
    diagonal = (
        alt.Chart(values_of([{"p": 0}, {"p": 1}]))
        .mark_line(color=MUTED, strokeDash=[4, 4], strokeWidth=1)
        .encode(x="p:Q", y="p:Q")
    )
    lines = base.mark_line(strokeWidth=2).encode(y=observed)
    bars = own.mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q")
    dots = own.mark_circle(size=60, opacity=1).encode(y=observed)
    said = "; ".join(
        f"predicted {b.predicted:.0%}, observed {b.observed:.0%} of {b.n_rows:,} rows"
        for b in bins
        if b.system == model.name
    )
    chart = (diagonal + lines + bars + dots).properties(width=WIDTH - 60, height=HEIGHT)
    return Chart(
        svg_of(chart, "calibration", f"Calibration of {model.title} on {split}: {said}."),
        "Predicted against observed: on the dashed line, 60 % predicted is 60 % observed.",
    )


def histogram(night: NightMetrics, split: str) -> Chart | None:
    """The model's probabilities among positive and among negative rows."""
    bins = [b for b in night.histogram if b.split == split]
    if not bins:
        return None
    filled = [b for b in bins if b.positives or b.negatives]
    rows = [
        {"low": b.low, "high": b.high, "label": label, "share": getattr(b, label)}
        for b in bins
        for label in ("negatives", "positives")
    ]
    rows += [{**row, "low": 1.0} for row in rows[-2:]]  # the last step needs an end
    base = alt.Chart(values_of(rows)).encode(
        x=alt.X("low:Q", title="Predicted probability")
        .scale(domain=[0, 1])
        .axis(format="%", tickCount=5),
        y=alt.Y("share:Q", title="Share of rows", stack=None).axis(format="%", tickCount=4),
        color=alt.Color("label:N", legend=None).scale(
            domain=["positives", "negatives"], range=[_POSITIVE, _NEGATIVE]
        ),
        strokeDash=alt.StrokeDash("label:N", legend=None).scale(
            domain=["positives", "negatives"], range=[[1, 0], [5, 3]]
        ),
    )
    chart = base.mark_line(interpolate="step-after", strokeWidth=2).properties(
        width=WIDTH - 60, height=HEIGHT
    )
    centre = {
        label: sum((b.low + b.high) / 2 * getattr(b, label) for b in bins)
        for label in ("positives", "negatives")
    }
    said = (
        f"The mean predicted probability is about {centre['positives']:.0%} on positive rows and "
        f"{centre['negatives']:.0%} on negative rows; predictions lie between "
        f"{filled[0].low:.0%} and {filled[-1].high:.0%}."
    )
    return Chart(
        svg_of(chart, "histogram", f"Predicted probabilities by label on {split}. {said}"),
        "Predicted probabilities of rows that turned out positive and negative: "
        "the further apart, the better.",
    )
