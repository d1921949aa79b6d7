"""Gates: each planted fault is refused by the gate that is for it, and a healthy night by none."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reviewed import DIM, PLAN, N, failed, planted, publish_reviewed, rotation
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store.blobs import PosixBlobs
from embedding_store.certificate import certify, query_recalls, recall_bounds
from embedding_store.errors import BadInput, DayGoesBackwards, GatesFailed, VersionNotFound
from embedding_store.gates import Thresholds, mean_cosine
from embedding_store.lookup import previous_version
from embedding_store.review import Review

USERS, ITEMS = planted(10, 40), planted(11)
TURN = rotation(20)


@pytest.fixture
def store(tmp_path):
    """A first version, in production."""
    assert publish_reviewed(tmp_path / "store", "v1", USERS, ITEMS) == 1
    store = EmbeddingStore(tmp_path / "store")
    store.promote(1, "production", reason="first", actor="tester")
    return store


# -- which gate ----------------------------------------------------------------------------------


def test_the_first_version_fails_no_gate_for_lack_of_one_before_it(store):
    manifest = store.open(1).manifest
    assert manifest.refused == []
    assert manifest.reviewed_against is None
    compared = [gate for gate in manifest.gates if gate.name.startswith(("coverage", "overlap"))]
    assert {(gate.value, gate.says) for gate in compared} == {(None, "no version to compare with")}
    assert store.alias_log("production")[0].gates == manifest.gates


def test_a_night_that_turned_and_moved_a_little_passes(store):
    users, items = (
        (old + 0.02 * planted(30, len(old))) @ TURN for old in (USERS, np.delete(ITEMS, 7, axis=0))
    )
    ids = [n for n in range(N) if n != 7]
    plan = replace(PLAN, catalogue=None)
    version = publish_reviewed(store.root, "v2", users, items, ids=ids, beside=1, plan=plan)
    assert failed(store, version) == set()
    gates = {gate.name: gate for gate in store.open(version).manifest.gates}
    assert gates["coverage.items"].value == pytest.approx((N - 1) / N)
    assert gates["coverage.items"].says == "holds 59 of 60 ids of version 1"
    assert gates["overlap.items"].value > 0.8
    assert gates["mean_shift.items"].value < 0.03
    assert store.open(version).manifest.reviewed_against == 1
    assert store.promote(version, "production", reason="gates", actor="tester").version == version


def everything_longer(users, items):
    return users * 50, items * 50


def shuffled(users, items):
    return users, np.random.default_rng(0).permutation(items)


def half_the_users(users, items):
    return users[:20], items


def moved_away(users, items):
    return users, items + 9 * np.eye(DIM)[0]


def collapsed(users, items):
    return users, np.ones_like(items) + 1e-3 * items


def one_runaway(users, items):
    return users, np.vstack([items[:-1], 1e5 * items[-1:]])


def mostly_zero(users, items):
    return users * (np.arange(len(users)) < 10)[:, None], items


@pytest.mark.parametrize(
    ("spoil", "gates"),
    [
        (everything_longer, {"norm_shift.users", "norm_shift.items"}),
        (shuffled, {"overlap.items"}),
        (half_the_users, {"coverage.users"}),
        (moved_away, {"mean_shift.items"}),
        (collapsed, {"collapse.items"}),
        (one_runaway, {"norms.items"}),
        (mostly_zero, {"zero.users"}),
    ],
)
def test_each_fault_is_refused_by_its_gate_and_production_stays(store, spoil, gates):
    users, items = spoil(USERS, ITEMS)
    version = publish_reviewed(store.root, "v2", users, items, beside=1)
    assert gates <= failed(store, version)
    with pytest.raises(GatesFailed, match=f"version 2 was refused .*{min(gates)}"):
        store.promote(version, "production", reason="gates", actor="tester")
    assert store.aliases() == {"production": 1}
    assert store.open(version)["items"].vectors == pytest.approx(items, rel=1e-6)  # readable
    assert [one.refused != () for one in store.versions()] == [False, True]
    assert store.verify() == []


def test_ids_that_the_catalogue_has_and_a_table_has_not_are_missed(store):
    tables = {
        "items": TableSpec(vector_rows(range(N), ITEMS), "item_id", "vector"),
        "texts": TableSpec(vector_rows(range(N // 2), ITEMS[: N // 2]), "item_id", "vector"),
    }
    plan = replace(PLAN, groups={}, queries={})
    version = publish_reviewed(store.root, "v2", USERS, ITEMS, tables=tables, plan=plan)
    assert failed(store, version) == {"catalogue.texts"}


def test_a_refused_version_can_be_promoted_only_on_purpose(store):
    version = publish_reviewed(store.root, "v2", *collapsed(USERS, ITEMS), beside=1)
    entry = store.promote(
        version, "production", reason="known and wanted", actor="tester", despite_gates=True
    )
    assert (entry.version, any(not gate.passed for gate in entry.gates)) == (version, True)


def test_a_group_may_have_a_bound_of_its_own(store):
    lenient = replace(PLAN, min_overlap={"factors": 0.0})
    version = publish_reviewed(store.root, "v2", *shuffled(USERS, ITEMS), beside=1, plan=lenient)
    assert failed(store, version) == set()


def test_another_model_is_said_and_not_refused(store):
    other = {"space": {"space_id": "another model"}}
    version = publish_reviewed(store.root, "v2", *shuffled(USERS, ITEMS), beside=1, **other)
    gates = {gate.name: gate for gate in store.open(version).manifest.gates}
    assert gates["overlap.items"].passed
    assert "not comparable: the spaces differ: space_id" in gates["overlap.items"].says


def test_mean_cosine_is_that_of_all_pairs():
    vectors = np.array([(2.0, 0), (0, 3), (1, 0), (0, 0)])
    # cosines of the three pairs of non-zero rows: 0, 1, 0
    assert mean_cosine(vectors, np.linalg.norm(vectors, axis=1)) == pytest.approx(1 / 3)


# -- when ----------------------------------------------------------------------------------------


def publish_small(root, reviewer, key="run"):
    table = TableSpec(vector_rows([1, 2], np.eye(2)), "item_id", "vector", "cosine")
    return EmbeddingStore(root).publish(
        {"table": table}, run_key=key, day="2026-03-01", review=reviewer
    )


def test_the_review_reads_the_written_bytes_before_anything_is_decided(tmp_path):
    root, seen = tmp_path / "store", []

    def reviewer(candidate):
        seen.append(candidate["table"].vectors.tolist())
        assert candidate["table"].search(ids=[1])["id"].to_pylist() == [2]
        assert not (root / "intents").exists()
        assert not (root / "versions").exists()
        for part in candidate["table"].parts:
            assert Path(part).is_file()
        return Review()

    assert publish_small(root, reviewer) == 1
    assert publish_small(root, reviewer) == 1  # decided: nobody looks again
    assert seen == [[[1, 0], [0, 1]]]


def test_a_review_that_dies_leaves_nothing_decided_and_the_retry_reviews_afresh(tmp_path):
    root = tmp_path / "store"

    def dies(candidate):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        publish_small(root, dies)
    assert EmbeddingStore(root).versions() == []
    assert publish_small(root, lambda candidate: Review()) == 1


class Died(BaseException):
    """As if the process had been killed."""


@pytest.mark.parametrize("is_written", [False, True], ids=["before the file", "after the file"])
def test_a_reviewed_publication_that_dies_at_any_file_is_mended_by_its_retry(
    store, tmp_path, monkeypatch, is_written
):
    users, items = USERS @ TURN, ITEMS @ TURN
    creating, count = PosixBlobs.creating, {"n": 0, "at": 0}

    @contextmanager
    def dying(blobs, name):
        count["n"] += 1
        dies = count["n"] == count["at"]
        if dies and not is_written:
            raise Died
        try:
            with creating(blobs, name) as path:
                yield path
        finally:  # also if the name was taken
            if dies:
                raise Died

    monkeypatch.setattr(PosixBlobs, "creating", dying)
    while True:
        count |= {"n": 0, "at": count["at"] + 1}
        root = tmp_path / f"died at {count['at']}"
        shutil.copytree(store.root, root)
        try:
            publish_reviewed(root, "v2", users, items, beside=1)
            break
        except Died:
            assert [one.version for one in EmbeddingStore(root).versions()] in ([1], [1, 2])
        count["at"], stopped = 0, count["at"]
        assert publish_reviewed(root, "v2", users, items, beside=1) == 2
        count["at"] = stopped
        mended = EmbeddingStore(root)
        assert mended.verify() == []
        assert mended.open(2)["items"].map_to(1) == pytest.approx(ITEMS, abs=1e-5)
        assert mended.open(2).manifest.reviewed_against == 1
    assert count["at"] > 10


def test_what_was_refused_stays_refused_when_an_id_is_erased_from_it(store):
    publish_reviewed(store.root, "v2", *collapsed(USERS, ITEMS), beside=1)
    store.erase("items", 5, reason="asked to", actor="tester")
    newest = store.versions()[-1].version
    assert newest > 2
    assert "collapse.items" in failed(store, newest)


def test_without_a_review_nothing_is_refused(tmp_path):
    assert publish_small(tmp_path / "store", None) == 1
    store = EmbeddingStore(tmp_path / "store")
    assert store.open(1).manifest.gates == []
    assert store.promote(1, "production", reason="r", actor="a").gates == []


# -- recall --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def approximate(tmp_path_factory):
    """An index that looks at one list of 64, so that it misses many; and each query's recall."""
    root = tmp_path_factory.mktemp("recall") / "store"
    vectors = planted(1, 3_000, 12)
    spec = IndexSpec("items", "cosine", "ivf-sq8", lists=64, nprobe=1)
    table = TableSpec(vector_rows(range(3_000), vectors), "item_id", "vector")
    EmbeddingStore(root).publish({"items": table}, run_key="r", day="2026-03-01", indexes=[spec])
    version = EmbeddingStore(root).open(1)
    items = version["items"]
    return version, query_recalls(items, items, np.arange(3_000), 10)


