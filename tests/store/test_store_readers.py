"""Readers read on while versions come and go under them; stalled writers change nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from store_workload import SHARP, call, promote, publish

from embedding_store import EmbeddingStore

READERS = 8
# Those who write just now are at work, whatever they write: only tries of long ago are swept.
PATIENT = replace(SHARP, attempt_age_s=600)
SECONDS = float(os.environ.get("STORE_READERS_SECONDS", "20"))
PUBLISHES = int(os.environ.get("STORE_READERS_PUBLISHES", "5"))


def test_readers_never_fail_and_never_mix_versions_while_gc_deletes_behind_them(tmp_path):
    root, script = tmp_path / "store", Path(__file__).with_name("readers.py")
    store = EmbeddingStore(root)
    store.initialise(lease_ttl_s=30, grace_s=0)
    publish(root, "1", seed=1)
    promote(root, 1)
    until, stop = time.time() + SECONDS, tmp_path / "stop"
    readers = [
        subprocess.Popen(
            [sys.executable, str(script), str(root), str(stop)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(READERS)
    ]
    number, n_deleted = 1, 0
    while time.time() < until or number <= PUBLISHES:
        number += 1
        version = publish(root, str(number), seed=number)
        promote(root, version)
        n_deleted += sum(
            one.done == "deleted" for one in store.gc(PATIENT) if one.what.startswith("version")
        )
    stop.touch()
    seen = [json.loads(reader.communicate(timeout=120)[0]) for reader in readers]
    assert [one["failures"] for one in seen] == [[]] * READERS
    assert all(one["reads"] > 0 for one in seen)
    if report := os.environ.get("STORE_READERS_REPORT"):
        counted = {"publishes": number, "deleted": n_deleted, "readers": seen}
        Path(report).write_text(json.dumps(counted))
    assert n_deleted > 0
    assert store.verify() == []
    store.gc(PATIENT)  # nobody has anything open any more
    assert {one.done for one in store.gc(PATIENT)} <= {"kept", "deleted"}


@pytest.mark.parametrize("first", [0, 4, 8])
def test_a_writer_that_stalls_over_a_collection_reuses_no_slot_and_revives_nothing(
    processes, fast_folder, first
):
    """It stops at a late operation, its run is given up or finished, and it goes on."""
    template = fast_folder / "template" / "store"
    EmbeddingStore(template).initialise(grace_s=0)
    publish(template)
    promote(template, 1)
    whole = fast_folder / "whole" / "store"
    shutil.copytree(template, whole)
    last = processes.run("publish", whole, "second", "2026-03-02")["operations"]
    for at in range(last - first - 3, last - first + 1):
        root = fast_folder / str(at) / "store"
        shutil.copytree(template, root)
        stalled, *others = processes.stall(
            call("publish", root, "second", "2026-03-02", at=at),
            call("collect", root),
            call("publish", root, "third", "2026-03-03"),
            call("promote", root, 2),
            call("collect", root),
            call("collect", root),
        )
        assert all("result" in one for one in others)
        found = processes.run("facts", root)["result"]
        assert found["problems"] == []
        assert sorted(set(found["keys"])) == sorted(found["keys"])
        assert found["keys"][0] == "first"
        if "result" in stalled:
            assert found["keys"][stalled["result"] - 1] == "second"
        assert processes.run("publish", root, "second", "2026-03-02")["result"] in (2, 3)
        shutil.rmtree(root.parent)


def test_a_reader_that_cannot_write_reads_without_a_lease(tmp_path):
    root = tmp_path / "store"
    publish(root)
    promote(root, 1)
    script = f"""
from embedding_store import open_version
from embedding_store.errors import StoreError
with open_version({str(root)!r}, "production") as version:
    assert not version._held.leased
    assert len(version["item_semantics"].vectors_of([10])) == 1
try:
    open_version({str(root)!r}, "production", lease=True)
except OSError as error:
    print(error.strerror)
"""
    mount = f"mount --bind {root} {root} && mount -o remount,ro,bind {root}"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*command, mount]).returncode:
        pytest.skip("needs `unshare --mount` for a read-only mount of its own")
    run = f'{mount} && exec {sys.executable} -c "$0"'
    done = subprocess.run([*command, run, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Read-only file system\n"), done.stderr
