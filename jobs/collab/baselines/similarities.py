"""How near an item's text is to what its user liked and disliked before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jobs.collab.baselines.counts import DAY_US
from jobs.collab.factors import Ints
from jobs.collab.systems import Histories, Requests

Doubles = NDArray[np.float64]

N_SIMILARITIES = 4  # of one list: max, mean, mean of the top three, mean that forgets
_N_TOP = 3


@dataclass(frozen=True)
class Lists:
    """A list of items for each user, oldest first (CSR).

    Attributes:
        items: (n_events,) item rows.
        times: (n_events,) microseconds since 1970, ascending within a user.
        starts: (n_users + 1,) where each list begins, and the end of the last.
    """

    items: Ints
    times: Ints
    starts: Ints

    @classmethod
    def of(cls, users: Ints, items: Ints, times: Ints, n_users: int) -> Lists:
        """Events in any order; those of one moment keep theirs."""
        order = np.lexsort((np.arange(len(users)), times, users))
        counts = np.bincount(users, minlength=n_users)
        return cls(items[order], times[order], np.concatenate([[0], np.cumsum(counts)]))


def positives_of(histories: Histories) -> Lists:
    """The positives of everybody; rows look at the first `history_ends` of them."""
    return Lists(histories.items, histories.times, histories.starts)


def ends_before(lists: Lists, users: Ints, moments: Ints) -> Ints:
    """(n,) how many entries of each user's list are from before the moment."""
    ends = np.zeros(len(users), dtype=np.int64)
    for user, rows in by_user(users):
        mine = lists.times[lists.starts[user] : lists.starts[user + 1]]
        ends[rows] = np.searchsorted(mine, moments[rows], side="left")
    return ends


def by_user(users: Ints) -> Iterator[tuple[int, Ints]]:
    """Each distinct user with the places of their rows."""
    order = np.argsort(users, kind="stable")
    bounds = np.flatnonzero(np.diff(users[order], prepend=-1, append=-1))
    for start, end in pairwise(bounds):
        yield int(users[order[start]]), order[start:end]


def similarities(
    requests: Requests,
    lists: Lists,
    ends: Ints,
    vectors: NDArray[np.float32],
    half_life_days: float,
    newest: int,
) -> Doubles:
    """Cosines of each row's item with the first `ends` entries of its user's list.

    Args:
        requests: n rows.
        lists: what the users did.
        ends: (n,) entries that a row may look at.
        vectors: (n_items, d) of unit length.
        half_life_days: age at which an entry counts half in the mean that forgets.
        newest: entries of a list that are looked at, at most, for any row.

    Returns:
        (n, N_SIMILARITIES) largest, mean, mean of the three largest, mean that forgets; NaN for a
        row that sees nothing. A row's do not depend on the other rows.
    """
    found = np.full((len(requests), N_SIMILARITIES), np.nan)
    for user, rows in by_user(requests.users):
        rows = rows[ends[rows] > 0]
        if len(rows) == 0:
            continue
        start = lists.starts[user]
        seen = slice(start, start + ends[rows].max())
        places = np.arange(seen.stop - seen.start)
        sees = (places < ends[rows, None]) & (places >= ends[rows, None] - newest)
        # In float64, so that a product does not depend on how many rows stand beside it.
        cosines = vectors[requests.items[rows]].astype(np.float64) @ (
            vectors[lists.items[seen]].astype(np.float64).T
        )
        age_days = np.maximum(requests.times[rows, None] - lists.times[seen], 0) / DAY_US
        found[rows] = _summary(cosines, sees, 0.5 ** (age_days / half_life_days))
    return found


def _summary(cosines: Doubles, sees: NDArray[np.bool_], weights: Doubles) -> Doubles:
    """(n, N_SIMILARITIES) from (n, m); every row sees one entry at least."""
    n_seen = sees.sum(axis=1)
    only_seen = np.where(sees, cosines, -np.inf)
    n_top = min(_N_TOP, only_seen.shape[1])
    top = -np.partition(-only_seen, n_top - 1, axis=1)[:, :n_top]
    top_mean = np.where(np.isfinite(top), top, 0).sum(axis=1) / np.minimum(n_seen, _N_TOP)
    # An entry of very long ago must not make the mean 0 / 0.
    weights = np.where(sees, np.maximum(weights, 1e-12), 0)
    return np.column_stack(
        [
            only_seen.max(axis=1),
            np.where(sees, cosines, 0).sum(axis=1) / n_seen,
            top_mean,
            (weights * cosines).sum(axis=1) / weights.sum(axis=1),
        ]
    )
