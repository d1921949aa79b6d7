"""Which raw rows have arrived, and where they lie: a chain of records, each written once.

A record says what one pass over new raw rows made. The files that it names are complete before it
is: without the record they do not exist. Nothing is ever written over; a restated stretch is one
more record, which takes the place of what earlier ones say of its days.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.errors import NotAvailable
from jobs.files import sync_directory, sync_file
from jobs.home import Home
from jobs.lock import take_lock

ALWAYS = date(1970, 1, 1)  # known_day of rows that no clock dates: every night knows them
_WAIT_S = 3600.0  # for the arrivals of another day, which may be a long backfill


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Frozen):
    """Events of one day that became known on one day: an immutable file named by its content."""

    event_day: date
    known_day: date
    path: str  # below the home
    sha256: str
    n_bytes: int
    n_rows: int


class Rows(_Frozen):
    """Rows of another kind that one pass wrote, of all its days, in one file."""

    path: str
    sha256: str
    n_bytes: int
    n_rows: int


class Signature(_Frozen):
    """What a file held of one day: sql/prepare/day_signatures.sql."""

    n_rows: int
    signature: int


class SourceFile(_Frozen):
    """A raw file as it was when it was last read.

    Attributes:
        name: relative to the root of the source.
        kind: "events" or "items".
        ordinal: upper bits of `source_row` of the rows that were read from it.
        known_from: the day from which it was delivered, by its name; None without one.
        days: what it held, by the day that knows a row by its own clock; empty for a file with a
            day in its name, which is taken whole and never changes.
        is_read_up: whether nothing is left in it for a later day.
    """

    name: str
    kind: str
    ordinal: int
    known_from: date | None
    n_bytes: int
    mtime_ns: int
    sha256: str
    days: dict[date, Signature] = {}
    is_read_up: bool = True

    def looks_like(self, path: Path) -> bool:
        """Whether the file at `path` has the size and time of change that this one had."""
        status = path.stat()
        return (status.st_size, status.st_mtime_ns) == (self.n_bytes, self.mtime_ns)


class Arrival(_Frozen):
    """Counts of what became known on one day."""

    known_day: date
    n_rows: int
    n_events: int
    n_late: int
    n_corrections: int
    n_released: int
    rejected: dict[str, int]  # rows by reason

    @property
    def n_quarantined(self) -> int:
        """Rows that became no events."""
        return sum(self.rejected.values())


class Record(_Frozen):
    """What one pass made of the days in (after, until]."""

    sequence: int
    after: date
    until: date
    restated_because: list[str] = []
    files: list[SourceFile]
    parts: list[Part]
    rejected: Rows | None
    item_rows: Rows | None
    catalogue: Rows | None
    released: dict[int, date]  # source_row of a released row: the day that knows it
    arrivals: list[Arrival]


@dataclass(frozen=True)
class Stretch:
    """The days of a record that still count: (after, until]."""

    record: Record
    after: date
    until: date

    def holds(self, day: date) -> bool:
        """Whether what became known on `day` is told by this record."""
        return self.after < day <= self.until


class Ledger:
    """The records of one mapping in one home.

    Args:
        home: where they lie.
        mapping_sha256: of what decides how rows are read (`Mapping.reading_sha256`).
    """

    def __init__(self, home: Home, mapping_sha256: str) -> None:
        self.home = home
        self.folder = events_folder(home) / "_arrivals" / mapping_sha256[:12]
        self.records: tuple[Record, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Read what has been written since."""
        names = sorted(self.folder.glob("[0-9]*.json"))
        self.records = (
            *self.records,
            *(_read_record(path) for path in names[len(self.records) :]),
        )

    @property
    def until(self) -> date:
        """The last day whose arrival has been built; `date.min` if none has."""
        return max((each.until for each in self.stretches()), default=date.min)

    def stretches(self, day: date = date.max) -> list[Stretch]:
        """What counts as of `day`, in order of time: later records take the place of earlier."""
        found: list[Stretch] = []
        for record in self.records:
            kept = [Stretch(s.record, s.after, min(s.until, record.after)) for s in found]
            found = [s for s in kept if s.after < s.until]
            found.append(Stretch(record, record.after, record.until))
        clipped = [Stretch(s.record, s.after, min(s.until, day)) for s in found]
        return [s for s in clipped if s.after < s.until]

    def parts(self, day: date) -> list[Part]:
        """Partitions that `day` knows, by event day and then by the day that knows them."""
        found = [p for s in self.stretches(day) for p in s.record.parts if s.holds(p.known_day)]
        return sorted(found, key=lambda part: (part.event_day, part.known_day))

    def arrivals(self, day: date) -> list[Arrival]:
        """Counts of every day up to `day`."""
        counted = self.stretches(day)
        return [a for s in counted for a in s.record.arrivals if s.holds(a.known_day)]

    def files(self, day: date = date.max) -> dict[tuple[str, str], SourceFile]:
        """Raw files by kind and name, as they were when they were last read."""
        counted = self.stretches(day)
        files = (cut for s in counted for file in s.record.files if (cut := _known_by(file, s)))
        return {(file.kind, file.name): file for file in files}

    def names(self, day: date = date.max) -> dict[int, str]:
        """Files of events by ordinal, every version of a file that was read."""
        files = (file for s in self.stretches(day) for file in s.record.files)
        return {file.ordinal: file.name for file in files if file.kind == "events"}

    def released(self, day: date) -> dict[int, date]:
        """Rows that were let back in by `day`, and from when on."""
        found: dict[int, date] = {}
        for stretch in self.stretches(day):
            released = stretch.record.released.items()
            found.update({row: known for row, known in released if stretch.holds(known)})
        return found

    @contextmanager
    def locked(self, log: Any) -> Iterator[None]:
        """One pass over raw rows in this home at a time; waits for another one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with take_lock(self.folder.parent / "lock", _WAIT_S, log):
            for aside in self.folder.glob(".*.json.*"):  # of a killed run
                aside.unlink()
            self.refresh()
            yield

    def append(self, record: Record) -> None:
        """Write a record: what it names is there from now on, and not before."""
        path = self.folder / f"{record.sequence:06d}.json"
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(record.model_dump_json(), encoding="utf-8")
        sync_file(aside)
        os.link(aside, path)  # never over another record
        aside.unlink()
        sync_directory(self.folder)
        self.refresh()


def _known_by(file: SourceFile, stretch: Stretch) -> SourceFile | None:
    """`file` as far as the days of a stretch go, which may be fewer than its record's."""
    if stretch.until == stretch.record.until:
        return file
    if file.known_from is not None:
        return file if file.known_from <= stretch.until else None
    days = {day: held for day, held in file.days.items() if day <= stretch.until}
    return file.model_copy(update={"days": days, "is_read_up": False})


def events_folder(home: Home) -> Path:
    """Folder of the partitions of all days."""
    return home.root / "tables" / "events"


def _read_record(path: Path) -> Record:
    try:
        return Record.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NotAvailable(
            f"{path}: not a record of arrivals ({str(error).splitlines()[0]}); restore it, or "
            f"remove {events_folder(Home(path.parents[4]))} and run ingest again"
        ) from error


def first_open_day(home: Home) -> date | None:
    """The first day whose arrival has not been built yet; None if nothing has been."""
    folder = events_folder(home) / "_arrivals"
    latest = [Ledger(home, path.name).until for path in folder.glob("*") if path.is_dir()]
    built = [day for day in latest if day > date.min]
    return date.fromordinal(max(built).toordinal() + 1) if built else None
