"""LLM_DIAGNOSTICS as a picture: where each layer looks, what it needs, where its answer forms."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.report.charts import Chart, svg_of, values_of
from jobs.report.intervention_bars import intervention_bars, interventions_said

# The order of the legend; each with a colour of the page and a dash, so that print can tell them.
_LOOKS: dict[str, tuple[str, list[int]]] = {
    "user": ("var(--model)", [1, 0]),
    "item": ("var(--warm)", [10, 3]),
    "warm": ("var(--better)", [3, 3]),
    "history": ("var(--ink)", [1, 0]),
    "title": ("var(--worse)", [6, 3]),
    "instruction": ("var(--control)", [2, 2]),
}
WIDE, NARROW = 520, 270  # units across; a phone shows about 350
_HEIGHT = 190
# What the page's style sheet would say, for a file that stands alone.
_STYLE = (
    "svg { --model: #1d5fae; --control: #7a828d; --warm: #b4530a; --better: #14703f; "
    "--worse: #a8261c; --ink: #17202b; --muted: #56616f; --grid: #e6eaf0; background: #fff }"
)
_TITLES = {
    ("mass", "sink_free"): "Attention without the first token",
    ("knockout", "delta_auc"): "Change of AUC without it",
    ("lens", "auc"): "AUC of the layer's own answer",
}


def attention_chart(table: pa.Table, width: int = WIDE) -> Chart | None:
    """Three panels over the layers and one of interventions; None if the table is empty.

    Args:
        table: LLM_DIAGNOSTICS. Soft tokens, knockouts and interventions may be missing.
        width: of a panel, without its axis.
    """
    panels = []
    for (measure, figure), title in _TITLES.items():
        wanted = pc.and_(pc.equal(table["measure"], measure), pc.equal(table["figure"], figure))
        rows = table.filter(wanted).to_pylist()
        if rows:
            panels.append(_panel(rows, title, width))
    charts: list[alt.VConcatChart | alt.LayerChart] = []
    if panels:
        lines = alt.vconcat(*panels, spacing=28)
        charts.append(lines.resolve_scale(color="shared", strokeDash="shared"))
    if (bars := intervention_bars(table, width)) is not None:
        charts.append(bars)
    if not charts:
        return None
    chart = alt.vconcat(*charts, spacing=28)
    chart = chart.resolve_scale(color="independent", strokeDash="independent")
    caption = (
        "By layer: what the answer attends to, what AUC loses when a kind of token cannot be seen "
        "in a window of layers, and how well each layer's state alone would answer."
    )
    if bars is not None:
        caption += (
            " Below: what AUC loses when soft tokens are averaged, exchanged between rows, unknown "
            "or out of sight, with 95 % intervals."
        )
    return Chart(svg_of(chart, f"attention-{width}", _said(table)), caption)


def _panel(rows: Sequence[dict[str, Any]], title: str, width: int) -> alt.Chart:
    points = [
        {
            "layer": (row["first_layer"] + row["last_layer"]) / 2 + 1,
            "kind": row["kind"],
            "value": row["value"],
        }
        for row in rows
    ]
    kinds = [kind for kind in _LOOKS if any(point["kind"] == kind for point in points)]
    base = alt.Chart(values_of(points)).encode(
        x=alt.X("layer:Q", title="Layer").axis(tickMinStep=1, grid=False).scale(nice=False),
        y=alt.Y("value:Q", title=title).axis(tickCount=4).scale(zero=False),
    )
    if not kinds:
        line = base.mark_line(color="var(--ink)", strokeWidth=2)
    else:
        legend = alt.Legend(
            title=None, labelColor="var(--ink)", labelFontSize=12, orient="top", columns=3
        )
        line = base.mark_line(strokeWidth=2).encode(
            color=alt.Color("kind:N", sort=kinds, legend=legend).scale(
                domain=kinds, range=[_LOOKS[kind][0] for kind in kinds]
            ),
            strokeDash=alt.StrokeDash("kind:N", sort=kinds, legend=legend).scale(
                domain=kinds, range=[_LOOKS[kind][1] for kind in kinds]
            ),
        )
    return line.properties(width=width, height=_HEIGHT)


def _said(table: pa.Table) -> str:
    """The chart in words: each kind's layer of most attention, and the layer that answers best."""
    said = []
    for kind in _LOOKS:
        if best := _highest(table, "mass", "sink_free", kind):
            said.append(f"{kind} at most {best['value']:.0%} in layer {best['first_layer'] + 1}")
    words = f"Attention of the answer by layer: {'; '.join(said)}." if said else ""
    if best := _highest(table, "lens", "auc", "answer"):
        words += f" The answer is best in layer {best['first_layer'] + 1}: AUC {best['value']:.3f}."
    return " ".join(f"{words.strip()} {interventions_said(table)}".split())


def _highest(table: pa.Table, measure: str, figure: str, kind: str) -> dict[str, Any] | None:
    wanted = {"measure": measure, "figure": figure, "kind": kind}
    rows = [row for row in table.to_pylist() if wanted.items() <= row.items()]
    return max(rows, key=lambda row: row["value"], default=None)


def standalone(chart: Chart) -> str:
    """The chart as an SVG file: with its namespace and the colours that a page would give it."""
    opening, rest = chart.svg.split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>{rest}\n'


def main() -> None:
    """Command line: one SVG file from one table."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.report.attention_chart",
        description="Draw the table that jobs.tokens.diagnostics wrote.",
        epilog="example: python -m jobs.report.attention_chart "
        ".tidemark/tables/llm_diagnostics/day=2026-03-02/data.parquet attention.svg",
    )
    parser.add_argument("table", type=Path, help="data.parquet of llm_diagnostics")
    parser.add_argument("svg", type=Path, help="the file to write")
    given = parser.parse_args()
    if not given.table.is_file():
        parser.error(f"there is no table at {given.table}; run python -m jobs.tokens.diagnostics")
    chart = attention_chart(pq.read_table(given.table, partitioning=None))
    if chart is None:
        parser.error(f"{given.table} holds no figures")
    given.svg.write_text(standalone(chart), encoding="utf-8")


if __name__ == "__main__":
    main()
