"""Files that are broken, cut, renamed or locked: bad lines are quarantined, the rest is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.prepare.dirty_sources import (
    FILES,
    GOOD,
    HEADER,
    NATIVE,
    PLACE,
    expect_good_rows_untouched,
    expect_one_line,
    expect_quarantined,
    mapping_text,
    outcome,
    read_source,
    refusal,
    typed,
    write_csv_bytes,
    write_source,
    write_table,
    write_typed,
)

# -- the form of a CSV -----------------------------------------------------------------------------


def csv_lines(*bad: bytes) -> bytes:
    """The good rows as CSV, with lines put after the third."""
    good = [",".join(cell or "" for cell in row).encode() for row in GOOD]
    return b"\n".join([",".join(HEADER).encode(), *good[:PLACE], *bad, *good[PLACE:], b""])


BROKEN_LINES = [
    (b"7,i7,3,2026-01-05 10:00:00", "wrong number of fields"),
    (b"7,i7,3,2026-01-05 10:00:00,,extra", "wrong number of fields"),
    (b"7", "wrong number of fields"),
    (b";".join([b"7", b"i7", b"3", b"2026-01-05 10:00:00", b""]), "wrong number of fields"),
    (b"7,i\xff7,3,2026-01-05 10:00:00,", "invalid UTF-8"),
    (b"7,i7,3,2026-01-05 10:00:00,\xc3\x28", "invalid UTF-8"),
    (b"\xed\xa0\x80,i7,3,2026-01-05 10:00:00,", "invalid UTF-8"),
    (b"7,i\x007,3,2026-01-05 10:00:00,", "NUL byte"),
    (b'7,"i7,3,2026-01-05 10:00:00,', "bad quoting"),
    (b'7,i"7",3,2026-01-05 10:00:00,', "bad quoting"),
    (b'7,"i7"x,3,2026-01-05 10:00:00,', "bad quoting"),
]


@pytest.mark.parametrize(("line", "reason"), BROKEN_LINES)
def test_a_broken_line_is_quarantined_as_it_is(tmp_path: Path, line: bytes, reason: str) -> None:
    read = read_source(write_csv_bytes(tmp_path, csv_lines(line)))
    bad = expect_quarantined(read, 8, PLACE + 2, reason)
    assert bad["raw"].startswith("7"[: line.startswith(b"7")])


@pytest.mark.parametrize("n_blank", [1, 3])
def test_blank_lines_are_no_rows(tmp_path: Path, n_blank: int) -> None:
    read = read_source(write_csv_bytes(tmp_path, csv_lines(*[b""] * n_blank)))
    assert not [row for row in read.bad if row["reason"] != "wrong number of fields"]
    expect_good_rows_untouched(read, GOOD)


def test_every_broken_line_at_once_leaves_the_good_rows_alone(tmp_path: Path) -> None:
    lines = [line for line, _ in BROKEN_LINES]
    read = read_source(write_csv_bytes(tmp_path, csv_lines(*lines)))
    assert [row["reason"] for row in read.bad] == [reason for _, reason in BROKEN_LINES]
    expect_good_rows_untouched(read, GOOD)


HEAD = ",".join(HEADER).encode()
WHOLE_FILES = [
    (b"", ("empty",)),
    (HEAD, ("line 1", "ends inside")),
    (csv_lines()[:-1], ("line 8", "ends inside")),
    (csv_lines().replace(b"who,", b"usr,"), ("line 1", "column 'who' is missing", "usr")),
    (csv_lines().replace(b"who,", b"Who,"), ("line 1", "the closest is 'Who'")),
    (csv_lines().replace(b"note", b"who"), ("line 1", "'who'", "more than once")),
    (csv_lines().replace(b",", b";"), ("line 1", "column 'who' is missing")),
    (b"PK\x03\x04" + bytes(50), ("line 1",)),
    (b"\x1f\x8b" + bytes(50), ("line 1",)),
    (b"PAR1" + bytes(50), ("line 1",)),
    ("who,what\n".encode("utf-16"), ("line",)),
    (bytes(4096), ()),
    (b"\xff" * 4096 + b"\n", ()),
]


@pytest.mark.parametrize(("content", "said"), WHOLE_FILES, ids=range(len(WHOLE_FILES)))
def test_a_file_of_another_form_is_refused_by_name(
    tmp_path: Path, content: bytes, said: tuple[str, ...]
) -> None:
    refusal(write_csv_bytes(tmp_path, content), FILES["csv"], *said)


# -- damaged and absent files ----------------------------------------------------------------------


def damaged(kind: str, how: str, folder: Path) -> Path:
    source = write_source(folder, kind, GOOD)
    path = folder / FILES[kind]
    content = path.read_bytes()
    if how == "absent":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "noise":
        path.write_bytes(content[:100] + bytes(range(256)) * (len(content) // 256) + content[-8:])
    elif how == "other":
        path.write_bytes(b"<html>404 not found</html>")
    else:
        path.unlink()
        path.mkdir()
    return source


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize("how", ["absent", "empty", "half", "noise", "other", "a folder"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, kind: str, how: str) -> None:
    refusal(damaged(kind, how, tmp_path), FILES[kind])


@pytest.mark.parametrize("how", ["absent", "half", "a folder"])
def test_a_csv_that_is_not_whole_is_refused_by_name(tmp_path: Path, how: str) -> None:
    refusal(damaged("csv", how, tmp_path), FILES["csv"])


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
@pytest.mark.parametrize("missing", ["who", "what", "stars", "when", "note"])
def test_a_renamed_column_is_refused_with_the_closest_name(
    tmp_path: Path, kind: str, missing: str
) -> None:
    names = [f"{name}_" if name == missing else name for name in HEADER]
    source = write_typed(tmp_path, kind, typed().rename_columns(names), **NATIVE)
    refusal(source, FILES[kind], f"column '{missing}' is missing", f"the closest is '{missing}_'")


def test_a_table_that_is_not_in_the_duckdb_file_is_refused_by_name(tmp_path: Path) -> None:
    source = write_source(tmp_path, "duckdb", GOOD, table="  table: rating")
    refusal(source, FILES["duckdb"], "rating")


def test_a_duckdb_file_that_another_process_writes_is_refused_by_name(tmp_path: Path) -> None:
    source = write_source(tmp_path, "duckdb", GOOD)
    writer = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); input()"
    )
    command = [sys.executable, "-c", writer, str(tmp_path / FILES["duckdb"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "open\n"
        refusal(source, FILES["duckdb"])
        one.communicate("\n")


@pytest.mark.parametrize("kind", ["parquet", "duckdb"])
def test_a_table_without_rows_is_refused_or_gives_none(tmp_path: Path, kind: str) -> None:
    source = write_typed(tmp_path, kind, typed().slice(0, 0), **NATIVE)
    if isinstance(read := outcome(source), str):
        expect_one_line(read, FILES[kind])
    else:
        assert read.rows == []


def test_a_parquet_page_with_a_flipped_byte_is_refused_or_read_right(tmp_path: Path) -> None:
    """Checksums of pages are optional in Parquet; a damaged page never becomes another rating."""
    write_table(tmp_path, "parquet", typed())
    path = tmp_path / FILES["parquet"]
    pq.write_table(typed(), path, write_page_checksum=True, compression="zstd")
    (tmp_path / "tidemark.yaml").write_text(mapping_text("parquet", **NATIVE))
    content, whole = bytearray(path.read_bytes()), read_source(tmp_path)
    for place in range(8, 400, 40):
        damaged_content = bytearray(content)
        damaged_content[place] ^= 0xFF
        path.write_bytes(bytes(damaged_content))
        if isinstance(read := outcome(tmp_path), str):
            expect_one_line(read, FILES["parquet"])
        else:
            assert read.rows == whole.rows
