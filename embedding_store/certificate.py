"""What an index is worth: its recall against exact search, with bounds that hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from embedding_store.manifest import Certificate
from embedding_store.search import SearchableSet, SearchableVersion

CONFIDENCE = 0.99
K, N_QUERIES, SEED = 10, 500, 20_240_229
_STEPS = 60  # halvings of [0, 1]: past the precision of float64


def certify(
    version: SearchableVersion,
    table: str,
    *,
    queries: str | None = None,
    k: int = K,
    n_queries: int = N_QUERIES,
    seed: int = SEED,
) -> Certificate:
    """Recall of a table's index on a random sample of queries, and bounds for all of them.

    The recall of one query is the share of its k true neighbours (by exact search, ties by id)
    that the index gives; what is asked for is the mean over all rows of `queries`.

    Args:
        version: whose index, as readers will search it.
        table: the indexed table.
        queries: table whose vectors are the queries, users for instance; without it the items'
            own, each searching its neighbours other than itself.
        k: neighbours asked for.
        n_queries: size of the sample, drawn without replacement.
        seed: decides the sample.
    """
    indexed, asking = version[table], version[queries or table]
    stated = version.manifest.index_of(table)
    bias = stated.params.get("bias") if stated else None
    n_rows = len(asking)
    n = min(n_queries, n_rows)
    sample = np.sort(np.random.default_rng(seed).choice(n_rows, n, replace=False))
    recalls = query_recalls(indexed, asking, sample, k, bias)
    recall = float(recalls.mean())
    low, high = (recall, recall) if n == n_rows else recall_bounds(recall, n)
    return Certificate(
        k=k,
        queries=queries or table,
        n_rows=n_rows,
        n_queries=n,
        seed=seed,
        recall=recall,
        confidence=CONFIDENCE,
        low=low,
        high=high,
    )


def query_recalls(
    indexed: SearchableSet,
    asking: SearchableSet,
    sample: np.ndarray,
    k: int,
    bias: str | None = None,
) -> np.ndarray:
    """(n,) share of the true k neighbours that the index finds, for some rows of `asking`."""
    asked: dict[str, Any]
    if asking.name == indexed.name:
        asked = {"ids": asking.ids.take(pa.array(sample))}
        names = asked["ids"].to_pylist()
    else:
        asked = {"queries": asking.vectors[sample]}
        names = list(range(len(sample)))
    found, true = (indexed.search(**asked, k=k, exact=exact, bias=bias) for exact in (False, True))
    got, wanted = neighbour_sets(found), neighbour_sets(true)
    return np.array([_share(wanted.get(name, set()), got.get(name, set())) for name in names])


def neighbour_sets(neighbours: pa.Table) -> dict[int | str, set[int | str]]:
    """The ids found for each query of a search."""
    sets: dict[int | str, set[int | str]] = {}
    columns = (neighbours["query"].to_pylist(), neighbours["id"].to_pylist())
    for query, neighbour in zip(*columns, strict=True):
        sets.setdefault(query, set()).add(neighbour)
    return sets


def _share(wanted: set[int | str], got: set[int | str]) -> float:
    return len(wanted & got) / len(wanted) if wanted else 1.0


def recall_bounds(
    mean: float, n_queries: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Bounds of the mean over all queries, from the mean over a random sample of them.

    All m with n KL(mean || m) <= ln(2 / (1 - confidence)), KL being the divergence of two coins
    (Hoeffding 1963, theorem 1; theorem 4 for sampling without replacement). They hold for any
    values between 0 and 1 and any n, unlike a binomial interval, which would take the k
    neighbours of one query for independent.
    """
    room = math.log(2 / (1 - confidence)) / n_queries
    return _farthest(mean, 0.0, room), _farthest(mean, 1.0, room)


def _farthest(mean: float, end: float, room: float) -> float:
    """The m between `mean` and `end` whose divergence uses up `room`, rounded outwards."""
    near, far = mean, end
    for _ in range(_STEPS):
        middle = (near + far) / 2
        if _divergence(mean, middle) <= room:
            near = middle
        else:
            far = middle
    return far


def _divergence(p: float, q: float) -> float:
    """KL(p || q) of two coins, in nats."""
    terms = ((p, q), (1 - p, 1 - q))
    if any(a > 0 and b <= 0 for a, b in terms):
        return math.inf
    return sum(a * math.log(a / b) for a, b in terms if a > 0)
