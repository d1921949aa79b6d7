"""Lets quarantined rows back in: mended, read again by the same parser, from a later night on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import JobError
from jobs.home import Home
from jobs.manifest import Manifest
from jobs.prepare.arrivals.ledger import first_open_day
from jobs.prepare.arrivals.quarantine import Wanted, rows
from jobs.prepare.arrivals.releases import (
    AcceptedRow,
    Release,
    load_releases,
    raw_sha256,
    save_release,
)
from jobs.prepare.sources.lines import shown
from jobs.prepare.sources.mapping import Mapping as SourceMapping
from jobs.prepare.sources.mapping import recognise
from jobs.prepare.sources.parse import parse_events
from jobs.prepare.sources.raw_file import RawFile, files_of
from jobs.prepare.sources.readers import BROKEN, LINE, event_batches, row_texts

_MOST = 10_000  # rows of one call: each is a file, and somebody has to answer for it
_CORRECTED, _UNKNOWN = "corrected by a later row", "unknown item"
_STANDS = ("duplicate", "conflicting duplicate")


class ReleaseRefused(JobError):
    """A row cannot be let back in as it was asked."""


@dataclass(frozen=True)
class Order:
    """What a person asks for.

    Attributes:
        wanted: which rows of the quarantine.
        changes: new values by column of the source; none to take the rows as they are.
        known_from: the first night that is to know the rows; None: the next one.
        who: who answers for it.
        why: the reason that they give.
    """

    wanted: Wanted
    changes: Mapping[str, str]
    known_from: date | None
    who: str
    why: str


@dataclass(frozen=True)
class Released:
    """One row that an order is about.

    Attributes:
        is_new: whether it was released now, not by an earlier order.
    """

    release: Release
    is_new: bool


def release_rows(
    home: Home, night: Manifest, order: Order, *, source: Path | None = None
) -> list[Released]:
    """Write down that rows count as events from a night on; all of them or none.

    Nights that have run keep what they saw. The same order given twice changes nothing.

    Args:
        home: where the quarantine is.
        night: the ingest whose quarantine is meant.
        order: which rows, as what, from when on.
        source: the mapping, if it has moved since.

    Raises:
        ReleaseRefused: no row is meant, one is still bad, or the night has run already.
        SourceError: the source cannot be read.
    """
    if not order.why.strip():
        raise ReleaseRefused("say why with --why: it is kept with the release")
    known_from = _known_from(home, order.known_from)
    meant = [r for r in rows(home, night, order.wanted, _MOST + 1) if r["kind"] == "event"]
    earlier = {(r.source_file, r.line): r for r in load_releases(home)}
    if not meant and (done := _done_before(order.wanted, earlier)):
        return done
    _refuse_none_or_many(meant, night)
    mapping, root = recognise(source or Path(night.config["source"]).expanduser())
    made = _released(meant, order, known_from, mapping, root)
    told = [_told(release, earlier) for release in made]
    for one in told:
        if one.is_new:
            save_release(home, one.release)
    return told


def _known_from(home: Home, asked: date | None) -> date:
    first = first_open_day(home)
    if first is None:
        raise ReleaseRefused(
            f"{home.root}: nothing has arrived here yet, so nothing can be released"
        )
    if asked is not None and asked < first:
        raise ReleaseRefused(
            f"--from {asked}: that night has been built, and it keeps what it saw; "
            f"the first that can know the rows is {first}"
        )
    return asked or first


def _done_before(wanted: Wanted, earlier: Mapping[tuple[str, int], Release]) -> list[Released]:
    """Releases of the places that are wanted: their rows are events by now."""
    places = [(wanted.source_file or "", line) for line in wanted.lines]
    return [Released(earlier[place], is_new=False) for place in places if place in earlier]


def _refuse_none_or_many(meant: Sequence[dict[str, Any]], night: Manifest) -> None:
    if not meant:
        raise ReleaseRefused(
            f"no quarantined row of an event in the night of {night.day} is like that; "
            "see: tidemark quarantine show"
        )
    if len(meant) > _MOST:
        raise ReleaseRefused(
            f"more than {_MOST:,} rows are like that; mend the source or the mapping instead"
        )


def _told(release: Release, earlier: Mapping[tuple[str, int], Release]) -> Released:
    before = earlier.get((release.source_file, release.line))
    if before is None:
        return Released(release, is_new=True)
    if before.row != release.row or before.raw_sha256 != release.raw_sha256:
        raise ReleaseRefused(
            f"{release.source_file}, line {release.line} is already released from "
            f"{before.known_from} on as {before.row.model_dump(mode='json')}; "
            f"to change that, remove releases/{before.id}.json before that night runs"
        )
    return Released(before, is_new=False)


# -- reading again ---------------------------------------------------------------------------------


def _released(
    meant: Sequence[dict[str, Any]],
    order: Order,
    known_from: date,
    mapping: SourceMapping,
    root: Path,
) -> list[Release]:
    files = {file.name: file for file in files_of(mapping.events, root, mapping.domain)}
    made = []
    for name in sorted({row["source_file"] for row in meant}):
        if name not in files:
            raise ReleaseRefused(
                f"{root / name}: this file of the quarantine is not there any more"
            )
        of_file = {row["line"]: row for row in meant if row["source_file"] == name}
        for line, accepted in _accepted(of_file, order, mapping, files[name]).items():
            made.append(
                Release(
                    source_file=name,
                    line=line,
                    raw_sha256=raw_sha256(of_file[line]["raw"]),
                    known_from=known_from,
                    row=accepted,
                    who=order.who,
                    why=order.why.strip(),
                )
            )
    return made


def _accepted(
    meant: Mapping[int, dict[str, Any]], order: Order, mapping: SourceMapping, file: RawFile
) -> dict[int, AcceptedRow]:
    """The rows at the lines of `meant` as events, changed as the order says."""
    as_released = _without_arrivals(mapping)
    lines = pa.array(sorted(meant), pa.int64())
    found: dict[int, AcceptedRow] = {}
    for batch in event_batches(mapping, file):
        chosen = batch.filter(pc.is_in(batch[LINE], lines))
        if not len(chosen):
            continue
        _refuse_changed(chosen, meant, mapping, file)
        mended = _changed(chosen, order.changes, file)
        for row in parse_events(mended, as_released, replace(file, known_from=None)).to_pylist():
            found[row["line"]] = _event(row, meant[row["line"]], order, file)
    if missing := sorted(set(meant) - set(found)):
        raise ReleaseRefused(f"{file.shown}, line {missing[0]}: the file has no such row any more")
    return found


def _without_arrivals(mapping: SourceMapping) -> SourceMapping:
    """A released row arrives when it is released, whatever its delivery said."""
    events = mapping.events.model_copy(update={"ingested_at": None})
    return mapping.model_copy(update={"events": events})


def _refuse_changed(
    chosen: pa.RecordBatch,
    meant: Mapping[int, dict[str, Any]],
    mapping: SourceMapping,
    file: RawFile,
) -> None:
    pairs = zip(chosen[LINE].to_pylist(), row_texts(chosen, mapping.events), strict=True)
    for line, raw in pairs:
        if meant[line]["reason"] != _UNKNOWN and meant[line]["raw"] != raw:
            raise ReleaseRefused(
                f"{file.shown}, line {line}: the row has changed since it was quarantined: "
                f"{shown(meant[line]['raw'])} is now {shown(raw)}; run ingest --restate"
            )


def _changed(batch: pa.RecordBatch, changes: Mapping[str, str], file: RawFile) -> pa.RecordBatch:
    """`batch` with new values in some columns, each in the column's own type."""
    for name, value in changes.items():
        place = batch.schema.get_field_index(name)
        if place < 0 or name.startswith("#"):
            named = [n for n in batch.schema.names if not n.startswith("#")]
            raise ReleaseRefused(
                f"--set {name}={value}: {file.name} has no such column that the mapping reads; "
                f"there are {', '.join(named)}"
            )
        kind = batch.schema.field(place).type
        try:
            cell = pa.scalar(value, pa.string()).cast(kind)
        except (pa.ArrowException, NotImplementedError) as error:
            raise ReleaseRefused(f"--set {name}={value}: the column holds {kind}") from error
        batch = batch.set_column(place, batch.schema.field(place), pa.repeat(cell, len(batch)))
    if changes:  # a line that was cut wrongly is whole once its values are given
        place = batch.schema.get_field_index(BROKEN)
        nothing = pa.nulls(len(batch), batch.schema.field(place).type)
        batch = batch.set_column(place, batch.schema.field(place), nothing)
    return batch


def _event(
    row: Mapping[str, Any], meant: Mapping[str, Any], order: Order, file: RawFile
) -> AcceptedRow:
    where = f"{file.name}, line {row['line']}"
    if row["reason"] is not None:
        column = f" ({row['column']}: {shown(str(row['value']))})" if row["column"] else ""
        raise ReleaseRefused(
            f"{where}: still {row['reason']}{column}; mend it with --set "
            f"{row['column'] or 'COLUMN'}=VALUE"
        )
    if why_not := _why_not(meant["reason"], has_changes=bool(order.changes)):
        raise ReleaseRefused(f"{where}: {meant['reason']}: {why_not}")
    names = ("user_id", "item_id", "rating", "rated_at")
    return AcceptedRow(**{name: row[name] for name in names}, title=row.get("title"))


def _why_not(reason: str, *, has_changes: bool) -> str | None:
    """Why a row that can be read cannot be let back in; None if it can."""
    if reason == _CORRECTED:
        return "the row that replaced it is an event; release nothing, or correct it in the source"
    if has_changes:
        return None
    if reason in _STANDS:
        return "an event of its user, item and time stands; change one of them with --set"
    if reason == _UNKNOWN:
        return "it comes in by itself with the first catalogue that holds the item"
    return None
