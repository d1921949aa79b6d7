"""Which pairs of user and item a version is asked to score."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from jobs.datasets import CANDIDATES, CTR_SCORES, SPLITS
from jobs.errors import JobError, NotAvailable, SourceError
from jobs.files import sha256_file
from jobs.home import Home
from jobs.score import candidates
from jobs.score.candidates import asked_users, best_items, seen_pairs
from tests.conftest import DAY
from tests.report import tiny_night
from tests.report.tiny_night import COLD_ITEM, COLD_USER, N_ITEMS, N_USERS
from tests.score.nights import choose, score
from tests.score.test_cold_users import TASTE


def chosen(home: Home) -> pa.Table:
    return pq.read_table(home.output(CANDIDATES, DAY), partitioning=None)


def numbers(ids: pa.ChunkedArray) -> list[int]:
    """Undoes `tiny_night.ids`."""
    return [int(n[2:]) if isinstance(n, str) else (n - 5) // 10 for n in ids.to_pylist()]


def seen_by_user(home: Home) -> dict[int, set[int]]:
    rows = pq.read_table(home.output(SPLITS, DAY), partitioning=None)
    seen: dict[int, set[int]] = {}
    for user, item in zip(numbers(rows["user_id"]), numbers(rows["item_id"]), strict=True):
        seen.setdefault(user, set()).add(item)
    return seen


# -- rows of splits --------------------------------------------------------------------------------


def test_rows_of_splits_are_carried_as_they_are(home):
    _, version = tiny_night.prepare(home, DAY)
    outcome = choose(home, version)
    rows = chosen(home)
    wanted = pq.read_table(home.output(SPLITS, DAY), partitioning=None)
    wanted = wanted.filter(pc.not_equal(wanted["split"], "train"))
    assert rows.select(wanted.column_names).sort_by("split").equals(wanted.sort_by("split"))
    assert set(rows["version"].to_pylist()) == {version}
    assert outcome.manifest.result["rows"] == rows.num_rows == 400


def test_only_the_splits_that_are_asked_for_are_taken(home):
    _, version = tiny_night.prepare(home, DAY)
    choose(home, version, splits="test")
    assert set(chosen(home)["split"].to_pylist()) == {"test"}
    with pytest.raises(JobError, match="there is no split 'tset'"):
        choose(home, version, splits="valid,tset")


def test_a_day_without_rows_to_score_has_no_candidates(home):
    _, version = tiny_night.prepare(home, DAY, without=("valid", "test"))
    assert choose(home, version).manifest.result["rows"] == 0


def test_rerunning_changes_no_byte_and_another_version_makes_other_rows(home):
    truth, version = tiny_night.prepare(home, DAY)
    choose(home, version)
    first = sha256_file(home.output(CANDIDATES, DAY))
    assert choose(home, version).status == "unchanged"
    other = tiny_night.publish(home, DAY, truth, as_text=False, run_key="two")
    choose(home, other)
    assert sha256_file(home.output(CANDIDATES, DAY)) != first
    choose(home, version)
    assert sha256_file(home.output(CANDIDATES, DAY)) == first


def test_a_version_that_is_not_there_is_named(home):
    tiny_night.prepare(home, DAY)
    with pytest.raises(NotAvailable, match="no version 42"):
        choose(home, 42)


# -- the best items of users -----------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [False, True], ids=["integer ids", "string ids"])
def test_top_k_are_the_unseen_items_with_the_highest_planted_logits(home, as_text):
    truth, version = tiny_night.prepare(home, DAY, as_text=as_text)
    # Whoever has seen all but a few items is not what is tested here.
    outcome = choose(home, version, of="top_k", k=3)
    rows = chosen(home)
    seen = seen_by_user(home)
    found: dict[int, list[int]] = {}
    for user, item in zip(numbers(rows["user_id"]), numbers(rows["item_id"]), strict=True):
        found.setdefault(user, []).append(item)
    n_candidates = 0
    for user in range(N_USERS):
        unseen = [item for item in range(COLD_ITEM) if item not in seen.get(user, set())]
        logits = truth.logits(np.full(len(unseen), user), np.array(unseen, int))
        best = [unseen[place] for place in np.argsort(-logits, kind="stable")[:3]]
        assert found.get(user, []) == best
        n_candidates += len(best)
    assert rows.num_rows == n_candidates == outcome.manifest.result["rows"]
    assert rows["row"].to_pylist() == list(range(n_candidates))


def test_what_nobody_knows_of_a_proposed_row_is_left_open(home):
    _, version = tiny_night.prepare(home, DAY)
    choose(home, version, of="top_k", k=2, exclude_seen=False)
    rows = chosen(home)
    assert rows.num_rows == 2 * N_USERS
    assert set(rows["split"].to_pylist()) == {"top_k"}
    assert set(rows["label"].to_pylist()) == {None}
    assert set(rows["rated_at"].to_pylist()) == {datetime(DAY.year, DAY.month, DAY.day)}
    assert set(rows["history_end"].to_pylist()) == {0}
    is_warm = dict(zip(numbers(rows["user_id"]), rows["is_warm"].to_pylist(), strict=True))
    assert not is_warm.pop(COLD_USER)
    assert all(is_warm.values())


def test_a_score_of_a_proposed_row_is_the_logit_that_proposed_it(home):
    truth, version = tiny_night.prepare(home, DAY)
    choose(home, version, of="top_k", k=N_ITEMS, exclude_seen=False)
    score(home, version)
    scores = pq.read_table(home.output(CTR_SCORES, DAY), partitioning=None)
    users, items = numbers(scores["user_id"]), numbers(scores["item_id"])
    expected = truth.logits(np.array(users), np.array(items))
    assert scores["logit"].to_numpy() == pytest.approx(expected, abs=1e-5)
    for user in range(N_USERS):
        own = scores["logit"].to_numpy()[np.array(users) == user]
        assert (np.diff(own) <= 0).all()
    assert scores["label"].null_count == scores.num_rows == N_USERS * COLD_ITEM


def test_scores_of_another_version_s_candidates_are_refused(home):
    truth, version = tiny_night.prepare(home, DAY)
    other = tiny_night.publish(home, DAY, truth, as_text=False, run_key="two")
    choose(home, version, of="top_k")
    with pytest.raises(NotAvailable, match=f"those of version {version}, and version {other} is"):
        score(home, other)
    assert not home.output(CTR_SCORES, DAY).exists()


def test_users_are_drawn_by_a_seed_or_named_by_a_list(home, tmp_path):
    _, version = tiny_night.prepare(home, DAY)

    def users(**fields: object) -> list[int]:
        choose(home, version, of="top_k", k=1, exclude_seen=False, **fields)
        return numbers(chosen(home)["user_id"])

    drawn = users(n_users=5)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 5
    assert users(n_users=5, seed=1) != drawn
    assert users(n_users=5) == drawn
    path = tmp_path / "users.parquet"
    pq.write_table(
        pa.table({"user_id": tiny_night.ids("u", np.array([7, 3]), as_text=False)}), path
    )
    assert users(users=path) == [3, 7]
    pq.write_table(pa.table({"user_id": [999]}), path)
    with pytest.raises(
        NotAvailable, match="1 of 1 users of the list are unknown that day, for instance 999"
    ):
        users(users=path)
    path.write_text("user_id\n7\n")
    with pytest.raises(SourceError, match="no list of users can be read"):
        users(users=path)


def test_a_list_with_ids_of_another_type_is_refused():
    with pytest.raises(NotAvailable, match="user ids as string, the warehouse as int64"):
        asked_users(pa.array([1, 2]), pa.array(["1"]), 0, 0)


def test_negatives_that_were_drawn_were_never_seen():
    splits = pa.table({"user_id": [1, 1], "item_id": [10, 20], "label": [1, 0]})
    assert seen_pairs(splits, "rating")["item_id"].to_pylist() == [10, 20]
    assert seen_pairs(splits, "implicit")["item_id"].to_pylist() == [10]


# -- cold users, and an index ----------------------------------------------------------------------


@pytest.fixture
def searchable(home, tmp_path):
    """User 7 at (1, 1); items 10 at (1, 0) and 20 at (0, 2), and many that nobody wants."""
    from safetensors.numpy import save_file

    n_dull = 300
    random = np.random.default_rng(0)
    vectors = np.vstack([[[1, 0], [0, 2]], random.normal(0, 0.01, (n_dull, 2))]).astype(np.float32)
    ids = [10, 20, *range(100, 100 + n_dull)]

    def table(key: str, keys: list[int], matrix: np.ndarray, bias: list[float]) -> pa.Table:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), 2)
        return pa.table({key: keys, "factor": lists, "bias": pa.array(bias, pa.float32())})

    taste = type(TASTE)(3 * np.eye(len(ids), 2, dtype=np.float32), 1.0, 50)
    save_file(taste.tensors(), tmp_path / "projectors.safetensors")
    user = np.ones((1, 2), np.float32)
    store = EmbeddingStore(home.store)
    number = store.publish(
        {
            "user_factors": TableSpec(
                table("user_id", [7], user, [0.5]), key="user_id", vector="factor"
            ),
            "item_factors": TableSpec(
                table("item_id", ids, vectors, [0.25, -0.25, *[-1.0] * n_dull]),
                key="item_id",
                vector="factor",
            ),
        },
        run_key="one",
        day=str(DAY),
        space={},
        files={"projectors.safetensors": tmp_path / "projectors.safetensors"},
        indexes=[IndexSpec(table="item_factors", metric="inner_product", bias="bias")],
        attributes={"global_bias": 0.125},
    )
    with store.open(number) as version:
        yield version


def best(version, users: list[int], ends: list[int], k: int, **given: object) -> list[list[int]]:
    asked = pa.table({"user_id": users, "history_end": pa.array(ends, pa.int32())})
    lists = {7: [20, 20], 8: [10, 20], 9: []}
    histories = pa.table({"user_id": list(lists), "item_ids": list(lists.values())})
    found = best_items(version, asked, histories, k, **{"seen": None, **given})
    return [found.filter(pc.equal(found["user_id"], user))["item_id"].to_pylist() for user in users]


@pytest.mark.parametrize("exact", [False, True], ids=["by the index", "exact"])
def test_a_cold_user_is_proposed_what_suits_his_history(searchable, exact):
    # 7 knows (1, 1): item 20 gives 1 * 2 - .25, item 10 gives 1 + .25. Of 8 only item 10 is seen
    # at first: (3, 0) / 2, so 10 leads; then (3, 3) / 3, as 7. 9 has no history: biases alone.
    first = best(searchable, [7, 8, 9], [2, 1, 0], 2, exact=exact)
    assert first == [[20, 10], [10, 20], [10, 20]]
    assert best(searchable, [8], [2], 2, exact=exact) == [[20, 10]]


def test_what_was_seen_makes_room_for_the_next_best(searchable):
    seen = pa.table({"user_id": [7, 7, 9, 55], "item_id": [20, 4444, 10, 20]})
    found = best(searchable, [7, 8, 9], [2, 1, 0], 1, seen=seen)
    assert found == [[10], [10], [20]]


def test_users_are_searched_for_in_parts_of_bounded_size(searchable, monkeypatch):
    seen = pa.table({"user_id": [7] * 40, "item_id": [20, *range(100, 139)]})
    whole = best(searchable, [7, 8, 9], [2, 1, 0], 3, seen=seen)
    monkeypatch.setattr(candidates, "_AT_ONCE", 1)
    assert best(searchable, [7, 8, 9], [2, 1, 0], 3, seen=seen) == whole


def test_a_version_without_factors_proposes_nothing(home):
    tiny_night.prepare(home, DAY)
    store = EmbeddingStore(home.store)
    version = store.publish(
        {"items": TableSpec(pa.table({"item_id": [1]}), key="item_id")}, run_key="k", day=DAY
    )
    with pytest.raises(NotAvailable, match="no table user_factors"):
        choose(home, version, of="top_k")
