"""Brings a home up to a day: takes what is new in the raw files, once, and writes it down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from jobs.errors import SourceError
from jobs.home import Home
from jobs.prepare.arrivals.changes import (
    Change,
    changed_deliveries,
    first_changed_day,
    is_same,
    lost_parts,
    settle,
)
from jobs.prepare.arrivals.intake import Intake, NewRows, publish, remove_orphans, take_in
from jobs.prepare.arrivals.ledger import ALWAYS, Ledger, Record, SourceFile
from jobs.prepare.arrivals.new_items import read_new_catalogue
from jobs.prepare.arrivals.releases import load_releases, released_rows
from jobs.prepare.arrivals.spool import (
    Spooled,
    SpoolTask,
    empty_spool,
    spool_together,
    total_rows,
)
from jobs.prepare.engine import Engine
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.raw_file import RawFile, catalogue_files, raw_files

_SHOWN = 3
_BYTES_OF_A_TASK, _FILES_OF_A_TASK = 32 << 20, 64


@dataclass(frozen=True)
class Source:
    """A recognised source."""

    mapping: Mapping
    root: Path


@dataclass(frozen=True)
class Arrived:
    """What `bring_up_to` found and did.

    Attributes:
        ledger: as it is now.
        changes: why arrivals were built again; empty if none was.
    """

    ledger: Ledger
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Work:
    """Where and with what arrivals are built.

    Attributes:
        home: where they are kept.
        engine: who reads and judges.
        workspace: an empty folder in the home.
        log: for progress.
        accept: called before anything is written down; what it raises ends the run.
    """

    home: Home
    engine: Engine
    workspace: Path
    log: Any
    accept: Callable[[Intake], None]


def ledger_of(source: Source, home: Home) -> Ledger:
    """The arrivals of a source in a home."""
    return Ledger(home, source.mapping.reading_sha256())


def bring_up_to(day: date, source: Source, work: Work, *, restate: bool) -> Arrived:
    """Build the arrivals that `day` needs and that are not there yet.

    Args:
        day: the as-of day.
        source: the raw files.
        work: where and with what.
        restate: build arrivals again from the first that has changed.

    Raises:
        SourceError: a file that was read has changed and `restate` is not given, or a raw file
            cannot be read.
    """
    ledger = ledger_of(source, work.home)
    if not restate and day <= ledger.until and not _changes(day, source, ledger):
        return Arrived(ledger)
    with ledger.locked(work.log):
        until = max(day, ledger.until)
        changes = _changes(until if restate else day, source, ledger)
        if changes and not restate:
            raise SourceError(_refusal(changes, ledger))
        if restate:
            changes += _changed_days(until, source, ledger, work)
        after = min((_day_before(change) for change in changes), default=ledger.until)
        if after < until:
            _build(after, until, changes, source, ledger, work)
    return Arrived(ledger, tuple(changes))


def refusal(day: date, source: Source, ledger: Ledger) -> str | None:
    """What `bring_up_to` would say of files that have changed, unless it is told to restate."""
    changes = _changes(day, source, ledger)
    return _refusal(changes, ledger) if changes else None


def _day_before(change: Change) -> date:
    is_undated = change.known_day == ALWAYS
    return date.min if is_undated else change.known_day - timedelta(days=1)


def _changes(day: date, source: Source, ledger: Ledger) -> list[Change]:
    """What is no longer as it was when the arrivals up to `day` were built."""
    if not ledger.records or (known := min(day, ledger.until)) == date.min:
        return []
    files = raw_files(source.mapping, source.root, known)
    items = catalogue_files(source.mapping, source.root, known)
    return [
        *changed_deliveries(files, ledger, "events"),
        *changed_deliveries(items, ledger, "items"),
        *lost_parts(ledger, known),
    ]


def _changed_days(until: date, source: Source, ledger: Ledger, work: Work) -> list[Change]:
    """The same of files that may grow, which have to be read whole for it, and of late files."""
    plans = _plans(ledger.until, until, source, ledger)
    looked_at = [
        plan
        for plan in plans
        if plan.is_new_version and (plan.earlier is None or plan.file.known_from is None)
    ]
    changes = []
    for plan, spooled in zip(looked_at, _spooled(looked_at, source, work, "look"), strict=True):
        if change := first_changed_day(spooled, plan.earlier, ledger.until):
            changes.append(change)
    return changes


def _refusal(changes: Sequence[Change], ledger: Ledger) -> str:
    first = min(change.known_day for change in changes)
    said = "; ".join(change.why for change in changes[:_SHOWN])
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return (
        f"{said}{more}: snapshots from {first} to {ledger.until} were made from what was there "
        "before; put it back, or redo them with --restate"
    )


# -- which files are read ------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """A raw file that an arrival reads.

    Attributes:
        earlier: the file as it was read before, if it was.
        is_new_version: whether rows of days that were taken before must be looked at too.
    """

    file: RawFile
    after: date
    until: date
    can_skip: bool
    earlier: SourceFile | None
    is_new_version: bool


def _plans(after: date, until: date, source: Source, ledger: Ledger) -> list[Plan]:
    read = ledger.files(after)
    used = ledger.names(after)
    plans = []
    for file in raw_files(source.mapping, source.root, until):
        earlier = read.get(("events", file.name))
        is_changed = earlier is not None and not is_same(file, earlier)
        if earlier and not is_changed:
            if not earlier.is_read_up:
                known = replace(file, ordinal=earlier.ordinal)
                plans.append(Plan(known, after, until, True, earlier, False))
            continue
        numbered = replace(file, ordinal=_free_ordinal(file, used, is_changed=is_changed))
        used[numbered.ordinal] = file.name
        known_from = file.known_from.date() if file.known_from else None
        is_late = after > date.min and (known_from is None or known_from <= after)
        plans.append(Plan(numbered, date.min, until, False, earlier, is_late))
    return plans


def _free_ordinal(file: RawFile, used: dict[int, str], *, is_changed: bool) -> int:
    """The file's own place, or the next free one: rows of two versions are told apart by it."""
    ordinal = file.ordinal
    while ordinal in used and (is_changed or used[ordinal] != file.name):
        ordinal += 1
    return ordinal


