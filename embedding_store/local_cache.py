"""What one machine keeps for itself: copies of objects, and which files it has hashed lately."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from embedding_store.errors import Corrupted
from embedding_store.manifest import Document, seal, sha256_hex, unseal

CACHE_VARIABLE = "EMBEDDING_STORE_CACHE"
EXPIRES_AFTER_S = 24 * 3600.0
# A clock of a file system ticks every few milliseconds: a write in the tick of the one before
# leaves the times as they were. So a file counts as known only once it has rested this long.
_RESTED_S = 2.0


def cache_folder() -> Path:
    """EMBEDDING_STORE_CACHE, or `embedding-store` in the user's cache folder; may be deleted."""
    own, shared = os.environ.get(CACHE_VARIABLE), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser().absolute()
    return (Path(shared) if shared else Path.home() / ".cache") / "embedding-store"


class _Hashed(Document):
    """One file that was hashed."""

    identity: list[int]
    sha256: str
    at: float


class HashedFiles:
    """Remembers which files had which sha256, by what the file system says of them.

    A file is known by its path, size, mtime, ctime and inode (a copy of an object: by the ETag in
    its path too). Bit rot below the file system changes none of these and is seen again only when
    the entry expires; `verify` never asks here.

    Args:
        folder: where to remember; `verified` in the cache folder if not given.
        expires_after_s: for how long an entry is believed.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path | None = None,
        expires_after_s: float = EXPIRES_AFTER_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder or cache_folder() / "verified"
        self._expires_after_s, self._clock = expires_after_s, clock

    def sha256_of(self, path: Path, hashed: Callable[[Path], str]) -> str:
        """The file's sha256, from memory if its identity is known, else by hashing it now."""
        before = _identity(path)
        record = self._folder / f"{sha256_hex(os.fsencode(path.absolute()))}.json"
        known = self._known(record)
        if known and known.identity == before:
            return known.sha256
        sha256 = hashed(path)
        if _identity(path) == before and max(before[1:3]) < (self._clock() - _RESTED_S) * 1e9:
            entry = _Hashed(identity=before, sha256=sha256, at=self._clock())
            self._remember(record, seal(entry.model_dump()))
        return sha256

    def _known(self, record: Path) -> _Hashed | None:
        try:
            entry, _ = unseal(record.name, record.read_bytes(), _Hashed)
        except (OSError, Corrupted):  # a cache that cannot be read knows nothing
            return None
        return entry if 0 <= self._clock() - entry.at < self._expires_after_s else None

    def _remember(self, record: Path, content: bytes) -> None:
        aside = record.with_name(f".{uuid4().hex}.tmp")
        with suppress(OSError):  # a full disk or a home that is read-only costs time, not answers
            record.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(content)
            aside.replace(record)


def _identity(path: Path) -> list[int]:
    """Size, mtime and ctime in ns, inode and device. A program can set mtime, but not ctime."""
    said = path.stat()
    return [said.st_size, said.st_mtime_ns, said.st_ctime_ns, said.st_ino, said.st_dev]
