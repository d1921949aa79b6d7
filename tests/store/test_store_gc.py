"""What gc keeps, what it waits for, and what a reader sees of it."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_workload import SHARP, facts, promote, publish, vector_rows

from embedding_store import EmbeddingStore, TableSpec, leases, open_version
from embedding_store.commit import Ledger
from embedding_store.errors import BadInput, Corrupted, Fenced, LeaseLost, VersionExpired
from embedding_store.fates import Fates
from embedding_store.garbage import Policy

DAY_S = 86_400


def aged(path, seconds):
    """Set a file's time back: the storage's clock is the time that it gives its files."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def slot(root, version):
    return Path(root) / "versions" / f"{version:020d}.json"


def marks(root, version):
    return sorted((Path(root) / "gc" / f"{version:020d}").glob("*.json"))


def lease_files(root, version):
    return sorted((Path(root) / "leases" / f"{version:020d}").glob("*.json"))


def said(outcomes):
    return {one.what: (one.done, one.why) for one in outcomes}


def done(outcomes):
    return {one.what: one.done for one in outcomes}


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory):
    """Three versions, the last in production after the second; leases of 100 s, grace of 50 s."""
    root = tmp_path_factory.mktemp("three") / "store"
    EmbeddingStore(root).initialise(lease_ttl_s=100, grace_s=50)
    for number in (1, 2, 3):
        publish(root, f"key-{number}", f"2026-03-0{number}", number)
    promote(root, 2)
    promote(root, 3)
    return root