def _spooled(plans: Sequence[Plan], source: Source, work: Work, name: str) -> Iterator[Spooled]:
    """Spools of the files of `plans`, in their order; many small files are one task."""
    folder = work.workspace / name
    folder.mkdir(parents=True, exist_ok=True)
    for spools in work.engine.map(spool_together, _task_groups(plans, source, folder)):
        yield from spools


def _task_groups(
    plans: Sequence[Plan], source: Source, folder: Path
) -> Iterator[tuple[SpoolTask, ...]]:
    group: list[SpoolTask] = []
    n_bytes = 0
    for plan in plans:
        path = folder / f"{plan.file.ordinal}.parquet"
        group.append(
            SpoolTask(source.mapping, plan.file, plan.after, plan.until, plan.can_skip, path)
        )
        n_bytes += plan.file.path.stat().st_size
        if n_bytes >= _BYTES_OF_A_TASK or len(group) == _FILES_OF_A_TASK:
            yield tuple(group)
            group, n_bytes = [], 0
    if group:
        yield tuple(group)


# -- building ------------------------------------------------------------------------------------


def _build(
    after: date, until: date, changes: Sequence[Change], source: Source, ledger: Ledger, work: Work
) -> None:
    """Take in the days in (after, until] and write the record that names what came of it."""
    plans = _plans(after, until, source, ledger)
    work.log.info("reading", files=len(plans), after=str(after), until=str(until))
    spools, files = [], []
    for plan, spooled in zip(plans, _spooled(plans, source, work, "spool"), strict=True):
        spools += _taken(plan, spooled, after, source, ledger, work)
        files.append(_file_read(plan, spooled))
    files_by_ordinal = {plan.file.ordinal: plan.file for plan in plans}
    catalogue = read_new_catalogue(
        source.mapping, source.root, after, until, ledger, work.workspace
    )
    empty = empty_spool(source.mapping, work.workspace / "empty.parquet")
    new = NewRows(
        mapping=source.mapping,
        root=source.root,
        after=after,
        until=until,
        spools=(empty, *spools),
        released=_released(after, until, spools, empty, ledger, work),
        catalogue=catalogue.paths,
        catalogue_new=catalogue.new,
        rejected_items=catalogue.rejected,
        files=files_by_ordinal,
        names=ledger.names(after),
    )
    intake = take_in(new, ledger, work.engine, work.workspace)
    work.accept(intake)
    parts, others = publish(intake, ledger)
    ledger.append(
        Record(
            sequence=len(ledger.records) + 1,
            after=after,
            until=until,
            restated_because=[change.why for change in changes],
            files=[*files, *catalogue.files],
            parts=parts,
            rejected=others["rejected"],
            item_rows=others["item_rows"],
            catalogue=others["catalogue"],
            released=intake.released,
            arrivals=intake.arrivals,
        )
    )
    remove_orphans(ledger, parts)


def _taken(
    plan: Plan, spooled: Spooled, after: date, source: Source, ledger: Ledger, work: Work
) -> list[Path]:
    """Spools of the rows of a file that this arrival takes."""
    if not plan.is_new_version:
        return [spooled.task.path] if spooled.n_wanted else []
    limits = work.engine.limits
    path, gone = settle(spooled, plan.earlier, ledger, after, source.mapping, limits)
    if gone:
        raise SourceError(_refusal([gone], ledger))
    return [path] if path else []


def _file_read(plan: Plan, spooled: Spooled) -> SourceFile:
    days = {**(plan.earlier.days if plan.earlier and plan.can_skip else {}), **spooled.days}
    n_taken, total = sum(day.n_rows for day in days.values()), total_rows(spooled)
    known_from = plan.file.known_from
    return SourceFile(
        name=plan.file.name,
        kind="events",
        ordinal=plan.file.ordinal,
        known_from=known_from.date() if known_from else None,
        n_bytes=spooled.n_bytes,
        mtime_ns=spooled.mtime_ns,
        sha256=spooled.sha256,
        days=days,
        is_read_up=known_from is not None or n_taken == total,
    )


def _released(
    after: date, until: date, spools: Sequence[Path], empty: Path, ledger: Ledger, work: Work
) -> tuple[Path, ...]:
    due = [r for r in load_releases(work.home) if after < r.known_from <= until]
    if not due:
        return ()
    path = work.workspace / "released.parquet"
    return (released_rows(due, spools, empty, ledger, after, path),)
