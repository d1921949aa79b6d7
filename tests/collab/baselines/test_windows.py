import numpy as np
import pytest

from jobs.collab.baselines.windows import batch_of, items_in_windows, last_positives
from jobs.collab.factors import UNKNOWN
from jobs.collab.systems import Histories, Requests
from jobs.errors import JobError

# User 0 liked 5, 6, 7; user 1 nothing; user 2 liked 8.
LISTS = Histories(np.array([5, 6, 7, 8]), np.array([1, 2, 3, 1]), np.array([0, 3, 3, 4]))


def requests(*rows: tuple[int, int]) -> Requests:
    """Rows of (user, history end)."""
    users, ends = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return Requests(users, np.arange(len(users)), np.full(len(users), 9), ends)


def many(seed: int, n_users: int = 12, n: int = 400) -> tuple[Requests, Histories]:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 15, n_users)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    histories = Histories(random.integers(0, 30, starts[-1]), np.arange(starts[-1]), starts)
    users = random.integers(0, n_users, n)
    ends = random.integers(0, lengths[users] + 1)
    return Requests(users, random.integers(0, 30, n), np.zeros(n, np.int64), ends), histories


def test_a_window_is_the_end_of_what_a_row_may_see_padded_on_the_left():
    found = last_positives(requests((0, 3), (0, 1), (0, 0), (1, 0), (2, 1)), LISTS, 2)
    assert found.tolist() == [
        [6, 7],
        [UNKNOWN, 5],
        [UNKNOWN, UNKNOWN],
        [UNKNOWN, UNKNOWN],
        [UNKNOWN, 8],
    ]


@pytest.mark.parametrize("length", [1, 4, 20])
def test_windows_are_those_of_a_walk_through_every_list(length):
    rows, histories = many(seed=length)
    walked = []
    for user, end in zip(rows.users, rows.history_ends, strict=True):
        seen = histories.items[histories.starts[user] :][:end][-length:].tolist()
        walked.append([UNKNOWN] * (length - len(seen)) + seen)
    assert last_positives(rows, histories, length).tolist() == walked


@pytest.mark.parametrize("row", [(0, 4), (1, 1), (2, 2), (0, -1)])
def test_an_end_outside_the_users_list_is_refused_not_read_from_the_next_user(row):
    with pytest.raises(JobError, match=f"row 1 may look at {row[1]} positives of user {row[0]}"):
        last_positives(requests((0, 0), row), LISTS, 2)


def test_rows_of_one_moment_share_a_window():
    batch = batch_of(requests((0, 2), (2, 0), (0, 2), (0, 3), (1, 0)), LISTS, 3)
    assert batch.windows.shape == (4, 3)
    assert batch.window_of[0] == batch.window_of[2]
    assert batch.windows[batch.window_of][:, -1].tolist() == [6, UNKNOWN, 6, 7, UNKNOWN]


def test_a_batch_lays_out_the_same_windows():
    rows, histories = many(seed=3)
    batch = batch_of(rows, histories, 5)
    np.testing.assert_array_equal(
        batch.windows[batch.window_of].numpy(), last_positives(rows, histories, 5)
    )


@pytest.mark.parametrize("length", [1, 3, 20])
def test_items_in_windows_are_those_that_some_window_holds(length):
    rows, histories = many(seed=length, n=6)
    held = np.unique(last_positives(rows, histories, length))
    found = items_in_windows(rows, histories, length, n_items=30)
    assert np.flatnonzero(found).tolist() == held[held != UNKNOWN].tolist()
