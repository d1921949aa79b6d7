"""Queries that look into a quarantine: counts by day, rows of a kind, an example of each reason."""

from __future__ import annotations

from datetime import date
from typing import Any

import pyarrow as pa
import pytest

from jobs.query import query

SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("source_file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("raw", pa.string()),
        ("known_day", pa.date32()),
        ("source_row", pa.int64()),
    ]
)
ONE, TWO = date(2026, 1, 1), date(2026, 1, 2)
ROWS = [
    ("event", "b.csv", 2, "missing user", "user", None, ",1,5", TWO, 20),
    ("event", "a.csv", 9, "unparsable rating", "stars", "five", "u,1,five", ONE, 9),
    ("event", "a.csv", 3, "unparsable rating", "stars", "", "u,1,", ONE, 3),
    ("event", "a.csv", 4, "duplicate", None, None, "u,1,5", None, 4),
    ("item", "i.csv", 3, "missing title", "title", None, "7,", ONE, 3),
]
ALL: dict[str, Any] = dict.fromkeys(("of_reason", "of_file", "of_column", "of_value", "of_lines"))


def quarantine(rows: list[tuple[Any, ...]] = ROWS) -> dict[str, pa.Table]:
    named = [dict(zip(SCHEMA.names, row, strict=True)) for row in rows]
    return {"quarantined_events": pa.Table.from_pylist(named, schema=SCHEMA)}


def shown(n_shown: int = 99, **wanted: Any) -> list[tuple[str, int]]:
    rows = query("prepare/quarantined_shown", quarantine(), n_shown=n_shown, **{**ALL, **wanted})
    return [(row["source_file"], row["line"]) for row in rows.to_pylist()]


class TestQuarantinedByDay:
    def test_rows_are_counted_by_kind_day_and_reason(self) -> None:
        rows = query("prepare/quarantined_by_day", quarantine(), **ALL).to_pylist()
        assert [tuple(row.values()) for row in rows] == [
            ("event", ONE, "unparsable rating", 2),
            ("event", TWO, "missing user", 1),
            ("event", None, "duplicate", 1),
            ("item", ONE, "missing title", 1),
        ]

    def test_only_what_is_wanted_is_counted(self) -> None:
        wanted = {**ALL, "of_file": "a.csv", "of_column": "stars"}
        rows = query("prepare/quarantined_by_day", quarantine(), **wanted).to_pylist()
        assert [row["n_rows"] for row in rows] == [2]

    def test_of_nothing_there_is_nothing(self) -> None:
        assert query("prepare/quarantined_by_day", quarantine([]), **ALL).num_rows == 0


class TestQuarantinedShown:
    @pytest.mark.parametrize(
        ("wanted", "found"),
        [
            ({"of_reason": "duplicate"}, [("a.csv", 4)]),
            ({"of_file": "a.csv", "of_lines": [9, 4, 2]}, [("a.csv", 4), ("a.csv", 9)]),
            ({"of_column": "title"}, [("i.csv", 3)]),
            ({"of_value": ""}, [("a.csv", 3)]),
            ({"of_value": "five", "of_reason": "duplicate"}, []),
        ],
    )
    def test_rows_are_filtered(self, wanted: dict[str, Any], found: list[tuple[str, int]]) -> None:
        assert shown(**wanted) == found

    def test_the_first_so_many_in_the_order_of_their_places(self) -> None:
        assert shown(3) == [("a.csv", 3), ("a.csv", 4), ("a.csv", 9)]
        assert len(shown()) == 5

    def test_a_quote_in_a_value_is_a_value(self) -> None:
        assert shown(of_reason="x' or 'a' = 'a") == []


class TestQuarantinedExamples:
    def test_each_reason_has_its_first_row_as_an_example(self) -> None:
        rows = query("prepare/quarantined_examples", quarantine()).to_pylist()
        assert [(row["kind"], row["reason"], row["n_rows"]) for row in rows] == [
            ("event", "unparsable rating", 2),
            ("event", "duplicate", 1),
            ("event", "missing user", 1),
            ("item", "missing title", 1),
        ]
        assert rows[0]["example"] == {
            "source_file": "a.csv",
            "line": 3,
            "column": "stars",
            "value": "",
            "raw": "u,1,",
        }

    def test_of_nothing_there_is_nothing(self) -> None:
        assert query("prepare/quarantined_examples", quarantine([])).num_rows == 0
