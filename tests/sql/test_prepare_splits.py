"""Labels, windows, places in a split, and histories as offsets."""

from __future__ import annotations

import itertools
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.prepare.splitting.offsets import SPLITS
from jobs.query import query

DAY = date(2026, 3, 2)
NOON = datetime(2026, 2, 1, 12)
EVENTS = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("rating", pa.float32()),
        ("rated_at", pa.timestamp("us")),
        ("source_row", pa.int64()),
    ]
)
LABELLED = pa.schema(
    [
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("rated_at", pa.timestamp("us")),
        ("turn", pa.int64()),
        ("label", pa.int8()),
        ("split", pa.int8()),
    ]
)
ALWAYS = {"since": datetime(1, 1, 1), "until": datetime(9999, 12, 31)}


def events(*rows: dict[str, Any]) -> pa.Table:
    default = {"user_id": 1, "rating": 4.0, "rated_at": NOON}
    return pa.Table.from_pylist(
        [{**default, "item_id": n + 1, "source_row": n + 1, **row} for n, row in enumerate(rows)],
        schema=EVENTS,
    )


def labelled(*rows: tuple[str, int, int, int, int]) -> pa.Table:
    """Rows of split, user, item, label and second, in the order of their turns."""
    return pa.Table.from_pylist(
        [
            {
                "user_id": user,
                "item_id": item,
                "rated_at": NOON + timedelta(seconds=second),
                "turn": n + 1,
                "label": label,
                "split": SPLITS.index(split),
            }
            for n, (split, user, item, label, second) in enumerate(rows)
        ],
        schema=LABELLED,
    )


def split_names(table: pa.Table) -> list[str]:
    return [SPLITS[code] for code in table["split"].to_pylist()]


class TestLabelledRolling:
    def read(self, *rows: dict[str, Any], **parameters: Any) -> pa.Table:
        windows = {"test_days": 10, "valid_days": 10, "positive_rating": 4.0}
        return query(
            "prepare/labelled_rolling",
            {"events": events(*rows)},
            **{**windows, **ALWAYS, "day": DAY, **parameters},
        )

    @pytest.mark.parametrize(
        ("rated_at", "split"),
        [
            (datetime(2026, 2, 9, 23, 59, 59), "train"),
            (datetime(2026, 2, 10), "valid"),
            (datetime(2026, 2, 19, 23, 59, 59), "valid"),
            (datetime(2026, 2, 20), "test"),
            (datetime(2026, 3, 1, 23, 59, 59), "test"),
        ],
    )
    def test_windows_are_half_open_and_counted_back_from_the_day(
        self, rated_at: datetime, split: str
    ) -> None:
        assert split_names(self.read({"rated_at": rated_at})) == [split]

    def test_the_day_itself_is_outside_the_window(self) -> None:
        assert self.read({"rated_at": datetime(2026, 3, 2)}).num_rows == 0

    def test_windows_have_the_lengths_that_are_asked_for(self) -> None:
        rows = [{"rated_at": datetime(2026, 2, day)} for day in (26, 27, 28)]
        read = self.read(*rows, test_days=2, valid_days=1)
        assert split_names(read) == ["train", "valid", "test"]

    def test_a_rating_at_the_threshold_is_positive(self) -> None:
        labels = self.read({"rating": 4.0}, {"rating": 3.5}, {"rating": 5.0})["label"]
        assert labels.to_pylist() == [1, 0, 1]

    def test_rows_take_their_turns_as_the_source_has_them(self) -> None:
        assert self.read({"source_row": 9}, {"source_row": 4})["turn"].to_pylist() == [9, 4]

    def test_a_stretch_of_time_is_half_open_too(self) -> None:
        rows = [{"rated_at": NOON + timedelta(days=days)} for days in range(4)]
        since, until = NOON + timedelta(days=1), NOON + timedelta(days=3)
        assert self.read(*rows, since=since, until=until)["item_id"].to_pylist() == [2, 3]

    def test_no_events_give_no_rows(self) -> None:
        assert self.read().num_rows == 0


