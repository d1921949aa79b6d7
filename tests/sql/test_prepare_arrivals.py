"""Queries that turn raw rows into arrivals and partitions: rows in, rows out, edges, no rows."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pytest

from jobs.query import query

TEN = datetime(2026, 1, 1, 10)
D1, D2, D3, D4 = (date(2026, 1, n) for n in (1, 2, 3, 4))
SPOOL = pa.schema(
    [
        ("source_file", pa.string()),
        ("line", pa.int64()),
        ("source_row", pa.int64()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("rating", pa.float32()),
        ("rated_at", pa.timestamp("us")),
        ("ingested_at", pa.timestamp("us")),
        ("reason", pa.string()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("raw", pa.string()),
        ("own_day", pa.date32()),
        ("known_day", pa.date32()),
        ("event_day", pa.date32()),
        ("title", pa.string()),
    ]
)
GOOD = {
    "source_file": "f.csv",
    "line": 1,
    "source_row": 1,
    "user_id": 1,
    "item_id": 10,
    "rating": 4.0,
    "rated_at": TEN,
    "ingested_at": datetime(2026, 1, 2),
    "own_day": D2,
    "known_day": D2,
    "event_day": D1,
}


def spool(*rows: dict[str, Any]) -> pa.Table:
    """Rows of a spool: `GOOD` with what is given."""
    return pa.Table.from_pylist([GOOD | row for row in rows], schema=SPOOL)


def rows_of(name: str, tables: dict[str, pa.Table], **parameters: Any) -> list[dict[str, Any]]:
    return query(f"prepare/{name}", tables, **parameters).to_pylist()


def column(name: str, table: str, tables: dict[str, pa.Table], **parameters: Any) -> list[Any]:
    return [row[name] for row in rows_of(table, tables, **parameters)]


BAD = {"reason": "unparsable rating", "raw": "1,10,x"}


class TestSpools:
    def test_readable_and_unreadable_rows_are_all_rows(self) -> None:
        tables = {"spooled": spool({}, {"source_row": 2, **BAD})}
        assert column("source_row", "readable_rows", tables) == [1]
        assert column("source_row", "unreadable_rows", tables) == [2]
        for name in ("readable_rows", "unreadable_rows"):
            assert rows_of(name, {"spooled": spool()}) == []

    def test_a_task_takes_the_readable_rows_of_its_days_both_ends_included(self) -> None:
        days = pa.table({"first": [D1], "last": [D2]})
        rows = [{"event_day": day, "source_row": n} for n, day in enumerate((D1, D2, D3))]
        bad = {"event_day": D1, "source_row": 9, **BAD}
        tables = {"arrived_rows": spool(*rows, bad), "days": days}
        assert sorted(column("source_row", "arrived_events", tables)) == [0, 1]
        assert rows_of("arrived_events", {"arrived_rows": spool(), "days": days}) == []

    def test_rows_are_counted_by_the_day_that_knows_them_and_by_their_own(self) -> None:
        table = spool({}, {"known_day": D3, "event_day": D2}, BAD)
        assert rows_of("arrived_counts", {"arrived_rows": table}) == [
            {"known_day": D2, "n_rows": 2},
            {"known_day": D3, "n_rows": 1},
        ]
        assert rows_of("arrived_event_days", {"arrived_rows": table}) == [
            {"event_day": D1, "n_rows": 2},
            {"event_day": D2, "n_rows": 1},
        ]
        for name in ("arrived_counts", "arrived_event_days"):
            assert rows_of(name, {"arrived_rows": spool()}) == []

    def test_rows_until_a_day_include_the_day(self) -> None:
        given = spool({"known_day": D2}, {"known_day": D3}, {"known_day": D4})
        assert len(rows_of("rows_until", {"given": given}, until=D3)) == 2
        assert rows_of("rows_until", {"given": spool()}, until=D3) == []


class TestSignatures:
    def signatures(self, *rows: dict[str, Any]) -> list[dict[str, Any]]:
        return rows_of("day_signatures", {"spooled": spool(*rows)})

    def test_each_day_has_its_own_and_the_order_of_rows_does_not_matter(self) -> None:
        rows = [{}, {"user_id": 2}, {"own_day": D3}]
        there, back = self.signatures(*rows), self.signatures(*reversed(rows))
        assert there == back
        assert [(row["own_day"], row["n_rows"]) for row in there] == [(D2, 2), (D3, 1)]

    @pytest.mark.parametrize(
        "other", [{"user_id": 2}, {"item_id": 2}, {"rating": 1.0}, BAD, {**BAD, "raw": "?"}]
    )
    def test_another_value_is_another_signature(self, other: dict[str, Any]) -> None:
        assert self.signatures({}) != self.signatures(other)

    def test_one_row_twice_is_not_one_row(self) -> None:
        assert self.signatures({}) != self.signatures({}, {})
        assert self.signatures() == []


STANDING = pa.schema(
    [SPOOL.field(n) for n in ("user_id", "item_id", "rated_at", "rating", "source_row")]
    + [SPOOL.field("known_day")]
)


class TestJudgedEvents:
    def judged(
        self,
        *rows: dict[str, Any],
        standing: list[dict[str, Any]] | None = None,
        replaces: bool = True,
    ) -> list[tuple[int, str | None, int | None]]:
        stand = [
            {**{n: GOOD[n] for n in STANDING.names}, "known_day": date(1, 1, 1), **row}
            for row in standing or []
        ]
        tables = {
            "arrived": spool(*rows),
            "standing": pa.Table.from_pylist(stand, schema=STANDING),
        }
        found = rows_of("judged_events", tables, later_replaces=replaces)
        keys = ("source_row", "verdict", "corrects")
        return sorted(tuple(row[key] for key in keys) for row in found)

    def test_rows_of_different_keys_are_all_events(self) -> None:
        rows = [{}, {"source_row": 2, "user_id": 2}, {"source_row": 3, "item_id": 2}]
        later = {"source_row": 4, "rated_at": datetime(2026, 1, 1, 10, 0, 1)}
        assert self.judged(*rows, later) == [(n, None, None) for n in (1, 2, 3, 4)]

    @pytest.mark.parametrize("replaces", [True, False])
    def test_within_a_delivery_the_first_in_the_source_stands(self, replaces: bool) -> None:
        rows = [{"source_row": 3, "rating": 1.0}, {"source_row": 2}, {"source_row": 1}]
        assert self.judged(*rows, replaces=replaces) == [
            (1, None, None),
            (2, "duplicate", None),
            (3, "conflicting duplicate", None),
        ]

    def test_a_later_delivery_with_another_rating_corrects_the_row_that_stands(self) -> None:
        later = {"source_row": 2, "rating": 1.0, "known_day": D3}
        back = {"source_row": 3, "rating": 4.0, "known_day": D4}
        assert self.judged({}, later, back) == [(1, None, None), (2, None, 1), (3, None, 2)]

    def test_or_is_refused_where_the_first_stands(self) -> None:
        later = {"source_row": 2, "rating": 1.0, "known_day": D3}
        back = {"source_row": 3, "rating": 4.0, "known_day": D4}
        assert self.judged({}, later, back, replaces=False) == [
            (1, None, None),
            (2, "conflicting duplicate", None),
            (3, "duplicate", None),
        ]

    def test_a_correction_names_the_row_that_stood_not_its_duplicate(self) -> None:
        rows = [
            {},
            {"source_row": 2, "known_day": D3},
            {"source_row": 3, "known_day": D4, "rating": 2.0},
        ]
        assert self.judged(*rows) == [(1, None, None), (2, "duplicate", None), (3, None, 1)]

    def test_earlier_arrivals_stand_and_are_not_judged_again(self) -> None:
        rows = [{"source_row": 7}, {"source_row": 8, "user_id": 2, "rating": 3.0}]
        standing = [{"source_row": 1}, {"source_row": 2, "user_id": 2}]
        assert self.judged(*rows, standing=standing) == [(7, "duplicate", None), (8, None, 2)]

    def test_rows_come_in_the_order_of_their_partitions(self) -> None:
        rows = [
            {"source_row": 1, "event_day": D2, "known_day": D3},
            {"source_row": 2, "user_id": 9},
            {"source_row": 3, "user_id": 2},
        ]
        table = {"arrived": spool(*rows), "standing": STANDING.empty_table()}
        assert column("source_row", "judged_events", table, later_replaces=True) == [3, 2, 1]

    def test_no_rows_give_no_rows(self) -> None:
        assert self.judged(standing=[{}]) == []


PARTS = pa.schema(
    [SPOOL.field(n) for n in ("user_id", "item_id", "rating", "rated_at", "ingested_at")]
    + [("source_row", pa.int64()), ("corrects", pa.int64())]
)


def parts(*rows: dict[str, Any]) -> pa.Table:
    """Rows of partitions."""
    event = {name: GOOD.get(name) for name in PARTS.names}
    return pa.Table.from_pylist([event | row for row in rows], schema=PARTS)


class TestStanding:
    def test_a_corrected_row_does_not_stand(self) -> None:
        rows = parts({"source_row": 1}, {"source_row": 2, "corrects": 1}, {"source_row": 3})
        assert sorted(column("source_row", "standing_events", {"event_rows": rows})) == [2, 3]
        assert rows_of("standing_events", {"event_rows": parts()}) == []

    def test_before_the_first_arrival_nothing_stands(self) -> None:
        assert rows_of("no_standing_events", {"arrived": spool({})}) == []


class TestCandidates:
    judged = pa.table({"source_row": pa.array([5], pa.int64())})

    def test_an_item_is_known_from_the_day_of_its_catalogue(self) -> None:
        catalogue = pa.table({"item_id": [10, 10, 20], "known_day": [D3, D2, D3]})
        rows = [
            {"source_row": 1},
            {"source_row": 2, "item_id": 20},
            {"source_row": 3, "item_id": 30},
            {"source_row": 4, "item_id": 20, "known_day": D3},
            {"source_row": 5, "item_id": 30},
        ]
        tables = {
            "arrived_rows": spool(*rows),
            "catalogue_rows": catalogue,
            "judged_rows": self.judged,
        }
        found = rows_of("unknown_candidates", tables)
        assert found == [
            {"source_row": n, "known_day": D2, "reason": "unknown item"} for n in (2, 3)
        ]
        assert rows_of("unknown_candidates", tables | {"arrived_rows": spool()}) == []

    def test_a_row_without_a_title_may_be_of_an_unknown_item(self) -> None:
        rows = [{"source_row": 1, "title": "A"}, {"source_row": 2}, {"source_row": 5}]
        tables = {"arrived_rows": spool(*rows), "judged_rows": self.judged}
        assert column("source_row", "untitled_candidates", tables) == [2]
        assert rows_of("untitled_candidates", tables | {"arrived_rows": spool()}) == []


class TestRejected:
    def tables(self, *aside: int) -> dict[str, pa.Table]:
        rows = pa.array(aside, pa.int64())
        return {
            "unreadable": spool({"source_row": 1, **BAD}),
            "readable": spool({"source_row": 2}, {"source_row": 3}),
            "set_aside": pa.table({"source_row": rows, "reason": ["duplicate"] * len(aside)}),
            "raws": pa.table({"source_row": rows, "raw": ["as it came"] * len(aside)}),
        }

    def test_rows_keep_their_place_their_reason_and_how_they_came(self) -> None:
        found = rows_of("rejected_rows", self.tables(3))
        keys = ("kind", "source_row", "reason", "raw", "source_file", "known_day")
        assert [tuple(row[key] for key in keys) for row in found] == [
            ("event", 1, "unparsable rating", "1,10,x", "f.csv", D2),
            ("event", 3, "duplicate", "as it came", "f.csv", D2),
        ]

    def test_without_bad_rows_there_are_none(self) -> None:
        assert rows_of("rejected_rows", self.tables() | {"unreadable": spool()}) == []

    def test_they_are_counted_by_day_and_reason_and_items_apart(self) -> None:
        table = pa.table(
            {
                "kind": ["event", "event", "item"],
                "known_day": [D2, D2, D2],
                "reason": ["duplicate"] * 3,
            }
        )
        counted = rows_of("rejected_counts", {"rejected_rows": table})
        assert counted == [{"known_day": D2, "reason": "duplicate", "n_rows": 2}]
        assert rows_of("rejected_counts", {"rejected_rows": table.slice(0, 0)}) == []


class TestItemRows:
    def test_titles_count_good_rows_and_first_rows_count_all(self) -> None:
        table = spool(
            {"title": "A", "source_row": 5},
            {"title": "A", "source_row": 6, "rated_at": datetime(2026, 1, 1, 11)},
            {"title": "A", "source_row": 2, **BAD},
            {"item_id": None, **BAD},
        )
        assert rows_of("item_rows", {"arrived_rows": table}) == [
            {
                "known_day": D2,
                "item_id": 10,
                "title": "A",
                "n_rows": 2,
                "last_at": datetime(2026, 1, 1, 11),
                "first_row": 2,
            }
        ]
        assert rows_of("item_rows", {"arrived_rows": spool()}) == []


class TestReleasedPlaces:
    def test_a_row_is_found_among_earlier_and_new_rows_by_file_and_line(self) -> None:
        wanted = pa.table({"source_file": ["f.csv", "f.csv", "g.csv"], "line": [1, 7, 1]})
        rejected = pa.table(
            {
                "kind": ["event", "item"],
                "source_file": ["f.csv", "g.csv"],
                "line": [7, 1],
                "source_row": [70, 80],
                "raw": ["seven", "an item"],
            }
        )
        tables = {"wanted": wanted, "spooled": spool(BAD, {"line": 7}), "rejected_rows": rejected}
        assert rows_of("released_places", tables) == [
            {"source_file": "f.csv", "line": 1, "source_row": 1, "raw": "1,10,x"},
            {"source_file": "f.csv", "line": 7, "source_row": 70, "raw": "seven"},
        ]
        assert rows_of("released_places", tables | {"wanted": wanted.slice(0, 0)}) == []


class TestChangedFiles:
    names = ("own_day", "source_row", "user_id", "item_id", "rated_at", "rating", "reason", "raw")

    def compared(
        self, found: list[dict[str, Any]], kept: list[dict[str, Any]]
    ) -> list[tuple[int, bool]]:
        kept_table = spool(*kept).select(list(self.names))
        flags = pa.array([row.get("is_corrected", False) for row in kept], pa.bool_())
        tables = {
            "found": spool(*found).select(list(self.names)),
            "kept": kept_table.append_column("is_corrected", flags),
        }
        rows = rows_of("turned_up_rows", tables)
        return [(row["source_row"], row["is_new"]) for row in rows]

    def test_the_same_rows_elsewhere_are_no_change(self) -> None:
        bad = {"source_row": 3, **BAD, "rating": None}
        assert self.compared([{"source_row": 8}, bad], [{}, bad | {"source_row": 9}]) == []

    def test_a_second_row_of_the_same_values_is_new(self) -> None:
        assert self.compared([{"source_row": 8}, {"source_row": 9}], [{}]) == [(9, True)]

    def test_a_row_that_is_gone_is_said(self) -> None:
        assert self.compared([], [{"source_row": 5}]) == [(5, False)]

    def test_a_rating_that_changed_in_its_place_is_only_new(self) -> None:
        assert self.compared([{"source_row": 8, "rating": 1.0}], [{}]) == [(8, True)]

    def test_a_row_that_was_corrected_may_go(self) -> None:
        new = {"source_row": 8, "rating": 1.0}
        assert self.compared([new], [{"is_corrected": True}, new]) == []

    def test_found_rows_are_those_of_the_days_in_question(self) -> None:
        days = pa.table({"own_day": [D2]})
        table = spool({}, {"source_row": 2, "own_day": D3})
        assert column("source_row", "found_rows", {"spooled": table, "days": days}) == [1]
        assert rows_of("found_rows", {"spooled": spool(), "days": days}) == []

    def kept(self, *rows: dict[str, Any], has_arrivals: bool = False) -> list[dict[str, Any]]:
        rejected = {"kind": "event", "source_row": 4, "reason": "duplicate", "raw": "r"}
        names = [name for name in self.names if name not in ("reason", "raw", "source_row")]
        other = {name: GOOD[name] for name in names}
        schema = pa.schema([("kind", pa.string()), *(SPOOL.field(name) for name in self.names)])
        tables = {
            "event_rows": parts(*rows),
            "rejected_rows": pa.Table.from_pylist([rejected | other], schema=schema),
            "days": pa.table({"own_day": [D2]}),
            "ordinals": pa.table({"ordinal": pa.array([0], pa.int64())}),
            "released": pa.table({"source_row": pa.array([6], pa.int64())}),
        }
        found = rows_of("kept_rows", tables, has_arrivals=has_arrivals)
        return sorted(found, key=lambda row: row["source_row"])

    def test_kept_rows_are_events_and_others_of_the_file_without_released_ones(self) -> None:
        of_other_file = {"source_row": (1 << 40) + 1}
        rows = self.kept({}, {"source_row": 2, "corrects": 1}, {"source_row": 6}, of_other_file)
        found = [(row["source_row"], row["reason"], row["is_corrected"]) for row in rows]
        assert found == [(1, None, True), (2, None, False), (4, None, False)]

    def test_their_own_day_is_that_of_their_arrival_where_the_source_says_it(self) -> None:
        late = {"ingested_at": datetime(2026, 1, 5)}
        assert [row["source_row"] for row in self.kept(late)] == [1, 4]
        assert [row["source_row"] for row in self.kept(late, has_arrivals=True)] == [4]

    def test_the_settled_spool_holds_the_new_days_and_what_turned_up(self) -> None:
        rows = spool({"source_row": 1}, {"source_row": 2}, {"source_row": 3, "own_day": D3})
        tables = {"spooled": rows, "turned_up": pa.table({"source_row": [2]})}
        given = {"after": D2, "until": D4, "has_arrivals": False}
        found = rows_of("settled_spool", tables, **given)
        assert [(r["source_row"], r["known_day"], r["ingested_at"].day) for r in found] == [
            (2, D4, 4),
            (3, D3, 2),
        ]
        kept = rows_of("settled_spool", tables, **given | {"has_arrivals": True})
        assert kept[0]["ingested_at"] == datetime(2026, 1, 2)
        assert rows_of("settled_spool", tables | {"spooled": spool()}, **given) == []
