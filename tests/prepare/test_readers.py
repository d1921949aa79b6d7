"""Rows of raw files in Parquet, CSV and DuckDB, as they lie and packed."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import SourceError
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.raw_file import raw_files
from jobs.prepare.sources.readers import event_batches, raw_rows

DAY = date(2026, 1, 10)
COLUMNS = {"user_id": "user", "item_id": "item", "at": "at"}


def mapping(kind: str, *files: str, **events: Any) -> Mapping:
    """A mapping of implicit events with files of one form."""
    return Mapping.model_validate(
        {
            "domain": "shop",
            "events": {
                "files": files,
                "format": kind,
                "columns": COLUMNS,
                "user_id": {"type": "integer"},
                "item_id": {"type": "string"},
                "at": {"form": "iso" if kind == "csv" else "native"},
                **events,
            },
            "feedback": {"kind": "implicit"},
            "items": {
                "files": ["items/{day}.csv"],
                "format": "csv",
                "columns": {"item_id": "item", "title": "title"},
            },
        }
    )


def table(n: int, *, start: int = 0) -> pa.Table:
    """`n` rows, one an hour from 2026-01-01 on."""
    hours = range(start, start + n)
    at = [datetime(2026, 1, 1 + hour // 24, hour % 24) for hour in hours]
    return pa.table({"user": list(hours), "item": [f"i{h}" for h in hours], "at": at})


def rows_of(source: Mapping, root: Path, **wanted: Any) -> list[dict[str, Any]]:
    (file,) = raw_files(source, root, DAY)
    return [row for batch in event_batches(source, file, **wanted) for row in batch.to_pylist()]


def refusal(source: Mapping, root: Path) -> str:
    with pytest.raises(SourceError) as error:
        rows_of(source, root)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- CSV, packed in several ways -------------------------------------------------------------------

CSV = b"user,item,at\n1,a,2026-01-01 10:00\n2,b,2026-01-01 11:00\n"


def expect_the_csv(rows: list[dict[str, Any]]) -> None:
    assert [(r["#line"], r["user"], r["item"], r["at"]) for r in rows] == [
        (2, "1", "a", "2026-01-01 10:00"),
        (3, "2", "b", "2026-01-01 11:00"),
    ]


def test_a_csv_and_a_packed_csv_give_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CSV)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("shop/a.csv", CSV)
    expect_the_csv(rows_of(mapping("csv", "a.csv"), tmp_path))
    expect_the_csv(rows_of(mapping("csv", "a.csv.gz"), tmp_path))
    expect_the_csv(rows_of(mapping("csv", "a.csv"), tmp_path / "a.zip"))


@pytest.mark.parametrize("keep", [slice(0, -6), slice(0, 15), slice(1, None)])
def test_a_packed_csv_that_is_damaged_is_named(tmp_path: Path, keep: slice) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV)[keep])
    said = refusal(mapping("csv", "a.csv.gz"), tmp_path)
    assert said.startswith(f"{tmp_path / 'a.csv.gz'}: cannot be unpacked (")


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    said = refusal(mapping("csv", "a.csv"), tmp_path)
    assert said == f"{tmp_path / 'a.csv'}: cannot be read (Is a directory)"


# -- Parquet ---------------------------------------------------------------------------------------


def test_rows_of_parquet_keep_their_types_and_are_numbered_from_1(tmp_path: Path) -> None:
    pq.write_table(table(5), tmp_path / "a.parquet", row_group_size=2)
    rows = rows_of(mapping("parquet", "a.parquet"), tmp_path)
    assert [row["#line"] for row in rows] == [1, 2, 3, 4, 5]
    assert (rows[4]["user"], rows[4]["item"], rows[4]["at"]) == (4, "i4", datetime(2026, 1, 1, 4))
    assert {row["#broken"] for row in rows} == {row["#raw"] for row in rows} == {None}


def test_parts_outside_the_window_are_not_read_and_the_others_keep_their_numbers(
    tmp_path: Path,
) -> None:
    pq.write_table(table(240), tmp_path / "a.parquet", row_group_size=24)
    window = (datetime(2026, 1, 5), datetime(2026, 1, 6))
    rows = rows_of(mapping("parquet", "a.parquet"), tmp_path, window=window)
    days = {row["at"].day for row in rows}
    assert days == {4, 5, 6}  # a day more on either side, as wall times may be of any zone
    assert all(row["#line"] == row["user"] + 1 for row in rows)


def test_parts_with_rows_without_a_time_are_read_whatever_the_window(tmp_path: Path) -> None:
    at = pa.array([datetime(2026, 1, 1), None, datetime(2026, 1, 1)], pa.timestamp("us"))
    rows = pa.table({"user": [1, 2, 3], "item": ["a", "b", "c"], "at": at})
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=2)
    window = (datetime(2026, 3, 5), datetime(2026, 3, 6))
    found = rows_of(mapping("parquet", "a.parquet"), tmp_path, window=window)
    assert [row["#line"] for row in found] == [1, 2]


def test_a_window_is_one_of_arrival_where_the_mapping_names_it(tmp_path: Path) -> None:
    seconds = [1_767_225_600 + 86_400 * n for n in range(30)]  # days from 2026-01-01
    rows = table(30).append_column("loaded", pa.array(seconds))
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=1)
    source = mapping("parquet", "a.parquet", ingested_at={"column": "loaded", "form": "seconds"})
    window = (datetime(2026, 1, 20), datetime(2026, 1, 21))
    assert [r["#line"] for r in rows_of(source, tmp_path, window=window)] == [19, 20, 21]


def test_a_missing_column_is_named_with_the_closest(tmp_path: Path) -> None:
    pq.write_table(table(1).rename_columns(["user", "item", "At"]), tmp_path / "a.parquet")
    assert refusal(mapping("parquet", "a.parquet"), tmp_path) == (
        f"{tmp_path / 'a.parquet'}: column 'at' is missing; the closest is 'At'; found user, item, "
        "At; change the mapping or the file"
    )


@pytest.mark.parametrize("values", [[[1]], [{"a": 1}]], ids=["a list", "a struct"])
def test_a_nested_column_is_refused(tmp_path: Path, values: list[Any]) -> None:
    rows = table(1).set_column(0, "user", pa.array(values))
    pq.write_table(rows, tmp_path / "a.parquet")
    assert "column 'user' is " in (said := refusal(mapping("parquet", "a.parquet"), tmp_path))
    assert said.endswith("expected one plain value a row: flatten it in the source")


def test_a_nested_column_that_nobody_asks_for_is_no_harm(tmp_path: Path) -> None:
    rows = table(1).append_column("tags", pa.array([["x"]]))
    pq.write_table(rows, tmp_path / "a.parquet")
    assert len(rows_of(mapping("parquet", "a.parquet"), tmp_path)) == 1


@pytest.mark.parametrize("n_bytes", [0, 3, 50, -20])
def test_a_parquet_file_that_was_cut_short_is_named(tmp_path: Path, n_bytes: int) -> None:
    pq.write_table(table(100), path := tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:n_bytes])
    said = refusal(mapping("parquet", "a.parquet"), tmp_path)
    assert said.startswith(f"{path}: cannot be read as Parquet (")


def test_text_that_is_none_is_marked_and_not_believed(tmp_path: Path) -> None:
    items = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    pq.write_table(table(2).set_column(1, "item", items), tmp_path / "a.parquet")
    rows = rows_of(mapping("parquet", "a.parquet"), tmp_path)
    assert [row["item"] for row in rows] == ["a", "\ufffd"]


def test_reading_a_large_file_holds_a_part_of_it_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 1 << 60, 1 << 20) for name in ("user", "item")}
    at = pa.array(rng.integers(0, 1 << 50, 1 << 20), pa.timestamp("us"))
    pq.write_table(pa.table({**columns, "at": at}), tmp_path / "a.parquet", row_group_size=1 << 15)
    source = mapping("parquet", "a.parquet")
    (file,) = raw_files(source, tmp_path, DAY)
    before, held = pa.total_allocated_bytes(), []
    for batch in event_batches(source, file):
        held.append(pa.total_allocated_bytes() - before - batch.nbytes)
    assert len(held) == 4
    assert max(held) < (tmp_path / "a.parquet").stat().st_size / 2


def test_views_of_text_are_read_as_text(tmp_path: Path) -> None:
    rows = table(2).set_column(1, "item", pa.array(["a", None], pa.string_view()))
    pq.write_table(rows, tmp_path / "a.parquet")
    source = mapping("parquet", "a.parquet")
    (file,) = raw_files(source, tmp_path, DAY)
    (batch,) = event_batches(source, file)
    assert (batch["item"].type, batch["item"].to_pylist()) == (pa.string(), ["a", None])


# -- a column that numbers the rows ----------------------------------------------------------------

NUMBERED = {"columns": {**COLUMNS, "row": "n"}}


def test_a_column_that_numbers_the_rows_gives_their_lines(tmp_path: Path) -> None:
    pq.write_table(table(3).append_column("n", pa.array([30, 10, 20])), tmp_path / "a.parquet")
    rows = rows_of(mapping("parquet", "a.parquet", **NUMBERED), tmp_path)
    assert [(row["#line"], row["user"]) for row in rows] == [(30, 0), (10, 1), (20, 2)]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([1, 1, 2], "column 'n' holds 1 more than once; expected each row's own number"),
        ([1, 2, None], "row 3: column 'n' is None; expected each row's own number from 1"),
        ([1, 0, 2], "row 2: column 'n' is 0; expected each row's own number from 1"),
        ([1.0, 1.5, 2.0], "row 2: column 'n' is 1.5; expected each row's own number from 1"),
    ],
)
def test_numbers_that_are_no_ones_own_are_refused(
    tmp_path: Path, numbers: list[Any], said: str
) -> None:
    pq.write_table(table(3).append_column("n", pa.array(numbers)), tmp_path / "a.parquet")
    assert said in refusal(mapping("parquet", "a.parquet", **NUMBERED), tmp_path)


# -- DuckDB ----------------------------------------------------------------------------------------


@pytest.fixture
def write_duckdb(tmp_path: Path) -> Callable[[str], Mapping]:
    """Run a statement on `a.duckdb`; the mapping of its table `events`."""

    def write(statement: str) -> Mapping:
        with duckdb.connect(str(tmp_path / "a.duckdb")) as connection:
            connection.execute(statement)
        return mapping("duckdb", "a.duckdb", table="events")

    return write


EVENTS = (
    "create table events as select n as \"user\", 'i' || n as item, "
    "timestamp '2026-01-01' + interval (n) hour as at from range({}) t(n)"
)


def test_rows_of_a_duckdb_table_are_numbered_from_1(
    tmp_path: Path, write_duckdb: Callable[[str], Mapping]
) -> None:
    rows = rows_of(write_duckdb(EVENTS.format(3)), tmp_path)
    assert [(r["#line"], r["user"], r["item"]) for r in rows] == [
        (1, 0, "i0"),
        (2, 1, "i1"),
        (3, 2, "i2"),
    ]
    assert rows[2]["at"] == datetime(2026, 1, 1, 2)


def test_rows_of_duckdb_outside_the_window_are_not_read(
    tmp_path: Path, write_duckdb: Callable[[str], Mapping]
) -> None:
    source = write_duckdb(EVENTS.format(240) + "; insert into events values (999, 'x', null)")
    window = (datetime(2026, 1, 5), datetime(2026, 1, 6))
    rows = rows_of(source, tmp_path, window=window)
    assert {row["at"].day for row in rows if row["at"]} == {4, 5, 6}
    assert [row["user"] for row in rows if not row["at"]] == [999]


def test_the_file_is_only_read(tmp_path: Path, write_duckdb: Callable[[str], Mapping]) -> None:
    source = write_duckdb(EVENTS.format(3))
    before = (tmp_path / "a.duckdb").read_bytes()
    rows_of(source, tmp_path)
    assert (tmp_path / "a.duckdb").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.duckdb"]


def test_columns_with_odd_names_are_read(
    tmp_path: Path, write_duckdb: Callable[[str], Mapping]
) -> None:
    write_duckdb('create table events as select 1 as "a""b; drop", 2 as line, now() as at')
    columns = {"user_id": 'a"b; drop', "item_id": "line", "at": "at"}
    source = mapping("duckdb", "a.duckdb", table="main.events", columns=columns)
    (row,) = rows_of(source, tmp_path)
    assert (row["#line"], row['a"b; drop'], row["line"]) == (1, 1, 2)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("create table event as select 1 as a", "no table 'events'; found main.event; say which"),
        ("create table events as select 1 as users", "column 'user' is missing; the closest is"),
        (
            'create table events as select [1] as "user", 1 as item, 2 as at',
            "column 'user' is list<",
        ),
    ],
)
def test_a_table_or_column_that_does_not_fit_is_named(
    tmp_path: Path, write_duckdb: Callable[[str], Mapping], statement: str, said: str
) -> None:
    assert said in refusal(write_duckdb(statement), tmp_path)


def test_a_file_that_is_none_of_duckdbs_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.duckdb").write_bytes(b"nonsense" * 1000)
    said = refusal(mapping("duckdb", "a.duckdb", table="events"), tmp_path)
    assert said.startswith(f"{tmp_path / 'a.duckdb'}: cannot be opened as a DuckDB file (")


# -- single rows -----------------------------------------------------------------------------------


def test_raw_rows_are_the_lines_of_a_csv_and_the_columns_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CSV)
    pq.write_table(table(3), tmp_path / "a.parquet")
    source = mapping("csv", "a.csv")
    assert raw_rows(source, tmp_path, "a.csv", [3]) == {3: "2,b,2026-01-01 11:00"}
    assert raw_rows(mapping("parquet", "a.parquet"), tmp_path, "a.parquet", [1, 3]) == {
        1: '{"user": 0, "item": "i0", "at": "2026-01-01 00:00:00"}',
        3: '{"user": 2, "item": "i2", "at": "2026-01-01 02:00:00"}',
    }


def test_a_row_or_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CSV)
    with pytest.raises(SourceError, match=r"a\.csv: no row at line 9; has it changed\?"):
        raw_rows(mapping("csv", "a.csv"), tmp_path, "a.csv", [2, 9])
    with pytest.raises(SourceError, match=r"no file '\.\./b\.csv' among the 1 of its events"):
        raw_rows(mapping("csv", "a.csv"), tmp_path, "../b.csv", [2])
