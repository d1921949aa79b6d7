"""Quarantined rows that a person let back in, each from a night on that had not run before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.errors import SourceError
from jobs.files import write_atomically
from jobs.home import Home
from jobs.prepare.arrivals.ledger import Ledger
from jobs.query import query


class AcceptedRow(BaseModel):
    """The event that a released row is taken for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: int | str
    item_id: int | str
    rating: float
    rated_at: datetime  # UTC, without a zone
    title: str | None = None  # where titles come from events


class Release(BaseModel):
    """One row of the quarantine, and what it counts as from `known_from` on.

    Attributes:
        source_file: as the quarantine names it.
        line: likewise.
        raw_sha256: hash of the row as it came: a release is of that row and of no other.
        known_from: the first as-of day that has the event; earlier nights keep what they saw.
        row: the event.
        who: who released it.
        why: what they said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_file: str
    line: int
    raw_sha256: str
    known_from: date
    row: AcceptedRow
    who: str
    why: str

    @property
    def id(self) -> str:
        """Hash of what is released and as what; the name of its file."""
        said = self.model_dump(mode="json", exclude={"who", "why"})
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def raw_sha256(raw: str) -> str:
    """Hash of a row as the quarantine keeps it."""
    return hashlib.sha256(raw.encode()).hexdigest()


def folder(home: Home) -> Path:
    """Where releases lie."""
    return home.root / "releases"


def save_release(home: Home, release: Release) -> Path:
    """Write a release down; the arrival of `known_from` applies it."""
    path = folder(home) / f"{release.id}.json"
    write_atomically(path, release.model_dump_json(indent=2))
    return path


def load_releases(home: Home) -> tuple[Release, ...]:
    """All releases of a home, in the order in which they count.

    Raises:
        SourceError: a file is not one, or one row is released twice.
    """
    found: dict[tuple[str, int], Release] = {}
    for path in sorted(folder(home).glob("*.json")):
        try:
            release = Release.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise SourceError(
                f"{path}: not a release; remove it and release the row again ({error})"
            ) from error
        place = (release.source_file, release.line)
        if place in found:
            raise SourceError(
                f"{path}: {place[0]}, line {place[1]} is already released by "
                f"{found[place].id}.json; remove one of the two"
            )
        found[place] = release
    return tuple(sorted(found.values(), key=lambda r: (r.known_from, r.source_file, r.line)))


# -- what an arrival takes in of them ------------------------------------------------------------


def released_rows(
    due: Sequence[Release],
    spools: Sequence[Path],
    empty: Path,
    ledger: Ledger,
    after: date,
    path: Path,
) -> Path:
    """Write the rows that are let back in as a spool: as if they were delivered on `known_from`.

    Args:
        due: releases of the arrival.
        spools: rows that the arrival reads itself.
        empty: a spool without rows, for its columns.
        ledger: where earlier rows are, up to `after`.
        after: the last day before the arrival.
        path: what to write.

    Raises:
        SourceError: a row is not in the quarantine, is not what it was when it was released, or
            says of itself that it happened after the night that is to know it.
    """
    places = _places(due, spools, empty, ledger, after)
    rows = []
    for release in due:
        place = places.get((release.source_file, release.line))
        where = f"release {release.id}: {release.source_file}, line {release.line}"
        if place is None:
            raise SourceError(
                f"{where} is not in the quarantine; remove releases/{release.id}.json"
            )
        if raw_sha256(place["raw"]) != release.raw_sha256:
            raise SourceError(
                f"{where} is no longer the row that was released: {place['raw']!r}; "
                f"remove releases/{release.id}.json and release it again"
            )
        rows.append(_spooled(release, place["source_row"], where))
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(empty)), path)
    return path


def _places(
    due: Sequence[Release], spools: Sequence[Path], empty: Path, ledger: Ledger, after: date
) -> dict[tuple[str, int], dict[str, Any]]:
    wanted = [{"source_file": release.source_file, "line": release.line} for release in due]
    schema = pa.schema([("source_file", pa.string()), ("line", pa.int64())])
    kept = [s.record.rejected.path for s in ledger.stretches(after) if s.record.rejected]
    nothing = schema.append(pa.field("kind", pa.string())).append(pa.field("raw", pa.string()))
    found = query(
        "prepare/released_places",
        {
            "wanted": pa.Table.from_pylist(wanted, schema=schema),
            "spooled": [empty, *spools],
            "rejected_rows": [ledger.home.root / name for name in kept]
            or nothing.append(pa.field("source_row", pa.int64())).empty_table(),
        },
    )
    return {(row["source_file"], row["line"]): row for row in found.to_pylist()}


def _spooled(release: Release, source_row: int, where: str) -> dict[str, Any]:
    row, known = release.row, release.known_from
    if row.rated_at >= datetime.combine(known, time()):
        raise SourceError(f"{where} happened at {row.rated_at}, after its release from {known} on")
    return {
        "source_file": release.source_file,
        "line": release.line,
        "source_row": source_row,
        **row.model_dump(),
        "ingested_at": datetime.combine(known, time()),
        "own_day": known,
        "known_day": known,
        "event_day": row.rated_at.date(),
    }
