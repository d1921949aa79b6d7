"""From spooled rows to an arrival: events in their partitions, the rest with its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.files import sha256_file, sync_directory, sync_file
from jobs.prepare.arrivals.ledger import Arrival, Ledger, Part, events_folder
from jobs.prepare.arrivals.ledger import Rows as RowsFile
from jobs.prepare.arrivals.partitions import Judged, JudgeTask, final_path, judge, tasks_of
from jobs.prepare.engine import Engine
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.raw_file import RawFile
from jobs.prepare.sources.readers import raw_rows, texts_of
from jobs.query import Limits, Rows, View, connect, query, sql_text

UNKNOWN = "unknown item"
_BATCH = 65_536
_LINES = 200_000  # rows whose text is fetched at once
_ROW_MASK = (1 << 40) - 1
_SYNCING = 8  # files whose bytes are made durable at once


@dataclass(frozen=True)
class NewRows:
    """What an arrival takes in, aside on disk.

    Attributes:
        mapping: of the source.
        root: of its files.
        after: the last day that was taken before.
        until: the last day of the arrival.
        spools: files of parsed rows; at least one, which may be empty.
        released: the same of rows that were let back in.
        catalogue: `item_id, title, known_day, ordinal, line` of all items known by `until`.
        catalogue_new: the part of it that this arrival brings.
        rejected_items: rows of the catalogue that could not be read, as `rejected_rows` has them.
        files: raw files that the arrival read, by ordinal.
        names: files of events that were read before, by ordinal.
    """

    mapping: Mapping
    root: Path
    after: date
    until: date
    spools: tuple[Path, ...]
    released: tuple[Path, ...]
    catalogue: tuple[Path, ...]
    catalogue_new: Path | None
    rejected_items: pa.Table | None
    files: dict[int, RawFile]
    names: dict[int, str]


@dataclass
class Intake:
    """An arrival that nothing names yet.

    Attributes:
        after: the last day that was taken before.
        arrivals: counts by the day that knows the rows.
        parts: partitions; `path` is where they lie now.
        rejected: rows that the quarantine may show, in one file.
        item_rows: what the rows say of items.
        catalogue: what the catalogue files say.
        released: rows that were let back in: from when on.
    """

    after: date
    arrivals: list[Arrival] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    rejected: Path | None = None
    item_rows: Path | None = None
    catalogue: Path | None = None
    released: dict[int, date] = field(default_factory=dict)


def take_in(new: NewRows, ledger: Ledger, engine: Engine, workspace: Path) -> Intake:
    """Judge new rows against those that stand and write what becomes of them into `workspace`."""
    judged = list(engine.map(judge, _tasks(new, ledger, engine.limits, workspace)))
    judged_rows = [each.rejected for each in judged]
    tables: dict[str, Rows] = {
        "spooled": [*new.spools, *new.released],
        "readable": View("prepare/readable_rows"),
        "unreadable": View("prepare/unreadable_rows"),
    }
    set_aside = _set_aside(new, tables, judged_rows, engine.scan_limits, workspace)
    raws = _write(workspace / "raws.parquet", _raws(new, set_aside))
    rejected = _rejected(new, {**tables, "set_aside": set_aside, "raws": raws}, engine, workspace)
    item_rows = _result(
        "prepare/item_rows",
        {"arrived_rows": [*new.spools, *new.released]},
        engine.scan_limits,
        workspace / "item_rows.parquet",
    )
    parts = [part for each in judged for part in each.parts]
    released = _released(new)
    return Intake(
        after=new.after,
        arrivals=_arrivals(new, judged, parts, rejected, released),
        parts=parts,
        rejected=rejected,
        item_rows=item_rows,
        catalogue=new.catalogue_new,
        released=released,
    )


def _tasks(new: NewRows, ledger: Ledger, limits: Limits, workspace: Path) -> Iterator[JudgeTask]:
    arrived = (*new.spools, *new.released)
    tables: dict[str, Rows] = {
        "spooled": list(arrived),
        "arrived_rows": View("prepare/readable_rows"),
    }
    by_day = query("prepare/arrived_event_days", tables).to_pylist()
    counts = {row["event_day"]: row["n_rows"] for row in by_day}
    ranges = tasks_of(counts, ledger.parts(new.after), ledger.home.root)
    for number, (first, last, standing) in enumerate(ranges):
        yield JudgeTask(
            arrived=arrived,
            standing=standing,
            first=first,
            last=last,
            later_replaces=new.mapping.conflicts == "later_delivery_replaces",
            folder=workspace / f"judged-{number}",
            limits=limits,
        )


# -- rows that are put aside ---------------------------------------------------------------------


def _set_aside(
    new: NewRows, tables: dict[str, Rows], judged: list[Path], limits: Limits, workspace: Path
) -> Path:
    """`source_row, known_day, reason` of readable rows that the quarantine may have to show."""
    given: dict[str, Rows] = {
        "spooled": tables["spooled"],
        "arrived_rows": View("prepare/readable_rows"),
        "judged_rows": judged or _no_judged(),
    }
    name = "prepare/untitled_candidates"
    if new.mapping.title_column is None:
        name, given["catalogue_rows"] = "prepare/unknown_candidates", list(new.catalogue)
    unknown = _result(name, given, limits, workspace / "unknown.parquet")
    with pq.ParquetWriter(workspace / "set_aside.parquet", _no_judged().schema) as writer:
        for path in (*judged, unknown):
            for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(_BATCH):
                writer.write_batch(batch.cast(_no_judged().schema))
    return workspace / "set_aside.parquet"


def _no_judged() -> pa.Table:
    schema = [("source_row", pa.int64()), ("known_day", pa.date32()), ("reason", pa.string())]
    return pa.schema(schema).empty_table()


def _raws(new: NewRows, set_aside: Path) -> Iterator[pa.Table]:
    """How the rows came, read once more from their files."""
    schema = pa.schema([("source_row", pa.int64()), ("raw", pa.string())])
    yield schema.empty_table()
    for batch in pq.ParquetFile(set_aside, pre_buffer=False).iter_batches(
        _LINES, columns=["source_row"]
    ):
        by_file: dict[int, list[int]] = defaultdict(list)
        for source_row in batch["source_row"].to_pylist():
            by_file[source_row >> 40].append(source_row & _ROW_MASK)
        for ordinal, lines in by_file.items():
            if file := new.files.get(ordinal):
                raws = texts_of(new.mapping, file, lines)
            else:  # a row that was let back in and is a duplicate
                raws = raw_rows(new.mapping, new.root, new.names[ordinal], lines)
            rows = [(ordinal << 40) | line for line in raws]
            yield pa.table({"source_row": rows, "raw": list(raws.values())}, schema=schema)


def _rejected(new: NewRows, tables: dict[str, Rows], engine: Engine, workspace: Path) -> Path:
    name = workspace / "rejected.parquet"
    path = _result("prepare/rejected_rows", tables, engine.scan_limits, name)
    if new.rejected_items is None or not new.rejected_items.num_rows:
        return path
    whole = workspace / "all_rejected.parquet"
    schema = pq.read_schema(path)
    items = new.rejected_items
    for column in schema:
        if column.name not in items.column_names:
            items = items.append_column(column, pa.nulls(items.num_rows, column.type))
    with pq.ParquetWriter(whole, schema, compression="zstd") as writer:
        for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(_BATCH):
            writer.write_batch(batch)
        writer.write_table(items.select(schema.names).cast(schema))
    return whole


# -- counts --------------------------------------------------------------------------------------


def _released(new: NewRows) -> dict[int, date]:
    found: dict[int, date] = {}
    for path in new.released:
        for row in pq.read_table(path, columns=["source_row", "known_day"]).to_pylist():
            found[row["source_row"]] = row["known_day"]
    return found


def _counters(n: int) -> list[defaultdict[date, int]]:
    return [defaultdict(int) for _ in range(n)]


def _arrivals(
    new: NewRows,
    judged: Sequence[Judged],
    parts: Sequence[Part],
    rejected: Path,
    released: dict[int, date],
) -> list[Arrival]:
    arrived = query("prepare/arrived_counts", {"arrived_rows": list(new.spools)}).to_pylist()
    n_rows = {row["known_day"]: row["n_rows"] for row in arrived}
    reasons: dict[date, dict[str, int]] = defaultdict(dict)
    for row in query("prepare/rejected_counts", {"rejected_rows": rejected}).to_pylist():
        reasons[row["known_day"]][row["reason"]] = row["n_rows"]
    n_events, n_late, n_corrections, n_released = _counters(4)
    for part in parts:
        n_events[part.known_day] += part.n_rows
        if part.event_day + timedelta(days=1) < part.known_day:
            n_late[part.known_day] += part.n_rows
    for task in judged:
        for day, n in task.n_corrections.items():
            n_corrections[day] += n
    for day in released.values():
        n_released[day] += 1
    counted = [
        Arrival(
            known_day=day,
            n_rows=n_rows.get(day, 0),
            n_events=n_events[day],
            n_late=n_late[day],
            n_corrections=n_corrections[day],
            n_released=n_released[day],
            rejected=reasons[day],
        )
        for day in sorted({*n_rows, *n_events, *reasons})
    ]
    for each in counted:
        put_aside = sum(n for reason, n in each.rejected.items() if reason != UNKNOWN)
        n_in, n_out = each.n_rows + each.n_released, each.n_events + put_aside
        assert n_in == n_out, f"{each.known_day}: {n_in} rows in, {n_out} rows out"
    return counted


# -- files ---------------------------------------------------------------------------------------


def _result(name: str, tables: dict[str, Rows], limits: Limits, path: Path) -> Path:
    """Write the rows of a query, however many, to a file."""
    with (
        connect(tables, limits) as connection,
        connection.sql(sql_text(name)).to_arrow_reader(_BATCH) as reader,
        pq.ParquetWriter(path, reader.schema, compression="zstd") as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
    return path


def _write(path: Path, tables: Iterable[pa.Table]) -> Path:
    writer: pq.ParquetWriter | None = None
    for table in tables:
        writer = writer or pq.ParquetWriter(path, table.schema, compression="lz4")
        writer.write_table(table)
    if writer:
        writer.close()
    return path


def publish(intake: Intake, ledger: Ledger) -> tuple[list[Part], dict[str, RowsFile | None]]:
    """Give the files of an intake their names, durably; nothing refers to them yet."""
    moves: list[tuple[Path, Path]] = []
    parts = []
    for part in intake.parts:
        named = part.model_copy(update={"path": final_path(part)})
        moves.append((Path(part.path), ledger.home.root / named.path))
        parts.append(named)
    others: dict[str, RowsFile | None] = {}
    for kind in ("rejected", "item_rows", "catalogue"):
        path = getattr(intake, kind)
        n_rows = pq.read_metadata(path).num_rows if path else 0
        others[kind] = None
        if n_rows:
            sha256 = sha256_file(path)
            name = f"tables/events/_{kind}/{sha256[:24]}.parquet"
            size = path.stat().st_size
            others[kind] = RowsFile(path=name, sha256=sha256, n_bytes=size, n_rows=n_rows)
            moves.append((path, ledger.home.root / name))
    _move(moves)
    return parts, others


def _move(moves: Sequence[tuple[Path, Path]]) -> None:
    folders = sorted({target.parent for _, target in moves})
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_SYNCING) as pool:
        list(pool.map(sync_file, (source for source, _ in moves)))
        for source, target in moves:
            source.replace(target)
        list(pool.map(sync_directory, folders))
    for folder in sorted({folder.parent for folder in folders}):
        sync_directory(folder)


def remove_orphans(ledger: Ledger, parts: Sequence[Part]) -> None:
    """Drop partitions of the same days that a killed run left and that no record names."""
    found: set[str] = set()
    for part in parts:
        folder = (ledger.home.root / part.path).parent
        same_days = folder.glob(f"known={part.known_day}-*.parquet")
        found.update(path.relative_to(ledger.home.root).as_posix() for path in same_days)
    if strangers := found - {part.path for part in parts}:
        for name in strangers - _named_parts(ledger):
            (ledger.home.root / name).unlink(missing_ok=True)


def _named_parts(ledger: Ledger) -> set[str]:
    """Partitions that any record of this home names, those of other mappings included."""
    folders = (path for path in (events_folder(ledger.home) / "_arrivals").glob("*"))
    records = (
        r for path in folders if path.is_dir() for r in Ledger(ledger.home, path.name).records
    )
    return {part.path for record in records for part in record.parts}
