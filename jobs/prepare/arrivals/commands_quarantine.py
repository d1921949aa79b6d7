"""`tidemark quarantine`: what a night put aside, row by row, and the way back in."""

from __future__ import annotations

import csv
import getpass
import json
import sys
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.home import Home
from jobs.logs import configure_logs
from jobs.prepare.arrivals.quarantine import Wanted, counts, night_of, rows
from jobs.prepare.arrivals.release_order import Order, Released, ReleaseRefused, release_rows

app = typer.Typer(
    help="What a night put aside, row by row, and the way back in.", no_args_is_help=True
)
_SHOWN_CELL = 60

Day = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], help="Whose quarantine; by default the last night's."),
]
Reason = Annotated[str | None, typer.Option(help="Only rows with this reason.")]
File = Annotated[str | None, typer.Option(help="Only rows of this file, as `show` names it.")]
Line = Annotated[list[int] | None, typer.Option(help="Only this line or row; may be repeated.")]
ColumnName = Annotated[str | None, typer.Option(help="Only rows where this column is to blame.")]
Value = Annotated[str | None, typer.Option(help="Only rows where the column holds this.")]
As = Annotated[Literal["table", "json", "csv"], typer.Option("--format", help="How to print.")]


def _date(day: datetime | None) -> date | None:
    return day.date() if day else None


@app.command(epilog="Example: tidemark quarantine ls --day 2026-03-02")
def ls(
    day: Day = None,
    reason: Reason = None,
    file: File = None,
    column: ColumnName = None,
    format: As = "table",
) -> None:
    """Count the quarantined rows by reason and by the night that learned of them."""
    home = Home.from_environment()
    night = night_of(home, _date(day))
    found = counts(home, night, Wanted(reason=reason, source_file=file, column=column))
    if format != "table":
        _emit(found, ("kind", "known_day", "reason", "n_rows"), format)
        return
    reasons = sorted({_named(row) for row in found})
    days = sorted({str(row["known_day"] or "always") for row in found})
    cells = {(str(r["known_day"] or "always"), _named(r)): r["n_rows"] for r in found}
    table = Table(title=f"Quarantine of {night.day}", box=None, padding=(0, 2, 0, 0))
    table.add_column("reason")
    shown = days[-7:]
    for name in (*(["earlier"] if len(days) > len(shown) else []), *shown, "all"):
        table.add_column(name, justify="right")
    for named in reasons:
        by_day = [cells.get((one, named), 0) for one in days]
        earlier = [sum(by_day[: -len(shown)])] if len(days) > len(shown) else []
        numbers = [*earlier, *by_day[-len(shown) :], sum(by_day)]
        table.add_row(escape(named), *(f"{n:,}" if n else "" for n in numbers))
    _print(table)
    total = sum(row["n_rows"] for row in found)
    typer.echo(f"{total:,} rows; look at them: tidemark quarantine show --reason '...'")


def _named(row: dict[str, Any]) -> str:
    return row["reason"] if row["kind"] == "event" else f"{row['reason']} (items)"


@app.command(epilog="Example: tidemark quarantine show --reason 'unparsable rating' --limit 50")
def show(
    day: Day = None,
    reason: Reason = None,
    file: File = None,
    line: Line = None,
    column: ColumnName = None,
    value: Value = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 20,
    format: As = "table",
) -> None:
    """Show quarantined rows: file, row, reason, column, value, and the row as it came."""
    home = Home.from_environment()
    night = night_of(home, _date(day))
    wanted = Wanted(reason, file, tuple(line or ()), column, value)
    found = rows(home, night, wanted, limit)
    names = ("source_file", "line", "reason", "column", "value", "raw", "known_day")
    if format == "table":
        _emit_table(f"Quarantine of {night.day}", names, found)
        total = sum(row["n_rows"] for row in counts(home, night, wanted))
        typer.echo(f"{len(found):,} of {total:,} rows")
    else:
        _emit(found, ("kind", *names), format)


@app.command(
    epilog="Example: tidemark quarantine release --file ratings/2026-03-01.csv --line 17 "
    "--set rating=4 --why 'the shop confirmed it'"
)
def release(
    why: Annotated[str, typer.Option(help="Why; kept with the release.")],
    day: Day = None,
    reason: Reason = None,
    file: File = None,
    line: Line = None,
    column: ColumnName = None,
    value: Value = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="New value of a column of the source, COLUMN=VALUE."),
    ] = None,
    from_: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            formats=["%Y-%m-%d"],
            help="The first night that knows the rows; by default the next one.",
        ),
    ] = None,
    who: Annotated[str | None, typer.Option(help="Who says so; by default your login.")] = None,
    source: Annotated[Path | None, typer.Option(help="The mapping, if it has moved.")] = None,
    format: As = "table",
) -> None:
    """Let quarantined rows count as events from a night on that has not run yet.

    The rows are read again by the parser of the mapping, with the new values; a row that is still
    bad refuses them all. Nights that have run keep what they saw. Twice is the same as once.
    """
    configure_logs(quiet=True)
    home = Home.from_environment()
    wanted = Wanted(reason, file, tuple(line or ()), column, value)
    if wanted == Wanted():
        raise ReleaseRefused("say which rows: --file and --line, --reason, --column, --value")
    if wanted.lines and not wanted.source_file:
        raise ReleaseRefused("--line counts within a file: say which with --file")
    order = Order(wanted, _changes(set_ or []), _date(from_), who or _login(), why)
    told = release_rows(home, night_of(home, _date(day)), order, source=source)
    found = [_told(one) for one in told]
    if format == "table":
        _emit_table("Released", tuple(found[0]), found)
    else:
        _emit(found, tuple(found[0]), format)


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError) as error:  # a container without an entry for its user
        raise ReleaseRefused("say who releases the rows with --who") from error


def _changes(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for name, equals, value in pairs:
        if not name or not equals:
            raise ReleaseRefused(f"--set {name}{value}: expected COLUMN=VALUE, as --set rating=4")
    return {name: value for name, _, value in pairs}


def _told(one: Released) -> dict[str, Any]:
    made = one.release
    return {
        "source_file": made.source_file,
        "line": made.line,
        **made.row.model_dump(exclude={"title"}),
        "known_from": made.known_from,
        "release": made.id,
        "state": "released" if one.is_new else "released before",
    }


# -- printing --------------------------------------------------------------------------------------


def _print(table: Table) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _emit_table(title: str, names: Sequence[str], found: Sequence[dict[str, Any]]) -> None:
    table = Table(*names, title=title, box=None, padding=(0, 2, 0, 0))
    for row in found:
        table.add_row(*(escape(_cell(row[name])) for name in names))
    _print(table)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    shown = "".join(letter if letter.isprintable() else "·" for letter in text)
    return shown if len(shown) <= _SHOWN_CELL else f"{shown[:_SHOWN_CELL]}..."


def _emit(found: Sequence[dict[str, Any]], names: Sequence[str], format: str) -> None:
    if format == "json":
        plain = [{name: row[name] for name in names} for row in found]
        typer.echo(json.dumps(plain, default=str, ensure_ascii=False))
        return
    writer = csv.writer(sys.stdout)
    writer.writerow(names)
    writer.writerows([row[name] for name in names] for row in found)
