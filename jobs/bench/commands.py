"""`tidemark bench`: parse, call, print."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.errors import JobError
from jobs.home import Home

app = typer.Typer()
_WIDTH = 140  # of a table in a file


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise JobError(f"--seeds {text}: expected whole numbers, such as 0,1,2") from None


@app.command(epilog="Example: tidemark bench benchmarks/configs/ml1m-paper.yaml --only sasrec")
def bench(
    config: Annotated[Path, typer.Argument(help="YAML file: systems, seeds, protocol, control.")],
    day: Annotated[
        datetime | None,
        typer.Option("--day", "--home-day", formats=["%Y-%m-%d"], help="Of the home's tables."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Fit this system alone; of others, what is kept is shown. Repeatable."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Instead of the file's: 0,1,2.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Instead of the file's: paper, nightly, warehouse.")
    ] = None,
    any_code: Annotated[
        bool,
        typer.Option(
            "--any-code",
            help="Show what another version of the code has kept, where this one has nothing and "
            "all else is the same; the table says of which rows. Fits only what nobody has.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results; by default bench/ of the home.")
    ] = None,
) -> None:
    """Run systems x seeds under one protocol and write one table: terminal, Markdown, JSON, HTML.

    What was fitted is kept in the home: a bench that was killed goes on where it was. It ends with
    status 1 if a system failed, after writing the others.
    """
    from jobs.bench.config import load_bench  # torch and charts: seconds to import
    from jobs.bench.evidence import bench_rows
    from jobs.bench.markdown import print_table
    from jobs.bench.result import result_of, write_result
    from jobs.bench.runner import Bench, entries_of
    from jobs.collab.baselines.registry import SYSTEMS

    home, path = Home.from_environment(), config.expanduser().absolute()
    asked = load_bench(
        path,
        SYSTEMS,
        day=day.date() if day else None,
        seeds=_numbers(seeds) if seeds else None,
        protocol=protocol,
    )
    if asked.day is None:
        raise JobError(f"{config}: which day's tables? give --day, or the key `day` in the file")
    names = [entry.name for entry in entries_of(asked)]
    for name in only or ():
        if name not in names:
            raise JobError(f"--only {name}: {config} has {', '.join(names)}")
    rows = bench_rows(home, asked.day)
    runner = Bench(asked, rows, home, path.parent, Console(stderr=True), any_code=any_code)
    found = runner.run(only or ())
    result = result_of(asked, rows, found)
    out = Console()
    print_table(result, out if out.is_terminal else Console(width=_WIDTH))
    for written in write_result(result, output or home.root / "bench"):
        typer.echo(written)
    if failed := [each.entry.name for each in found if each.error]:
        raise JobError(f"{len(failed)} of {len(found)} rows failed: {', '.join(failed)}")
