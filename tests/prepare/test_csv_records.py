"""CSV of any delimiter, encoding and dirt: good rows come out whole, bad ones with their reason."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import SourceError
from jobs.prepare.sources import csv_lines, csv_records
from jobs.prepare.sources.csv_records import csv_batches
from jobs.prepare.sources.raw_file import RawBytes, RawFile
from jobs.prepare.sources.source_form import CsvForm

Row = tuple[int, str | None, list[str | None]]


def read(content: bytes, wanted: str = "a,b,c", **form: Any) -> list[Row]:
    """Line, reason and fields of each row."""
    names = wanted.split(",")
    stream = RawBytes(RawFile(Path("f"), "f", 0, None), io.BytesIO(content))
    batches = list(csv_batches(stream, "f", CsvForm(**form), names))
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [(r["#line"], r["#broken"], [r[name] for name in names]) for r in rows]


def refusal(content: bytes, wanted: str = "a,b,c", **form: Any) -> str:
    with pytest.raises(SourceError) as error:
        read(content, wanted, **form)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- good rows -------------------------------------------------------------------------------------


def test_a_plain_file_is_read_with_its_line_numbers() -> None:
    assert read(b"a,b,c\n1,2,3\n4,,6\n") == [(2, None, ["1", "2", "3"]), (3, None, ["4", "", "6"])]


def test_lines_that_end_as_on_windows_are_read() -> None:
    assert read(b"a,b,c\r\n1,2,3\r\n") == [(2, None, ["1", "2", "3"])]


def test_only_the_columns_asked_for_come_in_the_order_asked_for() -> None:
    assert read(b"a,b,c\n1,2,3\n", "c,a") == [(2, None, ["3", "1"])]


def test_the_raw_line_is_kept() -> None:
    stream = RawBytes(RawFile(Path("f"), "f", 0, None), io.BytesIO(b'a,b\n1,2\n"x\ny",\n'))
    (batch,) = csv_batches(stream, "f", CsvForm(), ["a"])
    assert batch["#raw"].to_pylist() == ["1,2\n", '"x\ny",\n']


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "::", "¦", "~~~"])
def test_any_delimiter_cuts_a_line(delimiter: str) -> None:
    content = "\n".join(delimiter.join(row) for row in ("abc", "123", "4\\6")) + "\n"
    assert read(content.encode(), delimiter=delimiter) == [
        (2, None, ["1", "2", "3"]),
        (3, None, ["4", "\\", "6"]),
    ]


def test_a_delimiter_of_two_letters_is_found_from_the_left() -> None:
    assert read(b"1::2:::3\n", header=False, columns=("a", "b", "c"), delimiter="::") == [
        (1, None, ["1", "2", ":3"])
    ]


def test_a_file_without_a_header_starts_on_its_first_line() -> None:
    assert read(b"1,2,3\n", header=False, columns=("a", "b", "c")) == [(1, None, ["1", "2", "3"])]


def test_quoted_values_hold_delimiters_quotes_and_line_ends() -> None:
    content = b'a,b,c\n"1,1","say ""hi""","two\r\nlines"\n"","x",""""\n7,8,9\n'
    assert read(content) == [
        (2, None, ["1,1", 'say "hi"', "two\r\nlines"]),
        (4, None, ["", "x", '"']),
        (5, None, ["7", "8", "9"]),
    ]


def test_a_quoted_header_is_read() -> None:
    content = b'"a","x""y"," c "\n1,2,3\n'
    assert read(content, 'x"y,c') == [(2, None, ["2", "3"])]


def test_without_a_quote_quotes_are_letters() -> None:
    assert read(b'a,b,c\n5" pipe,"x,y"\n', quote="") == [(2, None, ['5" pipe', '"x', 'y"'])]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-8", "Misérables 愛"), ("latin-1", "Misérables"), ("windows-1252", "10 € Š")],
)
def test_every_encoding_is_read(encoding: str, text: str) -> None:
    content = f"a,b,c\n1,{text},3\n".encode(encoding)
    assert read(content, encoding=encoding) == [(2, None, ["1", text, "3"])]


def test_the_byte_order_mark_is_no_part_of_the_first_name() -> None:
    assert read(b"\xef\xbb\xbfa,b,c\n1,2,3\n") == [(2, None, ["1", "2", "3"])]


def test_a_header_alone_is_a_file_without_rows() -> None:
    assert read(b"a,b,c\n") == []


# -- bad rows --------------------------------------------------------------------------------------


def test_every_bad_line_says_why_and_costs_no_other() -> None:
    content = (
        b"a,b,c\n1,2,3\n1,2\n1,2,3,4\n\n1,\xff,3\n1,\x00,3\n"
        b'1,5" pipe,3\n1,"open,3\n1,"x" ,3\n1,2,3\n1,2,3\n1,2,3\n1,2,3\n'
    )
    assert [(line, reason) for line, reason, _ in read(content)] == [
        (2, None),
        (3, "wrong number of fields"),
        (4, "wrong number of fields"),
        (5, "wrong number of fields"),
        (6, "invalid UTF-8"),
        (7, "NUL byte"),
        (8, "bad quoting"),
        (9, "bad quoting"),
        (10, "bad quoting"),
        (11, None),
        (12, None),
        (13, None),
        (14, None),
    ]
    assert all(fields == [None] * 3 for _, reason, fields in read(content) if reason)


def test_bytes_that_windows_1252_does_not_know_are_named_so() -> None:
    content = b"a,b,c\n1,\x81,3\n1,2,3\n"
    assert read(content, encoding="windows-1252")[0][1] == "invalid windows-1252"


def test_a_letter_that_stands_for_broken_text_is_text() -> None:
    assert read("a,b,c\n1,\ufffd,3\n".encode()) == [(2, None, ["1", "\ufffd", "3"])]


def test_a_quote_that_never_closes_is_one_bad_line_not_the_rest_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(csv_records, "MAX_RECORD_BYTES", 100)
    rows = read(b'a,b,c\n1,"open,3\n' + b"1,2,3\n" * 50 + b'1,2,"x"\n')
    assert [row for row in rows if row[1]] == [(2, "bad quoting", [None] * 3)]
    assert len(rows) == 52


def test_a_value_longer_than_a_record_may_be_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_records, "MAX_RECORD_BYTES", 20)
    rows = read(b'a,b,c\n1,"' + b"x\n" * 20 + b'",3\n1,2,3\n' + b"1,2,3\n" * 60)
    assert rows[0][:2] == (2, "bad quoting")
    assert [row[1] for row in rows[-61:]] == [None] * 61


# -- whole files that are refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "f: the file is empty"),
        (b"PAR1\n", "f, line 1: expected CSV, but this is Parquet; say `format: parquet`"),
        (b"PK\x03\x04\n", "f, line 1: expected CSV, but this is a zip; unpack it"),
        (
            b"\x1f\x8b\n",
            "f, line 1: expected CSV, but this is gzip; give it a name that",
        ),
        (
            "a,b,c\n".encode("utf-16"),
            "f, line 1: expected CSV, but this is UTF-16; save it as",
        ),
        (b"a,b\n1,2\n", "f, line 1: column 'c' is missing; found a, b; change the mapping"),
        (b"a,b,C \n1,2,3\n", "column 'c' is missing; the closest is 'C'; found a, b, C"),
        (b"a,b,c,c\n1,2,3,4\n", "f, line 1: column 'c' is there more than once"),
        (b"a,b,c\xff\n", "f, line 1: expected names of columns, found 'a,b,c\ufffd\\n' (invalid"),
        (b'a,b,"c\n', "f, line 1: expected names of columns"),
        (b"a,b,c\n1,2,3\n4,5", "f, line 3: the file ends inside the line '4,5', so it may have"),
        (
            b"a,b,c\n" + b"1;2;3\n" * 20,
            "f, line 2: expected a,b,c, found '1;2;3'; most lines are not",
        ),
    ],
)
def test_a_file_of_another_form_is_one_error_that_says_so(content: bytes, said: str) -> None:
    assert said in refusal(content)


def test_a_few_lines_of_another_form_are_bad_lines_even_if_no_other_is_there() -> None:
    rows = read(b"a,b,c\n" + b"1;2;3\n" * 19)
    assert [reason for _, reason, _ in rows] == ["wrong number of fields"] * 19


def test_the_mark_of_utf8_under_another_encoding_is_refused() -> None:
    said = refusal(b"\xef\xbb\xbfa,b,c\n1,2,3\n", encoding="latin-1")
    assert said == "f, line 1: starts with the mark of UTF-8; say `csv: {encoding: utf-8}`"


def test_a_last_line_that_does_not_end_is_read_if_the_mapping_says_so() -> None:
    assert read(b"a,b,c\n1,2,3", open_end=True) == [(2, None, ["1", "2", "3"])]


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(csv_lines, "BLOCK_BYTES", 16)
    assert refusal(b"a,b,c\n" + b"x" * 1000).startswith("f, line 2: longer than 64 bytes; expected")


# -- any content, cut into any blocks --------------------------------------------------------------

VALUES = st.text(st.sampled_from('ab1,"\n é\r'), max_size=6)
TABLES = st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=20)


def at_block_size(size: int, content: bytes) -> list[Row] | str:
    kept = csv_lines.BLOCK_BYTES
    csv_lines.BLOCK_BYTES = size
    try:
        return read(content)
    except SourceError as error:
        return str(error)
    finally:
        csv_lines.BLOCK_BYTES = kept


@settings(max_examples=150, deadline=None)
@given(
    rows=TABLES, line_end=st.sampled_from(["\n", "\r\n"]), size=st.sampled_from([40, 97, 1 << 22])
)
def test_what_a_writer_of_csv_writes_is_what_is_read(
    rows: list[list[str]], line_end: str, size: int
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([["a", "b", "c"], *rows])
    found = at_block_size(size, text.getvalue().encode())
    assert [fields for _, reason, fields in found if not reason] == rows


@settings(max_examples=200, deadline=None)
@given(content=st.lists(st.sampled_from([b"a", b",", b",", b'"', b"\n", b"\xff"]), max_size=150))
def test_the_cut_into_blocks_changes_nothing(content: list[bytes]) -> None:
    kept = csv_records.MAX_RECORD_BYTES
    csv_records.MAX_RECORD_BYTES = 40
    try:
        text = b"a,b,c\n1,2,3\n" * 60 + b"".join(content) + b"\n"
        whole = at_block_size(1 << 22, text)
        assert at_block_size(97, text) == whole
        assert at_block_size(256, text) == whole
    finally:
        csv_records.MAX_RECORD_BYTES = kept
    lines = text.count(b"\n")
    assert not isinstance(whole, str)
    assert whole[-1][0] <= lines


def test_no_line_is_lost_and_none_comes_twice() -> None:
    rows = read(b"a,b,c\n" + b'1,2,3\n1,"\n\n",3\n' * 1000)
    assert len(rows) == 2000
    assert pa.array([line for line, *_ in rows])[-1].as_py() == 3999
