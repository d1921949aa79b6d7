"""The charts of a bench: every system's AUC and UAUC with its interval, and what is published."""

from __future__ import annotations

from typing import Any

import altair as alt

from jobs.bench.figures import BenchResult, SystemFigures
from jobs.report.charts import Chart, svg_of, values_of
from jobs.report.figures import Estimate

_WIDTH, _LABEL_WIDTH, _ROW = 400, 175, 34
_MODEL, _CONTROL, _PUBLISHED = "var(--model)", "var(--control)", "var(--warm)"
_INK, _MUTED = "var(--ink)", "var(--muted)"


def intervals(result: BenchResult, metric: str) -> Chart | None:
    """Each system on test: the scores averaged over seeds with their 95 % interval.

    Small strokes are single seeds, a diamond is the published figure, the dashed line the control.

    Args:
        result: the bench.
        metric: `auc` or `uauc`.
    """
    rows = [row for system in result.systems if (row := _row(result, system, metric))]
    if not rows:
        return None
    name = metric.upper()
    axis = alt.Axis(title=name, tickCount=4, format=".2f", labelFlush=False)
    scale = alt.Scale(zero=False, nice=True)
    base = alt.Chart(values_of(rows)).encode(
        y=alt.Y("system:N", sort=None, title=None).axis(
            ticks=False,
            domain=False,
            labelPadding=10,
            labelColor=_INK,
            labelLimit=_LABEL_WIDTH,
            minExtent=_LABEL_WIDTH,
        ),
        color=alt.Color("colour:N", legend=None).scale(
            domain=["model", "control"], range=[_MODEL, _CONTROL]
        ),
    )
    whisker = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=3)
    dot = base.mark_circle(size=90, opacity=1)
    seeds = base.transform_flatten(["seeds"]).mark_tick(thickness=1.5, size=16, opacity=0.75)
    other = base.transform_filter("isValid(datum.published)").mark_point(
        shape="diamond", size=70, color=_PUBLISHED, filled=False, strokeWidth=2, opacity=1
    )
    layers = [
        *_line(rows),
        whisker.encode(x=alt.X("low:Q", axis=axis, scale=scale), x2="high:Q"),
        seeds.encode(x="seeds:Q"),
        dot.encode(x="value:Q"),
        other.encode(x="published:Q", color=alt.value(_PUBLISHED)),
    ]
    chart = alt.layer(*layers).properties(width=_WIDTH - _LABEL_WIDTH, height=_ROW * len(rows))
    said = "; ".join(_said(row) for row in rows)
    return Chart(
        svg_of(chart, f"bench-{metric}", f"{name} on test: {said}."),
        f"{name} on test. Dot and bar: scores averaged over seeds, 95 % interval from resampling "
        "users. Strokes: single seeds. Diamond: as published. Dashed: the control.",
    )


def _row(result: BenchResult, system: SystemFigures, metric: str) -> dict[str, Any] | None:
    found = system.find("test")
    of_mean: Estimate | None = getattr(found, f"of_mean_{metric}", None)
    by_seed = getattr(found, metric, None)
    if of_mean is None or by_seed is None:
        return None
    return {
        "system": system.title,
        **of_mean.model_dump(),
        "seeds": by_seed.by_seed if len(by_seed.by_seed) > 1 else [of_mean.value],
        "published": getattr(system.published, metric, None),
        "colour": "control" if system.name == result.control else "model",
    }


def _line(rows: list[dict[str, Any]]) -> list[alt.Chart]:
    control = [{"value": row["value"]} for row in rows if row["colour"] == "control"]
    line = alt.Chart(values_of(control)).mark_rule(color=_MUTED, strokeDash=[4, 4])
    return [line.encode(x="value:Q")] if control else []


def _said(row: dict[str, Any]) -> str:
    said = f"{row['system']} {row['value']:.3f}"
    if row["low"] is not None:
        said += f" ({row['low']:.3f} to {row['high']:.3f})"
    if row["published"] is not None:
        said += f", published {row['published']:.3f}"
    return said
