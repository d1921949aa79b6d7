"""The `tidemark` command: plan and run the chain, make the sample, show what a night gave."""

from __future__ import annotations

import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.bench import commands as bench_commands
from jobs.chain import run_chain, run_through_airflow
from jobs.failures import told
from jobs.files import write_atomically
from jobs.home import Home
from jobs.job import EXIT_FAILED
from jobs.launch import TUNING_TOKENS
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
app.add_typer(bench_commands.app)
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
Tokens = Annotated[
    int,
    typer.Option(
        min=0,
        help="Tokens that each stage of tuning reads; more than an epoch is one; 0: no tuning.",
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
    tokens: Tokens = TUNING_TOKENS,
    airflow: Annotated[bool, typer.Option(help="Through the DAG, by `airflow dags test`.")] = False,
    dags: Annotated[Path, typer.Option(help="Where the DAG files are.")] = Path("dags"),
    force: Annotated[bool, typer.Option(help="Redo what did not change.")] = False,
) -> None:
    """Run the nightly chain of one day and print the version, the metrics and the report's path."""
    home, console = Home.from_environment(), Console(stderr=True)
    path = made_ready(source, home, console)
    as_of = day.date() if day else first_day_after(path)
    if airflow:
        run_through_airflow(
            as_of, home, console, dags=dags, source=str(path), model=model, tokens=tokens
        )
    else:
        run_chain(as_of, home, console, source=str(path), model=model, tokens=tokens, force=force)
    print_summary(home, as_of, Console())


@app.command(epilog="Example: tidemark plan --source ml-1m.zip --day 2003-03-01")
def plan(
    source: Source = SAMPLE,
    day: Day = None,
    model: Model = DEFAULT_BACKBONE,
    tokens: Tokens = TUNING_TOKENS,
    airflow: Annotated[bool, typer.Option(hidden=True, help="The same chain.")] = False,
    dags: Annotated[Path, typer.Option(hidden=True, help="The same chain.")] = Path("dags"),
    force: Annotated[bool, typer.Option(help="As if everything were to be redone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what `run` with these flags would redo and why, and what it would cost; run nothing.

    Ends with 1 if a job would fail for want of something that no earlier job makes.
    """
    # every job with its sources: seconds to import
    from jobs.plan import page
    from jobs.plan.steps import Status, flags_of_night

    configure_logs(quiet=True)
    home = Home.from_environment()
    path = made_ready(source, home, Console(stderr=True))
    as_of = day.date() if day else first_day_after(path)
    night = flags_of_night(as_of, home, source=str(path), model=model, tokens=tokens)
    found = page.planned(night, home, force=force)
    sys.stdout.write(page.as_json(found) if as_json else "\n".join(page.lines(found)))
    sys.stdout.write("\n")
    if found.jobs(Status.FAILS):
        raise typer.Exit(EXIT_FAILED)


@app.command(epilog="Example: tidemark metrics --output /var/lib/node_exporter/tidemark.prom")
def metrics(
    days: Annotated[int, typer.Option(min=1, help="As-of days, the latest ones.")] = 7,
    output: Annotated[
        Path | None,
        typer.Option(help="A file that is replaced whole; without it, standard output."),
    ] = None,
) -> None:
    """Print durations, rows, tokens, memory and ends of jobs, and versions, as OpenMetrics text."""
    from jobs.open_metrics import exposition  # the store and the report: seconds to import

    text = exposition(Home.from_environment(), days)
    if output is None:
        sys.stdout.write(text)
    else:
        write_atomically(output, text)


@app.command(
    epilog="Example: tidemark backtest --source ml-1m.zip --from 2002-09-01 --to 2002-09-30"
)
def backtest(
    first: Annotated[
        datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First day that is scored.")
    ],
    last: Annotated[
        datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day that is scored.")
    ],
    source: Source = SAMPLE,
    refit_every: Annotated[int, typer.Option(min=1, help="Days from one night to the next.")] = 1,
    valid_days: Annotated[
        int | None,
        typer.Option(
            min=1, help="Days before a midnight that choose the epochs; by default the source's."
        ),
    ] = None,
    warm_start: Annotated[
        bool, typer.Option(help="Begin each fit at the version before, and refit nothing.")
    ] = False,
    known_by: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="Labels as known on this day; by default the one after the source's last.",
        ),
    ] = None,
    model: Model = DEFAULT_BACKBONE,
    beside: Annotated[
        list[str] | None,
        typer.Option(help="A system of the bench to fit every night as a control: lightgbm."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A field of a job's config to try: align.max_epochs=5."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--home", help="Its own folder; by default one below backtests/ of the home."),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option(help="Pass over a night that fails; the version before serves on.")
    ] = False,
) -> None:
    """Replay the nights of a period: score each day with the version of the night before.

    Jobs run in a folder of their own; no table, version or alias of the home is touched. A call
    that was killed, or stopped at a night that failed, goes on there when it is given again.
    """
    # charts and the store: seconds to import
    from jobs.bench.backtest import replay, summary
    from jobs.bench.backtest.plan import settings_of

    configure_logs(quiet=True)  # each night is a line of its own; what its jobs say is in a file
    home, console = Home.from_environment(), Console(stderr=True)
    path = made_ready(source, home, console)
    plan, where = replay.planned(
        home,
        folder,
        lambda: first_day_after(path),
        source=str(path),
        domain=recognise(path)[0].domain,
        first=first.date(),
        last=last.date(),
        known_by=known_by.date() if known_by else None,
        model=model,
        refit_every=refit_every,
        valid_days=valid_days,
        warm_start=warm_start,
        beside=replay.known_systems(beside or []),
        settings=settings_of(settings or []),
    )
    figures = replay.backtest(plan, where, home, console, keep_going=keep_going)
    summary.print_backtest(figures, where, Console())


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
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(told("tidemark", error, Home.from_environment()))


if __name__ == "__main__":
    main()