class TestLabelledPublished:
    def read(self, *rows: dict[str, Any], first_rows: list[int] | None = None) -> pa.Table:
        n = max(len(rows), 1)
        items = pa.table({"item_id": range(1, n + 1), "first_row": first_rows or range(1, n + 1)})
        return query(
            "prepare/labelled_published",
            {"events": events(*rows), "items": items},
            positive_rating=4.0,
        )

    @pytest.mark.parametrize(
        ("rated_at", "split"),
        [
            (datetime(2001, 5, 31, 23, 59, 59), []),
            (datetime(2001, 6, 1), ["train"]),
            (datetime(2002, 3, 31, 23, 59, 59), ["train"]),
            (datetime(2002, 4, 1), ["valid"]),
            (datetime(2002, 8, 31, 23, 59, 59), ["valid"]),
            (datetime(2002, 9, 1), ["test"]),
            (datetime(2003, 1, 31, 23, 59, 59), ["test"]),
            (datetime(2003, 2, 1), []),
        ],
    )
    def test_windows_follow_the_calendar(self, rated_at: datetime, split: list[str]) -> None:
        assert split_names(self.read({"rated_at": rated_at})) == split

    def test_ties_go_by_first_appearance_and_then_by_the_sources_row(self) -> None:
        at = {"rated_at": datetime(2001, 7, 1)}
        rows = at | {"source_row": 3}, at | {"source_row": 2}, at | {"source_row": 1}
        read = self.read(*rows, first_rows=[5, 8, 8]).sort_by("turn")
        assert read["item_id"].to_pylist() == [1, 3, 2]
        assert read["turn"].to_pylist() == [1, 2, 3]

    def test_no_events_give_no_rows(self) -> None:
        assert self.read().num_rows == 0


class TestLabelledLeaveOneOut:
    def read(self, *rows: dict[str, Any]) -> pa.Table:
        return query(
            "prepare/labelled_leave_one_out",
            {"events": events(*rows)},
            **ALWAYS,
            day=DAY,
            positive_rating=4.0,
        )

    def test_rows_before_the_day_are_labelled_and_wait_for_their_split(self) -> None:
        rows = {"rating": 3.5, "source_row": 7}, {"rated_at": datetime(2026, 3, 2)}
        read = self.read(*rows)
        assert read.num_rows == 1
        assert (read["label"][0].as_py(), read["turn"][0].as_py()) == (0, 7)
        assert split_names(read) == ["train"]

    def test_no_events_give_no_rows(self) -> None:
        assert self.read().num_rows == 0


class TestLabelledAmazonBook:
    """Users 1 to 21 rate items 1 to 21 once each in January 2017, so each has 21 ratings."""

    def read(self, *rows: dict[str, Any]) -> pa.Table:
        return query("prepare/labelled_amazon_book", {"events": events(*rows)}, positive_rating=5.0)

    def grid(self) -> list[dict[str, Any]]:
        at = datetime(2017, 1, 5)
        pairs = itertools.product(range(1, 22), repeat=2)
        return [{"user_id": u, "item_id": i, "rated_at": at, "rating": 5.0} for u, i in pairs]

    def test_more_than_twenty_ratings_of_the_year_are_needed_of_both(self) -> None:
        rows = self.grid()
        assert self.read(*rows).num_rows == 441
        # Without one row its user and its item have 20 each, and lose them all.
        assert self.read(*rows[1:]).num_rows == 400

    def test_both_counts_are_taken_once_before_anything_is_left_out(self) -> None:
        few = {"user_id": 99, "item_id": 1, "rated_at": datetime(2017, 2, 1)}
        assert 99 not in self.read(*self.grid(), few)["user_id"].to_pylist()
        assert self.read(*self.grid()[1:], few)["item_id"].to_pylist().count(1) == 20

    def test_other_years_count_for_nothing(self) -> None:
        old = {"user_id": 1, "item_id": 1, "rated_at": datetime(2016, 12, 31, 23, 59, 59)}
        assert self.read(*self.grid(), old).num_rows == 441

    def test_december_is_halved_in_the_order_of_time(self) -> None:
        december = [
            {"user_id": n, "item_id": n, "rated_at": datetime(2017, 12, 30 - n), "rating": 4.0}
            for n in range(1, 6)
        ]
        read = self.read(*self.grid(), *december).to_pylist()
        late = {row["user_id"]: row["split"] for row in read if row["rated_at"].month == 12}
        assert {user: SPLITS[split] for user, split in late.items()} == {
            5: "valid", 4: "valid", 3: "test", 2: "test", 1: "test",
        }  # fmt: skip
        assert {SPLITS[r["split"]] for r in read if r["rated_at"].month == 1} == {"train"}

    def test_only_the_full_mark_is_positive(self) -> None:
        four = {"user_id": 1, "item_id": 1, "rated_at": datetime(2017, 6, 1), "rating": 4.5}
        read = self.read(*self.grid(), four)
        assert read["label"].to_pylist().count(0) == 1

    def test_no_events_give_no_rows(self) -> None:
        assert self.read().num_rows == 0


