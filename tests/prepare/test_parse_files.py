"""Whole files, parsed: every format gives the same events, and no row is lost."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.prepare.sources.mapping import Mapping, recognise
from jobs.prepare.sources.parse import Parser, parse_file
from jobs.prepare.sources.readers import event_batches, raw_files

DAY = date(2026, 2, 1)
NOON = datetime(2026, 1, 5, 12)
COLUMNS = {"user_id": "user", "item_id": "item", "rating": "stars", "at": "at"}


def mapping(kind: str, **events: Any) -> Mapping:
    """A mapping of ratings in one file, with times as text."""
    return Mapping.model_validate(
        {
            "domain": "shop",
            "events": {
                "files": [f"a.{kind}"],
                "format": kind,
                "columns": COLUMNS,
                "user_id": {"type": "integer"},
                "item_id": {"type": "string"},
                "at": {"form": "iso"},
                **events,
            },
            "feedback": {"kind": "rating", "minimum": 1, "maximum": 5, "positive_from": 4},
            "items": {"from": "events", "title": "item"},
        }
    )


def bad(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["reason"], row["column"], row["value"]


ROWS = [
    ("1", "a", "5", "2026-01-05 12:00:00"),
    ("", "a", "5", "2026-01-05 12:00:00"),
    ("1", "b", "nine", "2026-01-05 12:00:00"),
    ("2", "b", "9", "2026-01-05 12:00:00"),
    ("2", "b", "3.5", "2026-02-30 12:00:00"),
]
HEADER = list(COLUMNS.values())


def write(kind: str, path: Path) -> None:
    columns = {name: [row[n] or None for row in ROWS] for n, name in enumerate(HEADER)}
    if kind == "csv":
        lines = [HEADER, *ROWS]
        path.write_text("".join(",".join(line) + "\n" for line in lines))
    elif kind == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        table = pa.table(columns)
        with duckdb.connect(str(path)) as connection:
            connection.register("rows", table)
            connection.execute("create table events as from rows")


@pytest.mark.parametrize("kind", ["csv", "parquet", "duckdb"])
def test_the_same_rows_give_the_same_events_in_every_format(kind: str, tmp_path: Path) -> None:
    write(kind, tmp_path / f"a.{kind}")
    table = {"table": "events"} if kind == "duckdb" else {}
    source = mapping(kind, **table)
    (file,) = raw_files(source, tmp_path, DAY)
    (rows,) = (table.to_pylist() for table in parse_file(source, file))
    found = [(r["user_id"], r["item_id"], r["rating"], r["rated_at"], *bad(r)) for r in rows]
    missing = "" if kind == "csv" else None
    assert found == [
        (1, "a", 5.0, NOON, None, None, None),
        (None, "a", 5.0, NOON, "missing user", "user", missing),
        (1, "b", None, NOON, "unparsable rating", "stars", "nine"),
        (2, "b", 9.0, NOON, "rating out of range", "stars", "9"),
        (2, "b", 3.5, None, "unparsable timestamp", "at", "2026-02-30 12:00:00"),
    ]
    first = 2 if kind == "csv" else 1
    assert [row["line"] for row in rows] == list(range(first, first + 5))
    if kind == "csv":
        assert rows[2]["raw"] == "1,b,nine,2026-01-05 12:00:00"


TEXT = st.one_of(
    st.sampled_from(["1", "a", "5", "2026-01-05 12:00:00", "", "NULL", '"', "é", "\t", "-1"]),
    st.text(max_size=8).filter(lambda text: not set(text) & set("\0\r\n")),
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=30))
def test_every_row_comes_out_once_as_an_event_or_with_a_reason(
    rows: list[tuple[str, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    lines = [HEADER, *[["1", "a", "5", "2026-01-05 12:00:00"]] * 40, *rows]
    text = "".join(
        ",".join('"' + value.replace('"', '""') + '"' for value in line) + "\n" for line in lines
    )
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    source = mapping("csv")
    (file,) = raw_files(source, path.parent, DAY)
    parsed = pa.concat_tables(parse_file(source, file))
    assert parsed["line"].to_pylist() == list(range(2, len(lines) + 1))
    for row in parsed.to_pylist():
        whole = (row["user_id"], row["item_id"], row["rating"], row["rated_at"])
        assert (row["reason"] is None) == (row["raw"] is None)
        assert row["reason"] is not None or None not in whole


def test_how_a_file_is_cut_into_batches_changes_nothing(tmp_path: Path) -> None:
    write("parquet", tmp_path / "a.parquet")
    source = mapping("parquet")
    (file,) = raw_files(source, tmp_path, DAY)
    (batch,) = event_batches(source, file)
    with Parser(source) as parser:
        pieces = [parser.events(batch.slice(n, 1), file) for n in range(batch.num_rows)]
        assert pa.concat_tables(pieces).combine_chunks() == parser.events(batch, file)


# -- MovieLens -------------------------------------------------------------------------------------


def test_the_copy_of_movielens_is_read_whole_and_clean(ml_1m: Path) -> None:
    source, root = recognise(ml_1m)
    (file,) = raw_files(source, root, date(2003, 3, 1))
    rows = pa.concat_tables(parse_file(source, file))
    assert rows.num_rows == 200_042
    assert rows["reason"].null_count == 200_042
    first = rows.slice(0, 1).to_pylist()[0]
    assert (first["user_id"], first["item_id"], first["rating"]) == (1, 1193, 5.0)
    assert (first["line"], first["source_row"]) == (1, 1)
    assert first["rated_at"] == datetime(2000, 12, 31, 22, 12, 40)
