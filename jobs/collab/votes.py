"""Weighted votes of a history's events, summed as of one moment or as of each row.

A vote is the code of the event's item on each level (`CodeVotes`), or a vector of the item with
nothing discretised (`DenseVotes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jobs.collab.factors import Floats, Ints
from jobs.collab.systems import Histories, Requests
from jobs.job import Config

Sums = NDArray[np.float64]

DAY_US = 86_400_000_000
_ROWS_AT_ONCE = 65_536  # of float64 sums; what bounds the memory beside the result
_EVENTS_AT_ONCE = 8_192  # of dense votes


class VoteConfig(Config):
    """How much an event of a history weighs."""

    decay_days: float | None = Field(
        default=180.0, gt=0, description="an event of this age weighs 1/e (H); None: none fades"
    )
    popularity_damping: bool = Field(
        default=False, description="an event weighs 1 / sqrt(events of its item)"
    )


class Votes(Protocol):
    """What one event of an item says, as a vector."""

    @property
    def width(self) -> int:
        """Numbers of a vote."""

    def cast(self, voters: Ints, items: Ints, weights: Sums, n_voters: int) -> Sums:
        """(n_voters, width) sums of the weighted votes of each voter."""


@dataclass(frozen=True)
class CodeVotes:
    """An event votes for the code of its item, on each level.

    Attributes:
        codes: (n_items, L), 0 <= code < n_codes.
        n_codes: K.
    """

    codes: Ints
    n_codes: int

    @property
    def width(self) -> int:
        """L * K."""
        return self.codes.shape[1] * self.n_codes

    def cast(self, voters: Ints, items: Ints, weights: Sums, n_voters: int) -> Sums:
        """(n_voters, L * K) weighted counts."""
        sums = np.empty((n_voters, self.codes.shape[1], self.n_codes))
        for level, codes in enumerate(self.codes.T):
            places = voters * self.n_codes + codes[items]
            counts = np.bincount(places, weights, n_voters * self.n_codes)
            sums[:, level] = counts.reshape(n_voters, self.n_codes)
        return sums.reshape(n_voters, self.width)


@dataclass(frozen=True)
class DenseVotes:
    """An event votes with a vector of its item: an embedding, or scores of labels.

    Attributes:
        vectors: (n_items, width).
    """

    vectors: Floats | Sums

    @property
    def width(self) -> int:
        """Numbers of an item's vector."""
        return self.vectors.shape[1]

    def cast(self, voters: Ints, items: Ints, weights: Sums, n_voters: int) -> Sums:
        """(n_voters, width) weighted sums, a few thousand events at a time."""
        sums = np.zeros((n_voters, self.width))
        order = np.argsort(voters, kind="stable")
        for start in range(0, len(order), _EVENTS_AT_ONCE):
            some = order[start : start + _EVENTS_AT_ONCE]
            first = np.flatnonzero(np.diff(voters[some], prepend=-1))
            weighted = weights[some, None] * self.vectors[items[some]]
            sums[voters[some][first]] += np.add.reduceat(weighted, first)
        return sums


def event_weights(ages: Ints, items: Ints, config: VoteConfig, popularity: Ints | None) -> Sums:
    """(n_events,) exp(-age / H), and 1 / sqrt(popularity) where the config damps it.

    Args:
        ages: (n_events,) microseconds before the moment of the profile.
        items: (n_events,) item rows.
        config: `decay_days`, `popularity_damping`.
        popularity: (n_items,) events of each item, known before any row that is scored.

    Raises:
        ValueError: popularity is damped, and not given.
    """
    weights = np.ones(len(ages))
    if config.decay_days is not None:
        weights = np.exp(ages / (-config.decay_days * DAY_US))
    if config.popularity_damping:
        if popularity is None:
            raise ValueError("popularity_damping needs the popularity of the items")
        weights /= np.sqrt(np.maximum(popularity[items], 1))
    return weights


def ends_before(requests: Requests, events: Histories) -> Ints:
    """(n,) how many of its user's events lie strictly before each row."""
    n_events = np.diff(events.starts)
    owners = np.repeat(np.arange(len(n_events)), n_events)
    moments, ranks = np.unique(
        np.concatenate([events.times, requests.times]), return_inverse=True
    )  # ranks, not times: a user's number and a time do not fit into one int64
    key = owners * len(moments) + ranks[: len(events.times)]
    asked = requests.users * len(moments) + ranks[len(events.times) :]
    return np.searchsorted(key, asked, side="left") - events.starts[requests.users]


def running_sums(
    requests: Requests,
    histories: Histories,
    votes: Votes,
    config: VoteConfig,
    popularity: Ints | None = None,
) -> Floats:
    """(n, width) decayed sums of the first `history_ends` votes of each row's user.

    With the rows of a user in the order of their ends, events between two ends are summed once, as
    of the later row, and S_q = S_{q-1} exp(-(t_q - t_{q-1}) / H) + new_q: linear in rows and
    events. Chunks of whole users bound the memory beside the result.
    """
    sums = np.empty((len(requests), votes.width), dtype=np.float32)
    order = np.lexsort((requests.times, requests.history_ends, requests.users))
    for some in _chunks(requests.users[order]):
        rows = order[some]
        new = _new_votes(requests.at(rows), histories, votes, config, popularity)
        _run_on(new, requests.users[rows], requests.times[rows], config)
        sums[rows] = new
    return sums


def _chunks(users: Ints) -> list[slice]:
    """Slices of about `_ROWS_AT_ONCE` rows that cut no user; `users` ascend."""
    if not len(users):
        return []
    first = np.flatnonzero(np.diff(users, prepend=-1))
    wanted = np.arange(0, len(users), _ROWS_AT_ONCE)
    cuts = np.unique(first[np.searchsorted(first, wanted, side="right") - 1])
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(users)], strict=True)]


def _new_votes(
    rows: Requests,
    histories: Histories,
    votes: Votes,
    config: VoteConfig,
    popularity: Ints | None,
) -> Sums:
    """(n, width) votes that a row sees and the row before it, of the same user, does not."""
    starts = histories.starts[rows.users]
    begin = starts.copy()
    follows = np.flatnonzero(rows.users[1:] == rows.users[:-1]) + 1
    begin[follows] = starts[follows] + rows.history_ends[follows - 1]
    n_new = starts + rows.history_ends - begin
    row = np.repeat(np.arange(len(rows)), n_new)
    place = np.arange(len(row)) - np.repeat(np.cumsum(n_new) - n_new, n_new) + begin[row]
    items = histories.items[place]
    weights = event_weights(rows.times[row] - histories.times[place], items, config, popularity)
    return votes.cast(row, items, weights, len(rows))


def _run_on(new: Sums, users: Ints, times: Ints, config: VoteConfig) -> None:
    """Turn new votes into running sums, in place: the k-th rows of all users at once."""
    first = np.flatnonzero(np.diff(users, prepend=-1))
    n_rows = np.diff(first, append=len(users))
    fading = np.ones(len(users))
    if config.decay_days is not None:
        fading[1:] = np.exp(np.diff(times) / (-config.decay_days * DAY_US) * (np.diff(users) == 0))
    longest = np.argsort(-n_rows, kind="stable")
    first, still = first[longest], -n_rows[longest]
    for k in range(1, int(n_rows.max(initial=0))):
        row = first[: np.searchsorted(still, -k, side="left")] + k
        new[row] += new[row - 1] * fading[row, None]