class TestSplits:
    def read(
        self, *rows: tuple[str, int, int, int, int], is_strict: bool = True
    ) -> list[dict[str, Any]]:
        tables = {"labelled": labelled(*rows)}
        return query("prepare/splits", tables, is_strict=is_strict).to_pylist()

    def test_a_row_sees_the_positives_before_its_moment_and_none_of_it(self) -> None:
        rows = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 1, 11, 0, 1),
            ("train", 1, 12, 1, 2),
            ("train", 1, 13, 1, 2),
            ("train", 1, 14, 0, 3),
        )
        assert [row["history_end"] for row in rows] == [0, 1, 1, 1, 3]

    def test_in_the_published_order_it_sees_its_own_moment_up_to_itself(self) -> None:
        rows = self.read(
            ("train", 1, 10, 1, 0), ("train", 1, 11, 1, 0), ("train", 1, 12, 0, 0), is_strict=False
        )
        assert [row["history_end"] for row in rows] == [0, 1, 2]

    def test_a_history_reaches_across_splits_and_not_across_users(self) -> None:
        rows = self.read(("train", 1, 10, 1, 0), ("test", 1, 11, 1, 9), ("test", 2, 10, 1, 9))
        assert [(r["split"], r["history_end"]) for r in rows] == [
            ("test", 1),
            ("test", 0),
            ("train", 0),
        ]

    def test_rows_are_numbered_within_their_split_in_the_order_of_their_places(self) -> None:
        rows = self.read(("test", 1, 10, 0, 0), ("train", 1, 11, 0, 0), ("test", 1, 12, 0, 0))
        assert [(r["split"], r["row"], r["item_id"]) for r in rows] == [
            ("test", 0, 10),
            ("test", 1, 12),
            ("train", 0, 11),
        ]

    def test_a_row_is_warm_only_if_train_has_both_its_user_and_its_item(self) -> None:
        rows = self.read(
            ("train", 1, 10, 0, 0),
            ("train", 2, 11, 0, 0),
            ("valid", 1, 11, 0, 1),
            ("valid", 1, 12, 0, 1),
            ("valid", 3, 10, 0, 1),
        )
        assert [row["is_warm"] for row in rows] == [True, True, True, False, False]

    def test_it_agrees_with_counting_by_hand_on_random_streams(self) -> None:
        rng = np.random.default_rng(3)
        draws = [
            ("train", int(u), n, int(label), int(moment))
            for n, (u, label, moment) in enumerate(
                zip(
                    rng.integers(4, size=200),
                    rng.integers(2, size=200),
                    np.sort(rng.integers(40, size=200)),
                    strict=True,
                )
            )
        ]
        expected = {
            item: sum(1 for _, v, _, y, m in draws if v == user and m < moment and y)
            for _, user, item, _, moment in draws
        }
        assert {row["item_id"]: row["history_end"] for row in self.read(*draws)} == expected

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == []


class TestHistories:
    def read(self, *rows: tuple[str, int, int, int, int]) -> dict[int, list[int]]:
        table = query("prepare/histories", {"labelled": labelled(*rows)})
        return dict(zip(table["user_id"].to_pylist(), table["item_ids"].to_pylist(), strict=True))

    def test_positives_stand_in_the_order_of_their_places(self) -> None:
        rows = ("train", 1, 12, 1, 0), ("train", 1, 11, 0, 1), ("test", 1, 10, 1, 2)
        assert self.read(*rows) == {1: [12, 10]}

    def test_a_user_without_positives_has_an_empty_list(self) -> None:
        assert self.read(("train", 1, 12, 0, 0), ("train", 2, 5, 1, 0)) == {1: [], 2: [5]}

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == {}


