"""What becomes of a version after its commit: a log of marks in which every step has one winner."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from embedding_store.blobs import Blobs
from embedding_store.errors import Corrupted, VersionExpired
from embedding_store.manifest import Document, seal, unseal

FATES = "gc"
_MARK = re.compile(r"(\d{10})\.json")
State = Literal["condemned", "pardoned", "doomed", "deleted"]


class Mark(Document):
    """One step of a version's fate: to what, why and by whom."""

    version: int = Field(ge=1)
    sequence: int = Field(ge=1)
    state: State
    by: Literal["gc", "erase", "alias"]
    reason: str


@dataclass(frozen=True)
class Fate:
    """The last mark of a version; without one it is live."""

    version: int
    mark: Mark | None = None

    @property
    def state(self) -> str:
        """In one word, for people."""
        return self.mark.state if self.mark and self.mark.state != "pardoned" else "live"

    @property
    def is_readable(self) -> bool:
        """Whether it may be opened."""
        return self.state == "live"

    @property
    def is_gone(self) -> bool:
        """Whether its files are deleted or being deleted; nothing brings it back."""
        return self.state in ("doomed", "deleted")

    @property
    def is_final(self) -> bool:
        """Whether no alias can bring it back: gone, or about to be for an erasure."""
        return self.is_gone or (self.mark is not None and self.mark.by == "erase")

    @property
    def is_condemned(self) -> bool:
        """Whether it waits for its readers and may still be pardoned, unless it is final."""
        return self.state == "condemned"

    def expired(self) -> VersionExpired:
        """The error of those who ask for it."""
        assert self.mark is not None
        return VersionExpired(
            f"version {self.version} is {self.state}: {self.mark.reason}; "
            "its manifest stays, its files do not; open an alias or a later version"
        )


class Fates:
    """The fates of a store's versions.

    live -> condemned -> doomed -> deleted; a condemned version that an alias names is pardoned.
    Each step is the next number of the version's log, made by create-if-absent, so of those who
    decide at once exactly one decides. Files are only deleted after `doomed`.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def of(self, version: int) -> Fate:
        """What was decided so far.

        Raises:
            Corrupted: the last mark is not what was written.
        """
        marks = (_MARK.fullmatch(name) for name in self._blobs.list(_folder(version)))
        last = max((int(mark[1]) for mark in marks if mark), default=0)
        while self._blobs.exists(_name(version, last + 1)):  # as `Ledger.head` does
            last += 1
        if not last:
            return Fate(version)
        name = _name(version, last)
        mark, _ = unseal(name, self._blobs.read(name), Mark)
        if (mark.version, mark.sequence) != (version, last):
            raise Corrupted(name, f"says that it is mark {mark.sequence} of {mark.version}")
        return Fate(version, mark)

    def move(self, fate: Fate, state: State, by: Literal["gc", "erase", "alias"], why: str) -> bool:
        """Take the next step from `fate`; False if somebody else has taken one since."""
        sequence = fate.mark.sequence + 1 if fate.mark else 1
        mark = Mark(version=fate.version, sequence=sequence, state=state, by=by, reason=why)
        return self._blobs.create_if_absent(
            _name(fate.version, sequence), seal(mark.model_dump(mode="json"))
        )

    def secure(self, fate: Fate) -> None:
        """Make a mark that was seen durable, before anything is done that rests on it."""
        if fate.mark is not None:
            name = _name(fate.version, fate.mark.sequence)
            self._blobs.create_if_absent(name, seal(fate.mark.model_dump(mode="json")))

    def marked_at(self, fate: Fate) -> float:
        """When the last mark was made, by the storage's clock."""
        assert fate.mark is not None
        return self._blobs.modified(_name(fate.version, fate.mark.sequence))

    def pardon(self, version: int, why: str) -> None:
        """Keep a condemned version that an alias names; nothing happens to a live one.

        Raises:
            VersionExpired: too late, or it was condemned by an erasure.
        """
        while not (fate := self.of(version)).is_readable:
            if fate.is_final:
                raise fate.expired()
            self.move(fate, "pardoned", "alias", why)


def _folder(version: int) -> str:
    return f"{FATES}/{version:020d}"


def _name(version: int, sequence: int) -> str:
    return f"{_folder(version)}/{sequence:010d}.json"
