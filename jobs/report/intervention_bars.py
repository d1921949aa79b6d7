"""What changing soft tokens costs, as bars: a panel under the lines of the attention chart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pyarrow as pa

from jobs.report.charts import INK, MUTED, values_of

# In the order of the bars; what the table calls them, and what the chart does.
_NAMES = {
    "mean": "averaged",
    "shuffled": "shuffled",
    "users_swapped": "swapped",
    "unknown": "unknown",
    "hidden": "hidden",
}
_COLOURS = {"user": "var(--model)", "item": "var(--warm)", "warm": "var(--better)", "all": INK}
_BAR, _LABEL = 17, 92  # units a bar and its label take; a phone shows about 350 in all


def intervention_bars(table: pa.Table, width: int) -> alt.LayerChart | None:
    """The change of AUC by each intervention, with its interval; None if there is none.

    Args:
        table: LLM_DIAGNOSTICS.
        width: of the panel, without its labels.
    """
    rows = _rows(_figures(table))
    if not rows:
        return None
    base = alt.Chart(values_of(rows)).encode(
        y=alt.Y("label:N", sort=None, title=None).axis(
            ticks=False,
            domain=False,
            labelColor=INK,
            labelFontSize=11,
            labelLimit=_LABEL,
            minExtent=_LABEL,  # the reader's font may be wider than the one measured with
        ),
    )
    axis = alt.Axis(title="Change of AUC with other soft tokens", tickCount=4)
    bar = base.mark_bar(height=_BAR - 7).encode(
        x=alt.X("value:Q", axis=axis), color=alt.Color("colour:N", scale=None)
    )
    interval = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5, color=MUTED)
    whisker = interval.encode(x=alt.X("low:Q", axis=axis), x2="high:Q")
    return (bar + whisker).properties(width=width, height=_BAR * len(rows))


def interventions_said(table: pa.Table) -> str:
    """The bars that the issue is about, in words; empty if there are none."""
    figures = _figures(table)
    said = [
        f"{row['label']} {row['value']:+.3f}"
        for row in _rows(figures)
        if row["name"] in ("mean", "shuffled")
    ]
    return f"Change of AUC with other soft tokens: {', '.join(said)}." if said else ""


def _figures(table: pa.Table) -> dict[tuple[str, str], float]:
    return {
        (row["kind"], row["figure"]): row["value"]
        for row in table.to_pylist()
        if row["measure"] == "intervention"
    }


def _rows(figures: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
    return [
        {
            "label": f"{kind}: {title}",
            "name": name,
            "value": figures[kind, f"{name}_delta_auc"],
            "low": figures.get((kind, f"{name}_delta_auc_low")),
            "high": figures.get((kind, f"{name}_delta_auc_high")),
            "colour": colour,
        }
        for kind, colour in _COLOURS.items()
        for name, title in _NAMES.items()
        if (kind, f"{name}_delta_auc") in figures
    ]
