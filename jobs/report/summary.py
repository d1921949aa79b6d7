"""What a night gave, for the end of a terminal session: a table, the verdict, the page's path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.datasets import METRICS, REPORT
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import load_manifest

_NONE = "\u2013"
_TONES = {"better": "green", "same": "yellow", "worse": "red", "unknown": "dim"}


def _figure(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"


def _estimate(value: Mapping[str, float] | None) -> str:
    return _figure(value["value"] if value else None)


def summary(metrics: Mapping[str, Any]) -> Table:
    """Splits by systems: rows, users counted, AUC, UAUC, log loss; 80 columns wide.

    A split of which no row was scored is left out, unless none was of either.

    Args:
        metrics: metrics.json, parsed; its schema is `jobs.report.night_figures.NightMetrics`.
    """
    titles = {system["name"]: system["title"] for system in metrics["systems"]}
    table = Table(title=f"{metrics['domain']}, {metrics['day']}, version {metrics['version']}")
    for heading in ("Split", "System"):
        table.add_column(heading)
    for heading in ("Rows", "Users", "AUC", "UAUC", "Log loss"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows = [q for q in metrics["quality"] if q["slice"] == "all"]
    judged = {q["split"] for q in rows if q["n_rows"]} or {"valid", "test"}
    for split in ("valid", "test"):
        by_name = {q["system"]: q for q in rows if q["split"] == split}
        for name in titles if split in judged else ():
            q = by_name[name]
            table.add_row(
                split,
                Text(titles[name]),  # Text: a model's name is not markup
                f"{q['n_rows']:,}",
                f"{q['n_users_counted']:,}",
                _estimate(q["auc"]),
                _estimate(q["uauc"]),
                _figure(q["log_loss"]),
                style="bold" if name == metrics["model"] else None,
                end_section=name == list(titles)[-1],
            )
    return table


def print_summary(home: Home, day: date, console: Console) -> None:
    """Print the version, the metrics, the verdicts and the report's path of a night.

    Raises:
        NotAvailable: no report of that day.
    """
    if load_manifest(home, "report", day) is None:
        raise NotAvailable(
            f"there is no report of {day} in {home.root}; run: tidemark run --day {day}"
        )
    metrics = json.loads(home.output(METRICS, day).read_text(encoding="utf-8"))
    console.print(summary(metrics))
    said = [metrics["verdict"], metrics["control_verdict"]]
    for verdict in said if said[0] != said[1] else said[:1]:
        console.print(Text(verdict["sentence"], style=_TONES[verdict["outcome"]]))
    console.print(f"Version {metrics['version']} of {home.store}", highlight=False, soft_wrap=True)
    page = home.output(REPORT, day)
    console.print(f"Report {page}", highlight=False, soft_wrap=True, markup=False)
