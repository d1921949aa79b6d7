"""Dirt of every kind in CSV, Parquet and DuckDB: quarantined with its place and value, or refused.

Each case is one source with seven good rows and one bad thing in it. None ends in a traceback, none
loses a row, none changes what the good rows say.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.prepare.dirty_sources import (
    FILES,
    FORMATS,
    GOOD,
    HEADER,
    LATER,
    NATIVE,
    PLACE,
    Row,
    expect_good_rows_untouched,
    expect_one_line,
    expect_quarantined,
    outcome,
    read_source,
    refusal,
    typed,
    write_source,
    write_typed,
)

# -- one bad value in a text column ----------------------------------------------------------------

WRONG_IDS = (
    *("abc", "1.5", "1e3", "0x1F", "1_000", "1,000", "--1", "12abc", "1 2", "None"),
    *("99999999999999999999", "9223372036854775808", "\u0661\u0662", "\uff11", "true", "#REF!"),
    *("1;drop table events", "'", "\u2212" + "1"),
)
WRONG_RATINGS = (
    "five",
    "4,5",
    "1e1",
    "nan",
    "inf",
    "99999999999999999999",
    "-inf",
    "4.5.6",
    "4/5",
    "\u0664",
    "0x4",
    "true",
)
RATINGS_OUT_OF_RANGE = ("0", "6", "-1", "5.01", "0.99", "5.0000001", "999999999")
WRONG_TIMES = (
    *("yesterday", "2026-02-30 10:00:00", "2026-13-01 10:00:00", "2026-01-01 25:00:00", "2026"),
    *("2026-01-01 10:60:00", "0000-00-00 00:00:00", "2026/01/01 10:00:00", "01/02/2026 10:00"),
    *("1767225600", "2026-01-01", "2026-1-1 1:00:00", "2026-01-01 10:00:00+99:00", "now()"),
    *("12026-01-01 10:00:00", "2026-01-01 10:00:00 PM", "-2026-01-01 10:00:00", "infinity"),
)
TIMES_OUT_OF_RANGE = ("1969-12-31 23:59:59", "2100-01-01 00:00:00", "9999-12-31 23:59:59")

BAD_VALUES = [
    *(("who", value, "unparsable user") for value in WRONG_IDS),
    *(("stars", value, "unparsable rating") for value in WRONG_RATINGS),
    *(("stars", value, "rating out of range") for value in RATINGS_OUT_OF_RANGE),
    *(("when", value, "unparsable timestamp") for value in WRONG_TIMES),
    *(("when", value, "timestamp out of range") for value in TIMES_OUT_OF_RANGE),
    *(("who", value, "missing user") for value in ("", "   ", "NULL", "null", "\\N")),
    ("what", "", "missing item"),
    ("what", "\t", "missing item"),
    ("stars", "", "missing rating"),
    ("when", "", "missing timestamp"),
    ("note", "test drive", "a test"),
]


@pytest.mark.parametrize(("column", "value", "reason"), BAD_VALUES)
def test_a_bad_value_is_quarantined_with_its_column_and_value(
    tmp_path: Path, column: str, value: str, reason: str
) -> None:
    source = write_source(tmp_path, "csv", [*GOOD[:PLACE], with_bad(column, value), *GOOD[PLACE:]])
    row = expect_quarantined(read_source(source), 8, PLACE + 2, reason)
    assert row["column"] == column
    assert (row["value"] or "").strip() == value.strip()
    assert value.strip() in row["raw"]


@pytest.mark.parametrize("kind", FORMATS)
def test_all_bad_values_at_once_are_told_apart(tmp_path: Path, kind: str) -> None:
    """One source of every format with all of them, a good row between every two."""
    rows: list[Row] = []
    for place, (column, value, _) in enumerate(BAD_VALUES):
        rows += [with_bad(column, value), [str(place), "i1", "4", LATER, ""]]
    read = read_source(write_source(tmp_path, kind, rows))
    assert len(read.rows) == 2 * len(BAD_VALUES)
    for (column, value, reason), row in zip(BAD_VALUES, read.rows[::2], strict=True):
        assert (row["reason"], row["column"]) == (reason, column)
        assert (row["value"] or "").strip() == value.strip()
    good = [(row["user_id"], row["reason"]) for row in read.rows[1::2]]
    assert good == [(place, None) for place in range(len(BAD_VALUES))]


def with_bad(column: str, value: str) -> list[str]:
    """A good row but for one value."""
    cells = ["7", "i7", "3", LATER, ""]
    cells[HEADER.index(column)] = value
    return cells


# -- one bad value in a column of its own type -----------------------------------------------------


def eight(values: list[Any], bad: Any, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([*values[:PLACE], bad, *values[PLACE:]], kind)


USERS = [int(row[0] or 0) for row in GOOD]
SMALL_USERS = [*USERS[:4], 6, *USERS[5:]]  # without the one that needs 60 bits
STARS = [float(row[2] or 0) for row in GOOD]
WHEN = [datetime.fromisoformat(row[3] or "") for row in GOOD]
SECONDS = {"at": "  at: {form: seconds}"}

TYPED = [
    ("who", eight(USERS, None, pa.int64()), "missing user"),
    ("who", eight(USERS, 2**63, pa.uint64()), "unparsable user"),
    ("who", eight([str(u) for u in USERS], "x", pa.large_string()), "unparsable user"),
    ("what", eight([row[1] for row in GOOD], None, pa.string()), "missing item"),
    ("what", eight([row[1] for row in GOOD], "", pa.string()), "missing item"),
    ("what", eight([row[1] for row in GOOD], "a\nb", pa.string()), "unparsable item"),
    ("what", eight([row[1] for row in GOOD], "a" * 300, pa.string()), "unparsable item"),
    ("stars", eight(STARS, None, pa.float64()), "missing rating"),
    # pandas writes NaN where it means null.
    ("stars", eight(STARS, float("nan"), pa.float64()), "missing rating"),
    ("stars", eight(STARS, float("inf"), pa.float64()), "rating out of range"),
    ("stars", eight(STARS, float("-inf"), pa.float32()), "rating out of range"),
    ("stars", eight(STARS, 1e300, pa.float64()), "rating out of range"),
    ("stars", eight(STARS, 5.0000001, pa.float64()), "rating out of range"),
    ("stars", eight(STARS, -0.0, pa.float64()), "rating out of range"),
    ("stars", eight([Decimal(str(s)) for s in STARS], Decimal("9.99")), "rating out of range"),
    ("when", eight(WHEN, None, pa.timestamp("us")), "missing timestamp"),
    ("when", eight(WHEN, datetime(1, 1, 1), pa.timestamp("us")), "timestamp out of range"),
    ("when", eight(WHEN, datetime(9999, 12, 31), pa.timestamp("ms")), "timestamp out of range"),
    ("when", eight(WHEN, datetime(2100, 1, 1), pa.timestamp("us")), "timestamp out of range"),
    ("note", eight([None] * 7, "testing", pa.string()), "a test"),
]


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize(
    ("column", "values", "reason"),
    TYPED,
    ids=[f"{t[0]} {t[1].type} {t[1][PLACE]!s:.20}" for t in TYPED],
)
def test_a_bad_value_of_a_native_type_is_quarantined(
    tmp_path: Path, kind: str, column: str, values: pa.Array, reason: str
) -> None:
    source = write_typed(tmp_path, kind, typed(**{column: values}), **NATIVE)
    read = read_source(source)
    (bad,) = read.bad
    assert (bad["line"], bad["reason"], bad["column"]) == (PLACE + 1, reason, column)
    assert len(read.rows) == 8
    if values.type == pa.timestamp("ms"):
        assert len(read.good) == 7
    else:
        expect_good_rows_untouched(read, GOOD)


SECONDS_OF = [int((when - datetime(1970, 1, 1)).total_seconds()) for when in WHEN]
WRONG_UNIT = [
    (-1, "timestamp out of range"),
    (SECONDS_OF[0] * 1_000, "timestamp out of range"),
    (SECONDS_OF[0] * 1_000_000, "timestamp out of range"),
    (10**18 - 1, "timestamp out of range"),
    (-(10**17), "timestamp out of range"),
    (4_102_444_801, "timestamp out of range"),
    (None, "missing timestamp"),
]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("value", "reason"), WRONG_UNIT)
def test_a_count_in_another_unit_is_out_of_range_and_no_other_day(
    tmp_path: Path, kind: str, value: int | None, reason: str
) -> None:
    seconds = eight(SECONDS_OF, value, pa.int64())
    if kind == "csv":
        cells = seconds.to_pylist()
        rows = [*GOOD[:PLACE], ["7", "i7", "3", "", ""], *GOOD[PLACE:]]
        text = [
            [*row[:3], "" if c is None else str(c), ""] for row, c in zip(rows, cells, strict=True)
        ]
        source = write_source(tmp_path, kind, text, **SECONDS)
    else:
        source = write_typed(tmp_path, kind, typed(when=seconds), **SECONDS)
    read = read_source(source)
    (bad,) = read.bad
    assert (bad["reason"], bad["column"]) == (reason, "when")
    assert [row["rated_at"] for row in read.good] == [w.replace(microsecond=0) for w in WHEN]


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize("bad", [1.5, float("inf"), 2.0**63, 1e300, -1e19])
def test_a_decimal_is_a_user_only_if_it_is_a_whole_number(
    tmp_path: Path, kind: str, bad: float
) -> None:
    """A column of integers becomes one of floats as soon as pandas meets one that is missing."""
    users = eight([float(user) for user in SMALL_USERS], bad, pa.float64())
    read = read_source(write_typed(tmp_path, kind, typed(who=users), **NATIVE))
    (row,) = read.bad
    assert (row["reason"], row["column"], row["line"]) == ("unparsable user", "who", PLACE + 1)
    assert [good["user_id"] for good in read.good] == SMALL_USERS


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("who", pa.array([[1]] * 8)),
        ("what", pa.array([{"id": "i1"}] * 8)),
        ("stars", pa.array([[4.0, 5.0]] * 8)),
        ("when", pa.array([[datetime(2026, 1, 1)]] * 8)),
    ],
)
def test_a_nested_column_is_refused_with_its_name(
    tmp_path: Path, kind: str, column: str, values: pa.Array
) -> None:
    source = write_typed(tmp_path, kind, typed(**{column: values}), **NATIVE)
    refusal(source, FILES[kind], f"column '{column}' is ")


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("who", pa.array([datetime(2026, 1, 1)] * 8)),
        ("who", pa.array([True] * 8)),
        ("stars", pa.array([date(2026, 1, 1)] * 8)),
        ("when", pa.array([True] * 8)),
        ("when", pa.array([1.5] * 8)),
        ("when", pa.array(["2026-01-01 00:00:00"] * 8)),
    ],
)
def test_a_column_of_another_type_is_refused_or_quarantined_whole(
    tmp_path: Path, kind: str, column: str, values: pa.Array
) -> None:
    """Nothing is taken for a number or a time that is none."""
    source = write_typed(tmp_path, kind, typed(**{column: values}), **NATIVE)
    if isinstance(read := outcome(source), str):
        expect_one_line(read, FILES[kind], f"'{column}'")
    else:
        assert len(read.bad) == 8
        assert {row["column"] for row in read.bad} == {column}
