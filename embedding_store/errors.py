"""Errors in the store's own words: what is wrong, with which value, and the way out."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

_SHOWN = 5


class StoreError(Exception):
    """Anything that the store refuses; shown without a traceback by the command line."""


class BadInput(StoreError):
    """A table, name, query or attribute that the store does not take; nothing was written."""


class NotFound(StoreError):
    """What was asked for is not in the store."""


class StoreNotFound(NotFound):
    """There is no store at the root."""


class VersionNotFound(NotFound):
    """No version has that number, or no alias that name."""


class VersionExpired(NotFound):
    """The version was condemned: its files are deleted, or will be; its manifest stays."""


class TableNotFound(NotFound):
    """The version has no table of that name."""


class FileNotInVersion(NotFound):
    """The version has no extra file of that name."""


class IdNotFound(NotFound):
    """Ids that the table does not hold.

    Attributes:
        missing: all of them, in the order asked.
    """

    def __init__(self, table: str, missing: Sequence[Any]) -> None:
        self.missing = list(missing)
        first = ", ".join(repr(one) for one in self.missing[:_SHOWN])
        more = f" and {len(self.missing) - _SHOWN} more" if len(self.missing) > _SHOWN else ""
        count = f"{len(self.missing)} ids are" if len(self.missing) > 1 else "id is"
        super().__init__(f"{table}: {count} not in the table: {first}{more}")


class Corrupted(StoreError):
    """A file of the store is not what was published.

    Attributes:
        file: its path below the root.
    """

    def __init__(self, file: str, problem: str) -> None:
        self.file, self.problem = file, problem
        super().__init__(f"{file}: {problem}")


class Incompatible(StoreError):
    """The store or the version was made for another reader, writer, model or space."""


class UnsupportedStorage(StoreError):
    """The storage cannot keep the store's promises."""


class StorageFull(UnsupportedStorage):
    """The disk is full; nothing that was published before is touched."""


class LeaseLost(StoreError):
    """The version that was open may be deleted by now, or was closed; open it again."""


class StorageUnavailable(StoreError):
    """The storage gave no answer, however often it was asked; what it did is not known."""


class WriteForbidden(StorageUnavailable, PermissionError):
    """The storage takes nothing from this process, as a folder of another user does not."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EACCES


class Fenced(StoreError):
    """Maintenance gave this attempt up while it was stalled; publish again with the same key."""


class AliasMoved(StoreError):
    """The alias names another version than the caller expected."""


class GatesFailed(StoreError):
    """The version did not pass its gates; it is readable by its number, and no alias names it."""


class DayGoesBackwards(StoreError):
    """The alias names a later day; moving it back is a rollback, not a promotion."""
