"""Of several lines of metadata of one book, the last one."""

from __future__ import annotations

import pyarrow as pa

from jobs.query import query

LINES = pa.schema(
    [
        ("line", pa.int64()),
        ("asin", pa.string()),
        ("title", pa.string()),
        ("no_json_object", pa.string()),
    ]
)


def read(*rows: tuple[str | None, str | None]) -> list[tuple[int, str | None, str | None]]:
    """(line, book, title) that stay of lines of (book, title)."""
    given = [
        {"line": n, "asin": asin, "title": title, "no_json_object": None if asin else "?"}
        for n, (asin, title) in enumerate(rows, start=1)
    ]
    lines = pa.Table.from_pylist(given, schema=LINES)
    kept = query("prepare/amazon_books", {"metadata_lines": lines}).to_pylist()
    return [(row["line"], row["asin"], row["title"]) for row in kept]


def test_the_last_line_of_a_book_stands_in_the_order_of_the_lines() -> None:
    rows = read(("b", "Old"), ("a", "Emma"), ("b", "New"), ("c", "Ruth"))
    assert rows == [(2, "a", "Emma"), (3, "b", "New"), (4, "c", "Ruth")]


def test_a_last_line_without_a_title_stands_too() -> None:
    assert read(("a", "Emma"), ("a", None)) == [(2, "a", None)]


def test_lines_that_name_no_book_stay_each_for_itself() -> None:
    assert read((None, None), ("a", "Emma"), (None, None)) == [
        (1, None, None),
        (2, "a", "Emma"),
        (3, None, None),
    ]


def test_no_lines_give_no_rows() -> None:
    assert read() == []