def test_a_stated_interval_holds_the_recall_over_all_queries(approximate):
    _, recalls = approximate
    truth = recalls.mean()
    assert 0.05 < truth < 0.95
    n_samples = int(os.environ.get("TIDEMARK_RECALL_SAMPLES", "100"))
    held = 0
    for seed in range(n_samples):
        sample = np.random.default_rng(1_000 + seed).choice(len(recalls), 200, replace=False)
        low, high = recall_bounds(float(recalls[sample].mean()), 200)
        held += low <= truth <= high
        assert high - low < 0.25
    assert held >= 0.95 * n_samples


def test_a_certificate_is_the_mean_over_its_sample(approximate):
    version, recalls = approximate
    found = certify(version, "items", n_queries=150, seed=5)
    sample = np.random.default_rng(5).choice(3_000, 150, replace=False)
    assert found.recall == pytest.approx(recalls[sample].mean())
    assert (found.low, found.high) == recall_bounds(found.recall, 150)
    assert (found.k, found.n_queries, found.n_rows, found.seed) == (10, 150, 3_000, 5)
    everything = certify(version, "items", n_queries=5_000)
    assert everything.low == everything.recall == everything.high == recalls.mean()


def test_bounds_have_their_closed_forms():
    # KL(1 || m) = -ln m, so the lower bound of a perfect sample is (alpha / 2) ** (1 / n).
    low, high = recall_bounds(1.0, 400)
    assert (low, high) == (pytest.approx(0.005 ** (1 / 400)), 1.0)
    low, high = recall_bounds(0.0, 400)
    assert (low, high) == (0.0, pytest.approx(1 - 0.005 ** (1 / 400)))
    low, high = recall_bounds(0.5, 100)
    assert low == pytest.approx(1 - high)
    assert 2 * (0.5 - low) ** 2 < np.log(200) / 100  # inside Pinsker's bound


