"""Aliases: movable names of versions, each an append-only log of who moved it and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from embedding_store.commit import Ledger, Stored, slot_name
from embedding_store.errors import (
    AliasMoved,
    BadInput,
    Corrupted,
    DayGoesBackwards,
    GatesFailed,
    VersionNotFound,
)
from embedding_store.fates import Fates
from embedding_store.manifest import AliasEntry, AliasPrevious, GateEntry, seal, sha256_hex, unseal
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
        self._ledger, self.blobs = ledger, ledger.blobs
        self._fates = Fates(ledger.blobs)

    def names(self) -> list[str]:
        """All aliases that were ever given."""
        return [name for name in self.blobs.list(REFS) if self.last(name)]

    def head(self, alias: str) -> AliasEntry | None:
        """Where an alias points now; None if it was never given.

        An entry whose version is gone is void: its promoter had stalled until after the deletion.
        """
        for sequence in range(self.last(alias), 0, -1):
            entry = self.entry(alias, sequence)[0]
            if not self._fates.of(entry.version).is_final:
                return entry
        return None

    def entry(self, alias: str, sequence: int) -> tuple[AliasEntry, bytes]:
        """One entry of the log, and its bytes.

        Raises:
            Corrupted: it is missing, or not what was written.
        """
        name = entry_name(alias, sequence)
        try:
            content = self.blobs.read(name)
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
            raise VersionNotFound(f"no alias '{alias}' in {self.blobs.root}; there is: {there}")
        return self.named(entry)

    def before(self, alias: str, day: str) -> int | None:
        """The version that one of `day` would replace, and is to be compared with.

        It is the one that the alias names, unless that is of a later day (a backfill): then the
        one that it named last among those of `day` and before. None if there is no such version.
        """
        for sequence in range(self.last(alias), 0, -1):
            version = self.entry(alias, sequence)[0].version
            if self._fates.of(version).is_final:
                continue
            if self._ledger.stored(version).manifest.day <= day:
                return version
        return None

    def promote(
        self,
        version: int,
        alias: str,
        *,
        reason: str,
        actor: str,
        expected_prev: int | None = None,
        gates: Sequence[GateEntry] | None = None,
        despite_gates: bool = False,
    ) -> AliasEntry:
        """Point `alias` at `version`; nothing happens if it does already.

        Args:
            version: a published version.
            alias: lower-case name.
            reason: why, for those who ask later.
            actor: who.
            expected_prev: the version that the caller believes the alias to name (0: none);
                None moves it from wherever it is.
            gates: what was found in a comparison with the version that it replaces, for the
                record; those of the version's manifest if not given.
            despite_gates: move it even if the version was refused.

        Raises:
            AliasMoved: the alias names another version than `expected_prev`.
            DayGoesBackwards: the alias names a version of a later day.
            GatesFailed: the version was refused when it was published.
            VersionExpired: it is deleted, or will be.
        """
        stored = self._promotable(version, alias, reason, actor, despite_gates)
        while True:
            last = self.last(alias)
            current = self.entry(alias, last) if last else None
            if current and _names(current[0], stored):  # it is there: make sure that it stays
                self.blobs.create_if_absent(entry_name(alias, last), current[1])
                self._spare(current[0])
                return current[0]
            head = self.head(alias)
            _check_expected(alias, head.version if head else 0, expected_prev)
            if head:
                _check_day(alias, stored, self.named(head))
            entry = _entry_after(current, stored, alias, reason, actor, gates)
            if self._append(entry):
                return entry

    def rollback(
        self,
        alias: str,
        *,
        reason: str,
        actor: str,
        version: int | None = None,
        despite_gates: bool = False,
    ) -> AliasEntry:
        """Point `alias` at a version of any day, by a further entry of its log.

        Args:
            alias: one that was given.
            reason: why, for those who ask later.
            actor: who.
            version: where to; the one that the alias named before if not given.
            despite_gates: even if the version was refused when it was published.

        Raises:
            VersionNotFound: the alias was never given, or never named another version.
            BadInput: it names that version already.
            GatesFailed: the version was refused when it was published.
        """
        while True:
            self.target(alias)  # the alias exists
            head = self.head(alias)
            assert head is not None  # no version comes to life again
            current = self.entry(alias, self.last(alias))
            wanted = self._other_before(head) if version is None else version
            stored = self._promotable(wanted, alias, reason, actor, despite_gates)
            if _names(head, stored):
                raise BadInput(f"alias '{alias}' names version {wanted} already")
            entry = _entry_after(current, stored, alias, reason, actor, None)
            if self._append(entry):
                return entry

    def _other_before(self, current: AliasEntry) -> int:
        """The version that an alias named before its current one."""
        for sequence in range(current.sequence - 1, 0, -1):
            version = self.entry(current.alias, sequence)[0].version
            if version != current.version and not self._fates.of(version).is_final:
                return version
        raise VersionNotFound(
            f"alias '{current.alias}' never named another version than {current.version}; "
            "say which one"
        )

    def _promotable(
        self, version: int, alias: str, reason: str, actor: str, despite_gates: bool
    ) -> Stored:
        """The version, durable, if an alias may name it."""
        checked_alias(alias)
        checked_text(reason, "reason")
        checked_text(actor, "actor")
        stored = self._ledger.stored(_number(version))
        if (fate := self._fates.of(version)).is_final:
            raise fate.expired()
        if (refused := stored.manifest.refused) and not despite_gates:
            said = "; ".join(f"{gate.name}: {gate.says}" for gate in refused)
            raise GatesFailed(
                f"version {version} was refused when it was published ({said}); it stays readable "
                "by its number"
            )
        self._ledger.secure(stored)
        return stored

    def _append(self, entry: AliasEntry) -> bool:
        """Whether the entry is now in the log; another may have taken its place."""
        name = entry_name(entry.alias, entry.sequence)
        if not self.blobs.create_if_absent(name, seal(entry.model_dump(mode="json"))):
            return False
        self._spare(entry)
        return True

    def _spare(self, entry: AliasEntry) -> None:
        """Pardon the version of an entry: either this sees it condemned, or gc sees the entry."""
        self._fates.pardon(entry.version, f"alias '{entry.alias}' names it")

    def last(self, alias: str) -> int:
        """Sequence number of the newest entry of an alias; 0 if it was never given."""
        entries = (_ENTRY.fullmatch(name) for name in self.blobs.list(f"{REFS}/{alias}"))
        last = max((int(entry[1]) for entry in entries if entry), default=0)
        while self.blobs.exists(entry_name(alias, last + 1)):  # as `Ledger.head` does
            last += 1
        return last

    def named(self, entry: AliasEntry) -> Stored:
        """The version that an entry names; raises as `target` does."""
        stored = self._ledger.stored(entry.version)
        if stored.sha256 != entry.manifest_sha256:
            raise Corrupted(
                slot_name(entry.version),
                f"is not the manifest that {entry_name(entry.alias, entry.sequence)} names",
            )
        return stored


def _names(entry: AliasEntry, stored: Stored) -> bool:
    """Whether an entry names this very version."""
    return (entry.version, entry.manifest_sha256) == (stored.manifest.version, stored.sha256)


def _entry_after(
    current: tuple[AliasEntry, bytes] | None,
    stored: Stored,
    alias: str,
    reason: str,
    actor: str,
    gates: Sequence[GateEntry] | None,
) -> AliasEntry:
    """The next entry of a log that ends with `current`."""
    prev = None
    if current:
        entry, content = current
        prev = AliasPrevious(
            sequence=entry.sequence, version=entry.version, entry_sha256=sha256_hex(content)
        )
    return AliasEntry(
        alias=alias,
        sequence=prev.sequence + 1 if prev else 1,
        version=stored.manifest.version,
        manifest_sha256=stored.sha256,
        prev=prev,
        reason=reason,
        actor=actor,
        gates=list(stored.manifest.gates if gates is None else gates),
        created_at=now(),
    )


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
