"""Random cells in every format against an oracle that is written without DuckDB or Arrow."""

from __future__ import annotations

import math
import re
import shutil
import struct
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.prepare.dirty_sources import (
    FILES,
    FORMATS,
    HEADER,
    NATIVE,
    csv_text,
    outcome,
    read_source,
    write_csv_bytes,
    write_source,
    write_typed,
)

FIXED = settings(
    max_examples=12,  # each with dozens of cells; a source is written and read for each
    derandomize=True,  # the same inputs in every run
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# -- cells, and what each must become --------------------------------------------------------------

ALMOST_NUMBERS = st.text("0123456789+-.,eE_xn \u0663\uff13", max_size=20)
ALMOST_TIMES = st.text("0123456789-:T Z+.", max_size=26)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
WHOLE = st.integers(-(10**19), 10**19).map(str)
DECIMALS = st.floats(-10, 10, allow_nan=False).map(lambda number: f"{number:.3f}")
TIMES = st.datetimes(datetime(1960, 1, 1), datetime(2110, 1, 1)).map(lambda at: at.isoformat(" "))

USERS = st.one_of(WHOLE, ALMOST_NUMBERS, ANY_TEXT)
ITEMS = st.one_of(st.sampled_from(["i1", "i2"]), ANY_TEXT)
STARS = st.one_of(DECIMALS, ALMOST_NUMBERS, ANY_TEXT)
WHENS = st.one_of(TIMES, ALMOST_TIMES, ANY_TEXT)
ROWS = st.lists(st.tuples(USERS, ITEMS, STARS, WHENS, st.just("")), min_size=20, max_size=60)


def user_of(cell: str) -> int | None:
    cell = cell.strip()
    return int(cell) if re.fullmatch(r"-?[0-9]{1,18}", cell, re.ASCII) else None


def item_of(cell: str) -> str | None:
    cell = cell.strip()
    is_plain = 1 <= len(cell) <= 255 and not re.search(r"[\x00-\x1f\x7f]", cell)
    return cell if is_plain else None


def stars_of(cell: str) -> float | None:
    cell = cell.strip()
    if not re.fullmatch(r"-?[0-9]{1,9}([.][0-9]+)?", cell, re.ASCII) or not 1 <= float(cell) <= 5:
        return None
    return struct.unpack("f", struct.pack("f", float(cell)))[0]


def when_of(cell: str) -> datetime | None:
    form = r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?)"
    match = re.fullmatch(form, cell.strip(), re.ASCII)
    if match is None:
        return None
    fraction = (match[4] or "")[:7]
    clock = match[2].removesuffix(match[4] or "") + fraction
    try:
        moment = datetime.fromisoformat(f"{match[1]} {clock}")
    except ValueError:
        return None
    return moment if datetime(1970, 1, 1) <= moment < datetime(2100, 1, 1) else None


@pytest.mark.parametrize("kind", FORMATS)
@FIXED
@given(rows=ROWS)
def test_random_cells_become_the_event_they_say_or_a_quarantined_row(
    tmp_path: Path, kind: str, rows: list[tuple[str, ...]]
) -> None:
    shutil.rmtree(tmp_path)
    read = read_source(write_source(tmp_path, kind, rows))
    assert len(read.rows) == len(rows)
    for row, cells in zip(read.rows, rows, strict=True):
        said = (user_of(cells[0]), item_of(cells[1]), stars_of(cells[2]), when_of(cells[3]))
        has_zone = re.search(r"(Z|[+-][0-9:]{2,6})$", cells[3].strip()) is not None
        if None in said and not (has_zone and row["reason"] is None):
            assert row["reason"] is not None
            assert row["raw"] is not None
            assert row["column"] in HEADER
        elif None not in said:
            assert row["reason"] is None
            found = (row["user_id"], row["item_id"], row["rating"], row["rated_at"])
            assert found == said


# -- whole files -----------------------------------------------------------------------------------


