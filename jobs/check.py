"""Run `sql/checks` on what a job made, and mark the tables that pass: the CPU task after it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import date

import duckdb
import pyarrow as pa

from jobs.datasets import ALL, BY_NAME, Dataset, Format, made_by
from jobs.errors import ContractError, JobError, NotAvailable
from jobs.home import Home
from jobs.job import EXIT_FAILED, is_checked, load_manifest, mark_checked
from jobs.logs import configure_logs
from jobs.query import Rows, connect, sql_text

_SHOWN = 5


def violations(dataset: Dataset, tables: Mapping[str, Rows]) -> pa.Table:
    """Rows that `sql/checks/<dataset>.sql` returns; none means that the table is sound."""
    with connect(tables) as connection:
        return connection.sql(sql_text(f"checks/{dataset.name}")).to_arrow_table()


def _tables_of(dataset: Dataset, day: date, home: Home) -> dict[str, Rows]:
    names = duckdb.connect().get_table_names(sql_text(f"checks/{dataset.name}"))
    tables: dict[str, Rows] = {}
    for name in sorted(names & BY_NAME.keys()):
        path = home.output(BY_NAME[name], day)
        if load_manifest(home, BY_NAME[name].producer, day) is None or not path.is_file():
            raise NotAvailable(
                f"{name} of {day}, which the check of {dataset.name} needs, is absent"
            )
        tables[name] = path
    return tables


def check(producer: str, day: date, home: Home) -> list[str]:
    """Check every table that `producer` made for `day` and mark those that pass.

    Returns:
        Names of the tables that were checked now; those already marked are left alone.

    Raises:
        ContractError: a table has violating rows; it stays unmarked, so no job will read it.
    """
    if load_manifest(home, producer, day) is None:
        raise NotAvailable(f"job '{producer}' has not run for {day} in {home.root}")
    checked = []
    for dataset in made_by(producer):
        if dataset.format is not Format.PARQUET or is_checked(home, dataset, day):
            continue
        found = violations(dataset, _tables_of(dataset, day, home))
        if found.num_rows:
            rows = "\n  ".join(str(row) for row in found.slice(0, _SHOWN).to_pylist())
            raise ContractError(
                f"{dataset.name} of {day}: {found.num_rows} violations of "
                f"sql/checks/{dataset.name}.sql, the first:\n  {rows}"
            )
        mark_checked(home, dataset, day)
        checked.append(dataset.name)
    return checked


def main() -> None:
    """Command line: `python -m jobs.check --producer splits --day 2026-03-02`."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.check",
        description=__doc__,
        epilog="example: python -m jobs.check --producer splits --day 2026-03-02",
    )
    parser.add_argument(
        "--producer", required=True, choices=sorted({dataset.producer for dataset in ALL})
    )
    parser.add_argument("--day", required=True, type=date.fromisoformat)
    given = parser.parse_args()
    configure_logs()
    try:
        checked = check(given.producer, given.day, Home.from_environment())
    except JobError as error:
        sys.stderr.write(f"check {given.producer} {given.day}: {error}\n")
        sys.exit(EXIT_FAILED)
    said = {"job": "check", "producer": given.producer, "day": str(given.day), "checked": checked}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
