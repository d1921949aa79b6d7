"""What a power loss could take: the order of fsync, link and mkdir."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from store_workload import promote, publish


class Disk:
    """Knows which files and folder entries a power loss would take.

    A file is safe once fsynced; an entry (a link, a new folder) once its folder is.
    """

    def __init__(self, monkeypatch):
        self.safe_files, self.lost_entries, self.links = set(), {}, []
        self.real = {name: getattr(os, name) for name in ("fsync", "link", "mkdir")}
        for name in self.real:
            monkeypatch.setattr(os, name, getattr(self, name))

    def fsync(self, descriptor):
        self.real["fsync"](descriptor)
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        self.safe_files.add(path)
        self.lost_entries.pop(path, None)

    def link(self, source, target):
        self.real["link"](source, target)
        assert str(source) in self.safe_files, f"{target} was named before it was on the disk"
        self.added(target)
        self.links.append(Path(target))

    def mkdir(self, path, *mode):
        self.real["mkdir"](path, *mode)
        self.added(path)

    def added(self, path):
        folder = Path(path).parent
        self.lost_entries.setdefault(str(folder), []).append(Path(path).name)


@pytest.fixture
def disk(monkeypatch):
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to tell which file a descriptor belongs to")
    return Disk(monkeypatch)


def test_nothing_is_built_on_what_a_power_loss_could_take(tmp_path, disk, monkeypatch):
    def link(source, target):
        # whatever came before is safe before the next name is given
        assert disk.lost_entries == {}
        disk.link(source, target)

    monkeypatch.setattr(os, "link", link)
    publish(tmp_path / "store")
    promote(tmp_path / "store", 1)
    assert disk.lost_entries == {}
    folders = [path.parent.name for path in disk.links]
    assert folders[-3:] == ["intents", "versions", "production"]


@pytest.mark.parametrize("action", ["publish", "promote"])
def test_a_retry_that_finds_all_done_makes_it_safe_before_it_says_so(tmp_path, disk, action):
    root = tmp_path / "store"
    publish(root)
    promote(root, 1)
    # as if the first process had died between its last link and the fsync of the folder
    for folder in ("intents", "versions", "refs/production"):
        disk.added(root / folder / "name")
    if action == "publish":
        assert publish(root) == 1
        assert set(disk.lost_entries) == {str(root / "refs" / "production")}
    else:
        assert promote(root, 1) == [1, 1]
        assert set(disk.lost_entries) == {str(root / "intents")}
