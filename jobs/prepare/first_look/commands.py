"""`tidemark init` and `tidemark check`: parse, call, print."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from jobs.errors import SourceError
from jobs.job import EXIT_FAILED
from jobs.logs import configure_logs
from jobs.prepare.arrivals import commands_quarantine
from jobs.prepare.first_look.column_roles import NAMES
from jobs.prepare.first_look.first_mapping_file import refuse_built_in, write_first_mapping
from jobs.prepare.first_look.forecast_page import print_forecast
from jobs.prepare.first_look.mapping_check import forecast
from jobs.prepare.first_look.source_draft import Guess

app = typer.Typer()
app.add_typer(commands_quarantine.app, name="quarantine")


def _chosen(columns: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in columns]
    for role, _, name in pairs:
        if role not in NAMES or not name:
            raise SourceError(
                f"--column {role}{'=' if name else ''}{name}: expected ROLE=NAME with one of "
                f"{', '.join(NAMES)}, for instance --column user_id=customer_no"
            )
    return {role: name for role, _, name in pairs}


@app.command(epilog="Example: tidemark init warehouse/clicks --column user_id=customer_no")
def init(
    source: Annotated[Path, typer.Argument(help="Folder or file of Parquet, CSV or DuckDB.")],
    to: Annotated[
        Path | None, typer.Option(help="File to write; by default tidemark.yaml in the folder.")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help=f"A column that is known, ROLE=NAME; roles: {', '.join(NAMES)}."),
    ] = None,
    names: Annotated[
        str, typer.Option(help="Names of the columns of a CSV without a header: a,b,c.")
    ] = "",
) -> None:
    """Look at a source and write a first mapping; say what was guessed, why, and what to look at.

    A mapping that is there is never overwritten, and the source's own files are only read.
    """
    path = source.expanduser()
    if to is None:
        refuse_built_in(path)
    target = to or (path if path.is_dir() else path.parent) / "tidemark.yaml"
    guesses = write_first_mapping(
        path,
        target,
        chosen=_chosen(column or []),
        names=[name.strip() for name in names.split(",") if name.strip()],
    )
    console = Console()
    console.print(_guess_table(guesses))
    console.print("To settle:", style="bold")
    for guess in guesses:
        if guess.look:
            typer.echo(f"- {guess.what}: {guess.look}")
    typer.echo(f"\nWrote {target}; now: tidemark check {target}")


def _guess_table(guesses: tuple[Guess, ...]) -> Table:
    table = Table("key", "guess", "seen from", box=None, padding=(0, 2, 0, 0))
    for guess in guesses:
        table.add_row(guess.what, guess.value, guess.why)
    return table


# -- check -----------------------------------------------------------------------------------------


@app.command(epilog="Example: tidemark check warehouse/tidemark.yaml --day 2026-03-02 --json")
def check(
    mapping: Annotated[Path, typer.Argument(help="Mapping file, or a source of a known form.")],
    day: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="As-of day; by default the first that knows every event."
        ),
    ] = None,
    nights: Annotated[int, typer.Option(min=1, help="How many of the last nights to show.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as one JSON.")] = False,
) -> None:
    """Say what a mapping would do: prepare one day for real, throw it away, and count.

    Ends with status 1 if a night would stop, and says why.
    """
    configure_logs(quiet=True)
    made = forecast(mapping.expanduser(), day.date() if day else None)
    if as_json:
        typer.echo(json.dumps(asdict(made), default=str, ensure_ascii=False))
    else:
        console = Console()
        print_forecast(made, console if console.is_terminal else Console(width=140), nights)
    if made.stops:
        raise typer.Exit(EXIT_FAILED)
