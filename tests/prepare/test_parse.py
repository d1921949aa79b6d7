"""Columns of every type and form become the same events; what cannot be one says which value."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.errors import SourceError
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.parse import parse_events, parsed_schema
from jobs.prepare.sources.raw_file import RawFile

NOON = datetime(2026, 1, 5, 12)
RATING = {"kind": "rating", "minimum": 1, "maximum": 5, "positive_from": 4}
COLUMNS = {"user_id": "user", "item_id": "item", "rating": "stars", "at": "at"}


def mapping(kind: str = "parquet", **changes: Any) -> Mapping:
    """A mapping of ratings in one file; `changes` are of `events`, but for whole parts."""
    parts = {"feedback": RATING, "reject": (), "items": {"from": "events", "title": "item"}}
    given = {name: changes.pop(name, default) for name, default in parts.items()}
    events = {
        "files": [f"a.{kind}"],
        "format": kind,
        "columns": COLUMNS,
        "user_id": {"type": "integer"},
        "item_id": {"type": "string"},
        "at": {"form": "native" if kind != "csv" else "iso"},
        **changes,
    }
    return Mapping.model_validate({"domain": "shop", "events": events, **given})


FILE = RawFile(Path("a.parquet"), "a.parquet", 0, None)


def events_of(source: Mapping, columns: dict[str, Any]) -> list[dict[str, Any]]:
    """Parsed rows of a table; columns that are not given hold one good value for every row."""
    n = max(len(values) for values in columns.values())
    good = {"user": [1] * n, "item": ["a"] * n, "stars": [4] * n, "at": [NOON] * n}
    added = {"#line": pa.array(range(1, n + 1)), "#broken": pa.nulls(n, pa.string())}
    batch = pa.RecordBatch.from_pydict({**added, "#raw": pa.nulls(n), **good, **columns})
    table = parse_events(batch, source, FILE)
    assert table.schema == parsed_schema(source)
    table.validate(full=True)
    return table.to_pylist()


def column_of(source: Mapping, wanted: str, **columns: Any) -> list[Any]:
    return [row[wanted] for row in events_of(source, columns)]


def bad(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["reason"], row["column"], row["value"]


# -- the columns of the result ---------------------------------------------------------------------


def test_a_row_is_read_with_its_place_in_the_source() -> None:
    file = RawFile(Path("b.parquet"), "d/b.parquet", 3, datetime(2026, 1, 6))
    batch = pa.RecordBatch.from_pydict(
        {
            "#line": [7],
            "#broken": pa.nulls(1, pa.string()),
            "#raw": pa.nulls(1),
            "user": [1],
            "item": ["a"],
            "stars": [4.5],
            "at": [NOON],
        }
    )
    assert parse_events(batch, mapping(), file).to_pylist() == [
        {
            "source_file": "d/b.parquet",
            "line": 7,
            "source_row": (3 << 40) + 7,
            "user_id": 1,
            "item_id": "a",
            "rating": 4.5,
            "rated_at": NOON,
            "ingested_at": datetime(2026, 1, 6),
            "reason": None,
            "column": None,
            "value": None,
            "raw": None,
            "title": "a",
        }
    ]


def test_a_bad_row_names_the_sources_column_and_its_value() -> None:
    rows = events_of(mapping(), {"stars": [4, 9, None], "user": [1, 2, 3]})
    assert [bad(row) for row in rows] == [
        (None, None, None),
        ("rating out of range", "stars", "9"),
        ("missing rating", "stars", None),
    ]
    assert rows[1]["raw"] == '{"user": 2, "item": "a", "stars": 9, "at": "2026-01-05 12:00:00"}'


def test_a_batch_without_rows_has_the_same_columns() -> None:
    assert events_of(mapping(), {name: pa.array([], pa.int64()) for name in ("user",)}) == []


# -- ids -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        pa.array([7], pa.int8()),
        pa.array([7], pa.uint64()),
        pa.array([7.0], pa.float64()),
        pa.array([Decimal(7)], pa.decimal128(38, 0)),
        pa.array(["7"]),
        pa.array([" 7 "], pa.large_string()),
        pa.array(["7"]).dictionary_encode(),
        pa.array([b"7"], pa.binary()),
    ],
    ids=lambda values: str(values.type),
)
def test_an_id_is_the_same_number_or_text_in_every_type(values: pa.Array) -> None:
    assert column_of(mapping(), "user_id", user=values) == [7]
    assert column_of(mapping(user_id={"type": "string"}), "user_id", user=values) == ["7"]


def test_float_ids_of_which_one_is_missing_are_whole_numbers() -> None:
    rows = events_of(mapping(), {"user": [17850.0, None, float("nan"), 12.5, 1e300]})
    assert [row["user_id"] for row in rows] == [17850, None, None, None, None]
    assert [bad(row) for row in rows[1:]] == [
        ("missing user", "user", None),
        ("missing user", "user", "nan"),
        ("unparsable user", "user", "12.5"),
        ("unparsable user", "user", "1e+300"),
    ]


def test_ids_that_do_not_fit_are_unparsable_and_not_another_id() -> None:
    big = pa.array([2**63, 2**63 - 1], pa.uint64())
    rows = events_of(mapping(), {"user": big})
    assert [row["user_id"] for row in rows] == [None, 2**63 - 1]
    wide = pa.array([Decimal(2**53 + 1), Decimal(10) ** 30], pa.decimal128(38, 0))
    assert column_of(mapping(), "user_id", user=wide) == [2**53 + 1, None]


def test_text_ids_are_trimmed_and_keep_their_case_and_zeros() -> None:
    ids = [" Ab ", "ab", "007", "é", "", "  ", None, "NULL", "\\N"]
    rows = events_of(mapping(), {"item": ids})
    assert [row["item_id"] for row in rows] == ["Ab", "ab", "007", "é", *[None] * 5]
    assert {row["reason"] for row in rows[4:]} == {"missing item"}


def test_which_texts_mean_nothing_is_up_to_the_mapping() -> None:
    source = mapping(nulls=["n/a"])
    assert column_of(source, "item_id", item=["n/a", "NULL"]) == [None, "NULL"]


def test_bytes_that_are_no_text_are_no_id() -> None:
    rows = events_of(mapping(), {"item": pa.array([b"a\xff", b"b"])})
    assert [row["item_id"] for row in rows] == [None, "b"]
    assert rows[0]["reason"] == "unparsable item"


# -- feedback --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        pa.array([4], pa.int16()),
        pa.array([4.0], pa.float32()),
        pa.array([Decimal("4.00")], pa.decimal128(5, 2)),
        pa.array(["4"]),
        pa.array(["4.0"]).dictionary_encode(),
    ],
    ids=lambda values: str(values.type),
)
def test_a_rating_is_the_same_in_every_type(values: pa.Array) -> None:
    assert column_of(mapping(), "rating", stars=values) == [4.0]


def test_numbers_and_text_in_one_column_are_each_read_for_themselves() -> None:
    rows = events_of(mapping(), {"stars": ["4", "4.5", "four", "inf", "3,5", "", "nan", "0x4"]})
    assert [row["rating"] for row in rows] == [4.0, 4.5, *[None] * 6]
    assert [row["reason"] for row in rows] == [
        None,
        None,
        *["unparsable rating"] * 3,
        "missing rating",
        *["unparsable rating"] * 2,
    ]


def test_infinite_ratings_are_out_of_range() -> None:
    stars = [float("inf"), float("-inf"), float("nan")]
    assert column_of(mapping(), "reason", stars=stars) == [
        "rating out of range",
        "rating out of range",
        "missing rating",
    ]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([True, False]),
        pa.array([1, 0], pa.int8()),
        pa.array([1.0, 0.0]),
        pa.array(["Yes", " no "]),
        pa.array(["TRUE", "False"]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_label_is_the_same_in_every_type(values: pa.Array) -> None:
    columns = {"user_id": "user", "item_id": "item", "label": "liked", "at": "at"}
    source = mapping(feedback={"kind": "label"}, columns=columns)
    assert column_of(source, "rating", liked=values) == [1.0, 0.0]


# -- times -----------------------------------------------------------------------------------------

PLUS_2 = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("form", "values"),
    [
        ("native", pa.array([NOON], pa.timestamp("us"))),
        ("native", pa.array([NOON], pa.timestamp("ns"))),
        ("native", pa.array([NOON], pa.timestamp("ms"))),
        ("native", pa.array([NOON], pa.timestamp("s"))),
        ("native", pa.array([NOON.replace(tzinfo=UTC)], pa.timestamp("us", "Asia/Tokyo"))),
        ("seconds", pa.array([1_767_614_400])),
        ("seconds", pa.array([1_767_614_400.0])),
        ("seconds", pa.array(["1767614400"])),
        ("milliseconds", pa.array([1_767_614_400_000])),
        ("microseconds", pa.array([1_767_614_400_000_000])),
        ("iso", pa.array(["2026-01-05T14:00:00+02:00"])),
        ("%Y%m%d%H%M", pa.array([202601051200])),
        ("%Y%m%d%H%M", pa.array(["202601051200"])),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_a_moment_is_the_same_in_every_type_and_form(form: str, values: pa.Array) -> None:
    assert column_of(mapping(at={"form": form}), "rated_at", at=values) == [NOON]


@pytest.mark.parametrize("form", ["native", "date"])
def test_a_native_date_is_the_midnight_that_begins_it(form: str) -> None:
    at = pa.array([date(2026, 1, 5)])
    assert column_of(mapping(at={"form": form}), "rated_at", at=at) == [datetime(2026, 1, 5)]


def test_what_is_finer_than_a_microsecond_is_cut_off() -> None:
    at = pa.array([1_767_614_400_123_456_789], pa.timestamp("ns"))
    assert column_of(mapping(), "rated_at", at=at) == [NOON.replace(microsecond=123_456)]


def test_native_wall_times_are_those_of_the_zone_and_aware_ones_are_not() -> None:
    source = mapping(at={"form": "native", "zone": "Europe/Paris"})
    assert column_of(source, "rated_at", at=[NOON]) == [NOON - timedelta(hours=1)]
    aware = pa.array([NOON.replace(tzinfo=UTC)], pa.timestamp("us", "UTC"))
    assert column_of(source, "rated_at", at=aware) == [NOON]


def test_a_wall_time_that_the_clock_skipped_is_a_bad_row() -> None:
    source = mapping(at={"form": "native", "zone": "Europe/London"})
    (row,) = events_of(source, {"at": [datetime(2026, 3, 29, 1, 30)]})
    assert bad(row) == ("timestamp skipped by the clock", "at", "2026-03-29 01:30:00")
    assert row["rated_at"] is None


@pytest.mark.parametrize(
    ("form", "values", "said"),
    [
        ("native", ["2026-01-05"], "is string, which form native does not read; say what the"),
        ("native", [5], "is int64, which form native does not read"),
        ("iso", [5], "is int64, which form iso does not read; expected text"),
        ("iso", [NOON], "is timestamp[us], which form iso does not read; say form: native"),
        ("seconds", [NOON], "is timestamp[us], which form seconds does not read; say form: native"),
        ("iso", [True], "is bool, which form iso does not read; expected text"),
        ("native", [timedelta(1)], "is duration[us], which form native does not read"),
    ],
)
def test_a_type_that_the_form_cannot_read_is_one_error(
    form: str, values: list[Any], said: str
) -> None:
    with pytest.raises(SourceError) as error:
        events_of(mapping(at={"form": form}), {"at": values})
    assert str(error.value).startswith(f"a.parquet: column 'at' {said}")


def test_an_arrival_column_says_when_a_row_was_known() -> None:
    source = mapping(ingested_at={"column": "loaded", "form": "seconds"})
    loaded = [1_767_614_400 + 3_600, 1_767_614_400 - 1, None]
    rows = events_of(source, {"loaded": loaded})
    assert [row["ingested_at"] for row in rows] == [
        NOON + timedelta(hours=1),
        NOON - timedelta(seconds=1),
        None,
    ]
    assert [bad(row) for row in rows[1:]] == [
        ("event after its delivery", "at", "2026-01-05 12:00:00"),
        ("missing arrival", "loaded", None),
    ]


# -- the mapping's own rules -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "values", "met"),
    [
        ({"starts_with": "C"}, ["C1", "c1", "1C", None], [True, False, False, False]),
        ({"equals": "POST"}, ["POST", " POST", "POSTS", ""], [True, True, False, False]),
        ({"matches": "[A-Z]+"}, ["POST", "D1", "D", None], [True, False, True, False]),
        ({"matches": "a|bc"}, ["a", "bc", "ac"], [True, True, False]),
        ({"at_most": 0}, [-1, 0, 1, None], [True, True, False, False]),
        ({"at_most": 0}, ["-1", "0.0", "1", "many"], [True, True, False, False]),
        ({"at_least": 2.5}, [2.4, 2.5, float("nan")], [False, True, False]),
        ({"missing": True}, ["x", "", None, "NULL"], [False, True, True, True]),
        ({"equals": "7"}, [7, 70, None], [True, False, False]),
        ({"equals": "true"}, [True, False], [True, False]),
    ],
)
def test_a_rule_rejects_the_rows_that_meet_it(
    rule: dict[str, Any], values: list[Any], met: list[bool]
) -> None:
    source = mapping(reject=[{"column": "note", "reason": "not wanted", **rule}])
    reasons = column_of(source, "reason", note=values)
    assert [reason == "not wanted" for reason in reasons] == met
    assert {reason for reason in reasons if reason != "not wanted"} <= {None}


def test_of_several_rules_the_first_gives_the_reason_before_what_is_missing() -> None:
    rules = [
        {"column": "invoice", "starts_with": "C", "reason": "cancellation"},
        {"column": "quantity", "at_most": 0, "reason": "negative quantity"},
    ]
    columns = {
        "invoice": ["C1", "1", "C2", "2"],
        "quantity": [-1, -1, 5, 5],
        "user": [None, 1, 1, None],
    }
    rows = events_of(mapping(reject=rules), columns)
    assert [bad(row) for row in rows] == [
        ("cancellation", "invoice", "C1"),
        ("negative quantity", "quantity", "-1"),
        ("cancellation", "invoice", "C2"),
        ("missing user", "user", None),
    ]


def test_titles_from_events_are_trimmed_and_on_one_line() -> None:
    source = mapping(items={"from": "events", "title": "name"})
    titles = column_of(source, "title", name=[" A ", "two\r\n lines", "", None])
    assert titles == ["A", "two lines", None, None]
