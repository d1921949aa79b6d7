"""Orders of integer columns, ends of histories, and the last positive of each user left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.prepare.splitting.offsets import SPLITS, history_ends, leave_last_out
from jobs.prepare.splitting.order import (
    distinct,
    is_ascending,
    lexicographic_order,
    stable_order,
    starts_of_runs,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(-3, 3)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


@settings(max_examples=60, deadline=None)
@given(st.lists(SMALL | INT64))
def test_a_stable_order_is_that_of_a_stable_sort_for_any_keys(keys: list[int]) -> None:
    expected = sorted(range(len(keys)), key=keys.__getitem__)
    assert stable_order(ints(keys)).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SMALL, SMALL, SMALL | INT64)))
def test_a_lexicographic_order_sorts_by_the_first_column_then_the_next(
    rows: list[tuple[int, int, int]],
) -> None:
    columns = [ints([row[n] for row in rows]) for n in range(3)]
    order = lexicographic_order(columns)
    assert order.tolist() == sorted(range(len(rows)), key=rows.__getitem__)
    assert is_ascending([column[order] for column in columns])
    assert is_ascending(columns) == (rows == sorted(rows))


def test_runs_start_where_any_column_changes() -> None:
    starts = starts_of_runs(ints([1, 1, 1, 2]), ints([5, 5, 6, 6]))
    assert starts.tolist() == [True, False, True, True]


def test_distinct_values_ascend() -> None:
    assert distinct(ints([3, 1, 3, -2])).tolist() == [-2, 1, 3]
    assert distinct(ints([])).tolist() == []


class TestHistoryEnds:
    USERS = ints([1, 1, 1, 1, 1, 2, 2])
    MOMENTS = ints([0, 1, 2, 2, 3, 0, 9])
    LABELS = np.array([1, 0, 1, 1, 0, 1, 0], np.int8)

    @pytest.mark.parametrize(
        ("is_strict", "expected"),
        [(True, [0, 1, 1, 1, 3, 0, 1]), (False, [0, 1, 1, 2, 3, 0, 1])],
    )
    def test_positives_before_the_row_are_counted(
        self, is_strict: bool, expected: list[int]
    ) -> None:
        ends = history_ends(self.USERS, self.MOMENTS, self.LABELS, is_strict=is_strict)
        assert ends.dtype == np.int32
        assert ends.tolist() == expected

    def test_no_rows_have_no_ends(self) -> None:
        none = ints([])
        assert history_ends(none, none, none.astype(np.int8), is_strict=True).tolist() == []


class TestLeaveLastOut:
    def split(self, *labels: int) -> list[str]:
        users = ints([7] * len(labels))
        codes = leave_last_out(users, np.array(labels, np.int8))
        return [SPLITS[code] for code in codes]

    def test_the_last_positive_is_test_and_the_one_before_it_valid(self) -> None:
        assert self.split(1, 1, 1, 1) == ["train", "train", "valid", "test"]

    def test_a_negative_belongs_to_the_positive_before_it(self) -> None:
        assert self.split(0, 1, 0, 1, 0, 1, 0) == [
            *["train"] * 3,
            *["valid"] * 2,
            *["test"] * 2,
        ]

    def test_a_user_with_two_positives_is_all_train(self) -> None:
        assert self.split(1, 0, 1) == ["train"] * 3
        assert self.split(0) == ["train"]

    def test_users_do_not_touch_one_another(self) -> None:
        users = ints([1, 1, 1, 2, 2, 2, 3])
        labels = np.array([1, 1, 1, 1, 0, 1, 1], np.int8)
        codes = [SPLITS[code] for code in leave_last_out(users, labels)]
        assert codes == ["train", "valid", "test", *["train"] * 4]

    def test_no_rows_have_no_split(self) -> None:
        assert leave_last_out(ints([]), np.array([], np.int8)).tolist() == []
