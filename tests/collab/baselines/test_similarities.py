"""Similarities to earlier items: three axis vectors and what a row may see of them."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.collab.baselines.counts import DAY_US
from jobs.collab.baselines.similarities import Lists, ends_before, similarities
from jobs.collab.systems import Requests

# Items 0, 1, 2 are axes; item 3 lies between 0 and 1.
VECTORS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0]], dtype=np.float32)
DAYS = np.array([0, 10, 20, 20])
LISTS = Lists.of(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0]), DAYS * DAY_US, n_users=3)


def told(user: int, end: int, day: float = 20, newest: int = 9) -> np.ndarray:
    request = Requests(
        np.array([user]), np.array([3]), np.array([int(day * DAY_US)]), np.array([0])
    )
    return similarities(request, LISTS, np.array([end]), VECTORS, 10.0, newest)[0]


def test_largest_mean_top_three_and_the_mean_that_forgets() -> None:
    # Cosines .6, .8, 0 at ages of 20, 10 and 0 days: weights 1/4, 1/2, 1.
    np.testing.assert_allclose(told(0, 3), [0.8, 1.4 / 3, 1.4 / 3, (0.15 + 0.4) / 1.75], rtol=1e-6)


def test_a_row_sees_only_its_first_entries() -> None:
    np.testing.assert_allclose(told(0, 1), [0.6, 0.6, 0.6, 0.6], rtol=1e-6)


def test_only_the_newest_entries_are_looked_at() -> None:
    np.testing.assert_allclose(told(0, 2, newest=1), [0.8] * 4, rtol=1e-6)


def test_a_row_that_sees_nothing_has_none() -> None:
    assert np.isnan(told(0, 0)).all()
    assert np.isnan(told(2, 0)).all()


def test_entries_of_long_ago_still_have_a_mean() -> None:
    assert told(0, 1, day=1e6)[3] == pytest.approx(0.6)


def test_ends_count_what_is_strictly_before_the_moment() -> None:
    users, moments = np.array([0, 0, 1, 2]), np.array([20, 21, 20, 99]) * DAY_US
    np.testing.assert_array_equal(ends_before(LISTS, users, moments), [2, 3, 0, 0])
