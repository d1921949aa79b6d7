"""Run `sql/checks` on what a job made, and mark the tables that pass: the CPU task after it."""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from jobs import lineage
from jobs.answer import answer
from jobs.datasets import (
    ALL,
    BY_NAME,
    DOMAINS,
    EVENT_PARTS,
    EVENTS,
    ITEMS,
    WITHDRAWN_EVENTS,
    Dataset,
    Format,
    made_by,
)
from jobs.errors import ContractError, JobError, NotAvailable
from jobs.failures import one_line, told
from jobs.home import Home
from jobs.job import is_checked, load_manifest, mark_checked
from jobs.launch import MODULES
from jobs.logs import configure_logs
from jobs.manifest import code_version, readable_manifest
from jobs.prepare.events import event_tables, events_on_disk
from jobs.query import Rows, connect, sql_text

_SHOWN = 5
_ROWS_AT_ONCE = 4_000_000  # of events
_NIGHTS, _FEWEST_NIGHTS, _WEEKS_BACK = 7, 3, 2


def violations(dataset: Dataset, tables: Mapping[str, Rows]) -> pa.Table:
    """Rows that `sql/checks/<dataset>.sql` returns; none means that the table is sound."""
    with connect(tables) as connection:
        return connection.sql(sql_text(f"checks/{dataset.name}")).to_arrow_table()


def _tables_of(dataset: Dataset, day: date, home: Home) -> dict[str, Rows]:
    names = duckdb.connect().get_table_names(sql_text(f"checks/{dataset.name}"))
    tables: dict[str, Rows] = {}
    for name in sorted(names & BY_NAME.keys()):
        tables[name] = _made(BY_NAME[name], day, home, dataset)
    if EVENTS.name in names:  # no snapshot of its own, but rows that many nights share
        parts, withdrawn = (
            _made(each, day, home, dataset) for each in (EVENT_PARTS, WITHDRAWN_EVENTS)
        )
        tables |= events_on_disk(home, parts, withdrawn)
    return tables


def _made(needed: Dataset, day: date, home: Home, dataset: Dataset) -> Path:
    path = home.output(needed, day)
    if load_manifest(home, needed.producer, day) is None or not path.is_file():
        raise NotAvailable(
            f"{needed.name} of {day}, which the check of {dataset.name} needs, is absent; "
            f"run: python -m {MODULES[needed.producer]} --day {day}"
        )
    return path


def _refuse(dataset: Dataset, day: date, found: pa.Table) -> None:
    if found.num_rows:
        rows = "\n  ".join(str(row) for row in found.slice(0, _SHOWN).to_pylist())
        raise ContractError(
            f"{dataset.name} of {day}: {found.num_rows} violations of "
            f"sql/checks/{dataset.name}.sql, the first:\n  {rows}\n"
            f"No job reads the table until it passes: mend what came in, run "
            f"python -m {MODULES[dataset.producer]} --day {day}, then its check again"
        )


# -- events, which have no snapshot of their own ---------------------------------------------------


def _check_events(day: date, home: Home) -> None:
    """Check the events of the days whose partitions no checked night before has.

    A partition never changes, so each is looked at once, some days at a time.

    Raises:
        ContractError: events that break `sql/checks/events.sql`.
    """
    parts = _parts(home, day)
    known = _parts_checked_before(day, home)
    new_days = {part["event_day"] for part in parts if part["path"] not in known}
    tables: dict[str, Rows] = {
        each.name: _made(each, day, home, EVENTS) for each in (DOMAINS, ITEMS)
    }
    withdrawn = _made(WITHDRAWN_EVENTS, day, home, EVENTS)
    for some in _together([part for part in parts if part["event_day"] in new_days]):
        paths = [home.root / part["path"] for part in some]
        _refuse(EVENTS, day, violations(EVENTS, tables | event_tables(paths, withdrawn)))


def _parts(home: Home, day: date) -> list[dict[str, Any]]:
    return pq.read_table(home.output(EVENT_PARTS, day), partitioning=None).to_pylist()


def _parts_checked_before(day: date, home: Home) -> set[str]:
    """Partitions of the last night before `day` whose events have passed."""
    folders = (home.root / "tables" / EVENT_PARTS.name).glob("day=*")
    nights = sorted(date.fromisoformat(path.name.removeprefix("day=")) for path in folders)
    for night in reversed([each for each in nights if each < day]):
        if is_checked(home, EVENT_PARTS, night):
            return {part["path"] for part in _parts(home, night)}
    return set()


