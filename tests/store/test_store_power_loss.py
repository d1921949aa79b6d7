"""Power is lost after every operation: what was not fsynced goes, what was acknowledged stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_workload import SHARP, publish

from embedding_store import EmbeddingStore

WRITES = ("link", "mkdir", "unlink", "rmdir")


class Recorder:
    """The operations of this process below a root, in order, and what an fsync had seen then.

    The model of the disk is the cautious one: a file's bytes are there once the file was fsynced,
    a name or its removal once its folder was, and everything else is lost.
    """

    def __init__(self, root, monkeypatch):
        self.root, self.log = Path(root), []
        self.real = {name: getattr(os, name) for name in (*WRITES, "fsync")}
        for name in (*WRITES, "fsync"):
            monkeypatch.setattr(os, name, getattr(self, name))

    def fsync(self, descriptor):
        self.real["fsync"](descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            self.log.append(("sync folder", path))
        else:
            self.log.append(("sync file", path.stat().st_ino, path.read_bytes()))

    def link(self, source, target):
        self.real["link"](source, target)
        self.log.append(("name", Path(target), Path(target).stat().st_ino))

    def mkdir(self, path, *mode):
        self.real["mkdir"](path, *mode)
        self.log.append(("name", Path(path), None))

    def unlink(self, path, **named):
        self.real["unlink"](path, **named)
        self.log.append(("remove", Path(path)))

    def rmdir(self, path, **named):
        self.real["rmdir"](path, **named)
        self.log.append(("remove", Path(path)))

    def acknowledged(self, what):
        """The caller was told so."""
        self.log.append(("said", what))


def kept(log):
    """Files by inode with their bytes, names with what became of them, and what was said."""
    files, names, pending, said = {}, {}, {}, []
    for operation, *of in log:
        if operation == "sync file":
            files[of[0]] = of[1]
        elif operation == "name":
            pending.setdefault(of[0].parent, {})[of[0]] = ("there", of[1])
        elif operation == "remove":
            pending.setdefault(of[0].parent, {})[of[0]] = ("gone", None)
        elif operation == "sync folder":
            names.update(pending.pop(of[0], {}))
        else:
            said.append(of[0])
    return files, names, said


def after_power_loss(log, n_operations, root, elsewhere):
    """Write what is on the disk after the first operations to another folder; what was said."""
    files, names, said = kept(log[:n_operations])
    for path in sorted(names):
        state, inode = names[path]
        target = elsewhere / path.relative_to(root.parent)
        if state == "gone" or not target.parent.is_dir():
            continue
        if inode is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.write_bytes(files.get(inode, b""))
    return said


@pytest.fixture
def disk(tmp_path, monkeypatch):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to tell which file a descriptor belongs to")
    return Recorder(tmp_path / "store", monkeypatch)


def test_no_acknowledged_version_or_promotion_is_lost_at_any_prefix_of_the_operations(
    tmp_path, disk, fast_folder
):
    root = tmp_path / "store"
    store = EmbeddingStore(root)
    store.initialise(grace_s=0)
    for number, day in ((1, "2026-03-01"), (2, "2026-03-02")):
        version = publish(root, f"key-{number}", day, number)
        disk.acknowledged(("version", version))
        store.promote(version, "production", reason="a test", actor="tester")
        disk.acknowledged(("alias", version))
    for _ in range(2):
        for outcome in store.gc(SHARP):
            if outcome.done == "deleted" and outcome.what.startswith("version"):
                disk.acknowledged(("deleted", 1))
    assert ("said", ("deleted", 1)) in disk.log

    n_looked_at = 0
    for n_operations in range(len(disk.log) + 1):
        elsewhere = fast_folder / f"after-{n_operations}"
        elsewhere.mkdir()
        said = after_power_loss(disk.log, n_operations, root, elsewhere)
        found = EmbeddingStore(elsewhere / "store")
        if not (elsewhere / "store" / "STORE.json").is_file():
            assert said == []
            continue
        check(found, said)
        n_looked_at += 1
    assert n_looked_at > 150


def check(store, said):
    """All that was said holds, and nothing that is there is broken."""
    assert store.verify() == []
    states = {one.version: one.state for one in store.versions()}
    for what, version in said:
        if what == "version":
            assert version in states
            if states[version] == "live":
                with store.open(version, lease=False, verify="full"):
                    pass
        elif what == "alias":
            assert store.aliases()["production"] >= version
        else:
            assert states[version] == "deleted"
            kept = {one.manifest.attempt for one in (store._ledger.stored(2),)}
            assert {path.name for path in Path(store.root, "data").iterdir()} == kept
