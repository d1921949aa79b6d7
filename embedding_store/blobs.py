"""Where bytes live, behind one primitive: create a name if it is absent, whole and durable."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from embedding_store.errors import BadInput, Corrupted, StorageFull, UnsupportedStorage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_FULL = {errno.ENOSPC, errno.EDQUOT}
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

    def fetch(self, name: str, *, afresh: bool = False) -> Path:
        """A local file of the object as it is now, to be checked and then held.

        Args:
            name: the object.
            afresh: past any local copy.
        """

    def hold(self, name: str, path: Path) -> None:
        """Make a file that `fetch` gave the one that `local_path` gives: it was checked."""

    def digest(self, name: str) -> tuple[int, str]:
        """Size and hex sha256 of the bytes as the storage has them, past any local copy."""

    def modified(self, name: str) -> float:
        """When the object was made, in seconds by the storage's own clock.

        Raises:
            FileNotFoundError: there is none.
        """

    def delete(self, name: str) -> None:
        """Remove an object for good; nothing happens if there is none."""

    def delete_folder(self, folder: str) -> None:
        """Remove a folder for good, with all in it, files that are still being written too."""

    def delete_unfinished(self, folder: str, before: float) -> int:
        """Remove what writers left unfinished directly in a folder before a time; how many."""


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
            with _saying_when_full(self.root, name):
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
        return self._root / checked_name(name)

    def fetch(self, name: str, *, afresh: bool = False) -> Path:
        """The file itself."""
        return self.local_path(name)

    def hold(self, name: str, path: Path) -> None:
        """Nothing to do: there are no copies."""

    def digest(self, name: str) -> tuple[int, str]:
        """Read it all."""
        path = self.local_path(name)
        return path.stat().st_size, sha256_of(path)

    def modified(self, name: str) -> float:
        """The file's modification time; on a network file system, the server's."""
        return self.local_path(name).stat().st_mtime

    def delete(self, name: str) -> None:
        """Unlink, and fsync the folder: what was deleted does not come back."""
        path = self.local_path(name)
        with suppress(FileNotFoundError):
            path.unlink()
            _sync(path.parent)

    def delete_folder(self, folder: str) -> None:
        """Unlink file by file; a folder that another deletes at the same time is no error."""
        path = self.local_path(folder)
        self._durable_folders.discard(path)
        with suppress(FileNotFoundError):
            for file in path.iterdir():
                file.unlink(missing_ok=True)
            _sync(path)
            path.rmdir()
        with suppress(FileNotFoundError):
            _sync(path.parent)

    def delete_unfinished(self, folder: str, before: float) -> int:
        """Files whose name starts with a dot, and was given to nothing since."""
        n_deleted = 0
        with suppress(FileNotFoundError):
            for path in self.local_path(folder).iterdir():
                with suppress(FileNotFoundError):  # its writer has finished meanwhile
                    if path.name.startswith(".") and path.stat().st_mtime < before:
                        path.unlink()
                        n_deleted += 1
        return n_deleted

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


def checked_name(name: str) -> str:
    """`name`, if it stays inside the store: relative, without `..`, nothing hidden."""
    if not _NAME.fullmatch(name):
        raise Corrupted(name, "is not a path inside the store")
    return name


@contextmanager
def _saying_when_full(root: str, name: str) -> Iterator[None]:
    """Turn what any library says when the disk is full into one error with the way out."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # FAISS raises the latter, with the reason as text
        if getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(error):
            raise StorageFull(
                f"no space left for {name} in {root}; what was published before is untouched: "
                "make room (`embedding-store gc`) and try again with the same run_key"
            ) from error
        raise


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


def _open_objects(url: str) -> Blobs:
    # By name, so that neither an import nor the layer linter, which follows imports in functions,
    # brings obstore into an image that reads a folder.
    try:
        objects: Any = import_module("embedding_store.object_blobs")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("obstore"):
            raise
        raise UnsupportedStorage(
            f"store root {url!r} needs obstore: pip install 'tidemark[objects]'"
        ) from error
    return objects.open_objects(url)


def open_blobs(root: str | os.PathLike[str]) -> Blobs:
    """The storage behind `root`.

    Args:
        root: a folder, or a URL: s3://bucket/prefix, gs://bucket/prefix,
            az://container/prefix, memory://name, file:///folder.

    Raises:
        BadInput: a URL of a kind that is not supported.
        UnsupportedStorage: a URL of an object store, and obstore is not installed.
    """
    text = os.fspath(root)
    if "\0" in text or not text:
        raise BadInput(f"store root {text!r} is not a path")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        return _open_objects(text)
    return PosixBlobs(Path(text).expanduser().absolute())
