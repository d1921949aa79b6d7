"""Small sources in every format with one mapping, for tests that put dirt into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import SourceError
from jobs.prepare.sources.mapping import Mapping, recognise
from jobs.prepare.sources.parse import parse_file
from jobs.prepare.sources.readers import raw_files

DAY = date(2026, 3, 1)
FORMATS = ("csv", "parquet", "duckdb")
HEADER = ("who", "what", "stars", "when", "note")
FILES = {"csv": "ratings.csv", "parquet": "ratings.parquet", "duckdb": "warehouse.duckdb"}
TITLES = "what,title\n" + "".join(f"i{n},Item {n}\n" for n in range(1, 8))

# Seven good rows; a bad one is put after the third.
GOOD = [
    ["1", "i1", "5", "2026-01-01 10:00:00", ""],
    ["2", "i2", "4.5", "2026-01-01 10:00:01", "x"],
    ["1", "i3", "1", "2026-01-02 23:59:59", ""],
    ["3", "i1", "2", "2026-01-03 00:00:00", "y"],
    ["999999999999999999", "i4", "3", "2026-01-04 12:00:00", ""],
    ["4", "i5", "5", "2026-02-28 12:00:00", ""],
    ["5", "i1", "1.25", "2025-12-31 00:00:00.123456", ""],
]
PLACE = 3
LATER = "2026-01-05 10:00:00"  # of the bad row, where it is not the time that is bad
NATIVE = {"at": "  at: {form: native}"}
Row = Sequence[str | None]


@dataclass(frozen=True)
class Event:
    """What a good row must become."""

    user_id: int | str
    item_id: str
    rating: float
    rated_at: datetime

    @classmethod
    def of(cls, row: Row) -> Event:
        user, item, stars, when = row[:4]
        assert user is not None
        assert item is not None
        return cls(int(user), item, float(stars or "nan"), datetime.fromisoformat(when or ""))


def mapping_text(kind: str, **changes: str) -> str:
    """The mapping of a format; `changes` replace whole lines by their first word."""
    lines = {
        "domain": "domain: dirty",
        "events": "events:",
        "files": f'  files: ["{FILES[kind]}"]',
        "format": f"  format: {kind}",
        "table": "  table: ratings" if kind == "duckdb" else "",
        "columns": "  columns: {user_id: who, item_id: what, rating: stars, at: when}",
        "user_id": "  user_id: {type: integer}",
        "item_id": "  item_id: {type: string}",
        "at": "  at: {form: iso}",
        "feedback": "feedback: {kind: rating, minimum: 1, maximum: 5, positive_from: 4}",
        "reject": "reject: [{column: note, starts_with: test, reason: a test}]",
        "items": "items:\n  files: [titles.csv]\n  format: csv",
        "title": "  columns: {item_id: what, title: title}",
        "split": "split: {valid_days: 1, test_days: 1}",
        "quarantine": "quarantine: {max_share: 1.0}",
        **changes,
    }
    return "\n".join(line for line in lines.values() if line) + "\n"


def write_source(folder: Path, kind: str, rows: Sequence[Row], **changes: str) -> Path:
    """A source of text columns; None is a null, in CSV an empty field."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "csv":
        (folder / FILES[kind]).write_bytes(csv_text(rows).encode())
    else:
        columns = {name: [row[n] for row in rows] for n, name in enumerate(HEADER)}
        write_table(folder, kind, pa.table(columns, pa.schema([(n, pa.string()) for n in HEADER])))
    return _with_mapping(folder, kind, changes)


def csv_text(rows: Sequence[Row]) -> str:
    """The header and `rows` as CSV, quoted where a cell asks for it."""
    return "".join(",".join(_quoted(cell or "") for cell in row) + "\n" for row in [HEADER, *rows])


def write_csv_bytes(folder: Path, content: bytes, **changes: str) -> Path:
    """A CSV source of these very bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILES["csv"]).write_bytes(content)
    return _with_mapping(folder, "csv", changes)


def write_typed(folder: Path, kind: str, table: pa.Table, **changes: str) -> Path:
    """A source with columns of their own types."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder, kind, table)
    return _with_mapping(folder, kind, changes)


def typed(**columns: pa.Array) -> pa.Table:
    """Seven good rows of native types; a column of eight rows puts a bad one after the third."""
    events = [Event.of(row) for row in GOOD]
    later = datetime.fromisoformat(LATER)
    good: dict[str, list[Any]] = {
        "who": [event.user_id for event in events],
        "what": [event.item_id for event in events],
        "stars": [event.rating for event in events],
        "when": [event.rated_at for event in events],
        "note": [None for _ in events],
    }
    fill = {"who": 7, "what": "i7", "stars": 3.0, "when": later, "note": None}
    types = {
        "who": pa.int64(),
        "what": pa.string(),
        "stars": pa.float64(),
        "when": pa.timestamp("us"),
        "note": pa.string(),
    }
    made = {
        name: pa.array([*values[:PLACE], fill[name], *values[PLACE:]], types[name])
        for name, values in good.items()
    }
    return pa.table({**made, **columns})


def write_table(folder: Path, kind: str, table: pa.Table) -> None:
    if kind == "parquet":
        pq.write_table(table, folder / FILES[kind])
        return
    (folder / FILES[kind]).unlink(missing_ok=True)
    with duckdb.connect(str(folder / FILES[kind])) as connection:
        connection.register("given", table)
        connection.execute("create table ratings as select * from given")


def _with_mapping(folder: Path, kind: str, changes: dict[str, str]) -> Path:
    (folder / "titles.csv").write_text(TITLES)
    (folder / "tidemark.yaml").write_text(mapping_text(kind, **changes))
    return folder


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\n\r') else cell


@dataclass(frozen=True)
class Read:
    """Every row of a source after parsing."""

    mapping: Mapping
    rows: list[dict[str, Any]]

    @property
    def good(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["reason"] is None]

    @property
    def bad(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["reason"] is not None]


def read_source(folder: Path, day: date = DAY) -> Read:
    """Read and parse all events of a source as ingest does."""
    mapping, root = recognise(folder)
    rows: list[dict[str, Any]] = []
    for file in raw_files(mapping, root, day):
        for parsed in parse_file(mapping, file):
            rows += parsed.to_pylist()
    return Read(mapping, rows)


def outcome(folder: Path, day: date = DAY) -> Read | str:
    """What reading a source gives: its rows, or the one line that refuses it."""
    try:
        return read_source(folder, day)
    except SourceError as error:
        return str(error)


def expect_one_line(message: str, *said: str) -> None:
    assert "\n" not in message
    for part in said:
        assert part in message


def refusal(source: Path, *said: str) -> None:
    message = outcome(source)
    assert isinstance(message, str), "the source was read"
    expect_one_line(message, *said)


def expect_good_rows_untouched(read: Read, good: list[Row]) -> None:
    events = [Event.of(row) for row in good]
    found = [
        Event(row["user_id"], row["item_id"], row["rating"], row["rated_at"]) for row in read.good
    ]
    assert found == events
    for row in read.good:
        assert row["column"] is row["value"] is row["raw"] is None


def expect_quarantined(read: Read, n_rows: int, line: int, reason: str) -> dict[str, Any]:
    """The one bad row, at its place."""
    assert len(read.rows) == n_rows
    (bad,) = read.bad
    assert (bad["line"], bad["reason"]) == (line, reason)
    assert bad["source_file"] in FILES.values()
    assert bad["raw"] is not None
    expect_good_rows_untouched(read, GOOD)
    return bad
