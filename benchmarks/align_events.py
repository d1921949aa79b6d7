"""Made-up events for the benchmarks of alignment: Zipf items, users of very different activity."""

from __future__ import annotations

import numpy as np

from jobs.collab.factors import Floats, Ratings

_EXPONENT = 0.9  # of the items' popularity
_CHUNK = 1_000_000


def events(n_users: int, n_items: int, n_events: int, seed: int) -> Ratings:
    """Labels follow the user's and the item's leniency, so that there is something to learn."""
    random = np.random.default_rng(seed)
    mass = np.cumsum(1 / np.arange(1, n_items + 1) ** _EXPONENT)
    rank, user_of = random.permutation(n_items), random.permutation(n_users)
    taste = [random.standard_normal(n).astype(np.float32) for n in (n_users, n_items)]
    users, items = np.empty(n_events, np.int64), np.empty(n_events, np.int64)
    labels = np.empty(n_events, np.float32)
    for start in range(0, n_events, _CHUNK):
        n = min(_CHUNK, n_events - start)
        some = slice(start, start + n)
        users[some] = user_of[(random.random(n) ** 1.5 * n_users).astype(np.int64)]
        places = np.searchsorted(mass, random.random(n) * mass[-1])
        items[some] = rank[np.minimum(places, n_items - 1)]
        logits = taste[0][users[some]] + taste[1][items[some]]
        labels[some] = random.random(n) < 1 / (1 + np.exp(-logits))
    return Ratings(users, items, labels)


def unit_rows(n: int, d: int, seed: int) -> Floats:
    """(n, d) of unit length."""
    rows = np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
