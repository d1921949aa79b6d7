"""Object stores (S3, GCS, Azure, memory) as the store's storage, through obstore.

Everything rests on the conditional put: create the object if its name is free. Its answer can be
lost, so whatever is not a plain yes is decided by reading what the name holds.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import MemoryStore, S3Store, from_url

from embedding_store.blobs import Blobs, checked_name, sha256_of
from embedding_store.errors import (
    BadInput,
    Corrupted,
    StorageUnavailable,
    UnsupportedStorage,
    WriteForbidden,
)
from embedding_store.local_cache import cache_folder
from embedding_store.manifest import sha256_hex

_SCHEMES = {"s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory"}
_ABSENT = (FileNotFoundError, NotFoundError)
_TAKEN = (AlreadyExistsError, PreconditionError)
_FORBIDDEN = (PermissionDeniedError, UnauthenticatedError)
_IMPOSSIBLE = (NotSupportedError, InvalidPathError)
# Parts are not conditional, and one put holds its whole content in memory.
_ONE_PUT_BYTES = 64 * 2**20
_PIECE_BYTES = 8 * 2**20
_PAUSES_S = (0.05, 0.2, 0.8, 3.2, 0.0)  # after each try; the library below retries by itself too
_RETRY: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
_memories: dict[str, MemoryStore] = {}
_probed: set[str] = set()
_memory_token = secrets.token_hex(8)  # a memory dies with its process; copies of it must not live

T = TypeVar("T")


class Client(Protocol):
    """What is used of an obstore store."""

    def put(self, path: str, file: Any, *, mode: Any, use_multipart: bool | None = None) -> Any:
        """Write an object; mode `create` only if there is none."""

    def get(self, path: str) -> Any:
        """Read an object: `.bytes()` or `.stream(n)`."""

    def head(self, path: str) -> Any:
        """Size, ETag and time of an object."""

    def list_with_delimiter(self, prefix: str) -> Any:
        """Objects and folders directly below a prefix."""

    def delete(self, paths: str) -> None:
        """Remove an object."""


class ObjectBlobs:
    """A prefix of a bucket.

    Args:
        client: the bucket, with the prefix applied.
        root: its URL, for people.
        copies: local folder for copies of objects and for files on their way up.
        sleep: waits between tries.
        probed: roots that this process has probed already.
    """

    def __init__(
        self,
        client: Client,
        root: str,
        copies: Path,
        sleep: Callable[[float], None] = time.sleep,
        probed: set[str] | None = None,
    ) -> None:
        self._client, self._root, self._copies, self._sleep = client, root, copies, sleep
        self._held: dict[str, Path] = {}
        self._probed = set() if probed is None else probed

    @property
    def root(self) -> str:
        """The URL."""
        return self._root

    # -- writing ---------------------------------------------------------------------------------

    def create_if_absent(self, name: str, content: bytes) -> bool:
        """Conditional put; True also when the name holds exactly this after a lost answer."""
        self._probe()
        return self._create(checked_name(name), content)

    def _create(self, name: str, content: bytes) -> bool:
        failure: BaseException | None = None
        for pause in _PAUSES_S:
            said_done = False
            try:
                self._client.put(name, content, mode="create", use_multipart=False)
                said_done = True
            except _TAKEN as error:  # perhaps by this very request, sent twice
                failure = error
            except _FORBIDDEN as error:
                raise WriteForbidden(self._not_allowed(f"create {name}", error)) from error
            except Exception as error:
                failure = self._excused(error, f"create {name}")
            there = self._read_or_none(name)
            if there is not None and said_done and there != content:
                raise Corrupted(name, "does not hold what was just written to it")
            if there is not None or said_done:  # done and gone: somebody deleted it since
                return said_done or there == content
            self._sleep(pause)
        raise self._unavailable(f"create {name}", failure) from failure

    @contextmanager
    def creating(self, name: str) -> Iterator[Path]:
        """A path in a local folder; on leaving it is sent, read back and compared."""
        checked_name(name)
        self._probe()
        spool = self._copies / "spool"
        spool.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=spool) as folder:
            aside = Path(folder) / "object"
            yield aside
            self._send(name, aside)
            sha256 = sha256_of(aside)
            if self.digest(name) != (aside.stat().st_size, sha256):
                raise Corrupted(name, "does not hold what was just written to it")
            copy = self._copy_name(name, self._head(name))
            copy.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(copy)

    def _send(self, name: str, aside: Path) -> None:
        """Large objects go up in parts, which no store can make conditional.

        Only in the folder of an attempt, which one process has for itself under a random name.
        """
        in_parts = aside.stat().st_size > _ONE_PUT_BYTES and name.startswith("data/")
        if not in_parts:
            if not self._create(name, aside.read_bytes()):
                raise FileExistsError(name)
            return
        if self.exists(name):
            raise FileExistsError(name)
        self._tried(f"send {name}", lambda: self._client.put(name, aside, mode="overwrite"))

    def delete(self, name: str) -> None:
        """Remove an object, and this machine's copy of it; nothing happens if there is none."""
        with suppress(*_ABSENT):
            self._copy_name(name, self._head(name)).unlink(missing_ok=True)
            self._tried(f"delete {name}", lambda: self._client.delete(name))
        self._held.pop(name, None)

    def delete_folder(self, folder: str) -> None:
        """Remove every object below; a folder is only their common prefix."""
        for name in self.list(folder):
            self.delete(f"{folder}/{name}")

    def delete_unfinished(self, folder: str, before: float) -> int:
        """None: an object that was not sent in full has no name."""
        return 0

    def _probe(self) -> None:
        """Once a process and root, before its first write: see that a second create is refused.

        Some stores ignore the condition and overwrite; two nights would then share a version.
        """
        if self._root in self._probed:
            return
        name, first = f"probe/{secrets.token_hex(16)}", b"first"
        if not self._create(name, first):
            raise UnsupportedStorage(f"{self._root} holds {name}, a name made up just now")
        if not self._is_refused(name, b"second") or self._read_or_none(name) != first:
            raise UnsupportedStorage(
                f"{self._root} creates an object a second time that was to be created only if "
                "absent (If-None-Match); two writers would destroy each other's versions: use "
                "another one"
            )
        with suppress(BaseError, StorageUnavailable, UnsupportedStorage):  # may lack the right
            self.delete(name)
        self._probed.add(self._root)

    def _is_refused(self, name: str, content: bytes) -> bool:
        """Whether the store says no to a create; neither silence nor a failure is a no."""

        def created() -> bool:
            try:
                self._client.put(name, content, mode="create", use_multipart=False)
            except _TAKEN:
                return False
            return True

        return not self._tried(f"create {name} twice", created)

    # -- reading ---------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """The whole object."""
        content = self._read_or_none(checked_name(name))
        if content is None:
            raise FileNotFoundError(name)
        return content

    def _read_or_none(self, name: str) -> bytes | None:
        try:
            return self._tried(f"read {name}", lambda: bytes(self._client.get(name).bytes()))
        except _ABSENT:
            return None

    def list(self, folder: str) -> list[str]:
        """Names of objects and folders directly below."""
        checked_name(folder)
        found = self._tried(f"list {folder}", lambda: self._client.list_with_delimiter(folder))
        paths = [one["path"] for one in found["objects"]] + list(found["common_prefixes"])
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths})

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        try:
            self._head(name)
        except _ABSENT:
            return False
        return True

    def modified(self, name: str) -> float:
        """When the object was written, by the store's own clock."""
        return self._head(name)["last_modified"].timestamp()

    def _head(self, name: str) -> Any:
        return self._tried(f"look at {name}", lambda: self._client.head(checked_name(name)))

    def digest(self, name: str) -> tuple[int, str]:
        """Size and sha256 of what the store sends, whatever copies there are."""

        def streamed() -> tuple[int, str]:
            size, sha256 = 0, hashlib.sha256()
            for piece in self._client.get(checked_name(name)).stream(_PIECE_BYTES):
                size += len(piece)
                sha256.update(piece)
            return size, sha256.hexdigest()

        return self._tried(f"read {name}", streamed)

    # -- local copies ----------------------------------------------------------------------------

    def local_path(self, name: str) -> Path:
        """The copy that was held, or the object as it is now."""
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = self.fetch(name)
        elif not held.exists():
            raise Corrupted(name, f"its local copy {held} was deleted; open the version again")
        return held

    def fetch(self, name: str, *, afresh: bool = False) -> Path:
        """A local copy of the object as it is now; one is made unless there is one of its ETag."""
        copy = self._copy_name(name, self._head(name))
        if afresh or not copy.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            self._tried(f"read {name}", lambda: self._download(name, copy))
        return copy

    def hold(self, name: str, path: Path) -> None:
        """From now on `local_path` is this copy, whatever becomes of the object."""
        self._held[name] = path

    def _download(self, name: str, copy: Path) -> None:
        descriptor, aside = tempfile.mkstemp(dir=copy.parent, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for piece in self._client.get(name).stream(_PIECE_BYTES):
                    file.write(piece)
            Path(aside).replace(copy)
        finally:
            Path(aside).unlink(missing_ok=True)

    def _copy_name(self, name: str, head: Any) -> Path:
        """Objects that differ in name, ETag, size or time have copies of their own."""
        said = [self._root, name, head["e_tag"], head["size"], str(head["last_modified"])]
        return self._copies / "objects" / sha256_hex(repr(said).encode()) / name.rpartition("/")[2]

    # -- failures --------------------------------------------------------------------------------

    def _tried(self, what: str, action: Callable[[], T]) -> T:
        """What `action` returns; it may be repeated."""
        failure: BaseException | None = None
        for pause in _PAUSES_S:
            try:
                return action()
            except _ABSENT:
                raise
            except Exception as error:
                failure = self._excused(error, what)
            self._sleep(pause)
        raise self._unavailable(what, failure) from failure

    def _excused(self, error: Exception, what: str) -> Exception:
        """`error`, if another try may help."""
        if isinstance(error, _FORBIDDEN):
            raise StorageUnavailable(self._not_allowed(what, error)) from error
        if isinstance(error, _IMPOSSIBLE):
            raise UnsupportedStorage(
                f"{self._root}: cannot {what} ({_first_line(error)})"
            ) from error
        if isinstance(error, _ABSENT):  # a put into nothing
            raise StorageUnavailable(
                f"{self._root}: there is no such bucket or container"
            ) from error
        if not isinstance(error, BaseError | OSError):
            raise error
        return error

    def _not_allowed(self, what: str, error: BaseException) -> str:
        return (
            f"{self._root}: may not {what} ({_first_line(error)}); "
            "credentials come from the environment, as the storage's own tools read them"
        )

    def _unavailable(self, what: str, failure: BaseException | None) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self._root}: could not {what} in {len(_PAUSES_S)} tries ({_first_line(failure)}); "
            "whether it happened is not known: repeat the call, with the same run_key if it "
            "was a publish"
        )


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0]


