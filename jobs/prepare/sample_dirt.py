"""Turns the sample's events into deliveries with the dirt of real ones, and keeps a list of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

RATINGS = "ratings"  # folder of their deliveries
MAX_LATE_DAYS = 5
LATE_SHARE = 0.03
_TIME = "%Y-%m-%d %H:%M:%S"


@dataclass
class Row:
    """One line of a delivery: where it goes, and why it must be quarantined, if it must."""

    delivery: int  # day of its delivery, from 0
    place: float  # order within the delivery
    raw: str
    reason: str | None = None


@dataclass(frozen=True)
class Fields:
    """The four fields of a rating as text."""

    user: str
    item: str
    rating: str
    time: str

    def line(self) -> str:
        """The fields as a delivery writes them."""
        return f"{self.user},{self.item},{self.rating},{self.time}"


Spoil = Callable[[Fields, int], str]


def _moved(time: str, days: int) -> str:
    return (datetime.strptime(time, _TIME) + timedelta(days=days)).strftime(_TIME)


def _without(f: Fields, n: int) -> str:
    fields = [f.user, f.item, f.rating, f.time]
    fields[n % 4] = ""
    return ",".join(fields)


def _pick(n: int, *values: str) -> str:
    return values[n % len(values)]


# Reasons in turn, share of the events, and how the n-th row is spoiled. An item id beyond those
# of the catalogue is odd, a time after the delivery is weeks away: neither can be good by chance.
SPOILED: tuple[tuple[tuple[str, ...], float, Spoil], ...] = (
    (
        ("unparsable rating",),
        0.004,
        lambda f, n: f"{f.user},{f.item},{_pick(n, 'four', 'n/a', '3 stars', 'nan')},{f.time}",
    ),
    (
        ("rating out of range",),
        0.004,
        lambda f, n: f"{f.user},{f.item},{_pick(n, '0', '6', '-1', '99', '5.5')},{f.time}",
    ),
    (("unknown item",), 0.003, lambda f, n: f"{f.user},{9_000_000_000 + n},{f.rating},{f.time}"),
    (("missing user", "missing item", "missing rating", "missing timestamp"), 0.003, _without),
    (
        ("unparsable timestamp",),
        0.002,
        lambda f, n: (
            f"{f.user},{f.item},{f.rating},"
            + _pick(n, "2026-02-30 10:00:00", "yesterday", "01/31/2026 10:00", f.time[:13])
        ),
    ),
    (("unparsable user",), 0.001, lambda f, n: f"u{f.user},{f.item},{f.rating},{f.time}"),
    (
        ("event after its delivery",),
        0.001,
        lambda f, n: f"{f.user},{f.item},{f.rating},{_moved(f.time, 30 + n % 7)}",
    ),
    (
        ("wrong number of fields",),
        0.001,
        lambda f, n: _pick(n, f"{f.line()},", f"{f.user};{f.item};{f.rating};{f.time}"),
    ),
)
DUPLICATE_SHARE, CONFLICT_SHARE = 0.008, 0.001


def deliver(events: pa.Table, n_days: int, start_s: int, seed: int) -> tuple[list[Row], np.ndarray]:
    """Lines of all deliveries, dirt included, in the order of delivery and line.

    Every event is in one good line. A few arrive days late; what is spoiled is added, never put in
    an event's place, so that the events that must come out are those of the truth.

    Args:
        events: `user_id, item_id, rating, rated_at`, in order of time.
        n_days: days of events; the last late rows come up to `MAX_LATE_DAYS` after them.
        start_s: first second of the first day, since 1970.
        seed: decides what is late and what is spoiled.

    Returns:
        The rows, and the day (n_events,) on which each event was delivered, from 0.
    """
    rng = np.random.default_rng([seed, 6])
    fields, day = _fields(events, start_s)
    delivery = day + (rng.random(len(day)) < LATE_SHARE) * rng.integers(
        1, MAX_LATE_DAYS + 1, size=len(day)
    )
    place = rng.random(len(day))
    rows = [Row(int(d), p, f.line()) for d, p, f in zip(delivery, place, fields, strict=True)]
    last = n_days + MAX_LATE_DAYS - 1
    for reasons, share, spoil in SPOILED:
        for n, source in enumerate(_spread(delivery, share, rng)):
            where = int(delivery[source])
            rows.append(Row(where, rng.random(), spoil(fields[source], n), _pick(n, *reasons)))
    for n, source in enumerate(_spread(delivery, DUPLICATE_SHARE, rng)):
        rows.append(_copied(rows[source], n, last, rng, "duplicate"))
    for n, source in enumerate(_spread(delivery, CONFLICT_SHARE, rng)):
        copy = _copied(rows[source], n, last, rng, "conflicting duplicate")
        f = fields[source]
        copy.raw = f"{f.user},{f.item},{1 if f.rating != '1' else 5},{f.time}"
        rows.append(copy)
    return sorted(rows, key=lambda row: (row.delivery, row.place)), delivery


def _fields(events: pa.Table, start_s: int) -> tuple[list[Fields], np.ndarray]:
    second = events["rated_at"].to_numpy().astype("datetime64[s]")
    times = np.char.replace(np.datetime_as_string(second, unit="s"), "T", " ")
    day = (second.astype(np.int64) - start_s) // 86_400
    columns = (events[name].to_pylist() for name in ("user_id", "item_id", "rating"))
    fields = [
        Fields(str(u), str(i), str(r), str(t)) for u, i, r, t in zip(*columns, times, strict=True)
    ]
    return fields, day


def _spread(delivery: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Places of `share` of the events, evenly through the deliveries, so that each has its part."""
    n = max(1, round(share * len(delivery)))
    by_delivery = np.argsort(delivery, kind="stable")
    return by_delivery[((np.arange(n) + rng.random()) * len(delivery) / n).astype(np.int64)]


def _copied(row: Row, n: int, last: int, rng: np.random.Generator, reason: str) -> Row:
    """A later copy of a good row: every second one in the same delivery, the others days after."""
    later = row.delivery + (n % 2) * int(rng.integers(1, 4))
    if n % 2 and later <= last:
        return Row(later, rng.random(), row.raw, reason)
    return Row(row.delivery, rng.uniform(row.place, 1.0), row.raw, reason)


def planted_dirt(rows: list[Row], file_of: Callable[[int], str]) -> pa.Table:
    """`source_file, line, raw, reason` of every row that must be quarantined.

    Args:
        rows: in the order of delivery and line.
        file_of: name of the delivery of a day.
    """
    found: dict[str, list[object]] = {"source_file": [], "line": [], "raw": [], "reason": []}
    line, delivery = 1, -1
    for row in rows:
        line = line + 1 if row.delivery == delivery else 2  # line 1 is the header
        delivery = row.delivery
        if row.reason:
            for name, value in (
                ("source_file", f"{RATINGS}/{file_of(delivery)}"),
                ("line", line),
                ("raw", row.raw),
                ("reason", row.reason),
            ):
                found[name].append(value)
    return pa.table(found)
