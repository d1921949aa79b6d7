"""Sampled negatives for feedback that is positive only: by popularity, seeded, as then known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.prepare.splitting.order import distinct, starts_of_runs
from jobs.prepare.splitting.shuffle import Columns

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_ATTEMPTS = 16
_UNIT = 1_024  # weight of an item with one event: whole numbers have an exact running sum
NONE = -1


@dataclass(frozen=True)
class Negatives:
    """How to sample.

    Attributes:
        per_positive: negatives for each positive row.
        seed: of all draws.
        popularity: what `Popularity.save` wrote.
        user_words: file of an int64 word for each user number; None: the number is the word.
    """

    per_positive: int
    seed: int
    popularity: Path
    user_words: Path | None


@dataclass(frozen=True)
class Popularity:
    """Items in the order of their first events.

    Attributes:
        items: (n,) item numbers.
        words: (n,) what stands for the item in a draw, the same in every night.
        first_at: (n,) microseconds, ascending.
        ceilings: (n,) running sum of the weights n_events ** power.
    """

    items: Ints
    words: Words
    first_at: Ints
    ceilings: Ints

    @classmethod
    def of(
        cls, items: Ints, words: Words, first_at: Ints, counts: Ints, power: float
    ) -> Popularity:
        """Weights from counts of events; `first_at` ascends."""
        weights = np.maximum(np.rint(_UNIT * counts.astype(np.float64) ** power), 1)
        return cls(items, words, first_at, np.cumsum(weights.astype(np.int64)))

    def save(self, path: Path) -> None:
        """Write (4, n) int64: items, words, first_at, ceilings."""
        columns = (self.items, self.words.view(np.int64), self.first_at, self.ceilings)
        np.stack(columns).astype(np.int64).tofile(path)

    @classmethod
    def load(cls, path: Path) -> Popularity:
        """Read what `save` wrote."""
        columns = np.memmap(path, np.int64, mode="r").reshape(4, -1)
        items, words, first_at, ceilings = columns
        return cls(items, words.view(np.uint64), first_at, ceilings)

    @cached_property
    def weights(self) -> Ints:
        """(n,) of each item."""
        return np.diff(self.ceilings, prepend=0)

    def places(self, items: Ints) -> Ints:
        """Place of each item; all items have one."""
        found = pc.index_in(pa.array(items), value_set=pa.array(self.items))
        places: Ints = found.to_numpy(zero_copy_only=False).astype(np.int64)
        return places


def _mixed(words: Words) -> Words:
    """Finalizer of splitmix64 (Steele, Lea and Flood 2014): every bit of a word moves every bit."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _drawn(ceilings: Ints, totals: Ints, words: Words) -> Ints:
    """The place whose share of [0, total) holds the word; totals are not 0."""
    points = (words % totals.astype(np.uint64)).astype(np.int64)
    return np.searchsorted(ceilings, points, side="right")