def test_an_index_that_misses_too_much_is_refused(tmp_path):
    vectors = planted(1, 3_000, 12)
    spec = IndexSpec("items", "inner_product", "ivf-sq8", lists=64, nprobe=1)
    version = publish_reviewed(tmp_path / "store", "v1", vectors[:100], vectors, indexes=[spec])
    store = EmbeddingStore(tmp_path / "store")
    assert failed(store, version) == {"recall.items"}
    certificate = store.open(version).manifest.index_of("items").certificate
    assert certificate.queries == "users"
    assert certificate.low <= certificate.recall < Thresholds().min_recall


# -- aliases -------------------------------------------------------------------------------------


@pytest.fixture
def nights(tmp_path):
    """Four days, all promoted but the third, which is refused; the fifth is a backfill."""
    root = tmp_path / "store"
    store = EmbeddingStore(root)
    for number, day in enumerate((1, 2, 3, 4), start=1):
        items = collapsed(USERS, ITEMS)[1] if number == 3 else ITEMS
        publish_reviewed(root, f"v{number}", USERS, items, day=f"2026-03-0{day}")
        if number != 3:
            store.promote(number, "production", reason=f"night {day}", actor="nightly")
    publish_reviewed(root, "v5", USERS, ITEMS, day="2026-03-02")
    return store


