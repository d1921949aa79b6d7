"""Labels, windows, places in a split, and histories as offsets."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

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
        ("split", pa.string()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("label", pa.int8()),
        ("rated_at", pa.timestamp("us")),
        ("place", pa.int64()),
        ("moment", pa.int64()),
    ]
)


def events(*rows: dict[str, Any]) -> pa.Table:
    default = {"user_id": 1, "rating": 4.0, "rated_at": NOON}
    return pa.Table.from_pylist(
        [{**default, "item_id": n + 1, "source_row": n + 1, **row} for n, row in enumerate(rows)],
        schema=EVENTS,
    )


def labelled(*rows: tuple[str, int, int, int, int]) -> pa.Table:
    """Rows of split, user, item, label and moment, in the order of their places."""
    return pa.Table.from_pylist(
        [
            {
                "split": split,
                "user_id": user,
                "item_id": item,
                "label": label,
                "rated_at": NOON + timedelta(seconds=moment),
                "place": n + 1,
                "moment": moment,
            }
            for n, (split, user, item, label, moment) in enumerate(rows)
        ],
        schema=LABELLED,
    )


class TestLabelledRolling:
    def read(self, *rows: dict[str, Any], test_days: int = 10, valid_days: int = 10) -> pa.Table:
        return query(
            "prepare/labelled_rolling",
            {"events": events(*rows)},
            day=DAY,
            test_days=test_days,
            valid_days=valid_days,
            positive_rating=4.0,
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
        assert self.read({"rated_at": rated_at})["split"].to_pylist() == [split]

    def test_the_day_itself_is_outside_the_window(self) -> None:
        assert self.read({"rated_at": datetime(2026, 3, 2)}).num_rows == 0

    def test_windows_have_the_lengths_that_are_asked_for(self) -> None:
        rows = [{"rated_at": datetime(2026, 2, day)} for day in (26, 27, 28)]
        read = self.read(*rows, test_days=2, valid_days=1)
        assert read["split"].to_pylist() == ["train", "valid", "test"]

    def test_a_rating_at_the_threshold_is_positive(self) -> None:
        labels = self.read({"rating": 4.0}, {"rating": 3.5}, {"rating": 5.0})["label"]
        assert labels.to_pylist() == [1, 0, 1]

    def test_rows_of_one_second_share_their_moment_and_keep_the_sources_order(self) -> None:
        rows = {"source_row": 2}, {"source_row": 1}, {"rated_at": NOON - timedelta(seconds=1)}
        read = self.read(*rows)
        assert read["item_id"].to_pylist() == [3, 2, 1]
        moments = read["moment"].to_pylist()
        assert moments[0] < moments[1] == moments[2]

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
        assert self.read({"rated_at": rated_at})["split"].to_pylist() == split

    def test_ties_go_by_first_appearance_and_then_by_the_sources_row(self) -> None:
        at = {"rated_at": datetime(2001, 7, 1)}
        rows = at | {"source_row": 3}, at | {"source_row": 2}, at | {"source_row": 1}
        read = self.read(*rows, first_rows=[5, 8, 8])
        assert read["item_id"].to_pylist() == [1, 3, 2]
        assert read["moment"].to_pylist() == [1, 2, 3]

    def test_no_events_give_no_rows(self) -> None:
        assert self.read().num_rows == 0


class TestSplits:
    def read(self, *rows: tuple[str, int, int, int, int]) -> list[dict[str, Any]]:
        return query("prepare/splits", {"labelled": labelled(*rows)}).to_pylist()

    def test_a_row_sees_the_positives_before_its_moment_and_none_of_it(self) -> None:
        rows = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 1, 11, 0, 1),
            ("train", 1, 12, 1, 2),
            ("train", 1, 13, 1, 2),
            ("train", 1, 14, 0, 3),
        )
        assert [row["history_end"] for row in rows] == [0, 1, 1, 1, 3]

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