@FIXED
@given(noise=st.binary(max_size=300))
def test_random_bytes_after_the_header_are_quarantined_or_refused(
    tmp_path: Path, noise: bytes
) -> None:
    shutil.rmtree(tmp_path)
    source = write_csv_bytes(tmp_path, csv_text([]).encode() + noise)
    if isinstance(read := outcome(source), str):
        assert read.startswith(str(tmp_path / FILES["csv"]))
        assert "\n" not in read
    else:
        assert all(row["reason"] for row in read.rows)
        lines = [row["line"] for row in read.rows]
        assert lines == sorted(set(lines))
        assert max(lines, default=1) <= noise.count(b"\n") + 1


@pytest.mark.parametrize("kind", FORMATS)
@FIXED
@given(start=st.integers(0, 2_000), noise=st.binary(min_size=1, max_size=40))
def test_bytes_written_over_a_file_end_in_one_line_or_in_rows(
    tmp_path: Path, kind: str, start: int, noise: bytes
) -> None:
    shutil.rmtree(tmp_path)
    rows = [(str(n), "i1", "4", f"2026-01-0{n % 9 + 1} 10:00:00", "") for n in range(40)]
    source = write_source(tmp_path, kind, rows)
    path = tmp_path / FILES[kind]
    content = bytearray(path.read_bytes())
    place = start % len(content)
    content[place : place + len(noise)] = noise
    path.write_bytes(bytes(content))
    if isinstance(read := outcome(source), str):
        assert FILES[kind] in read
        assert "\n" not in read
    elif kind == "csv":
        assert len(read.rows) >= 1


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@FIXED
@given(
    stars=st.lists(st.one_of(st.none(), st.floats(width=64)), min_size=20, max_size=60),
)
def test_any_float_is_a_rating_within_its_range_or_quarantined(
    tmp_path: Path, kind: str, stars: list[float | None]
) -> None:
    shutil.rmtree(tmp_path)
    n = len(stars)
    table = pa.table(
        {
            "who": pa.array(range(n), pa.int64()),
            "what": pa.array(["i1"] * n),
            "stars": pa.array(stars, pa.float64()),
            "when": pa.array([datetime(2026, 1, 1)] * n, pa.timestamp("us")),
            "note": pa.nulls(n, pa.string()),
        }
    )
    read = read_source(write_typed(tmp_path, kind, table, **NATIVE))
    for row, number in zip(read.rows, stars, strict=True):
        if number is None or math.isnan(number):
            assert row["reason"] == "missing rating"
        elif not 1 <= number <= 5:
            assert row["reason"] == "rating out of range"
        else:
            assert row["reason"] is None
            assert row["rating"] == struct.unpack("f", struct.pack("f", number))[0]


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize(
    ("form", "scale"), [("seconds", 1), ("milliseconds", 1_000), ("microseconds", 1_000_000)]
)
@FIXED
@given(counts=st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=20))
def test_any_count_is_its_own_moment_or_quarantined(
    tmp_path: Path, kind: str, form: str, scale: int, counts: list[int | None]
) -> None:
    shutil.rmtree(tmp_path)
    n = len(counts)
    table = pa.table(
        {
            "who": pa.array(range(n), pa.int64()),
            "what": pa.array(["i1"] * n),
            "stars": pa.array([4.0] * n),
            "when": pa.array(counts, pa.int64()),
            "note": pa.nulls(n, pa.string()),
        }
    )
    read = read_source(write_typed(tmp_path, kind, table, at=f"  at: {{form: {form}}}"))
    for row, count in zip(read.rows, counts, strict=True):
        if count is None:
            assert row["reason"] == "missing timestamp"
        elif 0 <= count < 4_102_444_800 * scale:
            micros = count * (1_000_000 // scale)
            assert row["rated_at"] == datetime(1970, 1, 1) + timedelta(microseconds=micros)
        else:
            assert row["reason"] == "timestamp out of range"
