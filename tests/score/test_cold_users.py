"""Users whom the version does not know are scored by the history that their row may see."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from embedding_store import EmbeddingStore, TableSpec
from embedding_store.lookup import Version, open_version
from jobs.collab.visible import HistoryTaste
from jobs.errors import NotAvailable
from jobs.score.ctr_scores import score_rows
from tests.conftest import DAY

TASTE = HistoryTaste(np.array([[3.0, 0], [0, 3]], np.float32), pseudo_counts=1.0, length=50)


def table(key: str, ids: list[int], vectors: list[list[float]], biases: list[float]) -> pa.Table:
    factor = pa.array(vectors, pa.list_(pa.float32(), 2))
    return pa.table({key: ids, "factor": factor, "bias": pa.array(biases, pa.float32())})


@pytest.fixture
def version(home, tmp_path) -> Version:
    from safetensors.numpy import save_file

    weights = tmp_path / "projectors.safetensors"
    save_file(TASTE.tensors(), weights)
    store = EmbeddingStore(home.store)
    users = table("user_id", [7], [[1, 1]], [0.5])
    items = table("item_id", [10, 20], [[1, 0], [0, 2]], [0.25, -0.25])
    number = store.publish(
        {
            "user_factors": TableSpec(users, key="user_id", vector="factor"),
            "item_factors": TableSpec(items, key="item_id", vector="factor"),
        },
        run_key="one",
        day=str(DAY),
        space={},
        files={weights.name: weights},
        attributes={"global_bias": 0.125},
    )
    return open_version(home.store, number)


def rows(users: list[int], items: list[int], ends: list[int]) -> pa.Table:
    n = len(users)
    return pa.table(
        {
            "split": ["test"] * n,
            "row": pa.array(range(n), pa.int32()),
            "user_id": users,
            "item_id": items,
            "label": pa.array([1] * n, pa.int8()),
            "history_end": pa.array(ends, pa.int32()),
            "is_warm": [False] * n,
        }
    )


HISTORIES = pa.table({"user_id": [7, 8, 9], "item_ids": [[20, 20], [10, 99, 20], []]})


def logits(version: Version, asked: pa.Table, histories: pa.Table | None) -> list[float]:
    return score_rows(asked, version, histories)[0]["logit"].to_pylist()


def test_a_cold_row_is_scored_by_the_history_that_it_may_see(version):
    # User 8 liked item 10, an item that the version does not know, and item 20.
    asked = rows([8, 8, 8, 9], [10, 10, 20, 10], [0, 1, 3, 0])
    nothing = 0.125 + 0.25
    one = nothing + 3 / 2  # (3, 0) / (1 + 1) times (1, 0)
    three = 0.125 - 0.25 + 3 / 4 * 2  # ((3, 0) + nothing + (0, 3)) / (3 + 1) times (0, 2)
    assert logits(version, asked, HISTORIES) == [nothing, one, three, nothing]


def test_a_user_that_the_version_knows_keeps_the_published_factor(version):
    asked = rows([7], [20], [2])
    assert logits(version, asked, HISTORIES) == [0.125 + 0.5 - 0.25 + 2]
    assert logits(version, asked, None) == logits(version, asked, HISTORIES)


def test_positives_behind_a_row_s_history_change_nothing(version):
    longer = pa.table({"user_id": [7, 8, 9], "item_ids": [[20], [10, 99, 20, 20, 20], [10]]})
    asked = rows([8, 9], [20, 10], [1, 0])
    assert logits(version, asked, longer) == logits(version, asked, HISTORIES)


def test_a_version_that_lost_an_item_since_it_was_fitted_is_refused(home, version):
    store = EmbeddingStore(home.store)
    store.erase("item_factors", 10, reason="a test", actor="tester")
    later = open_version(home.store, max(each.version for each in store.versions()))
    with pytest.raises(
        NotAvailable, match="places users by 2 items and holds 1: items were erased"
    ):
        logits(later, rows([8], [20], [1]), HISTORIES)
