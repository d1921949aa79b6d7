"""Features as of a midnight: what counts, what does not yet, and what never does."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.query import query

D0 = datetime(2026, 1, 1, 12)  # noon of day 0
SPLITS = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int32()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("label", pa.int8()),
        ("rated_at", pa.timestamp("us")),
    ]
)

# split, user, item, label, day (fractions are times of the day, from noon)
Row = tuple[str, int, int, int, float]


def splits(*rows: Row) -> pa.Table:
    n_before: dict[str, int] = {}
    found = []
    for split, user, item, label, day in rows:
        row = n_before.get(split, 0)
        n_before[split] = row + 1
        at = D0 + timedelta(days=day)
        found.append(
            {
                "split": split,
                "row": row,
                "user_id": user,
                "item_id": item,
                "label": label,
                "rated_at": at,
            }
        )
    return pa.Table.from_pylist(found, schema=SPLITS)


def midnight(day: int) -> date:
    return date(2026, 1, 1) + timedelta(days=day)


class TestRowFeatures:
    def read(
        self, *rows: Row, popularity_days: int = 30, sampled: bool = False
    ) -> list[dict[str, Any]]:
        table = query(
            "prepare/row_features",
            {"splits": splits(*rows)},
            smoothing=5.0,
            popularity_days=popularity_days,
            sampled_negatives=sampled,
        )
        order = {(row["split"], row["row"]): row for row in table.to_pylist()}
        n_before: dict[str, int] = {}
        found = []
        for split, *_ in rows:  # back in the order in which they were given
            found.append(order[split, n_before.get(split, 0)])
            n_before[split] = n_before.get(split, 0) + 1
        return found

    def test_the_very_first_row_knows_nothing(self) -> None:
        (row,) = self.read(("train", 1, 10, 1, 0))
        assert row == {
            "split": "train",
            "row": 0,
            "as_of": midnight(0),
            "global_mean": 0.5,
            "item_mean": 0.5,
            "item_count": 0,
            "item_age_days": None,
            "item_recency_days": None,
            "item_popularity": 0.0,
            "user_mean": 0.5,
            "user_count": 0,
            "user_recency_days": None,
        }

    def test_a_train_row_knows_the_days_before_it_and_nothing_of_its_own_day(self) -> None:
        rows = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 2, 10, 0, 2),
            ("train", 1, 10, 1, 2.1),
            ("train", 1, 10, 1, 5),
        )
        assert [row["item_count"] for row in rows] == [0, 1, 1, 3]
        assert [row["user_count"] for row in rows] == [0, 0, 1, 2]
        assert [row["item_age_days"] for row in rows] == [None, 2, 2, 5]
        assert [row["item_recency_days"] for row in rows] == [None, 2, 2, 3]
        assert [row["user_recency_days"] for row in rows] == [None, None, 2, 3]

    def test_means_are_drawn_to_the_global_mean_of_that_midnight(self) -> None:
        *_, row = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 2, 10, 1, 0),
            ("train", 2, 11, 0, 0),
            ("train", 2, 12, 0, 1),
            ("train", 1, 10, 0, 4),
        )
        assert row["global_mean"] == pytest.approx(2 / 4)
        assert row["item_mean"] == pytest.approx((2 + 5 * 0.5) / (2 + 5))
        assert row["user_mean"] == pytest.approx((1 + 5 * 0.5) / (1 + 5))

    def test_valid_and_test_rows_stand_still_at_the_midnight_that_ends_train(self) -> None:
        rows = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 1, 10, 0, 3),
            ("valid", 1, 10, 1, 4),
            ("valid", 1, 10, 1, 9),
            ("test", 1, 10, 0, 40),
            ("test", 2, 11, 0, 40),
        )
        assert [row["as_of"] for row in rows[2:]] == [midnight(4)] * 4
        assert [row["item_count"] for row in rows[2:]] == [2, 2, 2, 0]
        assert [row["item_recency_days"] for row in rows[2:]] == [1, 1, 1, None]
        assert [row["user_count"] for row in rows[2:]] == [2, 2, 2, 0]
        assert {row["global_mean"] for row in rows[2:]} == {0.5}
        assert rows[2]["item_mean"] == rows[4]["item_mean"]
        assert rows[5]["user_mean"] == 0.5  # a cold user has the global mean

    def test_an_evaluated_row_inside_train_sees_no_later_day(self) -> None:
        """Leave-one-out: each user has an end of train of their own."""
        rows = self.read(
            ("train", 1, 10, 1, 0),
            ("test", 1, 11, 1, 2),
            ("train", 2, 11, 1, 2),
            ("train", 2, 11, 1, 8),
        )
        assert rows[1]["as_of"] == midnight(2)
        assert (rows[1]["item_count"], rows[1]["user_count"]) == (0, 1)

    def test_a_day_after_evaluated_rows_alone_knows_nothing(self) -> None:
        rows = self.read(("test", 1, 10, 1, 0), ("train", 2, 10, 1, 3), ("train", 1, 10, 1, 4))
        assert [row["global_mean"] for row in rows] == [0.5, 0.5, 1.0]
        assert [row["item_count"] for row in rows] == [0, 0, 1]
        assert rows[1]["item_mean"] == 0.5

    def test_popularity_is_the_share_of_the_events_of_the_last_days(self) -> None:
        rows = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 2, 10, 1, 3),
            ("train", 2, 11, 0, 5),
            ("train", 3, 12, 0, 6),
            popularity_days=3,
        )
        assert [row["item_popularity"] for row in rows] == [0.0, 1.0, 0.0, 0.0]
        rows = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 2, 11, 1, 1),
            ("train", 3, 11, 1, 1),
            ("valid", 3, 11, 1, 5),
            ("valid", 3, 10, 1, 5),
            popularity_days=2,
        )
        assert [row["item_popularity"] for row in rows[3:]] == pytest.approx([2 / 3, 1 / 3])

    def test_the_popularity_window_is_half_open(self) -> None:
        rows = [("train", 1, 10, 1, 0), ("train", 1, 11, 1, 3), ("train", 1, 10, 0, 4)]
        assert self.read(*rows, popularity_days=3)[2]["item_popularity"] == 0.0
        assert self.read(*rows, popularity_days=4)[2]["item_popularity"] == 0.5

    def test_sampled_negatives_count_in_means_and_are_no_events(self) -> None:
        rows = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 1, 11, 0, 0),
            ("train", 1, 10, 1, 1),
            ("train", 1, 11, 0, 1),
            sampled=True,
        )
        assert (rows[2]["item_count"], rows[3]["item_count"]) == (1, 0)
        assert (rows[2]["item_popularity"], rows[3]["item_popularity"]) == (1.0, 0.0)
        assert rows[3]["item_recency_days"] is None
        assert rows[3]["item_mean"] == pytest.approx((0 + 5 * 0.5) / (1 + 5))
        assert rows[3]["user_count"] == 1

    def test_it_agrees_with_counting_by_hand_on_random_rows(self) -> None:
        rng = np.random.default_rng(5)
        rows: list[Row] = [
            ("train" if day < 30 else "valid", int(u), int(i), int(y), int(day) + float(part))
            for u, i, y, day, part in zip(
                rng.integers(6, size=300),
                rng.integers(8, size=300),
                rng.integers(2, size=300),
                rng.integers(40, size=300),
                rng.random(300) / 2,
                strict=True,
            )
        ]
        end = 1 + max(int(day) for split, *_, day in rows if split == "train")
        for given, row in zip(rows, self.read(*rows, popularity_days=7), strict=True):
            split, user, item, _, day = given
            now = int(day) if split == "train" else min(int(day), end)
            known = [r for r in rows if r[0] == "train" and int(r[4]) < now]
            of_item = [r for r in known if r[2] == item]
            lately = [r for r in known if int(r[4]) >= now - 7]
            mean = sum(r[3] for r in known) / len(known) if known else 0.5
            assert row["item_count"] == len(of_item)
            assert row["user_count"] == sum(r[1] == user for r in known)
            expected = (sum(r[3] for r in of_item) + 5 * mean) / (len(of_item) + 5)
            assert row["item_mean"] == pytest.approx(expected)
            days = [int(r[4]) for r in of_item]
            assert row["item_age_days"] == (now - min(days) if days else None)
            assert row["item_recency_days"] == (now - max(days) if days else None)
            share = sum(r[2] == item for r in lately) / max(len(lately), 1)
            assert row["item_popularity"] == pytest.approx(share)

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == []


class TestItemFeatures:
    def read(self, *rows: Row, sampled: bool = False) -> dict[tuple[str, int], dict[str, Any]]:
        table = query(
            "prepare/item_features",
            {"splits": splits(*rows), "items": pa.table({"item_id": [10, 11, 12]})},
            smoothing=5.0,
            popularity_days=3,
            sampled_negatives=sampled,
            day=date(2026, 1, 11),
        )
        return {(row["protocol"], row["item_id"]): row for row in table.to_pylist()}

    def test_paper_knows_train_and_nightly_knows_everything(self) -> None:
        found = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 2, 11, 0, 1),
            ("valid", 1, 10, 0, 2),
            ("test", 1, 10, 1, 3),
        )
        assert (found["paper", 10]["n_events"], found["paper", 10]["n_positives"]) == (1, 1)
        assert (found["nightly", 10]["n_events"], found["nightly", 10]["n_positives"]) == (3, 2)
        assert found["paper", 10]["mean"] == pytest.approx((1 + 5 / 2) / (1 + 5))
        assert found["nightly", 10]["mean"] == pytest.approx((2 + 5 / 2) / (3 + 5))
        assert found["paper", 10]["last_at"] == D0
        assert found["nightly", 10]["last_at"] == D0 + timedelta(days=3)

    def test_an_item_without_rows_has_the_global_mean_and_nothing_else(self) -> None:
        found = self.read(("train", 1, 10, 1, 0), ("train", 2, 11, 0, 1))
        assert found["paper", 12] == {
            "protocol": "paper",
            "item_id": 12,
            "mean": 0.5,
            "n_events": 0,
            "n_positives": 0,
            "popularity": 0.0,
            "first_at": None,
            "last_at": None,
        }

    def test_popularity_looks_back_from_the_end_of_train_or_from_the_day(self) -> None:
        found = self.read(
            ("train", 1, 10, 1, 0),
            ("train", 2, 11, 0, 3),
            ("test", 1, 12, 0, 6),
            ("test", 1, 10, 1, 7),
        )  # train ends at the midnight of day 4, and the day is day 10
        assert [found["paper", item]["popularity"] for item in (10, 11, 12)] == [0, 1, 0]
        assert [found["nightly", item]["popularity"] for item in (10, 11, 12)] == [1, 0, 0]

    def test_sampled_negatives_are_no_events(self) -> None:
        found = self.read(("train", 1, 10, 1, 0), ("train", 1, 11, 0, 0), sampled=True)
        assert found["paper", 11]["n_events"] == 0
        assert found["paper", 11]["first_at"] is None
        assert found["paper", 11]["mean"] == pytest.approx((0 + 5 / 2) / (1 + 5))

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == {}


class TestUserFeatures:
    def read(self, *rows: Row, sampled: bool = False) -> dict[tuple[str, int], dict[str, Any]]:
        table = query(
            "prepare/user_features",
            {"splits": splits(*rows)},
            smoothing=5.0,
            sampled_negatives=sampled,
        )
        return {(row["protocol"], row["user_id"]): row for row in table.to_pylist()}

    def test_paper_knows_train_and_nightly_knows_everything(self) -> None:
        found = self.read(("train", 1, 10, 1, 0), ("train", 2, 11, 0, 1), ("test", 1, 10, 0, 2))
        assert (found["paper", 1]["n_events"], found["paper", 1]["n_positives"]) == (1, 1)
        assert (found["nightly", 1]["n_events"], found["nightly", 1]["n_positives"]) == (2, 1)
        assert found["nightly", 1]["mean"] == pytest.approx((1 + 5 / 3) / (2 + 5))
        assert found["nightly", 1]["last_at"] == D0 + timedelta(days=2)

    def test_a_user_whom_train_has_not_seen_has_the_global_mean_there(self) -> None:
        found = self.read(("train", 1, 10, 1, 0), ("train", 1, 11, 0, 1), ("test", 2, 10, 1, 2))
        assert found["paper", 2] == {
            "protocol": "paper",
            "user_id": 2,
            "mean": 0.5,
            "n_events": 0,
            "n_positives": 0,
            "first_at": None,
            "last_at": None,
        }

    def test_sampled_negatives_are_no_events(self) -> None:
        found = self.read(("train", 1, 10, 1, 0), ("train", 1, 11, 0, 5), sampled=True)
        assert found["paper", 1]["n_events"] == 1
        assert found["paper", 1]["last_at"] == D0
        assert found["paper", 1]["mean"] == pytest.approx(0.5)

    def test_no_rows_give_no_rows(self) -> None:
        assert self.read() == {}
