"""The planted truth of the sample: who likes what, how good items are, and what follows."""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, sqrt

import numpy as np
import pyarrow as pa

from jobs.errors import JobError
from jobs.prepare.sample_titles import TOPICS, titles

N_DAYS, TEST_DAYS = 60, 10
N_USERS, N_ITEMS, N_EVENTS = 300, 400, 8_000  # at scale 1

# Standard deviations of the parts of an opinion, in one unit.
QUALITY_SD, LENIENCY_SD, NOISE_SD = 0.65, 0.5, 0.65
OWN_TASTE_SD, DRIFT_SD = 0.45, 0.25
POSITIVE_SHARE = 0.55
# Distances of the other cuts from the one between 3 and 4: ratings 1|2, 2|3, 3|4, 4|5.
CUTS = np.array([-1.5, -0.75, 0.0, 0.85])

# Taste of six kinds of people for the eight topics; a user is one of them, with deviations.
KINDS = np.array(
    [
        [1.3, -0.2, 0.9, -1.3, 0.8, -0.9, -0.2, -0.4],
        [-0.9, -0.8, -1.3, 1.3, -0.6, 1.2, -0.1, 0.6],
        [-0.5, 1.2, -0.7, -0.9, 1.2, -0.3, 1.0, -1.0],
        [0.6, -0.9, 1.3, -0.4, -1.2, -0.6, -0.9, 1.2],
        [0.9, 0.4, -1.2, 0.3, -1.1, 1.1, 0.9, -1.2],
        [-1.2, 0.9, 0.2, 0.9, 0.1, -1.2, -1.1, 1.2],
    ]
)

_DAY_S = 86_400
_PROPOSALS = 6  # drawn per event that is wanted: taste and repeats reject most of them


@dataclass(frozen=True)
class Truth:
    """What decides every rating of the sample.

    Attributes:
        users: `user_id, kind, leniency, taste, drift, first_day`; taste at the middle day, and what
            is added to it by the last one (and taken off on the first).
        items: `item_id, title, topic, quality, first_day`; `first_day` counts from 0.
        events: `user_id, item_id, rating, rated_at, probability`, in order of time; the chance that
            the rating is 4 or 5, noise apart.
    """

    users: pa.Table
    items: pa.Table
    events: pa.Table


@dataclass(frozen=True)
class _Users:
    ids: np.ndarray
    kind: np.ndarray
    leniency: np.ndarray
    taste: np.ndarray  # (n_users, n_topics)
    drift: np.ndarray  # (n_users, n_topics)
    activity: np.ndarray
    first_day: np.ndarray


@dataclass(frozen=True)
class _Items:
    ids: np.ndarray
    topic: np.ndarray
    quality: np.ndarray
    popularity: np.ndarray
    first_day: np.ndarray


