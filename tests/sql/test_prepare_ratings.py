"""Parsing of rating lines, and which of them become events."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pytest

from jobs.query import query

DAY = date(2026, 1, 10)
PARSED = pa.schema(
    [
        ("source_file", pa.string()),
        ("line", pa.int64()),
        ("raw", pa.string()),
        ("source_row", pa.int64()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("rating", pa.float32()),
        ("rated_at", pa.timestamp("us")),
        ("ingested_at", pa.timestamp("us")),
        ("reason", pa.string()),
    ]
)


def lines(*raw: str, ingested_at: datetime | None = None) -> pa.Table:
    table = pa.table(
        {
            "source_file": ["f"] * len(raw),
            "line": pa.array(range(2, len(raw) + 2), pa.int64()),
            "raw": pa.array(raw, pa.string()),
            "source_row": pa.array(range(1, len(raw) + 1), pa.int64()),
        }
    )
    if ingested_at is None:
        return table
    arrival = pa.repeat(pa.scalar(ingested_at, pa.timestamp("us")), len(raw))
    return table.append_column("ingested_at", arrival)


def reasons(table: pa.Table) -> list[str | None]:
    return table["reason"].to_pylist()


def parsed(*rows: dict[str, Any]) -> pa.Table:
    """Rows in the parsed form; what a row does not say is a good default."""
    default = {
        "source_file": "f",
        "user_id": 1,
        "item_id": 10,
        "rating": 4.0,
        "rated_at": datetime(2026, 1, 5, 12),
        "ingested_at": datetime(2026, 1, 6),
        "reason": None,
    }
    return pa.Table.from_pylist(
        [
            {**default, "line": n + 2, "source_row": n + 1, "raw": f"row {n + 1}", **row}
            for n, row in enumerate(rows)
        ],
        schema=PARSED,
    )


class TestMovielensRatings:
    def read(self, *raw: str) -> pa.Table:
        return query("prepare/movielens_ratings", {"rating_lines": lines(*raw)})

    def test_a_line_of_the_archive_is_read_as_its_readme_says(self) -> None:
        row = self.read("1::1193::5::978300760").to_pylist()[0]
        assert row == {
            "source_file": "f",
            "line": 2,
            "raw": "1::1193::5::978300760",
            "source_row": 1,
            "user_id": 1,
            "item_id": 1193,
            "rating": 5.0,
            "rated_at": datetime(2000, 12, 31, 22, 12, 40),
            "ingested_at": datetime(2000, 12, 31, 22, 12, 40),
            "reason": None,
        }

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("", "wrong number of fields"),
            ("1::2::5", "wrong number of fields"),
            ("1::2::5::9::", "wrong number of fields"),
            ("1,2,5,9", "wrong number of fields"),
            ("1::::5::9", "missing field"),
            ("one::2::5::9", "unparsable user"),
            ("1e3::2::5::9", "unparsable user"),
            ("1_0::2::5::9", "unparsable user"),
            ("99999999999999999999::2::5::9", "unparsable user"),
            ("1::2.5::5::9", "unparsable item"),
            ("1::2::five::9", "unparsable rating"),
            ("1::2::nan::9", "unparsable rating"),
            ("1::2::inf::9", "unparsable rating"),
            ("1::2::5::?", "unparsable timestamp"),
            ("1::2::5::-1", "unparsable timestamp"),
            ("1::2::5::99999999999", "unparsable timestamp"),
            ("1::2::0::9", "rating out of range"),
            ("1::2::6::9", "rating out of range"),
            ("1::2::1::9", None),
            ("1::2::5::0", None),
        ],
    )
    def test_a_line_that_cannot_be_read_says_why(self, raw: str, reason: str | None) -> None:
        assert reasons(self.read(raw)) == [reason]

    def test_the_item_of_a_bad_line_is_still_known(self) -> None:
        assert self.read("1::2::?::?")["item_id"].to_pylist() == [2]

    def test_no_lines_give_no_rows(self) -> None:
        assert self.read().num_rows == 0


class TestMovielensParquetRatings:
    def read(self, *rows: tuple[int | None, ...]) -> pa.Table:
        names = ("user_id", "item_id", "rating", "timestamp", "file_row")
        columns = {name: [row[n] for row in rows] for n, name in enumerate(names)}
        table = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
        return query("prepare/movielens_parquet_ratings", {"ratings": table}, source_file="p")

    def test_a_row_takes_the_form_of_the_archives_line(self) -> None:
        of_line = query(
            "prepare/movielens_ratings", {"rating_lines": lines("1::1193::5::978300760")}
        )
        (of_line,), (of_row,) = (
            of_line.to_pylist(),
            self.read((1, 1193, 5, 978300760, 7)).to_pylist(),
        )
        assert of_row == of_line | {"source_file": "p", "line": 7, "source_row": 7}

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ((1, 2, None, 9, 1), "missing field"),
            ((None, 2, 3, 9, 1), "missing field"),
            ((1, 2, 3, None, 1), "missing field"),
            ((1, 2, 6, 9, 1), "rating out of range"),
            ((1, 2, 0, 9, 1), "rating out of range"),
        ],
    )
    def test_an_incomplete_or_impossible_row_says_why(
        self, row: tuple[int, ...], reason: str
    ) -> None:
        assert reasons(self.read(row)) == [reason]

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read().num_rows == 0


class TestSampleRatings:
    def read(self, *raw: str) -> pa.Table:
        arrival = datetime(2026, 1, 6)
        return query("prepare/sample_ratings", {"rating_lines": lines(*raw, ingested_at=arrival)})

    def test_a_line_of_a_delivery_is_known_from_the_midnight_after_it(self) -> None:
        row = self.read("7,30,4,2026-01-05 23:59:59").to_pylist()[0]
        assert (row["user_id"], row["item_id"], row["rating"]) == (7, 30, 4.0)
        assert row["rated_at"] == datetime(2026, 1, 5, 23, 59, 59)
        assert row["ingested_at"] == datetime(2026, 1, 6)
        assert row["reason"] is None

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            ("7,30,4", "wrong number of fields"),
            ("7,30,4,2026-01-05 10:00:00,", "wrong number of fields"),
            ("7,30,,2026-01-05 10:00:00", "missing field"),
            ("7, ,4,2026-01-05 10:00:00", "missing field"),
            ("u7,30,4,2026-01-05 10:00:00", "unparsable user"),
            ("7,thirty,4,2026-01-05 10:00:00", "unparsable item"),
            ("7,30,four,2026-01-05 10:00:00", "unparsable rating"),
            ("7,30,nan,2026-01-05 10:00:00", "unparsable rating"),
            ("7,30,4,2026-02-30 10:00:00", "unparsable timestamp"),
            ("7,30,4,2026-01-05", "unparsable timestamp"),
            ("7,30,4,2026-01-05 25:00:00", "unparsable timestamp"),
            ("7,30,0.5,2026-01-05 10:00:00", "rating out of range"),
            ("7,30,5.5,2026-01-05 10:00:00", "rating out of range"),
            ("7,30,4,2026-01-06 00:00:00", "event after its delivery"),
            ("7,30,4\ufffd,2026-01-05 10:00:00", "invalid UTF-8"),
            ("7,30,4.5,2026-01-05 10:00:00", None),
            ("7,30,4,2025-12-01 10:00:00", None),
        ],
    )
    def test_a_line_that_cannot_be_read_says_why(self, raw: str, reason: str | None) -> None:
        assert reasons(self.read(raw)) == [reason]

    def test_no_lines_give_no_rows(self) -> None:
        assert self.read().num_rows == 0


class TestKnownRatings:
    def known(self, *rows: dict[str, Any]) -> list[int]:
        table = query("prepare/known_ratings", {"parsed_ratings": parsed(*rows)}, day=DAY)
        return table["source_row"].to_pylist()

    def test_the_day_itself_is_the_future(self) -> None:
        last, first = datetime(2026, 1, 9, 23, 59, 59), datetime(2026, 1, 10)
        rows = [{"rated_at": at, "ingested_at": at} for at in (last, first)]
        assert self.known(*rows) == [1]

    def test_a_delivery_of_the_day_before_is_known_and_one_of_the_day_is_not(self) -> None:
        rows = [{"ingested_at": datetime(2026, 1, 10)}, {"ingested_at": datetime(2026, 1, 11)}]
        assert self.known(*rows) == [1]

    def test_a_delivered_row_from_the_future_is_known_and_so_judged(self) -> None:
        assert self.known({"rated_at": datetime(2026, 3, 1), "reason": "event after"}) == [1]

    def test_a_row_without_any_time_is_known_and_so_judged(self) -> None:
        row = {"rated_at": None, "ingested_at": None, "reason": "unparsable timestamp"}
        assert self.known(row) == [1]

    def test_no_rows_give_no_rows(self) -> None:
        assert self.known() == []


class TestRejectedRatings:
    def rejected(self, *rows: dict[str, Any]) -> list[tuple[int, str]]:
        catalogue = pa.table({"item_id": [10, 11], "title": ["A", "B"]})
        table = query(
            "prepare/rejected_ratings", {"known_ratings": parsed(*rows), "catalogue": catalogue}
        )
        return [(row["source_row"], row["reason"]) for row in table.to_pylist()]

    def test_good_rows_are_not_rejected(self) -> None:
        assert self.rejected({}, {"item_id": 11}, {"user_id": 2}) == []

    def test_an_item_outside_the_catalogue_is_unknown(self) -> None:
        assert self.rejected({"item_id": 99}) == [(1, "unknown item")]

    def test_the_first_of_two_equal_rows_stands(self) -> None:
        assert self.rejected({}, {}, {}) == [(2, "duplicate"), (3, "duplicate")]

    def test_the_first_of_two_ratings_of_one_second_stands(self) -> None:
        assert self.rejected({}, {"rating": 1.0}) == [(2, "conflicting duplicate")]

    def test_the_first_is_the_first_in_the_source_not_in_the_table(self) -> None:
        rows = {"source_row": 9}, {"source_row": 3}
        assert self.rejected(*rows) == [(9, "duplicate")]

    def test_rating_an_item_again_later_is_no_duplicate(self) -> None:
        assert self.rejected({}, {"rated_at": datetime(2026, 1, 5, 13)}) == []

    def test_a_bad_row_makes_no_duplicate_of_a_good_one(self) -> None:
        bad = {"reason": "rating out of range", "rating": 9.0}
        assert self.rejected(bad, {}) == [(1, "rating out of range")]

    def test_rows_without_user_or_time_are_no_duplicates_of_each_other(self) -> None:
        bad = {"user_id": None, "rated_at": None, "reason": "missing field"}
        assert self.rejected(bad, bad) == [(1, "missing field"), (2, "missing field")]

    def test_no_rows_give_no_rows(self) -> None:
        assert self.rejected() == []


class TestEventsAndQuarantine:
    rejected = pa.table({"source_row": [2], "reason": ["duplicate"]})

    def test_each_row_is_in_exactly_one_of_the_two(self) -> None:
        tables = {
            "known_ratings": parsed({}, {}, {"user_id": 2}),
            "rejected_ratings": self.rejected,
        }
        events, quarantined = (
            query(f"prepare/{name}", tables) for name in ("events", "quarantined_events")
        )
        assert events["source_row"].to_pylist() == [1, 3]
        assert quarantined.to_pylist() == [
            {"source_file": "f", "line": 3, "raw": "row 2", "reason": "duplicate"}
        ]

    @pytest.mark.parametrize("name", ["prepare/events", "prepare/quarantined_events"])
    def test_no_rows_give_no_rows(self, name: str) -> None:
        tables = {"known_ratings": parsed(), "rejected_ratings": self.rejected.slice(0, 0)}
        assert query(name, tables).num_rows == 0