def test_last_night_is_the_highest_day_before_that_passed(nights):
    found = {day: previous_version(nights.root, f"2026-03-0{day}") for day in range(1, 7)}
    assert found == {1: None, 2: 1, 3: 5, 4: 5, 5: 4, 6: 4}


def test_without_a_store_there_is_no_last_night(tmp_path):
    assert previous_version(tmp_path / "nowhere", "2026-03-02") is None
    with pytest.raises(BadInput, match="write it as YYYY-MM-DD"):
        previous_version(tmp_path / "nowhere", "yesterday")


def test_a_version_is_compared_with_what_it_would_replace(nights):
    assert nights.before("production", "2026-03-04") == 4
    assert nights.before("production", "2026-03-05") == 4
    assert nights.before("production", "2026-03-03") == 2  # a backfill: what stood then
    assert nights.before("production", "2026-02-28") is None
    assert nights.before("staging", "2026-03-04") is None


def test_a_rollback_goes_to_the_version_before_by_a_further_entry(nights):
    entry = nights.rollback("production", reason="neighbours look odd", actor="someone")
    assert (entry.version, entry.prev.version, entry.sequence) == (2, 4, 4)
    assert nights.aliases() == {"production": 2}
    assert [one.version for one in nights.alias_log("production")] == [1, 2, 4, 2]
    assert nights.rollback("production", reason="after all not", actor="someone").version == 4
    assert nights.rollback("production", reason="far", actor="someone", version=1).version == 1
    assert nights.verify() == []


def test_a_promotion_does_not_do_what_a_rollback_does(nights):
    with pytest.raises(DayGoesBackwards):
        nights.promote(2, "production", reason="back", actor="someone")


def test_a_rollback_needs_an_alias_another_version_a_reason_and_passed_gates(nights):
    with pytest.raises(VersionNotFound, match="no alias 'staging'"):
        nights.rollback("staging", reason="r", actor="a")
    nights.promote(1, "staging", reason="r", actor="a")
    with pytest.raises(VersionNotFound, match="never named another version than 1"):
        nights.rollback("staging", reason="r", actor="a")
    with pytest.raises(BadInput, match="names version 4 already"):
        nights.rollback("production", reason="r", actor="a", version=4)
    with pytest.raises(BadInput, match="reason '' is empty"):
        nights.rollback("production", reason="", actor="a")
    with pytest.raises(GatesFailed, match=r"collapse\.items"):
        nights.rollback("production", reason="r", actor="a", version=3)
    forced = nights.rollback("production", reason="r", actor="a", version=3, despite_gates=True)
    assert forced.version == 3
