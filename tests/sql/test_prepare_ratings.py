"""Parsing of rows of events and of rows of catalogues."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from jobs.query import query

NOON = datetime(2026, 1, 5, 12)


# -- events ----------------------------------------------------------------------------------------

FIELDS = pa.schema(
    [
        ("place", pa.int64()),
        ("broken", pa.string()),
        ("rejected", pa.string()),
        ("user_text", pa.string()),
        ("user_number", pa.int64()),
        ("item_text", pa.string()),
        ("item_number", pa.int64()),
        ("feedback_text", pa.string()),
        ("feedback_number", pa.float64()),
        ("at_moment", pa.timestamp("us")),
        ("at_reason", pa.string()),
        ("arrival_moment", pa.timestamp("us")),
        ("arrival_reason", pa.string()),
    ]
)
GOOD = {"user_text": "1", "item_text": "10", "feedback_text": "4", "at_moment": NOON}
BY_RATING = {
    "user_is_text": False,
    "item_is_text": False,
    "feedback": "rating",
    "minimum": 1.0,
    "maximum": 5.0,
    "positives": [],
    "negatives": [],
    "arrives_by": "event",
    "known_from": None,
    "earliest": datetime(1970, 1, 1),
    "latest": datetime(2100, 1, 1),
}
BY_LABEL = {**BY_RATING, "feedback": "label", "positives": ["1", "yes"], "negatives": ["0", "no"]}


class TestParsedEvents:
    def read(self, *rows: dict[str, Any], **parameters: Any) -> list[dict[str, Any]]:
        fields = [{"place": n, **GOOD, **row} for n, row in enumerate(rows)]
        table = pa.Table.from_pylist(fields, schema=FIELDS)
        given = {**BY_RATING, **parameters}
        return query("prepare/parsed_events", {"source_fields": table}, **given).to_pylist()

    def verdict(self, row: dict[str, Any], **parameters: Any) -> tuple[str | None, str | None]:
        (found,) = self.read(row, **parameters)
        return found["reason"], found["role"]

    def test_a_good_row_is_read(self) -> None:
        assert self.read({}) == [
            {
                "user_number": 1,
                "user_text": None,
                "item_number": 10,
                "item_text": None,
                "rating": 4.0,
                "rated_at": NOON,
                "ingested_at": datetime(2026, 1, 6),
                "reason": None,
                "role": None,
            }
        ]

    @pytest.mark.parametrize(
        ("row", "reason", "role"),
        [
            ({"broken": "wrong number of fields"}, "wrong number of fields", None),
            ({"rejected": "cancellation"}, "cancellation", "rule"),
            ({"user_text": None}, "missing user", "user"),
            ({"item_text": ""}, "missing item", "item"),
            ({"feedback_text": None}, "missing rating", "feedback"),
            ({"at_moment": None}, "missing timestamp", "at"),
            ({"user_text": "one"}, "unparsable user", "user"),
            ({"user_text": "1e3"}, "unparsable user", "user"),
            ({"user_text": "1_0"}, "unparsable user", "user"),
            ({"user_text": "9" * 20}, "unparsable user", "user"),
            ({"item_text": "2.5"}, "unparsable item", "item"),
            ({"feedback_text": "five"}, "unparsable rating", "feedback"),
            ({"feedback_text": "nan"}, "unparsable rating", "feedback"),
            ({"feedback_text": "1e1"}, "unparsable rating", "feedback"),
            ({"feedback_text": "0.5"}, "rating out of range", "feedback"),
            ({"feedback_text": "6"}, "rating out of range", "feedback"),
            ({"at_moment": None, "at_reason": "unparsable"}, "unparsable timestamp", "at"),
            ({"at_moment": None, "at_reason": "out of range"}, "timestamp out of range", "at"),
            ({"at_moment": datetime(1969, 12, 31, 23, 59, 59)}, "timestamp out of range", "at"),
            ({"at_moment": datetime(2100, 1, 1)}, "timestamp out of range", "at"),
            ({"at_moment": datetime(2099, 12, 31, 23, 59, 59)}, None, None),
            ({"at_moment": datetime(1970, 1, 1)}, None, None),
            ({"at_reason": "skipped by the clock"}, "timestamp skipped by the clock", "at"),
            ({"feedback_text": "1"}, None, None),
            ({"feedback_text": "4.5"}, None, None),
            ({"user_text": "-7"}, None, None),
        ],
    )
    def test_a_row_that_cannot_be_an_event_says_why(
        self, row: dict[str, Any], reason: str | None, role: str | None
    ) -> None:
        assert self.verdict(row) == (reason, role)

    def test_a_time_out_of_range_is_not_believed(self) -> None:
        (row,) = self.read({"at_moment": datetime(2262, 1, 1)})
        assert (row["rated_at"], row["ingested_at"]) == (None, None)

    def test_the_first_reason_is_given(self) -> None:
        everything = {
            "broken": "NUL byte",
            "rejected": "cancellation",
            "user_text": None,
            "item_text": "x",
            "feedback_text": "9",
            "at_reason": "unparsable",
        }
        reasons = []
        for name in ("broken", "rejected", "user_text", "item_text", "at_reason", "feedback_text"):
            reasons.append(self.verdict(everything)[0])
            everything[name] = GOOD.get(name)
        assert reasons == [
            "NUL byte",
            "cancellation",
            "missing user",
            "unparsable item",
            "unparsable timestamp",
            "rating out of range",
        ]
        assert self.verdict(everything) == (None, None)

    def test_a_bad_row_keeps_what_could_be_read_of_it(self) -> None:
        (row,) = self.read({"user_text": "one", "feedback_text": "?"})
        assert (row["user_number"], row["item_number"], row["rating"]) == (None, 10, None)

    def test_numbers_need_no_text(self) -> None:
        numbers = {"user_number": 7, "item_number": -1, "feedback_number": 2.5}
        nothing = dict.fromkeys(("user_text", "item_text", "feedback_text"))
        (row,) = self.read({**nothing, **numbers})
        assert (row["user_number"], row["item_number"], row["rating"]) == (7, -1, 2.5)

    def test_text_ids_are_text_whatever_they_look_like(self) -> None:
        (row,) = self.read({"user_text": "007"}, user_is_text=True)
        assert (row["user_text"], row["user_number"], row["item_number"]) == ("007", None, 10)

    @pytest.mark.parametrize("text", ["a\tb", "a\0b", "x" * 256, "a\ufffdb", "a\nb"])
    def test_text_that_nobody_could_type_again_is_no_id(self, text: str) -> None:
        assert self.verdict({"user_text": text}, user_is_text=True)[0] == "unparsable user"
        assert self.verdict({"item_text": text}, item_is_text=True)[0] == "unparsable item"

    @pytest.mark.parametrize(
        ("text", "rating", "reason"),
        [
            ("1", 1.0, None),
            ("YES", 1.0, None),
            ("no", 0.0, None),
            ("maybe", None, "unparsable label"),
            (None, None, "missing label"),
        ],
    )
    def test_labels_become_1_and_0(
        self, text: str | None, rating: float | None, reason: str | None
    ) -> None:
        (row,) = self.read({"feedback_text": text}, **BY_LABEL)
        assert (row["rating"], row["reason"]) == (rating, reason)

    def test_an_implicit_event_needs_no_feedback(self) -> None:
        (row,) = self.read({"feedback_text": None}, feedback="implicit")
        assert (row["rating"], row["reason"]) == (1.0, None)

    def test_an_event_without_an_arrival_is_known_when_its_day_ends(self) -> None:
        last, first = datetime(2026, 1, 5, 23, 59, 59, 999_999), datetime(2026, 1, 6)
        rows = self.read({"at_moment": last}, {"at_moment": first})
        assert [row["ingested_at"] for row in rows] == [datetime(2026, 1, 6), datetime(2026, 1, 7)]

    def test_an_event_at_or_after_the_end_of_its_deliverys_day_has_a_wrong_clock(self) -> None:
        by_file = {"arrives_by": "file", "known_from": datetime(2026, 1, 6)}
        times = [datetime(2026, 1, 5, 23, 59, 59), datetime(2026, 1, 6), datetime(2026, 2, 1)]
        rows = self.read(*({"at_moment": at} for at in times), **by_file)
        assert [row["reason"] for row in rows] == [None, *["event after its delivery"] * 2]
        assert {row["ingested_at"] for row in rows} == {datetime(2026, 1, 6)}

    def test_an_event_later_than_its_own_arrival_has_a_wrong_clock(self) -> None:
        arrivals = [NOON, datetime(2026, 1, 5, 11, 59, 59), datetime(2026, 1, 9)]
        rows = self.read(*({"arrival_moment": at} for at in arrivals), arrives_by="column")
        assert [row["reason"] for row in rows] == [None, "event after its delivery", None]
        assert [row["ingested_at"] for row in rows] == arrivals

    @pytest.mark.parametrize(
        ("moment", "told", "reason"),
        [
            (None, None, "missing arrival"),
            (None, "unparsable", "unparsable arrival"),
            (None, "out of range", "arrival out of range"),
            (datetime(2100, 1, 1), None, "arrival out of range"),
        ],
    )
    def test_an_arrival_that_cannot_be_read_is_said(
        self, moment: datetime | None, told: str | None, reason: str
    ) -> None:
        row = {"arrival_moment": moment, "arrival_reason": told}
        assert self.verdict(row, arrives_by="column") == (reason, "arrival")

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == []


# -- catalogues ------------------------------------------------------------------------------------


class TestParsedItems:
    fields = pa.schema(
        [
            ("place", pa.int64()),
            ("broken", pa.string()),
            ("item_text", pa.string()),
            ("item_number", pa.int64()),
            ("title", pa.string()),
        ]
    )

    def read(self, *rows: dict[str, Any], item_is_text: bool = False) -> list[dict[str, Any]]:
        given = [{"place": n, "item_text": "5", "title": "A", **row} for n, row in enumerate(rows)]
        table = pa.Table.from_pylist(given, schema=self.fields)
        return query(
            "prepare/parsed_items", {"source_fields": table}, item_is_text=item_is_text
        ).to_pylist()

    def test_a_good_row_is_an_item(self) -> None:
        (number,) = self.read({})
        assert (number["item_number"], number["title"], number["reason"]) == (5, "A", None)
        (text,) = self.read({"item_text": "a-5"}, item_is_text=True)
        assert (text["item_text"], text["item_number"], text["reason"]) == ("a-5", None, None)

    @pytest.mark.parametrize(
        ("row", "reason", "role"),
        [
            ({"broken": "bad quoting", "title": None}, "bad quoting", None),
            ({"item_text": None}, "missing item", "item_id"),
            ({"item_text": "five"}, "unparsable item", "item_id"),
            ({"title": None}, "missing title", "title"),
        ],
    )
    def test_a_row_that_is_no_item_says_why(
        self, row: dict[str, Any], reason: str, role: str | None
    ) -> None:
        (found,) = self.read(row)
        assert (found["reason"], found["role"]) == (reason, role)

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == []


class TestCatalogue:
    def read(self, *rows: tuple[int, str, int]) -> dict[int, str]:
        names = ("item_id", "title", "source_row")
        types = (pa.int64(), pa.string(), pa.int64())
        columns = {
            name: pa.array([row[n] for row in rows], types[n]) for n, name in enumerate(names)
        }
        table = query("prepare/catalogue", {"catalogue_rows": pa.table(columns)})
        return dict(zip(table["item_id"].to_pylist(), table["title"].to_pylist(), strict=True))

    def test_the_last_row_of_the_latest_file_gives_an_items_title(self) -> None:
        rows = (5, "New", 3 << 40 | 2), (5, "Old", 1 << 40 | 9), (4, "Other", 1 << 40 | 3)
        assert self.read(*rows) == {4: "Other", 5: "New"}
        assert self.read((5, "A", 2), (5, "B", 10)) == {5: "B"}

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == {}
