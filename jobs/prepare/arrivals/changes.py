"""What has changed in files that were read before: rows that turned up, rows that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.errors import SourceError
from jobs.files import sha256_file
from jobs.prepare.arrivals.ledger import Ledger, SourceFile
from jobs.prepare.arrivals.spool import Spooled
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.raw_file import RawFile
from jobs.query import Limits, Rows, connect, query, sql_text

_BATCH = 65_536


@dataclass(frozen=True)
class Change:
    """Why an arrival must be built again.

    Attributes:
        known_day: the first day that is touched.
        why: what has changed, for people.
    """

    known_day: date
    why: str


def is_same(file: RawFile, earlier: SourceFile) -> bool:
    """Whether a raw file is the one that was read; its bytes are looked at only if it was touched.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        return earlier.looks_like(file.path) or sha256_file(file.path) == earlier.sha256
    except OSError as error:
        raise SourceError(f"{file.path}: cannot be read ({error.strerror})") from error


def changed_deliveries(files: Sequence[RawFile], ledger: Ledger, kind: str) -> list[Change]:
    """Delivered files, which never change, that have changed since they were read."""
    read = ledger.files()
    found = []
    for file in files:
        earlier = read.get((kind, file.name))
        if earlier and file.known_from and not is_same(file, earlier):
            known = file.known_from.date()
            found.append(Change(known, f"{file.name} has changed since it was read"))
    return found


def lost_parts(ledger: Ledger, day: date) -> list[Change]:
    """Partitions that are not what the ledger says of them."""
    found = []
    for part in ledger.parts(day):
        path = ledger.home.root / part.path
        if not path.is_file() or path.stat().st_size != part.n_bytes:
            found.append(Change(part.known_day, f"{part.path} is missing or cut short"))
    return found


# -- files without a day in their name -----------------------------------------------------------


def settle(
    spooled: Spooled,
    earlier: SourceFile | None,
    ledger: Ledger,
    after: date,
    mapping: Mapping,
    limits: Limits,
) -> tuple[Path | None, Change | None]:
    """Of a file that is new or has changed, the rows that this arrival takes.

    Args:
        spooled: all rows of the file up to the arrival's last day.
        earlier: the file as it was read before; None if it is new.
        ledger: of the source.
        after: the last day that was taken before; later ones are the arrival's.
        mapping: of the source.
        limits: of DuckDB.

    Returns:
        A spool of these rows, with the day that knows them; and, of days that were taken before,
        rows that are gone from the file, which an arrival cannot undo.
    """
    task = spooled.task
    if not spooled.n_wanted:
        return None, None
    if task.file.known_from:  # a delivery that came later than its name says
        turned_up, gone = pq.read_table(task.path, columns=["source_row"]), None
    else:
        turned_up, gone = _compared(spooled, earlier, ledger, after, mapping)
    target = task.path.with_suffix(".settled.parquet")
    tables: dict[str, Rows] = {"spooled": task.path, "turned_up": turned_up}
    with (
        connect(tables, limits) as connection,
        connection.sql(
            sql_text("prepare/settled_spool"),
            params={
                "after": after,
                "until": task.until,
                "has_arrivals": mapping.events.ingested_at is not None,
            },
        ).to_arrow_reader(_BATCH) as reader,
        pq.ParquetWriter(target, reader.schema, compression="lz4") as writer,
    ):
        n_rows = 0
        for batch in reader:
            writer.write_batch(batch)
            n_rows += batch.num_rows
    return (target if n_rows else None), gone


def first_changed_day(spooled: Spooled, earlier: SourceFile | None, after: date) -> Change | None:
    """Of the days up to `after`, the first of which a file holds other rows than were taken."""
    if known_from := spooled.task.file.known_from:
        late = f"{spooled.task.file.name} came after its day"
        return Change(known_from.date(), late) if known_from.date() <= after else None
    if differing := _differing_days(spooled, earlier, after):
        why = f"{spooled.task.file.name} holds other rows of {len(differing):,} days than were read"
        return Change(differing[0], why)
    return None


def _differing_days(spooled: Spooled, earlier: SourceFile | None, after: date) -> list[date]:
    held = earlier.days if earlier else {}
    now = {day: each for day, each in spooled.days.items() if day <= after}
    return [day for day in sorted({*held, *now}) if held.get(day) != now.get(day)]


def _compared(
    spooled: Spooled,
    earlier: SourceFile | None,
    ledger: Ledger,
    after: date,
    mapping: Mapping,
) -> tuple[pa.Table, Change | None]:
    differing = _differing_days(spooled, earlier, after)
    if not differing:
        return pa.table({"source_row": pa.array([], pa.int64())}), None
    days = pa.table({"own_day": pa.array(differing, pa.date32())})
    found = query("prepare/found_rows", {"spooled": spooled.task.path, "days": days})
    kept = _kept(found, days, spooled.task.file.name, ledger, after, mapping)
    both = query("prepare/turned_up_rows", {"found": found, "kept": kept})
    gone = both.filter(pc.invert(both["is_new"]))
    change = None
    if gone.num_rows:
        name = spooled.task.file.name
        why = f"{name} has lost {gone.num_rows:,} of the rows that were read"
        change = Change(gone["own_day"][0].as_py(), why)
    return both.filter(both["is_new"]).select(["source_row"]), change


def _kept(
    found: pa.Table, days: pa.Table, name: str, ledger: Ledger, after: date, mapping: Mapping
) -> pa.Table:
    root = ledger.home.root
    parts = [root / part.path for part in ledger.parts(after)]
    rejected = [root / s.record.rejected.path for s in ledger.stretches(after) if s.record.rejected]
    if not parts and not rejected:
        empty = found.slice(0, 0)
        return empty.append_column("is_corrected", pa.array([], pa.bool_()))
    ordinals = [ordinal for ordinal, each in ledger.names().items() if each == name]
    tables: dict[str, Rows] = {
        "event_rows": parts or _no_events(found),
        "rejected_rows": rejected or _no_rejected(found),
        "days": days,
        "ordinals": pa.table({"ordinal": pa.array(ordinals, pa.int64())}),
        "released": pa.table({"source_row": pa.array(list(ledger.released(after)), pa.int64())}),
    }
    has_arrivals = mapping.events.ingested_at is not None
    return query("prepare/kept_rows", tables, has_arrivals=has_arrivals)


def _no_events(found: pa.Table) -> pa.Table:
    columns = {n: found[n].slice(0, 0) for n in ("user_id", "item_id", "rated_at", "rating")}
    rows = pa.array([], pa.int64())
    times = pa.array([], pa.timestamp("us"))
    return pa.table({**columns, "source_row": rows, "corrects": rows, "ingested_at": times})


def _no_rejected(found: pa.Table) -> pa.Table:
    return found.slice(0, 0).append_column("kind", pa.array([], pa.string()))
