"""The last positives that each row may look at, gathered by offset."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobs.collab.factors import UNKNOWN, Ints
from jobs.collab.systems import Histories, Requests
from jobs.errors import JobError


class Batch(NamedTuple):
    """Rows as a network sees them. Rows of one moment of a user share a window.

    Attributes:
        users: (n,) user rows.
        items: (n,) item rows.
        windows: (k, length) item rows, left-padded with UNKNOWN.
        window_of: (n,) which of the k windows each row has.
    """

    users: Tensor
    items: Tensor
    windows: Tensor
    window_of: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(*(part.to(device) for part in self))


def batch_of(requests: Requests, histories: Histories, length: int) -> Batch:
    """The rows of `requests` with their last `length` visible positives, each window once."""
    _, first, window_of = np.unique(
        moments(requests, histories), return_index=True, return_inverse=True
    )
    windows = last_positives(requests.at(first), histories, length)
    parts = (requests.users, requests.items, windows, window_of)
    return Batch(*(torch.from_numpy(np.ascontiguousarray(part, np.int64)) for part in parts))


def moments(requests: Requests, histories: Histories) -> Ints:
    """(n,) numbers that are equal for rows of one user with the same visible history."""
    # A list of m positives has m + 1 ends, hence one number more for each user.
    return histories.starts[requests.users] + requests.users + requests.history_ends


def last_positives(requests: Requests, histories: Histories, length: int) -> Ints:
    """(n, length) item rows of the last visible positives, oldest first, left-padded with UNKNOWN.

    One gather: time and memory go with n x length, however long the histories are.

    Raises:
        JobError: a row's `history_ends` lies outside its user's list.
    """
    starts, ends = histories.starts[requests.users], requests.history_ends
    wrong = np.flatnonzero((ends < 0) | (starts + ends > histories.starts[requests.users + 1]))
    if len(wrong):
        row = wrong[0]
        raise JobError(
            f"row {row} may look at {ends[row]} positives of user {requests.users[row]}, who has "
            f"{histories.starts[requests.users[row] + 1] - starts[row]}: requests and histories "
            "are not of one making"
        )
    places = ends[:, None] + np.arange(-length, 0)
    visible = places >= 0
    windows = np.full(places.shape, UNKNOWN, dtype=np.int64)
    windows[visible] = histories.items[(starts[:, None] + places)[visible]]
    return windows


def items_in_windows(
    requests: Requests, histories: Histories, length: int, n_items: int
) -> NDArray[np.bool_]:
    """(n_items,) whether any of the rows sees the item among its last `length` positives."""
    firsts = histories.starts[requests.users]
    ends = firsts + requests.history_ends
    change = np.zeros(len(histories.items) + 1, dtype=np.int64)
    np.add.at(change, np.maximum(ends - length, firsts), 1)
    np.subtract.at(change, ends, 1)
    is_in = np.zeros(n_items, dtype=bool)
    is_in[histories.items[np.cumsum(change)[:-1] > 0]] = True
    return is_in
