"""A forecast as a page for a terminal: counts, reasons with an example, nights as bars."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.prepare.first_look.mapping_check import Forecast

_BAR_CELLS = 30
_SHOWN_VALUE = 40


def print_forecast(made: Forecast, console: Console, nights: int) -> None:
    """Print what a night would make of a source.

    Args:
        made: the forecast.
        console: where to.
        nights: how many of the last nights to show.
    """
    console.print(f"[bold]{escape(made.domain)}[/] as of {made.day}, from {escape(made.source)}")
    console.print(_totals(made))
    if made.reasons:
        console.print(_reasons(made))
    console.print(_nights(made, nights))
    if made.splits:
        console.print(_splits(made))
    for why in made.stops:
        console.print(f"[bold red]a night would stop:[/] {escape(why)}", soft_wrap=True)
    if not made.stops:
        console.print("[bold green]a night would go through[/]")


def _plain_table(*headers: str, title: str | None = None) -> Table:
    """Figures to the right; the first column and the last, which are words, to the left."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place == 0 else "right")
    return table


def _totals(made: Forecast) -> Table:
    totals, table = made.totals, _plain_table("", "")
    table.show_header = False
    rows = {
        "files": f"{made.files['events']:,} of events, {made.files['items']:,} of items",
        "rows in": f"{totals['n_rows_in']:,}",
        "events": f"{totals['n_events']:,}",
        "quarantined": f"{totals['n_quarantined']:,}",
        "late events": f"{totals['n_late']:,}",
        "users": f"{totals['n_users']:,}",
        "items": f"{totals['n_items']:,} with events, {totals['n_catalogue']:,} in the catalogue",
        "days": f"{_day(totals['first_event'])} to {_day(totals['last_event'])}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    table.columns[1].justify = "left"
    return table


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d}" if moment else "none"


def _reasons(made: Forecast) -> Table:
    table = _plain_table(
        "reason", "rows", "share", "for example", "column", "value", title="Quarantined"
    )
    for column in table.columns[3:]:
        column.justify = "left"
    n_rows_in = max(made.totals["n_rows_in"], 1)
    for row in made.reasons:
        is_event = row["kind"] == "event"
        table.add_row(
            escape(row["reason"] if is_event else f"{row['reason']} (items)"),
            f"{row['n_rows']:,}",
            f"{row['n_rows'] / n_rows_in:.2%}" if is_event else "",
            escape(f"{row['source_file']}, {row['line']}"),
            escape(row["column"] or ""),
            escape(_cut((row["value"] or "") if row["column"] else row["raw"])),
        )
    return table


def _cut(text: str) -> str:
    shown = repr(text)[1:-1]
    return shown if len(shown) <= _SHOWN_VALUE else f"{shown[:_SHOWN_VALUE]}..."


def _nights(made: Forecast, n_shown: int) -> Table:
    arrivals = made.arrivals[-n_shown:]
    headers = ("known from", "rows", "events", "late", "corrections", "bad", "")
    n_before = len(made.arrivals) - len(arrivals)
    title = f"Nights (the last {len(arrivals)} of {len(made.arrivals)})" if n_before else "Nights"
    table = _plain_table(*headers, title=title)
    table.columns[-1].justify = "left"
    largest = max((night["n_events"] for night in arrivals), default=0)
    for night in arrivals:
        table.add_row(*_night_cells(night), _bar(night["n_events"], largest))
    return table


def _night_cells(night: dict[str, Any]) -> list[str]:
    names = ("n_rows", "n_events", "n_late", "n_corrections", "n_quarantined")
    known = night["known_day"]
    return [str(known) if known else "always", *(f"{night[name]:,}" for name in names)]


def _bar(n: int, largest: int) -> str:
    return "█" * round(_BAR_CELLS * n / largest) if largest else ""


def _splits(made: Forecast) -> Table:
    table = _plain_table("split", "rows", "", title=f"Splits on {made.day}")
    table.columns[-1].justify = "left"
    largest = max(made.splits.values())
    for name in ("train", "valid", "test"):
        n = made.splits.get(name, 0)
        table.add_row(name, f"{n:,}", _bar(n, largest))
    table.add_row("positive", f"{made.positive_share:.1%}", "")
    table.add_row("warm", f"{made.warm_share:.1%}", "user and item both in train")
    return table
