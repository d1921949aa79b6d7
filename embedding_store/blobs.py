"""Where bytes live, behind one primitive: create a name if it is absent, whole and durable."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from embedding_store.errors import BadInput, Corrupted, UnsupportedStorage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV}


class Blobs(Protocol):
    """What the store asks of its storage; names are relative, with slashes.

    Once an object has its name it is whole, durable and never changed.
    """

    @property
    def root(self) -> str:
        """Where the store is, as a person would write it."""

    def create_if_absent(self, name: str, content: bytes) -> bool:
        """Give `content` this name, unless the name is taken: then False, and it is durable."""

    def creating(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write; on leaving, its content gets `name`.

        Raises:
            FileExistsError: the name was taken.
        """

    def read(self, name: str) -> bytes:
        """The whole object; FileNotFoundError if there is none."""

    def list(self, folder: str) -> list[str]:
        """Names directly below a folder, sorted; none if it does not exist."""

    def exists(self, name: str) -> bool:
        """Whether an object has this name."""

    def local_path(self, name: str) -> Path:
        """Where the object's bytes can be read or memory-mapped."""


class PosixBlobs:
    """A folder of a local or network file system that has hard links."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable_folders: set[Path] = set()

    @property
    def root(self) -> str:
        """The folder."""
        return str(self._root)

    def create_if_absent(self, name: str, content: bytes) -> bool:
        """Write aside, fsync, link to the name, fsync the folder; link(2) has one winner."""
        try:
            with self.creating(name) as aside:
                aside.write_bytes(content)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def creating(self, name: str) -> Iterator[Path]:
        """A path in the target's folder; a crash leaves only a name that starts with a dot."""
        target = self.local_path(name)
        self._make_folder(target.parent)
        aside = target.with_name(f".{uuid4().hex}.tmp")
        try:
            yield aside
            _sync(aside)
            _link(aside, target)
        finally:
            with suppress(FileNotFoundError):
                aside.unlink()
            # Also when the name was taken: its creator may have died just before its own fsync,
            # and the caller is about to act on what it saw.
            _sync(target.parent)

    def read(self, name: str) -> bytes:
        """The whole file."""
        return self.local_path(name).read_bytes()

    def list(self, folder: str) -> list[str]:
        """Names without those of files still being written."""
        try:
            names = [path.name for path in self.local_path(folder).iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in names if not name.startswith("."))

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return self.local_path(name).is_file()

    def local_path(self, name: str) -> Path:
        """The path below the root; the one place through which every name goes.

        Raises:
            Corrupted: the name could leave the root (`..`, absolute, hidden).
        """
        if not _NAME.fullmatch(name):
            raise Corrupted(name, "is not a path inside the store")
        return self._root / name

    def _make_folder(self, folder: Path) -> None:
        if folder in self._durable_folders:
            return
        if folder == self._root:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(PermissionError):  # a parent that is not ours to read is not ours to sync
                _sync(folder.parent)
        else:
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            _sync(folder.parent)
        self._durable_folders.add(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(aside: Path, target: Path) -> None:
    try:
        os.link(aside, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise UnsupportedStorage(
                f"{target.parent} is on a file system without hard links ({error.strerror}); "
                "the store commits by link(2): put it on another one"
            ) from error
        raise


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_blobs(root: str | os.PathLike[str]) -> Blobs:
    """The storage behind `root`.

    Raises:
        BadInput: a URL of a kind that is not supported.
    """
    text = os.fspath(root)
    if "\0" in text or not text:
        raise BadInput(f"store root {text!r} is not a path")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        raise BadInput(f"store root {text!r}: only folders are supported, no object stores yet")
    return PosixBlobs(Path(text).expanduser().absolute())
