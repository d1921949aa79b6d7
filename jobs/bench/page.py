"""A bench as one HTML file that needs no network and runs no script."""

from __future__ import annotations

from jobs.bench import cells, charts
from jobs.bench.figures import BenchResult
from jobs.bench.markdown import (
    explanation,
    main_columns,
    measured,
    notes,
    published_columns,
    title_of,
    versus,
)
from jobs.report.page import environment


def render(result: BenchResult) -> str:
    """The page; the same figures give the same bytes."""
    template = environment("jobs.bench").get_template("bench.html.j2")
    return template.render(
        result=result,
        cells=cells,
        title_of=title_of,
        columns=main_columns(result),
        versus=versus(result),
        known=[each for each in result.systems if each.published],
        beside_papers=published_columns(result),
        notes=notes(result),
        aligned=[(each, side) for each in result.systems for side in each.agreement],
        charts=[chart for m in ("auc", "uauc") if (chart := charts.intervals(result, m))],
        explanation=explanation(result),
        measured=measured(result),
    )
