"""The level `cached`: which files need not be read again, and for how long that is believed."""

from __future__ import annotations

import os
import time

import pytest
from store_workload import publish

from embedding_store import EmbeddingStore, open_version
from embedding_store.blobs import sha256_of
from embedding_store.errors import Corrupted
from embedding_store.local_cache import EXPIRES_AFTER_S, HashedFiles, cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDDING_STORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Clock:
    """Some time after the files were written; a test moves it."""

    def __init__(self):
        self.now = time.time() + 60

    def __call__(self):
        return self.now


class Hashing:
    """sha256_of, counted."""

    def __init__(self):
        self.n = 0

    def __call__(self, path):
        self.n += 1
        return sha256_of(path)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"published")
    return path


def rotten(path):
    """Change a byte."""
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def test_a_file_is_hashed_once_until_the_entry_expires(file, cache):
    clock, hashing = Clock(), Hashing()
    known = HashedFiles(clock=clock)
    for _ in range(3):
        assert known.sha256_of(file, hashing) == sha256_of(file)
    assert hashing.n == 1
    clock.now += EXPIRES_AFTER_S - 1
    known.sha256_of(file, hashing)
    assert hashing.n == 1
    clock.now += 2
    known.sha256_of(file, hashing)
    assert hashing.n == 2
    clock.now -= 10 * EXPIRES_AFTER_S  # a clock that was set back knows nothing
    known.sha256_of(file, hashing)
    assert hashing.n == 3
    assert all(path.is_relative_to(cache) for path in cache.rglob("*"))


def test_a_change_that_the_file_system_tells_of_is_seen_at_once(file):
    known, hashing = HashedFiles(clock=Clock()), Hashing()
    known.sha256_of(file, hashing)
    said = file.stat()
    rotten(file)
    os.utime(file, ns=(said.st_atime_ns, said.st_mtime_ns))  # mtime set back; ctime cannot be
    assert known.sha256_of(file, hashing) == sha256_of(file)
    file.rename(file.with_name("other"))
    file.with_name("copy").write_bytes(b"published")
    file.with_name("copy").rename(file)  # another inode
    assert known.sha256_of(file, hashing) == sha256_of(file)
    assert hashing.n == 3


def test_a_file_written_a_moment_ago_is_not_remembered(file):
    """A second write within a tick of the file system's clock would leave its times alone."""
    known, hashing = HashedFiles(), Hashing()
    for _ in range(2):
        known.sha256_of(file, hashing)
    assert hashing.n == 2


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", None])
def test_a_damaged_entry_is_no_entry(file, cache, damage):
    known, hashing = HashedFiles(clock=Clock()), Hashing()
    known.sha256_of(file, hashing)
    (entry,) = cache.rglob("*.json")
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content if damage is None else damage)
    known.sha256_of(file, hashing)
    assert hashing.n == 2


def test_a_cache_that_cannot_be_written_costs_time_and_no_answer(file, tmp_path):
    (tmp_path / "taken").write_bytes(b"")
    known, hashing = HashedFiles(folder=tmp_path / "taken" / "x", clock=Clock()), Hashing()
    for _ in range(2):
        assert known.sha256_of(file, hashing) == sha256_of(file)
    assert hashing.n == 2


# -- through the store -----------------------------------------------------------------------------


@pytest.fixture
def rested(tmp_path, monkeypatch):
    """A published store whose files have rested, and what opened it without reading them again."""
    root = tmp_path / "store"
    publish(root)
    monkeypatch.setattr("embedding_store.local_cache._RESTED_S", -60.0)
    open_version(root, 1, verify="cached")
    return root


def hidden_rot(root, monkeypatch):
    """A changed byte in the vectors, on a file system that says that nothing changed."""
    (path,) = root.rglob("item_semantics.vec.arrow")
    said = path.stat()
    rotten(path)
    real = type(path).stat

    def stat(self, **options):
        return said if self.name == path.name else real(self, **options)

    monkeypatch.setattr(type(path), "stat", stat)
    return path


def test_rot_that_the_file_system_hides_is_caught_by_verify_by_full_and_after_expiry(
    rested, monkeypatch
):
    path = hidden_rot(rested, monkeypatch)
    assert open_version(rested, 1, verify="cached").version == 1  # the bound: for a day
    assert [one.file for one in EmbeddingStore(rested).verify()] == [
        path.relative_to(rested).as_posix()
    ]
    with pytest.raises(Corrupted, match=path.name):
        open_version(rested, 1)
    later = time.time() + EXPIRES_AFTER_S + 1
    monkeypatch.setattr(
        HashedFiles.__init__, "__defaults__", (None, EXPIRES_AFTER_S, lambda: later)
    )
    with pytest.raises(Corrupted, match=path.name):
        open_version(rested, 1, verify="cached")


def test_a_changed_file_with_its_size_and_mtime_set_back_is_caught(rested):
    (path,) = rested.rglob("item_semantics.vec.arrow")
    said = path.stat()
    rotten(path)
    os.utime(path, ns=(said.st_atime_ns, said.st_mtime_ns))
    with pytest.raises(Corrupted, match=path.name):
        open_version(rested, 1, verify="cached")
    assert EmbeddingStore(rested).verify()


def test_neither_the_default_level_nor_verify_reads_or_writes_the_cache(tmp_path, cache):
    root = tmp_path / "store"
    publish(root)
    EmbeddingStore(root).open(1)
    open_version(root, 1, verify="footer")
    EmbeddingStore(root).verify()
    assert not cache.exists()


def test_the_cache_lies_where_users_keep_theirs(monkeypatch, tmp_path):
    monkeypatch.delenv("EMBEDDING_STORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "embedding-store"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "embedding-store"
