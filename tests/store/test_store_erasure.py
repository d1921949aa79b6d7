"""An id out of every version, with a proof; and what the erasure must not touch."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store.errors import BadInput, Corrupted, IdNotFound, TableNotFound, VersionExpired
from embedding_store.garbage import Policy

USERS = ["user-0001@example.org", "user-0002@example.org", "user-0003@example.org"]
GONE = USERS[1]


def publish(store, number, users=USERS, shift=0.0):
    """Users with factors, their profiles, and items that no user is part of."""
    source = Path(store.root).with_name("projectors")
    source.write_bytes(bytes(range(256)))
    factors = np.random.default_rng(number).normal(size=(3, 8)).astype(np.float32) + shift
    return store.publish(
        {
            "user_factors": TableSpec(vector_rows(users, factors, "user_id"), "user_id", "vector"),
            "notes": TableSpec(
                pa.table({"note": [1, 2, 3], "user_id": users, "text": ["a", "b", None]}), "note"
            ),
            "items": TableSpec(vector_rows([7, 8], np.eye(2), "item_id"), "item_id", "vector"),
        },
        run_key=f"night-{number}",
        day=f"2026-03-0{number}",
        space={"space_id": "planted"},
        files={"projectors.safetensors": source},
        indexes=[IndexSpec("user_factors", metric="cosine")],
        attributes={"global_bias": 0.25},
    )


@pytest.fixture
def store(tmp_path):
    """Two versions with all three users, and a third without the second one."""
    store = EmbeddingStore(tmp_path / "store")
    store.initialise(lease_ttl_s=100, grace_s=0)
    publish(store, 1)
    publish(store, 2)
    publish(store, 3, [USERS[0], "user-0009@example.org", USERS[2]])
    store.promote(2, "production", reason="nightly", actor="nightly")
    store.promote(1, "pinned", reason="a paper", actor="tester")
    return store


def erase(store, id=GONE, table="user_factors", **named):
    return store.erase(table, id, reason="asked to", actor="officer", skew_s=0, **named)


def test_an_erased_id_is_in_no_version_and_aliases_name_versions_without_it(store):
    before = store.open(2)["user_factors"].vectors_of([USERS[0]])
    erasure = erase(store)
    assert (erasure.state, erasure.superseded) == ("proved", {1: 4, 2: 5})
    assert store.aliases() == {"pinned": 4, "production": 5}
    assert [one.state for one in store.versions()] == ["deleted", "deleted", "live", "live", "live"]
    night = store.open("production")
    assert (night.day, night.attributes) == ("2026-03-02", {"global_bias": 0.25})
    assert night["user_factors"].ids.to_pylist() == [USERS[0], USERS[2]]
    assert (night["user_factors"].vectors_of([USERS[0]]) == before).all()
    assert night["notes"].table()["note"].to_pylist() == [1, 3]
    assert night["items"].ids.to_pylist() == [7, 8]
    found = night["user_factors"].search(np.ones(8), k=10)["id"].to_pylist()
    assert sorted(found) == [USERS[0], USERS[2]]
    with pytest.raises(VersionExpired, match="version 5 supersedes it"):
        store.open(2)
    assert store.verify() == []
    assert night.manifest.supersedes.version == 2
    assert store.alias_log("production")[-1].actor == "officer"


def test_no_byte_of_the_erased_rows_is_left_in_any_data_file(store):
    vectors = [store.open(n)["user_factors"].vectors_of([GONE]).tobytes() for n in (1, 2)]
    files = [path for path in (Path(store.root) / "data").rglob("*") if path.is_file()]
    assert any(vectors[0] in path.read_bytes() for path in files)
    assert any(GONE.encode() in path.read_bytes() for path in files)
    erase(store)
    files = [path for path in (Path(store.root) / "data").rglob("*") if path.is_file()]
    for path in files:
        for needle in (*vectors, GONE.encode()):
            assert needle not in path.read_bytes()


def test_the_proof_names_every_file_that_is_left_with_its_hash(store):
    erasure = erase(store)
    proof = json.loads((Path(store.root) / erasure.why).read_bytes())
    assert (proof["id"], proof["reason"], proof["actor"]) == (GONE, "asked to", "officer")
    left = {file.path: file.sha256 for n in (3, 4, 5) for file in store.open(n).manifest.files}
    assert proof["decoded"] == left
    assert proof["scanned"] == sorted(left)
    assert proof["n_needles"] == 3  # two vectors and the id itself
    assert proof["superseded"] == {"1": 4, "2": 5}
    assert proof["not_looked_at"] == []


def test_no_document_of_the_store_names_an_erased_id_but_the_request_and_its_proof(store):
    """Manifests and decisions stay for ever, so they hold no ids, not even as bounds of a file."""
    erase(store)
    root = Path(store.root)
    naming = {
        path.relative_to(root).parts[0]
        for path in root.rglob("*")
        if path.is_file() and GONE.encode() in path.read_bytes()
    }
    assert naming == {"erasures"}


def test_an_open_version_is_closed_to_new_readers_at_once_and_deleted_after_the_last_lease(store):
    reader = store.open(2)
    erasure = erase(store)
    assert erasure.state == "pending"
    assert "version 2: condemned; 1 readers still have it open" in erasure.why
    with pytest.raises(VersionExpired):
        store.open(2)
    with pytest.raises(VersionExpired):
        store.promote(2, "production", reason="back", actor="tester")
    assert len(reader["user_factors"].ids) == 3
    reader.close()
    assert [one.state for one in store.erasures(skew_s=0)] == ["proved"]
    assert store.erasures() == []


def test_a_reader_does_not_renew_its_lease_on_an_erased_version(store, monkeypatch):
    from embedding_store import leases
    from embedding_store.errors import LeaseLost

    clock = leases.clock
    reader = store.open(2)
    erase(store)
    monkeypatch.setattr(leases, "clock", lambda: clock() + 90)
    reader["user_factors"].table()
    monkeypatch.setattr(leases, "clock", lambda: clock() + 101)
    with pytest.raises(LeaseLost):
        reader["user_factors"].table()


def test_erasing_again_goes_on_and_never_makes_a_second_version_or_proof(store):
    with store.open(1):
        first = erase(store)
        assert erase(store).superseded == first.superseded == {1: 4, 2: 5}
    assert erase(store).state == "proved"
    with pytest.raises(IdNotFound):
        erase(store)
    assert len(store.versions()) == 5
    publish(store, 4)  # it is back, since the source still had it
    again = erase(store)
    assert (again.state, again.superseded) == ("proved", {6: 7})
    assert again.name != first.name


def test_gc_deletes_what_an_erasure_condemned_and_the_proof_follows(store):
    reader = store.open(1)
    erase(store)
    reader.close()
    outcomes = {one.what: one.done for one in store.gc(Policy(skew_s=0))}
    assert outcomes["version 1"] == "deleted"
    assert erase(store).state == "proved"


def test_an_id_that_another_row_shares_its_vector_with_can_be_erased(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    store.initialise(grace_s=0)
    store.publish(
        {"t": TableSpec(vector_rows(["a" * 9, "a" * 10], [[1, 2], [1, 2]], "k"), "k", "vector")},
        run_key="run",
        day="2026-03-01",
    )
    assert erase(store, "a" * 9, "t").state == "proved"
    assert store.open(2)["t"].ids.to_pylist() == ["a" * 10]


def test_a_table_that_held_nothing_else_is_left_out_and_a_version_is_only_condemned(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    store.initialise(grace_s=0)
    one = TableSpec(vector_rows([1], [[1, 2]], "k"), "k", "vector")
    two = TableSpec(pa.table({"other": [1]}), "other")
    store.publish({"t": one}, run_key="alone", day="2026-03-01")
    store.publish({"t": one, "u": two}, run_key="both", day="2026-03-01")
    store.promote(1, "production", reason="a test", actor="tester")
    with pytest.raises(BadInput, match="promote another version first"):
        erase(store, 1, "t")
    store.promote(2, "production", reason="a test", actor="tester")
    assert erase(store, 1, "t").superseded == {1: 0, 2: 3}
    assert list(store.open("production")) == ["u"]


def test_bytes_that_nothing_accounts_for_stop_the_proof(store):
    vector = store.open(1)["user_factors"].vectors_of([GONE]).tobytes()
    source = Path(store.root).with_name("leak.bin")
    source.write_bytes(b"..." + vector)
    store.publish(
        {"other": TableSpec(pa.table({"k": [1]}), "k")},
        run_key="leak",
        day="2026-03-01",
        files={"leak.bin": source},
    )
    with pytest.raises(Corrupted, match=r"leak\.bin: still holds bytes"):
        erase(store)


@pytest.mark.parametrize(
    ("table", "id", "error", "message"),
    [
        ("nothing", "a", TableNotFound, "no version has a table 'nothing'"),
        ("user_factors", "nobody", IdNotFound, "'nobody'"),
        ("user_factors", 7, BadInput, "ids of user_factors are string, not 7"),
        ("items", True, BadInput, "ids of items are int64, not True"),
    ],
)
def test_what_cannot_be_erased_is_refused_and_nothing_is_written(store, table, id, error, message):
    before = sorted(Path(store.root).rglob("*"))
    with pytest.raises(error, match=message):
        erase(store, id, table)
    assert sorted(Path(store.root).rglob("*")) == before
    with pytest.raises(BadInput, match="reason"):
        store.erase("user_factors", GONE, reason=" ", actor="officer")
    assert sorted(Path(store.root).rglob("*")) == before


def test_a_promotion_that_came_between_is_moved_too(store, monkeypatch):
    """Somebody points an alias at the old version just before it is condemned."""
    from embedding_store.fates import Fates

    move = Fates.move

    def promoted_before(self, fate, state, by, why):
        if by == "erase" and state == "condemned" and fate.version == 1:
            EmbeddingStore(store.root).promote(1, "late", reason="a test", actor="tester")
        return move(self, fate, state, by, why)

    monkeypatch.setattr(Fates, "move", promoted_before)
    erase(store)
    assert store.aliases() == {"late": 4, "pinned": 4, "production": 5}


def test_waiting_ends_when_the_last_lease_runs_out(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path / "store")
    store.initialise(lease_ttl_s=0.2, grace_s=0)
    publish(store, 1)
    lease = Path(store.root) / "leases" / f"{1:020d}"
    lease.mkdir(parents=True)
    (lease / "crashed.1.json").write_bytes(b"{}")
    os.utime(lease / "crashed.1.json", (time.time(),) * 2)
    assert erase(store, wait=True).state == "proved"
