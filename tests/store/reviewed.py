"""Publications with a review, small enough to know what it must say."""

from __future__ import annotations

import numpy as np
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store.gates import ReviewPlan, Thresholds, review

N, DIM = 60, 6
PLAN = ReviewPlan(
    thresholds=Thresholds(),
    catalogue="items",
    groups={"factors": ("users", "items")},
    queries={"items": "users"},
)
SPACE = {"space_id": "planted"}


def planted(seed, n=N, dim=DIM):
    """(n, dim) normal vectors."""
    return np.random.default_rng(seed).normal(size=(n, dim))


def rotation(seed, dim=DIM):
    """A random orthogonal matrix."""
    q, r = np.linalg.qr(planted(seed, dim, dim))
    return q * np.sign(np.diag(r))


def publish_reviewed(
    root, key, users, items, *, day="2026-03-01", beside=None, plan=PLAN, ids=None, **changes
):
    """Users and items of one factorisation, reviewed beside a version."""
    store = EmbeddingStore(root)
    ids = range(len(items)) if ids is None else ids

    def reviewer(candidate):
        return review(candidate, store.open(beside) if beside else None, plan)

    wanted = {
        "tables": {
            "users": TableSpec(
                vector_rows(range(len(users)), users, "user_id"), "user_id", "vector"
            ),
            "items": TableSpec(vector_rows(ids, items), "item_id", "vector"),
        },
        "indexes": [IndexSpec("items", metric="inner_product")],
        "space": SPACE,
        **changes,
    }
    return store.publish(wanted.pop("tables"), run_key=key, day=day, review=reviewer, **wanted)


def failed(store, version):
    """Names of the gates that a version did not pass."""
    return {gate.name for gate in store.open(version).manifest.refused}