@pytest.fixture
def root(three_versions, tmp_path):
    shutil.copytree(three_versions, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def store(root):
    return EmbeddingStore(root)


def condemned(store, version):
    """Condemn a version as gc does."""
    fates = Fates(store._blobs)
    assert fates.move(fates.of(version), "condemned", "gc", "a test")


# -- what is kept ----------------------------------------------------------------------------------


def test_gc_keeps_what_aliases_named_lately_what_is_young_what_is_open_and_the_newest(store, root):
    assert set(done(store.gc()).values()) == {"kept"}  # all young
    kept = said(store.gc(Policy(keep_last=2, younger_than_s=0)))
    assert kept["version 3"] == ("kept", "'production' names it")
    assert kept["version 2"] == ("kept", "'production' named it lately")
    assert kept["version 1"] == ("condemned", "no alias needs it and it is old")
    with store.open(2):
        kept = said(store.gc(SHARP))
        assert kept["version 2"] == ("kept", "1 readers have it open")
    publish(root, "key-4", "2026-03-04", 4)
    kept = said(store.gc(SHARP))
    assert kept["version 4"] == ("kept", "it is the newest")
    assert kept["version 2"][0] == "condemned"


def test_a_version_is_old_by_the_storages_clock_and_not_by_what_its_manifest_says(store, root):
    aged(slot(root, 1), 8 * DAY_S)
    aged(slot(root, 2), 6 * DAY_S)
    outcomes = said(store.gc(Policy(keep_last=1)))
    assert outcomes["version 1"][0] == "condemned"
    assert outcomes["version 2"] == ("kept", "it is 6.0 days old")


def test_a_dry_run_says_what_would_happen_and_changes_nothing(store, root):
    condemned(store, 2)
    for mark in marks(root, 2):
        aged(mark, 51)
    before = sorted(root.rglob("*"))
    assert done(store.gc(SHARP, dry_run=True)) == {
        "version 1": "condemned",
        "version 2": "deleted",
        "version 3": "kept",
    }
    assert sorted(root.rglob("*")) == before


def test_a_policy_that_would_condemn_what_an_alias_names_is_refused():
    with pytest.raises(BadInput, match="what an alias names is always kept"):
        Policy(keep_last=0)


# -- two steps -------------------------------------------------------------------------------------


def test_a_version_is_condemned_then_after_the_grace_period_deleted_and_its_number_stays(
    store, root
):
    assert done(store.gc(SHARP))["version 1"] == "condemned"
    with pytest.raises(VersionExpired, match="version 1 is condemned: no alias needs it"):
        store.open(1)
    assert "of its grace period are left" in said(store.gc(SHARP))["version 1"][1]
    aged(marks(root, 1)[0], 49)
    assert done(store.gc(SHARP))["version 1"] == "waiting"
    aged(marks(root, 1)[0], 51)
    n_folders = len(list((root / "data").iterdir()))
    assert done(store.gc(SHARP))["version 1"] == "deleted"
    assert len(list((root / "data").iterdir())) == n_folders - 1
    assert "version 1" not in done(store.gc(SHARP))
    with pytest.raises(VersionExpired, match="version 1 is deleted"):
        store.open(1)
    assert [one.state for one in store.versions()] == ["deleted", "condemned", "live"]
    assert store.verify() == []
    assert publish(root, "key-1") == 1  # a retry of the night that made it
    assert publish(root, "key-5") == 4


def test_the_collector_waits_for_a_reader_and_one_that_died_delays_it_by_its_lease(store, root):
    reader = store.open(1)
    condemned(store, 1)
    aged(marks(root, 1)[0], 51)
    assert said(store.gc(SHARP))["version 1"] == (
        "waiting",
        "condemned; 1 readers still have it open",
    )
    assert len(reader["item_semantics"].vectors_of([10])) == 1
    reader.close()
    assert lease_files(root, 1) == []
    with pytest.raises(LeaseLost, match="version 1 was closed"):
        reader["item_semantics"].vectors_of([10])

    died = root / "leases" / f"{1:020d}" / "another-host.1.json"
    died.write_bytes(b"{}")
    aged(died, 99)
    assert done(store.gc(SHARP))["version 1"] == "waiting"
    aged(died, 101)
    patient = Policy(keep_last=1, younger_than_s=0, skew_s=5)
    assert done(store.gc(patient))["version 1"] == "waiting"
    assert done(store.gc(SHARP))["version 1"] == "deleted"
    assert lease_files(root, 1) == []


def test_a_collector_that_died_after_any_mark_is_continued_by_the_next(store, root):
    fates = Fates(store._blobs)
    condemned(store, 1)
    assert fates.move(fates.of(1), "doomed", "gc", "a test")
    assert done(store.gc(SHARP))["version 1"] == "deleted"
    assert store.versions()[0].state == "deleted"


def test_a_damaged_mark_is_named_and_nothing_is_opened_or_deleted_on_its_word(store, root):
    condemned(store, 1)
    (mark,) = marks(root, 1)
    mark.write_bytes(mark.read_bytes().replace(b"condemned", b"doomed   "))
    name = mark.relative_to(root).as_posix()
    for action in (lambda: store.open(1), lambda: store.gc(SHARP)):
        with pytest.raises(Corrupted, match=name):
            action()
    assert name in {problem.file for problem in store.verify(1)}
    assert len(list((root / "data").iterdir())) == 3


# -- aliases against the collector -----------------------------------------------------------------


def test_a_promotion_pardons_a_condemned_version_and_is_too_late_for_a_doomed_one(store, root):
    condemned(store, 1)
    store.promote(1, "pinned", reason="a test", actor="tester")
    assert store.open(1).version == store.open("pinned").version == 1
    assert done(store.gc(SHARP))["version 1"] == "kept"

    fates = Fates(store._blobs)
    condemned(store, 2)
    assert fates.move(fates.of(2), "doomed", "gc", "a test")
    with pytest.raises(VersionExpired, match="version 2 is doomed"):
        store.promote(2, "late", reason="a test", actor="tester")
    assert "late" not in store.aliases()
    with pytest.raises(VersionExpired):
        store.rollback("production", reason="a test", actor="tester", version=2)


def test_a_collector_that_condemned_before_a_promotion_looks_again_and_pardons(store, root):
    """The promoter looked before the mark was there, so the collector has to see its entry."""
    condemned(store, 2)
    (root / "refs" / "production" / f"{2:010d}.json").unlink()  # version 2 is in production again
    assert said(store.gc(SHARP))["version 2"] == ("pardoned", "'production' names it")
    assert store.open(2).version == 2


def test_an_alias_whose_version_is_condemned_opens_it_all_the_same(store):
    condemned(store, 3)  # and its collector died before it looked which aliases name it
    assert store.open("production").version == 3
    assert store.open(3).version == 3


def test_the_entry_of_a_promoter_that_stalled_until_after_the_deletion_is_void(store, root):
    fates = Fates(store._blobs)

    class Stalled(Fates):
        def of(self, version):
            return fates.of(3)  # it looked long ago: live

    store._aliases._fates = Stalled(store._blobs)
    condemned(store, 1)
    assert fates.move(fates.of(1), "doomed", "gc", "a test")
    store.promote(1, "other", reason="late", actor="tester")
    fresh = EmbeddingStore(root)
    assert fresh.aliases() == {"production": 3}
    fresh.promote(3, "other", reason="again", actor="tester", expected_prev=0)
    assert fresh.aliases() == {"other": 3, "production": 3}
    assert fresh.verify() == []


# -- leases ----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A reader's clock that the test moves."""

    class Clock:
        now = 1_000.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(leases, "clock", clock)
    monkeypatch.setattr(leases._keeper, "add", lambda hold: None)  # no thread: the test renews
    return clock


def test_a_lease_is_renewed_after_a_third_of_its_time_and_the_ones_before_stay(store, root, clock):
    reader = store.open(1)
    reader["items"].table()
    assert [path.name.split(".")[1] for path in lease_files(root, 1)] == ["1"]
    clock.now += 34
    reader["items"].table()
    assert [path.name.split(".")[1] for path in lease_files(root, 1)] == ["1", "2"]
    condemned(store, 1)  # an open version stays open
    clock.now += 34
    reader["items"].table()
    assert len(lease_files(root, 1)) == 3
    reader.close()
    assert lease_files(root, 1) == []


def test_a_reader_that_slept_past_its_lease_goes_on_if_nobody_condemned_the_version(store, clock):
    reader = store.open(1)
    clock.now += 101
    assert len(reader["items"].table()) == 3


@pytest.mark.parametrize("step", ["condemned", "doomed", "deleted"])
def test_a_reader_that_slept_past_its_lease_stops_if_the_version_was_condemned(
    store, root, clock, step
):
    reader = store.open(1)
    table = reader["item_semantics"]
    table.vectors_of([10])  # mapped, and yet not served any more
    clock.now += 101
    fates = Fates(store._blobs)
    for state in ("condemned", "doomed", "deleted"):
        assert fates.move(fates.of(1), state, "gc", "a test")
        if state == step:
            break
    for use in (
        lambda: table.vectors_of([10]),
        lambda: table.search(ids=[10], k=1),
        lambda: table.search([1] * 8, k=1),
        lambda: reader["items"].table(),
        lambda: reader.file("projectors.safetensors"),
    ):
        with pytest.raises(LeaseLost, match="version 1 was condemned while it was open"):
            use()


def test_a_lease_that_cannot_be_renewed_is_good_until_it_runs_out(store, root, clock, monkeypatch):
    reader = store.open(1)
    clock.now += 50
    monkeypatch.setattr(
        type(store._blobs), "create_if_absent", lambda *_: (_ for _ in ()).throw(OSError("down"))
    )
    assert len(reader["items"].table()) == 3
    clock.now += 51
    with pytest.raises(LeaseLost, match="could not be renewed"):
        reader["items"].table()


def test_a_reader_without_a_lease_writes_nothing_and_has_the_grace_period(store, root, clock):
    before = sorted(root.rglob("*"))
    reader = open_version(root, 1, lease=False)
    clock.now += 49
    assert len(reader["items"].table()) == 3
    clock.now += 40  # it looked at 49 s: nobody had condemned the version
    assert len(reader["items"].table()) == 3
    assert sorted(root.rglob("*")) == before
    condemned(store, 1)
    clock.now += 51
    with pytest.raises(LeaseLost):
        reader["items"].table()


def test_a_version_that_nobody_has_any_more_is_let_go(store, root):
    table = store.open(1)["items"]  # the table alone keeps it
    assert len(lease_files(root, 1)) == 1
    assert len(table.table()) == 3
    del table
    import gc

    gc.collect()
    assert lease_files(root, 1) == []


def test_a_version_that_nobody_holds_any_more_gives_up_its_lease_at_once(root, store):
    gc.disable()  # the cyclic collector must not be needed
    try:
        items = store.open(1)["item_semantics"]
        items.search(ids=items.ids.to_pylist()[:1], k=1)
        assert len(lease_files(root, 1)) == 1
        del items
        assert lease_files(root, 1) == []
    finally:
        gc.enable()


def test_leases_are_released_when_a_process_ends_and_renewed_while_it_sleeps(tmp_path):
    root = tmp_path / "store"
    EmbeddingStore(root).initialise(lease_ttl_s=0.3, grace_s=0)
    publish(root)
    code = f"""
import sys, time
from embedding_store import open_version
version = open_version({str(root)!r}, 1)
print("open", flush=True)
sys.stdin.readline()
assert len(version["items"].table()) == 3
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        time.sleep(0.7)
        now = time.time()
        assert leases.active_leases(
            EmbeddingStore(root)._blobs,
            Ledger(EmbeddingStore(root)._blobs).check_readable(),
            1,
            now,
        )
        process.communicate("\n", timeout=30)
    assert process.returncode == 0
    assert lease_files(root, 1) == []


def test_a_forked_child_takes_a_lease_of_its_own(store, root):
    reader = store.open(1)
    assert len(lease_files(root, 1)) == 1
    child = os.fork()
    if child == 0:
        status = 1
        try:
            reader["items"].table()
            status = 0 if len(lease_files(root, 1)) == 2 else 2
            reader.close()
            status = status if len(lease_files(root, 1)) == 1 else 3
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(reader["items"].table()) == 3


def test_a_refused_open_leaves_no_lease(store, root):
    with pytest.raises(Exception, match="another space"):
        store.open(1, expect={"space_id": "other"})
    assert lease_files(root, 1) == []


# -- tries that never became a version -------------------------------------------------------------


def test_a_try_without_a_decision_is_given_up_for_ever_before_it_is_deleted(store, root):
    ledger = Ledger(store._blobs)
    attempt = ledger.begin("slow")
    (root / "data" / attempt.id / "half.arrow").write_bytes(b"half")
    assert said(store.gc(Policy()))[f"attempt {attempt.id}"][0] == "waiting"  # it may be writing
    assert done(store.gc(SHARP))[f"attempt {attempt.id}"] == "deleted"
    assert not (root / "data" / attempt.id).exists()
    with pytest.raises(Fenced):
        ledger.commit(attempt, {})
    assert publish(root, "slow") == 4  # its retry


def test_a_try_whose_run_was_decided_for_another_is_deleted_and_the_winner_is_not(store, root):
    ledger = Ledger(store._blobs)
    loser = ledger.begin("key-1")
    slot(root, 3).unlink()  # key-3 is decided, and its process died before the slot
    (root / "refs" / "production" / f"{2:010d}.json").unlink()
    outcomes = done(store.gc(Policy(attempt_age_s=0)))
    assert [what for what in outcomes if what.startswith("attempt")] == [f"attempt {loser.id}"]
    assert store.recover() == {"key-3": 3}
    assert store.recover() == {}
    assert facts(root)["problems"] == []


def test_what_died_before_its_first_file_and_unfinished_files_are_swept(store, root):
    empty = root / "data" / f"{time.time_ns() - 10**9:019d}-0123456789abcdef"
    empty.mkdir()
    half = root / "versions" / ".half.tmp"
    half.write_bytes(b"")
    aged(half, DAY_S + 5)
    foreign = root / "data" / "README"
    foreign.mkdir()
    outcomes = said(store.gc(Policy(attempt_age_s=0.5)))
    assert outcomes[f"attempt {empty.name}"][0] == "deleted"
    assert outcomes["attempt README"] == ("kept", "no try of this store has such a name")
    assert not half.exists()
    assert outcomes["1 unfinished files"][0] == "deleted"


# -- the outbox ------------------------------------------------------------------------------------


def test_a_move_is_pending_until_it_is_marked_and_marking_twice_is_no_error(store):
    first, second = store.pending_events()
    assert [(one.alias, one.sequence, one.version) for one in (first, second)] == [
        ("production", 1, 2),
        ("production", 2, 3),
    ]
    store.mark_sent(first)
    store.mark_sent(first)
    assert store.pending_events() == [second]
    store.mark_sent(second)
    assert store.pending_events() == []
    store.promote(2, "other", reason="a test", actor="tester")
    assert [one.alias for one in store.pending_events()] == ["other"]


# -- object stores ---------------------------------------------------------------------------------


def test_a_bucket_is_collected_and_erased_from_like_a_folder(tmp_path, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = EmbeddingStore("memory://collected")
    store.initialise(grace_s=0)
    for number in (1, 2):
        vectors = vector_rows([1, 2], [[number, 0], [0, number]])
        store.publish(
            {"t": TableSpec(vectors, "item_id", "vector")},
            run_key=f"key-{number}",
            day=f"2026-03-0{number}",
        )
    store.promote(2, "production", reason="a test", actor="tester")
    with store.open(2) as held:
        assert len(store._blobs.list(f"leases/{2:020d}")) == 1
        assert done(store.gc(SHARP))["version 1"] == "condemned"
        assert done(store.gc(SHARP))["version 1"] == "deleted"
        erasure = store.erase("t", 1, reason="a test", actor="tester", skew_s=0)
        assert erasure.state == "pending"
        assert len(held["t"].ids) == 2
    assert store.erase("t", 1, reason="a test", actor="tester", skew_s=0).state == "proved"
    assert store.open("production")["t"].ids.to_pylist() == [2]
    assert len(store._blobs.list("data")) == 1
    assert store.verify() == []