class _Sampler:
    """Draws for the positive rows of a range of users."""

    def __init__(self, rows: Columns, how: Negatives, popularity: Popularity) -> None:
        self.popularity = popularity
        self.events = np.flatnonzero(rows["label"] == 1)
        users = rows["user_id"][self.events]
        at = rows["rated_at"][self.events]
        self.user = np.cumsum(starts_of_runs(users)) - 1
        items = popularity.places(rows["item_id"][self.events])
        self.n_items = len(popularity.items)
        # What the user liked, at any time that this night knows of: never a negative.
        self.liked = distinct(self.user * self.n_items + items)
        self.n_seen = np.searchsorted(popularity.first_at, at, side="right")
        self.totals = popularity.ceilings[self.n_seen - 1]
        self.words = _event_words(how, users, popularity.words[items], at)

    def round(self, k: int, earlier: list[Ints]) -> Ints:
        """The k-th negative of every event as a place among items; NONE where there is none."""
        chosen = np.full(len(self.events), NONE, np.int64)
        pending = np.arange(len(self.events))
        for attempt in range(_ATTEMPTS):
            tries = _drawn(
                self.popularity.ceilings, self.totals[pending], self._words(pending, k, attempt)
            )
            is_free = self._is_free(pending, tries, earlier)
            chosen[pending[is_free]] = tries[is_free]
            pending = pending[~is_free]
            if not len(pending):
                break
        self._choose_among_the_rest(chosen, pending, k, earlier)
        return chosen

    def _words(self, events: Ints, k: int, attempt: int) -> Words:
        return _mixed(self.words[events] ^ np.uint64(k << 32 | attempt))

    def _is_free(self, events: Ints, places: Ints, earlier: list[Ints]) -> NDArray[np.bool_]:
        keys = self.user[events] * self.n_items + places
        near = np.minimum(np.searchsorted(self.liked, keys), len(self.liked) - 1)
        is_free: NDArray[np.bool_] = self.liked[near] != keys
        for taken in earlier:
            is_free &= taken[events] != places
        return is_free

    def _choose_among_the_rest(
        self, chosen: Ints, pending: Ints, k: int, earlier: list[Ints]
    ) -> None:
        """Users who liked nearly all that was popular: draw from what is left, not by trial."""
        for start, end in _runs(self.user[pending]):
            events = pending[start:end]
            weights = self._weights_left(events)
            ceilings = np.cumsum(weights)
            totals = ceilings[self.n_seen[events] - 1]
            events, totals = events[totals > 0], totals[totals > 0]
            tries = _drawn(ceilings, totals, self._words(events, k, _ATTEMPTS))
            is_free = self._is_free(events, tries, earlier)
            chosen[events[is_free]] = tries[is_free]
            for event in events[~is_free]:
                chosen[event] = self._apart_from(weights, event, k, earlier)

    def _weights_left(self, events: Ints) -> Ints:
        """Weights of items for the events of one user, 0 where the user liked the item."""
        weights = self.popularity.weights[: int(self.n_seen[events].max())].copy()
        start = self.user[events[0]] * self.n_items
        first, last = np.searchsorted(self.liked, [start, start + self.n_items])
        liked = self.liked[first:last] - start
        weights[liked[liked < len(weights)]] = 0
        return weights

    def _apart_from(self, weights: Ints, event: int, k: int, earlier: list[Ints]) -> int:
        """A draw that leaves out what the event has already; NONE if nothing is left."""
        left = weights[: self.n_seen[event]].copy()
        taken = [places[event] for places in earlier if places[event] != NONE]
        left[taken] = 0
        ceilings = np.cumsum(left)
        if ceilings[-1] == 0:
            return NONE
        words = self._words(np.array([event]), k, _ATTEMPTS + 1)
        return int(_drawn(ceilings, ceilings[-1:], words)[0])


def _runs(values: Ints) -> Iterator[tuple[int, int]]:
    first = np.flatnonzero(starts_of_runs(values)) if len(values) else np.empty(0, np.int64)
    yield from zip(first.tolist(), [*first[1:].tolist(), len(values)], strict=len(values) > 0)


def _event_words(how: Negatives, users: Ints, items: Words, at: Ints) -> Words:
    names = np.memmap(how.user_words, np.int64, mode="r") if how.user_words else None
    words = _mixed(np.full(len(users), how.seed, np.int64).view(np.uint64))
    for part in (names[users] if names is not None else users, items, at):
        words = _mixed(words ^ part.view(np.uint64))
    return words


def sampled(rows: Columns, how: Negatives) -> tuple[Columns, int]:
    """Rows with their negatives, each right after its positive, with its time and its history.

    A negative is drawn with a chance in proportion to n_events ** power of its item, among items
    whose first event is no later than the row, and that are no positive of the user at any time
    this night knows of; the negatives of one row differ. A draw depends on seed, user, item, time
    and its number alone, so neither the order of rows nor the cut into ranges moves it.

    Args:
        rows: of whole users, in order.
        how: see `Negatives`.

    Returns:
        The rows, and how many negatives could not be had: the user liked everything there was.
    """
    popularity = Popularity.load(how.popularity)
    sampler = _Sampler(rows, how, popularity)
    rounds: list[Ints] = []
    for k in range(how.per_positive):
        rounds.append(sampler.round(k, rounds))
    drawn = np.stack(rounds, axis=1) if rounds else np.empty((len(sampler.events), 0), np.int64)
    n_drawn = np.zeros(len(rows["label"]), np.int64)
    n_drawn[sampler.events] = (drawn != NONE).sum(axis=1)
    source = np.repeat(np.arange(len(n_drawn)), 1 + n_drawn)
    is_negative = np.ones(len(source), bool)
    is_negative[np.cumsum(1 + n_drawn) - 1 - n_drawn] = False
    extended = {name: column[source] for name, column in rows.items()}
    extended["label"][is_negative] = 0
    extended["item_id"][is_negative] = popularity.items[drawn[drawn != NONE]]
    return extended, int((drawn == NONE).sum())
