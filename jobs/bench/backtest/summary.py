"""What a backtest gave, for the end of a terminal session."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.bench.backtest.figures import BacktestFigures
from jobs.bench.backtest.page import sentence_of
from jobs.bench.backtest.plan import Folder
from jobs.report.figures import Estimate

_NONE = "\u2013"


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return _NONE
    if estimate.low is None:
        return f"{estimate.value:.4f}"
    return f"{estimate.value:.4f} ({estimate.low:.3f} to {estimate.high:.3f})"


def summary(figures: BacktestFigures) -> Table:
    """Systems by AUC and UAUC over the whole period; 80 columns wide."""
    plan = figures.plan
    table = Table(title=f"{plan.domain}, {plan.first} to {plan.last}, {figures.n_rows:,} events")
    table.add_column("System")
    for heading in ("AUC", "UAUC"):
        table.add_column(heading, justify="right", no_wrap=True)
    for system in figures.systems:
        found = figures.find(system.name)
        style = None if system.is_control else "bold"
        values = (_shown(found.auc), _shown(found.uauc)) if found else (_NONE, _NONE)
        table.add_row(Text(system.title), *values, style=style)
    return table


def print_backtest(figures: BacktestFigures, folder: Folder, console: Console) -> None:
    """The table, what it means, and where the rest is."""
    console.print(summary(figures))
    for line in (sentence_of(figures), f"Figures: {folder.result}", f"Page: {folder.page}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