def open_objects(url: str) -> Blobs:
    """The storage behind a URL; credentials come from the environment alone.

    Raises:
        BadInput: not a URL of a supported kind, or one with credentials or options in it.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.netloc:
        raise BadInput(
            f"store root {url!r}: give a folder, s3://bucket/prefix, gs://bucket/prefix, "
            "az://container/prefix or memory://name"
        )
    is_named = parts.username and not parts.scheme.startswith("abfs")  # abfss://container@account
    if is_named or parts.password or parts.query or parts.fragment:
        raise BadInput(
            f"store root {parts.scheme}://{parts.hostname}...: keep credentials and options out "
            "of the URL; they come from the environment"
        )
    root = url.rstrip("/")
    if parts.scheme == "memory":
        memory = _memories.setdefault(root, MemoryStore())
        copies = cache_folder() / "memory" / _memory_token
        return ObjectBlobs(memory, root, copies, probed=_probed)
    try:
        return ObjectBlobs(_bucket(root), root, cache_folder(), probed=_probed)
    except (BaseError, ValueError) as error:
        raise BadInput(f"store root {root!r}: {_first_line(error)}") from error


def _bucket(url: str) -> Client:
    if url.startswith(("s3://", "s3a://")):
        # The server compares what arrived; the read-back compares what it kept.
        return S3Store.from_url(url, config={"checksum_algorithm": "SHA256"}, retry_config=_RETRY)
    return from_url(url, retry_config=_RETRY)
