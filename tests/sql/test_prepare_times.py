"""Parsing of columns of times, in every form and around the changes of a clock."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from jobs.query import query

NOON = datetime(2026, 1, 5, 12)
TIMES = pa.schema(
    [
        ("place", pa.int64()),
        ("text", pa.string()),
        ("number", pa.int64()),
        ("wall", pa.timestamp("us")),
    ]
)
UNITS = {"seconds": 1_000_000, "milliseconds": 1_000, "microseconds": 1}
Told = tuple[datetime | None, str | None]


class TestParsedTimes:
    def read(self, form: str, *values: Any, zone: str = "UTC") -> list[Told]:
        kinds = {str: "text", int: "number", datetime: "wall"}
        rows = [
            {"place": n, **({} if value is None else {kinds[type(value)]: value})}
            for n, value in enumerate(values)
        ]
        is_pattern = "%" in form
        table = query(
            "prepare/parsed_times",
            {"source_times": pa.Table.from_pylist(rows, schema=TIMES)},
            form="pattern" if is_pattern else form,
            pattern=form if is_pattern else "%Y",
            pattern_has_offset="%z" in form,
            unit_us=UNITS.get(form),
            zone=zone,
        )
        assert table["place"].to_pylist() == list(range(len(values)))
        return [(row["moment"], row["reason"]) for row in table.to_pylist()]

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-01-05 12:00:00", NOON),
            ("2026-01-05T12:00", NOON),
            ("2026-01-05 12:00:00.5", datetime(2026, 1, 5, 12, 0, 0, 500_000)),
            ("2026-01-05 12:00:00.123456789", datetime(2026, 1, 5, 12, 0, 0, 123_456)),
            ("2026-01-05T12:00:00Z", NOON),
            ("2026-01-05T12:00:00+00:00", NOON),
            ("2026-01-05T17:30+0530", NOON),
            ("2026-01-05 04:00:00-08", NOON),
        ],
    )
    def test_iso_times_are_read_with_the_offset_that_they_name(
        self, text: str, moment: datetime
    ) -> None:
        assert self.read("iso", text) == [(moment, None)]

    @pytest.mark.parametrize(
        "text",
        [
            "2026-01-05",
            "2026-02-30 12:00:00",
            "2026-13-01 12:00:00",
            "2026-01-05 24:00:00",
            "2026-01-05 12:60:00",
            "2026-01-05 12:00:60",
            "05.01.2026 12:00",
            "2026-1-5 12:00",
            "2026-01-05 12:00:00 UTC",
            "yesterday",
            "1767614400",
            "\ufffd",
        ],
    )
    def test_what_is_no_iso_time_is_unparsable(self, text: str) -> None:
        assert self.read("iso", text) == [(None, "unparsable")]

    def test_a_date_is_the_midnight_that_begins_it(self) -> None:
        assert self.read("date", "2026-01-05", "2026-02-29", "2026-01-05 12:00") == [
            (datetime(2026, 1, 5), None),
            (None, "unparsable"),
            (None, "unparsable"),
        ]

    @pytest.mark.parametrize("form", UNITS)
    def test_counts_since_1970_are_read_in_their_unit(self, form: str) -> None:
        count = 1_767_614_400 * 1_000_000 // UNITS[form]
        assert self.read(form, count, str(count)) == [(NOON, None)] * 2

    def test_parts_of_a_second_are_kept_to_the_microsecond(self) -> None:
        assert self.read("seconds", "1767614400.25", "1767614400.1234569") == [
            (NOON.replace(microsecond=250_000), None),
            (NOON.replace(microsecond=123_456), None),
        ]

    def test_digits_alone_are_a_count(self) -> None:
        texts = ("1e9", "1_000", " 5", "0x10", "five", "99999999999999999999")
        assert self.read("seconds", *texts) == [(None, "unparsable")] * 6

    def test_a_count_that_no_calendar_holds_is_out_of_range(self) -> None:
        assert self.read("seconds", 2**62, -(2**62), "9" * 18) == [(None, "out of range")] * 3
        assert self.read("seconds", 0, "-1") == [
            (datetime(1970, 1, 1), None),
            (datetime(1969, 12, 31, 23, 59, 59), None),
        ]

    def test_a_pattern_reads_what_it_says(self) -> None:
        assert self.read("%d/%m/%Y %H:%M", "05/01/2026 12:00", "30/02/2026 12:00", "5.1.2026") == [
            (NOON, None),
            (None, "unparsable"),
            (None, "unparsable"),
        ]
        assert self.read("%b %d %Y %I:%M %p", "Jan 05 2026 12:00 PM") == [(NOON, None)]

    def test_a_pattern_with_an_offset_gives_utc(self) -> None:
        found = self.read("%Y-%m-%d %H:%M %z", "2026-01-05 13:00 +0100", zone="America/New_York")
        assert found == [(NOON, None)]

    def test_wall_times_are_those_of_the_zone(self) -> None:
        summer, winter = datetime(2026, 7, 1, 12), datetime(2026, 1, 1, 12)
        for zone, offsets in {"Europe/London": (1, 0), "America/New_York": (-4, -5)}.items():
            assert self.read("native", summer, winter, zone=zone) == [
                (datetime(2026, 7, 1, 12 - offsets[0]), None),
                (datetime(2026, 1, 1, 12 - offsets[1]), None),
            ]

    def test_where_the_clock_is_put_back_the_later_moment_is_meant(self) -> None:
        texts = ("2010-10-31 00:59:59", "2010-10-31 01:30:00", "2010-10-31 02:00:00")
        assert self.read("iso", *texts, zone="Europe/London") == [
            (datetime(2010, 10, 30, 23, 59, 59), None),
            (datetime(2010, 10, 31, 1, 30), None),
            (datetime(2010, 10, 31, 2), None),
        ]
        found = self.read("iso", "2025-11-02 01:30:00", zone="America/New_York")
        assert found == [(datetime(2025, 11, 2, 6, 30), None)]

    def test_where_the_clock_is_put_forward_there_is_no_such_time(self) -> None:
        texts = ("2010-03-28 00:59:59", "2010-03-28 01:00:00", "2010-03-28 02:00:00")
        assert self.read("iso", *texts, zone="Europe/London") == [
            (datetime(2010, 3, 28, 0, 59, 59), None),
            (None, "skipped by the clock"),
            (datetime(2010, 3, 28, 1), None),
        ]

    def test_a_time_with_an_offset_of_its_own_is_none_of_the_zone(self) -> None:
        found = self.read("iso", "2010-03-28 01:30:00+00:00", zone="Europe/London")
        assert found == [(datetime(2010, 3, 28, 1, 30), None)]

    def test_no_value_is_no_moment_and_no_fault_of_its_form(self) -> None:
        for form in ("iso", "date", "seconds", "native", "%Y-%m-%d"):
            assert self.read(form, None, "") == [(None, None)] * 2

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read("iso") == []
