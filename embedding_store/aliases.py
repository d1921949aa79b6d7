"""Aliases: movable names of versions, each an append-only log of who moved it and why."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from embedding_store.commit import Ledger, Stored, slot_name
from embedding_store.errors import (
    AliasMoved,
    BadInput,
    Corrupted,
    DayGoesBackwards,
    VersionNotFound,
)
from embedding_store.manifest import AliasEntry, AliasPrevious, seal, sha256_hex, unseal
from embedding_store.names import checked_alias, checked_text

REFS = "refs"
_ENTRY = re.compile(r"(\d{10})\.json")


def entry_name(alias: str, sequence: int) -> str:
    """Name of one entry of an alias log."""
    return f"{REFS}/{alias}/{sequence:010d}.json"


def now() -> str:
    """The time for people who read the store's documents; no decision rests on it."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class Aliases:
    """The alias logs of a store."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._blobs = ledger, ledger.blobs

    def names(self) -> list[str]:
        """All aliases that were ever given."""
        return [name for name in self._blobs.list(REFS) if self.last(name)]

    def head(self, alias: str) -> AliasEntry | None:
        """Where an alias points now; None if it was never given."""
        last = self.last(alias)
        return self.entry(alias, last)[0] if last else None

    def entry(self, alias: str, sequence: int) -> tuple[AliasEntry, bytes]:
        """One entry of the log, and its bytes.

        Raises:
            Corrupted: it is missing, or not what was written.
        """
        name = entry_name(alias, sequence)
        try:
            content = self._blobs.read(name)
        except FileNotFoundError:
            raise Corrupted(name, "is missing; the log has later entries") from None
        entry, _ = unseal(name, content, AliasEntry)
        if (entry.alias, entry.sequence) != (alias, sequence):
            raise Corrupted(name, f"says that it is entry {entry.sequence} of '{entry.alias}'")
        return entry, content

    def log(self, alias: str) -> list[AliasEntry]:
        """All moves of an alias, oldest first."""
        return [self.entry(alias, n)[0] for n in range(1, self.last(alias) + 1)]

    def target(self, alias: str) -> Stored:
        """The version that an alias names now.

        Raises:
            VersionNotFound: no such alias.
            Corrupted: the alias names another manifest than the one in the version's slot.
        """
        entry = self.head(checked_alias(alias))
        if entry is None:
            there = ", ".join(self.names()) or "none yet"
            raise VersionNotFound(f"no alias '{alias}' in {self._blobs.root}; there is: {there}")
        return self.named(entry)

    def promote(
        self, version: int, alias: str, *, reason: str, actor: str, expected_prev: int | None = None
    ) -> AliasEntry:
        """Point `alias` at `version`; nothing happens if it does already.

        Args:
            version: a published version.
            alias: lower-case name.
            reason: why, for those who ask later.
            actor: who.
            expected_prev: the version that the caller believes the alias to name (0: none);
                None moves it from wherever it is.

        Raises:
            AliasMoved: the alias names another version than `expected_prev`.
            DayGoesBackwards: the alias names a version of a later day.
        """
        checked_alias(alias)
        checked_text(reason, "reason")
        checked_text(actor, "actor")
        stored = self._ledger.stored(_number(version))
        self._ledger.secure(stored)
        while True:
            last = self.last(alias)
            entry = self._next(stored, alias, last, reason, actor, expected_prev)
            if isinstance(entry, bytes):  # it is there: make sure that it stays
                self._blobs.create_if_absent(entry_name(alias, last), entry)
                return self.entry(alias, last)[0]
            sealed = seal(entry.model_dump(mode="json"))
            if self._blobs.create_if_absent(entry_name(alias, last + 1), sealed):
                return entry

    def _next(
        self,
        stored: Stored,
        alias: str,
        last: int,
        reason: str,
        actor: str,
        expected_prev: int | None,
    ) -> AliasEntry | bytes:
        """The entry to append after entry `last`, or that entry's bytes if it says so already."""
        version, prev = stored.manifest.version, None
        if last:
            current, content = self.entry(alias, last)
            if current.version == version and current.manifest_sha256 == stored.sha256:
                return content
            prev = AliasPrevious(
                sequence=last, version=current.version, entry_sha256=sha256_hex(content)
            )
            _check_expected(alias, current.version, expected_prev)
            _check_day(alias, stored, self.named(current))
        else:
            _check_expected(alias, 0, expected_prev)
        return AliasEntry(
            alias=alias,
            sequence=last + 1,
            version=version,
            manifest_sha256=stored.sha256,
            prev=prev,
            reason=reason,
            actor=actor,
            gates=[],
            created_at=now(),
        )

    def last(self, alias: str) -> int:
        """Sequence number of the newest entry of an alias; 0 if it was never given."""
        entries = (_ENTRY.fullmatch(name) for name in self._blobs.list(f"{REFS}/{alias}"))
        return max((int(entry[1]) for entry in entries if entry), default=0)

    def named(self, entry: AliasEntry) -> Stored:
        """The version that an entry names; raises as `target` does."""
        stored = self._ledger.stored(entry.version)
        if stored.sha256 != entry.manifest_sha256:
            raise Corrupted(
                slot_name(entry.version),
                f"is not the manifest that {entry_name(entry.alias, entry.sequence)} names",
            )
        return stored


def _number(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, int):
        raise BadInput(f"version {version!r} is not a number; promotions name the number")
    return version


def _check_expected(alias: str, current: int, expected: int | None) -> None:
    if expected is not None and expected != current:
        raise AliasMoved(
            f"alias '{alias}' names {f'version {current}' if current else 'nothing'}, "
            f"the caller expected {expected}; look again and decide again"
        )


def _check_day(alias: str, stored: Stored, current: Stored) -> None:
    new, old = stored.manifest, current.manifest
    if new.day < old.day:
        raise DayGoesBackwards(
            f"version {new.version} is of {new.day}, but '{alias}' names version {old.version} of "
            f"{old.day}: a backfill is published and not promoted"
        )
