"""Queries that say what a night knew: its events, items and quarantine."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pyarrow as pa

from jobs.query import query
from tests.sql.test_prepare_arrivals import TEN, parts

D2, D3 = date(2026, 1, 2), date(2026, 1, 3)
ELEVEN = datetime(2026, 1, 1, 11)


def withdrawn(**reasons: str) -> pa.Table:
    rows = [{"source_row": int(row[1:]), "reason": reason} for row, reason in reasons.items()]
    schema = pa.schema([("source_row", pa.int64()), ("reason", pa.string())])
    return pa.Table.from_pylist(rows, schema=schema)


class TestEvents:
    def test_withdrawn_rows_are_no_events(self) -> None:
        tables = {
            "event_rows": parts({}, {"source_row": 2}),
            "withdrawn_events": withdrawn(r2="unknown item"),
        }
        assert query("prepare/events", tables)["source_row"].to_pylist() == [1]
        assert query("prepare/events", tables | {"event_rows": parts()}).num_rows == 0

    def test_a_row_is_withdrawn_when_it_is_corrected_or_its_item_is_unknown(self) -> None:
        rows = parts(
            {},
            {"source_row": 2, "corrects": 1},
            {"source_row": 3, "item_id": 99},
            {"source_row": 4, "item_id": 99, "corrects": 3},
        )
        tables = {"event_rows": rows, "items": pa.table({"item_id": [10]})}
        assert query("prepare/withdrawn_events", tables).to_pylist() == [
            {"source_row": 1, "reason": "corrected by a later row"},
            {"source_row": 3, "reason": "corrected by a later row"},
            {"source_row": 4, "reason": "unknown item"},
        ]
        assert query("prepare/withdrawn_events", tables | {"event_rows": parts()}).num_rows == 0

    def test_totals_are_one_row_even_of_nothing(self) -> None:
        later = {"source_row": 2, "user_id": 2, "rated_at": ELEVEN}
        assert query("prepare/event_totals", {"events": parts({}, later)}).to_pylist() == [
            {"n_events": 2, "n_users": 2, "n_items": 1, "first_event": TEN, "last_event": ELEVEN}
        ]
        nothing = query("prepare/event_totals", {"events": parts()}).to_pylist()[0]
        assert (nothing["n_events"], nothing["last_event"]) == (0, None)


class TestTitlesFromEvents:
    def titles(self, *rows: tuple[int, str | None, int, datetime]) -> dict[int, str]:
        schema = pa.schema(
            [
                ("item_id", pa.int64()),
                ("title", pa.string()),
                ("n_rows", pa.int64()),
                ("last_at", pa.timestamp("us")),
            ]
        )
        table = pa.Table.from_pylist(
            [dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema
        )
        found = query("prepare/titles_from_events", {"item_rows": table}).to_pylist()
        return {row["item_id"]: row["title"] for row in found}

    def test_the_most_frequent_title_of_all_arrivals_stands(self) -> None:
        rows = [(1, "A", 2, TEN), (1, "B", 3, TEN), (1, "A", 2, TEN)]
        assert self.titles(*rows) == {1: "A"}

    def test_ties_go_to_the_latest_and_then_to_the_first_in_the_alphabet(self) -> None:
        rows = [(1, "A", 2, TEN), (1, "B", 2, ELEVEN), (2, "D", 1, TEN), (2, "C", 1, TEN)]
        assert self.titles(*rows) == {1: "B", 2: "C"}

    def test_rows_without_a_title_or_without_a_good_row_name_nothing(self) -> None:
        assert self.titles((1, None, 5, TEN), (2, "bad rows only", 0, TEN)) == {}
        assert self.titles() == {}


class TestItemsWithAppearances:
    def test_the_first_appearance_is_that_in_the_whole_source(self) -> None:
        tables = {
            "catalogue": pa.table({"item_id": [2, 1], "title": ["B", "A"]}),
            "appearances": pa.table({"item_id": [1, 1, 3], "source_row": [7, 5, 1]}),
        }
        assert query("prepare/items_with_appearances", tables).to_pylist() == [
            {"item_id": 1, "title": "A", "first_row": 5},
            {"item_id": 2, "title": "B", "first_row": None},
        ]
        none = {"catalogue": tables["catalogue"].slice(0, 0)}
        assert query("prepare/items_with_appearances", tables | none).num_rows == 0


REJECTED = pa.schema(
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


def rejected(*rows: dict[str, Any]) -> pa.Table:
    bad = {"kind": "event", "source_file": "f.csv", "line": 5, "reason": "duplicate", "raw": "r"}
    given = [bad | {"known_day": D2, "source_row": 5} | row for row in rows]
    return pa.Table.from_pylist(given, schema=REJECTED)


class TestQuarantine:
    def quarantine(self, **tables: pa.Table) -> list[tuple[str, int, str, str]]:
        given = {
            "event_rows": parts(),
            "withdrawn_events": withdrawn(),
            "rejected_rows": rejected(),
            "released": pa.schema(
                [("source_row", pa.int64()), ("known_day", pa.date32())]
            ).empty_table(),
            "files": pa.table({"ordinal": [0], "source_file": ["f.csv"]}),
        }
        rows = query("prepare/quarantined_events", given | tables).to_pylist()
        return [(row["kind"], row["line"], row["reason"], row["raw"]) for row in rows]

    def test_rows_that_never_were_events_are_shown_as_they_came(self) -> None:
        table = rejected({}, {"kind": "item", "reason": "missing title", "line": 2})
        assert self.quarantine(rejected_rows=table) == [
            ("event", 5, "duplicate", "r"),
            ("item", 2, "missing title", "r"),
        ]
        assert self.quarantine() == []

    def test_a_row_of_an_unknown_item_is_shown_while_it_is_withdrawn(self) -> None:
        table = rejected({"reason": "unknown item", "line": 1, "source_row": 1})
        shown = self.quarantine(
            event_rows=parts({}),
            withdrawn_events=withdrawn(r1="unknown item"),
            rejected_rows=table,
        )
        assert shown == [("event", 1, "unknown item", "r")]
        assert self.quarantine(event_rows=parts({}), rejected_rows=table) == []

    def test_a_corrected_row_is_shown_as_it_was_read(self) -> None:
        reason = "corrected by a later row"
        shown = self.quarantine(event_rows=parts({}), withdrawn_events=withdrawn(r1=reason))
        raw = "user_id 1, item_id 10, rating 4.0, rated_at 2026-01-01 10:00:00"
        assert shown == [("event", 1, reason, raw)]

    def test_a_released_row_is_shown_until_its_release_and_again_if_it_is_bad(self) -> None:
        released = pa.table({"source_row": [5], "known_day": [D3]})
        again = {"known_day": D3, "reason": "conflicting duplicate"}
        assert self.quarantine(rejected_rows=rejected({}), released=released) == []
        assert self.quarantine(rejected_rows=rejected({}, again), released=released) == [
            ("event", 5, "conflicting duplicate", "r")
        ]

    def test_reasons_are_counted_with_their_first_row(self) -> None:
        table = rejected(
            {"line": 9, "raw": "later"},
            {"line": 3, "raw": "first"},
            {"reason": "missing user"},
            {"kind": "item", "reason": "missing title"},
        )
        found = query("prepare/quarantined_counts", {"quarantined_events": table}).to_pylist()
        assert [(row["reason"], row["n_rows"]) for row in found] == [
            ("duplicate", 2),
            ("missing user", 1),
        ]
        assert found[0]["first_row"] == {"source_file": "f.csv", "line": 3, "raw": "first"}
        none = {"quarantined_events": rejected()}
        assert query("prepare/quarantined_counts", none).num_rows == 0
