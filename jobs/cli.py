"""The `tidemark` command: run the chain, make the sample, show what a night gave."""

from __future__ import annotations

import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.chain import run_chain, run_through_airflow
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import EXIT_FAILED
from jobs.llm.backbone import DEFAULT_BACKBONE
from jobs.logs import configure_logs
from jobs.prepare import amazon_book
from jobs.prepare.first_look import commands
from jobs.prepare.sample import FIRST_DAY, write_sample
from jobs.prepare.sample_marker import MARKER
from jobs.prepare.sample_truth import N_DAYS
from jobs.prepare.sources.last_day import last_day
from jobs.prepare.sources.mapping import recognise
from jobs.report.summary import print_summary

SAMPLE = "sample"

app = typer.Typer(
    help="Keeps LLM-aligned user and item embeddings fresh in a data warehouse.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(commands.app)
Source = Annotated[
    str,
    typer.Option(
        help="Mapping file, folder that holds one, folder or zip of MovieLens-1M, folder of the "
        "Amazon books dump, or `sample`: the built-in warehouse."
    ),
]
Day = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d"], help="As-of day; by default the one after the source's last."
    ),
]
Model = Annotated[str, typer.Option(help="Backbone LLM: hub id, folder, or the bundled one.")]


@app.callback()
def _root() -> None:
    """State lives in TIDEMARK_HOME (default: .tidemark)."""
    configure_logs()


@app.command(epilog="Example: tidemark run --source ml-1m.zip --day 2003-03-01")
def run(
    source: Source = SAMPLE,
    day: Day = None,
    model: Model = DEFAULT_BACKBONE,
    airflow: Annotated[bool, typer.Option(help="Through the DAG, by `airflow dags test`.")] = False,
    dags: Annotated[Path, typer.Option(help="Where the DAG files are.")] = Path("dags"),
    force: Annotated[bool, typer.Option(help="Redo what did not change.")] = False,
) -> None:
    """Run the nightly chain of one day and print the version, the metrics and the report's path."""
    home, console = Home.from_environment(), Console(stderr=True)
    path = made_ready(source, home, console)
    as_of = day.date() if day else first_day_after(path)
    if airflow:
        run_through_airflow(as_of, home, console, dags=dags, source=str(path), model=model)
    else:
        run_chain(as_of, home, console, source=str(path), model=model, force=force)
    print_summary(home, as_of, Console())


def made_ready(source: str, home: Home, console: Console) -> Path:
    """The source that `ingest` reads: what Tidemark makes or converts itself lies in the home."""
    if source == SAMPLE:
        write_sample(home.raw / SAMPLE)
        return home.raw / SAMPLE
    path = Path(source).expanduser().absolute()
    if not amazon_book.is_dump(path):
        return path
    console.print("converting the dump, once", style="dim")
    return amazon_book.write_amazon_book(path, home.raw / "amazon-book").folder


def first_day_after(source: Path) -> date:
    """The first night that knows every event of a source that does not grow."""
    if (source / MARKER).is_file():
        return FIRST_DAY + timedelta(days=N_DAYS)  # its last deliveries are late rows
    return last_day(*recognise(source)) + timedelta(days=1)


@app.command(epilog="Example: tidemark sample /tmp/warehouse --scale 10")
def sample(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")],
    scale: Annotated[int, typer.Option(min=1, help="1: 300 users, 8,000 events.")] = 1,
) -> None:
    """Write the built-in sample warehouse: raw daily files with a planted truth and real dirt."""
    is_new = write_sample(folder, scale=scale)
    Console().print(f"{folder}: {'written' if is_new else 'already there, unchanged'}")


@app.command(epilog="Example: tidemark summary --day 2026-03-02")
def summary(
    day: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Which night.")],
) -> None:
    """Print the version, the metrics and the report's path of a night that has run."""
    print_summary(Home.from_environment(), day.date(), Console())


def main() -> None:
    """Entry point: a failure that a person can act on is one line, not a traceback."""
    try:
        app()
    except JobError as error:
        sys.stderr.write(f"tidemark: {error}\n")
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
