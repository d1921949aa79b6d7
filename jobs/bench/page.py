"""A bench as one HTML file that needs no network and runs no script."""

from __future__ import annotations

from jobs.bench import cells, charts
from jobs.bench.figures import BenchResult
from jobs.bench.markdown import difference_columns, explanation, main_columns, measured, title_of
from jobs.report.page import environment


def render(result: BenchResult) -> str:
    """The page; the same figures give the same bytes."""
    template = environment("jobs.bench").get_template("bench.html.j2")
    return template.render(
        result=result,
        cells=cells,
        title_of=title_of,
        columns=main_columns(result),
        differences=difference_columns(),
        against=[each for each in result.systems if each.against_control and not each.error],
        aligned=[(each, side) for each in result.systems for side in each.agreement],
        charts=[chart for m in ("auc", "uauc") if (chart := charts.intervals(result, m))],
        explanation=explanation(result),
        measured=measured(result),
    )