def plant(scale: int, seed: int, start_s: int) -> Truth:
    """Draw users, items and their ratings.

    A rating is the opinion leniency + quality + taste for the item's topic that day + noise, cut at
    fixed places; the cut between 3 and 4 is put where the positive share is `POSITIVE_SHARE`.

    Args:
        scale: multiplies the numbers of users, items and events.
        seed: decides everything else.
        start_s: first second of the first day, since 1970.
    """
    users = _draw_users(N_USERS * scale, np.random.default_rng([seed, 1]))
    items = _draw_items(N_ITEMS * scale, np.random.default_rng([seed, 2]))
    u, i, second = _draw_views(users, items, N_EVENTS * scale, np.random.default_rng([seed, 3]))
    middle = _affinity(users, items, u, i, second // _DAY_S) + users.leniency[u] + items.quality[i]
    noise = np.random.default_rng([seed, 4]).normal(0.0, NOISE_SD, len(middle))
    cut = np.quantile(middle + noise, 1.0 - POSITIVE_SHARE)
    rating = 1 + np.searchsorted(CUTS, middle + noise - cut, side="right")
    normal_cdf = np.vectorize(lambda z: 0.5 * (1.0 + erf(z / sqrt(2.0))))
    return Truth(
        users=_user_table(users),
        items=_item_table(items, titles(items.topic, np.random.default_rng([seed, 5]))),
        events=pa.table(
            {
                "user_id": users.ids[u],
                "item_id": items.ids[i],
                "rating": rating.astype(np.int64),
                "rated_at": pa.array((start_s + second) * 1_000_000, pa.timestamp("us")),
                "probability": normal_cdf((middle - cut) / NOISE_SD),
            }
        ),
    )


def _draw_users(n: int, rng: np.random.Generator) -> _Users:
    kind = rng.integers(len(KINDS), size=n)
    arrival = rng.random(n)  # 82 % are there on day 0, 10 % come in the train window, 8 % later
    first_day = np.where(arrival < 0.82, 0, np.where(arrival < 0.92, 5 + 350 * (arrival - 0.82), 0))
    late = arrival >= 0.92
    first_day = np.where(late, 40 + 200 * (arrival - 0.92), first_day).astype(np.int64)
    shape = (n, len(TOPICS))
    return _Users(
        ids=np.sort(rng.choice(np.arange(1_001, 1_001 + 30 * n), size=n, replace=False)),
        kind=kind,
        leniency=rng.normal(0.0, LENIENCY_SD, n),
        taste=KINDS[kind] + rng.normal(0.0, OWN_TASTE_SD, shape),
        drift=rng.normal(0.0, DRIFT_SD, shape),
        activity=rng.lognormal(0.0, 0.7, n),
        first_day=first_day,
    )


def _draw_items(n: int, rng: np.random.Generator) -> _Items:
    """70 % are there on day 0, 15 % appear before the test window and 15 % within it."""
    place = rng.permutation(n) / n
    before = rng.integers(2, N_DAYS - TEST_DAYS - 4, size=n)
    within = rng.integers(N_DAYS - TEST_DAYS, N_DAYS - 3, size=n)
    return _Items(
        ids=np.sort(rng.choice(np.arange(101, 101 + 40 * n), size=n, replace=False)),
        topic=rng.permutation(n) % len(TOPICS),
        quality=rng.normal(0.0, QUALITY_SD, n),
        popularity=rng.lognormal(0.0, 0.7, n),
        first_day=np.where(place < 0.70, 0, np.where(place < 0.85, before, within)),
    )


def _affinity(
    users: _Users, items: _Items, u: np.ndarray, i: np.ndarray, day: np.ndarray
) -> np.ndarray:
    """Taste of each user for each item's topic on that day, taste drifting through the days."""
    through = 2.0 * day / (N_DAYS - 1) - 1.0  # -1 on the first day, 1 on the last
    topic = items.topic[i]
    return users.taste[u, topic] + through * users.drift[u, topic]


def _draw_views(
    users: _Users, items: _Items, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who rates what and when: (n,) users, items and seconds since the start, in order of time.

    People rate in sessions, now and then two items within a second, never an item twice. What they
    like they also meet more often, but not only.
    """
    u, second = _sessions(users, _PROPOSALS * n, rng)
    day = second // _DAY_S
    i = _offered(items, day, rng)
    meets = 1.0 / (1.0 + np.exp(-0.8 * _affinity(users, items, u, i, day)))
    takes = (day >= users.first_day[u]) & (rng.random(len(u)) < meets)
    u, i, second = u[takes], i[takes], second[takes]
    order = np.lexsort((i, u, second))
    u, i, second = u[order], i[order], second[order]
    _, first = np.unique(u * len(items.ids) + i, return_index=True)
    if len(first) < n:
        raise JobError(f"the sample's draw gave {len(first)} events, fewer than {n}")
    kept = np.sort(rng.choice(first, size=n, replace=False))
    return u[kept], i[kept], second[kept]


def _sessions(users: _Users, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(n,) users and seconds since the start: sessions of a few ratings, a minute or so apart."""
    length = 1 + rng.poisson(8, size=n)
    session = np.repeat(np.arange(n), length)[:n]
    start = np.concatenate([[0], np.cumsum(length)])[session]
    n_sessions = session[-1] + 1
    weekly = np.tile([1.0, 1.0, 1.0, 1.2, 1.7, 1.6, 0.9], N_DAYS // 7 + 1)[:N_DAYS]
    day = rng.choice(N_DAYS, size=n_sessions, p=weekly / weekly.sum())
    user = rng.choice(len(users.ids), size=n_sessions, p=users.activity / users.activity.sum())
    opening = day * _DAY_S + rng.integers(6 * 3600, 22 * 3600, size=n_sessions)
    gap = np.where(rng.random(n) < 0.1, 0, rng.integers(5, 120, size=n))
    elapsed = np.cumsum(gap)
    return user[session], opening[session] + elapsed - elapsed[start]


def _offered(items: _Items, day: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) items on offer on each day: by popularity, new ones up to five times as often."""
    offered = np.empty(len(day), dtype=np.int64)
    for today in range(N_DAYS):
        age = today - items.first_day
        is_new = (items.first_day > 0) & (age >= 0)
        weight = items.popularity * (age >= 0) * (1.0 + 4.0 * is_new * np.exp(-age / 10.0))
        asked = np.flatnonzero(day == today)
        offered[asked] = rng.choice(len(weight), size=len(asked), p=weight / weight.sum())
    return offered


def _vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _user_table(users: _Users) -> pa.Table:
    return pa.table(
        {
            "user_id": users.ids,
            "kind": users.kind,
            "leniency": users.leniency,
            "taste": _vectors(users.taste),
            "drift": _vectors(users.drift),
            "first_day": users.first_day,
        }
    )


def _item_table(items: _Items, item_titles: list[str]) -> pa.Table:
    return pa.table(
        {
            "item_id": items.ids,
            "title": item_titles,
            "topic": [TOPICS[topic].name for topic in items.topic],
            "quality": items.quality,
            "first_day": items.first_day,
        }
    )
