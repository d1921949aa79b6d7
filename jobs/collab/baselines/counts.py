"""What was known of a row's item and user at a midnight: means, counts, age, recency, popularity.

The same numbers as the table `row_features`, for rows that are arrays and not a table.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from jobs.collab.factors import Ints
from jobs.collab.systems import Labelled
from jobs.report.controls import SMOOTHING

Doubles = NDArray[np.float64]

DAY_US = 86_400_000_000  # microseconds
NO_ROWS_MEAN = 0.5  # global mean where nothing is known yet
POPULARITY_DAYS = 30


@dataclass(frozen=True)
class AsOfCounts:
    """One number a row each, all from events of the days before the row's `as_of` day.

    Attributes:
        global_mean: (n,) share of positives, to which the other means are drawn.
        item_mean: (n,) smoothed share of positives.
        item_count: (n,) events.
        item_age_days: (n,) since the day of the item's first event; NaN without one.
        item_recency_days: (n,) since the day of its last; NaN without one.
        item_popularity: (n,) its share of the events of the last `popularity_days`.
        user_mean: (n,) as the item's.
        user_count: (n,) events.
        user_recency_days: (n,) as the item's.
    """

    global_mean: Doubles
    item_mean: Doubles
    item_count: Doubles
    item_age_days: Doubles
    item_recency_days: Doubles
    item_popularity: Doubles
    user_mean: Doubles
    user_count: Doubles
    user_recency_days: Doubles

    def matrix(self) -> Doubles:
        """(n, 9) all of them, in the order of the attributes."""
        return np.column_stack([getattr(self, each.name) for each in fields(self)])


def as_of_days(times: Ints, events: Labelled) -> Ints:
    """The day at whose midnight each row is looked at: its own, but none after the events end.

    A row of the evaluated window is thus seen at the midnight that ends the events. Counts that
    ran on inside the window would rank a user's own rows: sampling without replacement makes more
    earlier positives mean fewer to come (the prequential artefact).

    Args:
        times: (n,) microseconds since 1970.
        events: rows with known labels.

    Returns:
        (n,) days since 1970.
    """
    days = times // DAY_US
    if len(events) == 0:
        return days
    end = int(events.requests.times.max()) // DAY_US + 1
    return np.minimum(days, end).astype(np.int64)


def as_of_counts(
    users: Ints,
    items: Ints,
    as_of: Ints,
    events: Labelled,
    smoothing: float = SMOOTHING,
    popularity_days: int = POPULARITY_DAYS,
    sampled_negatives: bool = False,
) -> AsOfCounts:
    """The numbers of rows (users, items) at the midnights that begin the days `as_of`.

    Sorting and cumulative sums: the cost is that of sorting the events, whatever a row asks for.
    A mean is (positives + smoothing * global mean) / (rows + smoothing).

    Args:
        users: (n,) user rows.
        items: (n,) item rows.
        as_of: (n,) days since 1970; nothing of that day itself counts.
        events: rows with known labels, in any order.
        smoothing: rows at the global mean that every mean begins with.
        popularity_days: days before the midnight that count for popularity.
        sampled_negatives: negative rows were drawn by chance: they count in means, and are no
            events.
    """
    requests = events.requests
    days = requests.times // DAY_US
    is_event = (events.labels == 1) | (not sampled_negatives)
    nobody = np.zeros(len(days), dtype=np.int64)
    overall = _Past(nobody, days, events.labels, is_event)
    everywhere = np.zeros(len(as_of), dtype=np.int64)
    n_rows, n_positives = overall.rows(everywhere, as_of)
    mean = np.divide(n_positives, n_rows, out=np.full(len(as_of), NO_ROWS_MEAN), where=n_rows > 0)
    of_item = _Past(requests.items, days, events.labels, is_event)
    of_user = _Past(requests.users, days, events.labels, is_event)
    lately = of_item.events(items, as_of) - of_item.events(items, as_of - popularity_days)
    all_lately = overall.events(everywhere, as_of) - overall.events(
        everywhere, as_of - popularity_days
    )
    return AsOfCounts(
        global_mean=mean,
        item_mean=_smoothed(of_item.rows(items, as_of), mean, smoothing),
        item_count=of_item.events(items, as_of),
        item_age_days=as_of - of_item.first_day(items, as_of),
        item_recency_days=as_of - of_item.last_day(items, as_of),
        item_popularity=lately / np.maximum(all_lately, 1),
        user_mean=_smoothed(of_user.rows(users, as_of), mean, smoothing),
        user_count=of_user.events(users, as_of),
        user_recency_days=as_of - of_user.last_day(users, as_of),
    )


def _smoothed(counted: tuple[Doubles, Doubles], mean: Doubles, smoothing: float) -> Doubles:
    n_rows, n_positives = counted
    return (n_positives + smoothing * mean) / (n_rows + smoothing)


class _Past:
    """Rows sorted by (key, day), to be asked how many a key had before a day."""

    def __init__(
        self, keys: Ints, days: Ints, labels: NDArray[np.float32], is_event: NDArray[np.bool_]
    ) -> None:
        order = np.lexsort((days, keys))
        self._first = int(days.min(initial=0))
        self._span = int(days.max(initial=0)) - self._first + 2
        self._places = self._place(keys[order], days[order])
        self._positives = _running(labels[order])
        self._events = _running(is_event[order])
        seen = order[is_event[order]]
        self._event_places = self._place(keys[seen], days[seen])
        self._event_days = days[seen].astype(np.float64)

    def _place(self, keys: Ints, days: Ints) -> Ints:
        """One number that orders by key, then day; days outside the span count as its ends."""
        return keys * self._span + np.clip(days - self._first, 0, self._span - 1)

    def _range(self, places: Ints, keys: Ints, days: Ints) -> tuple[Ints, Ints]:
        """Among sorted `places`, the half-open range of each key's before each day."""
        starts = np.searchsorted(places, keys * self._span, side="left")
        return starts, np.searchsorted(places, self._place(keys, days), side="left")

    def rows(self, keys: Ints, days: Ints) -> tuple[Doubles, Doubles]:
        """Rows of each key before each day, and the positives among them."""
        starts, ends = self._range(self._places, keys, days)
        return (ends - starts).astype(np.float64), self._positives[ends] - self._positives[starts]

    def events(self, keys: Ints, days: Ints) -> Doubles:
        """Events of each key before each day."""
        starts, ends = self._range(self._places, keys, days)
        return self._events[ends] - self._events[starts]

    def first_day(self, keys: Ints, days: Ints) -> Doubles:
        """Day of the first event before each day; NaN without one."""
        starts, ends = self._range(self._event_places, keys, days)
        return self._day_at(starts, starts < ends)

    def last_day(self, keys: Ints, days: Ints) -> Doubles:
        """Day of the last event before each day; NaN without one."""
        starts, ends = self._range(self._event_places, keys, days)
        return self._day_at(ends - 1, starts < ends)

    def _day_at(self, places: Ints, is_there: NDArray[np.bool_]) -> Doubles:
        found = np.full(len(places), np.nan)
        found[is_there] = self._event_days[places[is_there]]
        return found


def _running(values: NDArray[np.generic]) -> Doubles:
    """(n + 1,) sums of the first 0, 1, ..., n values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