class TestNumbers:
    NAMED = pa.table({"user_id": ["ué", "b", "b"], "item_id": ["x", "x", "a"]})

    @pytest.mark.parametrize(
        ("name", "ids"), [("user_numbers", ["b", "ué"]), ("item_numbers", ["a", "x"])]
    )
    def test_names_are_numbered_in_their_sorted_order(self, name: str, ids: list[str]) -> None:
        made = query(f"prepare/{name}", {"events": self.NAMED})
        assert made.column(0).to_pylist() == ids
        assert made["number"].to_pylist() == [0, 1]

    @pytest.mark.parametrize("name", ["user_numbers", "item_numbers"])
    def test_a_names_word_is_its_own_and_stays_when_others_come(self, name: str) -> None:
        ids = ["a", "b", "c"]
        more = query(f"prepare/{name}", {"events": pa.table({"user_id": ids, "item_id": ids})})
        less = query(
            f"prepare/{name}", {"events": pa.table({"user_id": ids[2:], "item_id": ids[2:]})}
        )
        assert less["word"].to_pylist() == more["word"].to_pylist()[2:]
        assert len(set(more["word"].to_pylist())) == 3
        assert all(word >= 0 for word in more["word"].to_pylist())

    @pytest.mark.parametrize("name", ["user_numbers", "item_numbers"])
    def test_no_events_give_no_numbers(self, name: str) -> None:
        assert query(f"prepare/{name}", {"events": self.NAMED.slice(0, 0)}).num_rows == 0

    def read(self, named: pa.Table) -> pa.Table:
        users = query("prepare/user_numbers", {"events": named})
        items = query("prepare/item_numbers", {"events": named})
        tables = {"named_events": named, "user_numbers": users, "item_numbers": items}
        return query("prepare/numbered_events", tables).sort_by("source_row")

    def test_events_carry_numbers_instead_of_names(self) -> None:
        made = self.read(self.whole())
        assert made["user_id"].to_pylist() == [1, 0, 0]
        assert made["item_id"].to_pylist() == [1, 1, 0]
        assert made.select(["rating", "rated_at", "ingested_at", "source_row"]).to_pylist() == (
            self.whole().select(["rating", "rated_at", "ingested_at", "source_row"]).to_pylist()
        )

    def test_no_events_stay_none(self) -> None:
        assert self.read(self.whole().slice(0, 0)).num_rows == 0

    def whole(self) -> pa.Table:
        rest = events({}, {}, {}).select(["rating", "rated_at", "source_row"])
        rest = rest.append_column("ingested_at", rest["rated_at"])
        for name in self.NAMED.column_names:
            rest = rest.append_column(name, self.NAMED[name])
        return rest


class TestItemPopularity:
    def read(self, *rows: dict[str, Any]) -> list[tuple[int, int, int]]:
        made = query(
            "prepare/item_popularity", {"events": events(*rows)}, day=DAY, positive_rating=4.0
        )
        return list(zip(*(column.to_pylist() for column in made.columns), strict=True))

    def test_positives_before_the_day_are_counted_and_items_stand_by_their_first(self) -> None:
        second = 1_000_000
        noon = int((NOON - datetime(1970, 1, 1)).total_seconds()) * second
        rows = self.read(
            {"item_id": 7},
            {"item_id": 7, "rated_at": NOON + timedelta(seconds=9)},
            {"item_id": 8, "rated_at": NOON - timedelta(seconds=5)},
            {"item_id": 5},
            {"item_id": 6, "rating": 3.0},
            {"item_id": 8, "rated_at": datetime(2026, 3, 2)},
        )
        assert rows == [(8, 1, noon - 5 * second), (5, 1, noon), (7, 2, noon)]

    def test_no_events_give_no_items(self) -> None:
        assert self.read() == []


class TestEventsPerDay:
    def test_a_day_counts_from_midnight_to_midnight(self) -> None:
        rows = [datetime(2026, 2, 1), datetime(2026, 2, 1, 23, 59, 59), datetime(2026, 2, 2)]
        made = query("prepare/events_per_day", {"events": events(*({"rated_at": r} for r in rows))})
        assert made.to_pylist() == [
            {"day": date(2026, 2, 1), "n_events": 2},
            {"day": date(2026, 2, 2), "n_events": 1},
        ]

    def test_no_events_give_no_days(self) -> None:
        assert query("prepare/events_per_day", {"events": events()}).num_rows == 0


class TestEventSpan:
    def test_it_says_how_many_and_from_when_to_when(self) -> None:
        rows = {"rated_at": NOON}, {"rated_at": NOON - timedelta(days=1)}
        assert query("prepare/event_span", {"events": events(*rows)}).to_pylist() == [
            {"n_events": 2, "first": NOON - timedelta(days=1), "last": NOON}
        ]

    def test_no_events_are_none(self) -> None:
        made = query("prepare/event_span", {"events": events()}).to_pylist()
        assert made == [{"n_events": 0, "first": None, "last": None}]
