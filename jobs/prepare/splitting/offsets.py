"""Histories as offsets: how much of its user's list each row may see, in linear time."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from jobs.prepare.splitting.order import starts_of_runs

Ints = NDArray[np.int64]
Bytes = NDArray[np.int8]
N = TypeVar("N", bound=np.generic)

SPLITS = ("test", "train", "valid")  # the codes of splits are places here: the order of the key
TEST, TRAIN, VALID = range(3)
_HELD_OUT_FROM = 3  # a user with fewer positives than this is all train


def spread(values: NDArray[N], starts: NDArray[np.bool_]) -> NDArray[N]:
    """The value at the start of each run, for every row of the run."""
    first = np.flatnonzero(starts)
    return np.repeat(values[first], np.diff(first, append=len(starts)))


def history_ends(
    users: Ints, moments: Ints, labels: Bytes, *, is_strict: bool
) -> NDArray[np.int32]:
    """Positives of the same user before each row.

    One running sum over all rows; what it was at the user's first row is taken off, and, where the
    order is strict in time, each row takes what it was at the first row of its moment.

    Args:
        users: (n,) each user's rows stand together.
        moments: (n,) ascending within a user.
        labels: (n,) 0 or 1.
        is_strict: whether a row sees nothing of its own moment; else all rows before it.

    Returns:
        (n,) counts.
    """
    before = np.cumsum(labels, dtype=np.int32)
    before -= labels
    ends = spread(before, starts_of_runs(users, moments)) if is_strict else before
    return ends - spread(before, starts_of_runs(users))


def leave_last_out(users: Ints, labels: Bytes) -> Bytes:
    """Splits of every user's rows by the user's own last positives.

    From the last positive on a row is test, from the last but one on valid, else train. A user
    with fewer than three positives is all train, as SASRec and its successors do it.

    Args:
        users: (n,) each user's rows stand together, oldest first.
        labels: (n,) 0 or 1.

    Returns:
        (n,) codes, see `SPLITS`.
    """
    first = np.flatnonzero(starts_of_runs(users))
    lengths = np.diff(first, append=len(users))
    until = np.cumsum(labels, dtype=np.int64)  # of all users, the row itself included
    at_end = until[first + lengths - 1]
    n_positives = np.diff(at_end, prepend=0)
    to_come = np.repeat(at_end, lengths) - until
    splits = np.full(len(users), TRAIN, np.int8)
    splits[to_come == 1] = VALID
    splits[to_come == 0] = TEST
    splits[np.repeat(n_positives < _HELD_OUT_FROM, lengths)] = TRAIN
    return splits