def _together(parts: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Partitions of whole event days, as many as are checked at once."""
    some: list[dict[str, Any]] = []
    for part in parts:  # in the order of their event days
        is_full = sum(each["n_rows"] for each in some) >= _ROWS_AT_ONCE
        if is_full and part["event_day"] != some[-1]["event_day"]:
            yield some
            some = []
        some.append(part)
    if some:
        yield some


# -- rows against the nights before ----------------------------------------------------------------


def _refuse_row_loss(dataset: Dataset, day: date, home: Home) -> None:
    """A table that grows by its nature must not suddenly be much shorter than it was.

    Raises:
        ContractError: it has lost more than `max_row_loss` against the median of the last nights.
    """
    manifest = load_manifest(home, dataset.producer, day)
    made = manifest.output(dataset.name) if manifest else None
    if made is None or made.n_rows is None or dataset.max_row_loss is None:
        return
    before = _rows_before(dataset, day, home)
    if len(before) < _FEWEST_NIGHTS:
        return
    usual = median(before)
    if made.n_rows < (1 - dataset.max_row_loss) * usual:
        raise ContractError(
            f"{dataset.name} of {day}: {made.n_rows:,} rows; the median of the {len(before)} "
            f"nights before is {usual:,.0f}, and more than {dataset.max_row_loss:.0%} less is "
            "refused; look at what came in, and remove the nights before if they were wrong"
        )


def _rows_before(dataset: Dataset, day: date, home: Home) -> list[int]:
    """Rows of the last nights that exist, of the weeks before `day`."""
    found: list[int] = []
    for n_days in range(1, _WEEKS_BACK * 7 + 1):
        manifest = load_manifest(home, dataset.producer, day - timedelta(days=n_days))
        made = manifest.output(dataset.name) if manifest else None
        if made is not None and made.n_rows is not None:
            found.append(made.n_rows)
        if len(found) == _NIGHTS:
            break
    return found


# -- a whole job -----------------------------------------------------------------------------------


def check(producer: str, day: date, home: Home) -> list[str]:
    """Check every table that `producer` made for `day` and mark those that pass.

    A job need not make all of its tables every day: those that its manifest does not name are
    passed by, and nobody can read them.

    Returns:
        Names of the tables that were checked now; those already marked are left alone.

    Raises:
        ContractError: a table has violating rows; it stays unmarked, so no job will read it.
    """
    manifest = load_manifest(home, producer, day)
    if manifest is None:
        raise NotAvailable(f"job '{producer}' has not run for {day} in {home.root}")
    checked = []
    for dataset in made_by(producer):
        if dataset.format is not Format.PARQUET or manifest.output(dataset.name) is None:
            continue
        if is_checked(home, dataset, day):
            continue
        _refuse(dataset, day, violations(dataset, _tables_of(dataset, day, home)))
        _refuse_row_loss(dataset, day, home)
        if dataset is EVENT_PARTS:
            _check_events(day, home)
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
    home, day, who = Home.from_environment(), given.day, f"check {given.producer} {given.day}"
    names = {"run": str(uuid.uuid4()), "job": f"check_{given.producer}", "day": str(day)}
    with structlog.contextvars.bound_contextvars(**names):
        _emit("START", given.producer, day, home, names)
        try:
            checked = check(given.producer, day, home)
        except (Exception, KeyboardInterrupt) as error:
            _emit("FAIL", given.producer, day, home, names, error)
            sys.exit(told(who, error, home))
        _emit("COMPLETE", given.producer, day, home, names)
    answer({"job": "check", "producer": given.producer, "day": str(day), "checked": checked})


def _emit(
    kind: lineage.Kind,
    producer: str,
    day: date,
    home: Home,
    names: Mapping[str, str],
    error: BaseException | None = None,
) -> None:
    """Tell lineage which tables are checked, and at the end which have passed; fails no check."""
    log = structlog.get_logger()
    try:
        facts = _facts(kind, producer, day, home, names, error)
    except (JobError, OSError) as why:
        log.warning("no lineage", why=str(why))
        return
    lineage.emit(lineage.event(kind, facts, home), day, home, log)


def _facts(
    kind: lineage.Kind,
    producer: str,
    day: date,
    home: Home,
    names: Mapping[str, str],
    error: BaseException | None,
) -> lineage.Facts:
    manifest = readable_manifest(home, producer, day)  # of a damaged one `check` itself tells
    tables = [each for each in manifest.outputs if each.n_rows is not None] if manifest else []
    passed = {each.name: is_checked(home, BY_NAME[each.name], day) for each in tables}
    first_failed = next((name for name, is_sound in passed.items() if not is_sound), None)
    return lineage.Facts(
        job=names["job"],
        day=day,
        run=names["run"],
        status={"START": "running", "FAIL": "failed"}.get(kind, "done"),
        code=code_version(),
        inputs=tables,
        error=one_line(error, home) if error else None,
        # Those after the first that failed were not looked at.
        checked={
            n: ok for n, ok in passed.items() if kind != "START" and (ok or n == first_failed)
        },
    )


if __name__ == "__main__":
    main()
