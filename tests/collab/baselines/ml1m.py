"""The published split of MovieLens-1M as evidence, without item embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from jobs.collab.systems import Catalogue, Evidence, Histories, Labelled, Requests
from tests.collab.baselines.planted_bench import Bench


def published(folder: Path) -> Bench:
    """Train, valid and test rows in order of time; nobody has a history."""
    table = pq.read_table(folder / "reference_split.parquet").sort_by("timestamp")
    ids = [table[name].to_numpy() for name in ("user_id", "item_id")]
    users, items = (np.unique(each, return_inverse=True)[1].astype(np.int64) for each in ids)
    times = table["timestamp"].to_numpy() * 1_000_000
    requests = Requests(users, items, times, np.zeros_like(users))
    rows = Labelled(requests, table["label"].to_numpy().astype(np.float32))
    split = table["split"].to_numpy()
    train, valid, test = (rows.at(split == name) for name in ("train", "valid", "test"))
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    catalogue = Catalogue(
        n_users,
        n_items,
        semantics=np.zeros((n_items, 1), np.float32),
        groups=np.arange(n_items),
        codes=np.zeros((n_items, 1), np.int64),
    )
    nothing = np.zeros(0, np.int64)
    histories = Histories(nothing, nothing, np.zeros(n_users + 1, np.int64))
    return Bench(Evidence(catalogue, histories, train, valid), test)
