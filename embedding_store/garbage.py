"""Garbage collection in two steps: condemn, wait for readers, delete. Slots are never freed."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from embedding_store.aliases import REFS, Aliases
from embedding_store.commit import (
    DATA,
    INTENTS,
    RUN_FILE,
    VERSIONS,
    Ledger,
    RunFile,
    Stored,
    slot_name,
)
from embedding_store.errors import BadInput, Corrupted
from embedding_store.fates import FATES, Fate, Fates
from embedding_store.leases import LEASES, active_leases, sweep_leases
from embedding_store.manifest import StoreFile, seal, unseal

_DAY_S = 86_400.0


@dataclass(frozen=True)
class Policy:
    """What is kept, and how patient the collector is.

    Attributes:
        keep_last: versions that each alias named last, its current one included.
        younger_than_s: versions younger than this are kept.
        attempt_age_s: a try that never became a version is left alone for so long. It is
            politeness: a slow publisher whose try is given up must start again.
        skew_s: added to every lease and grace period, for clocks that run at different rates and
            storage that rounds its times to seconds.
    """

    keep_last: int = 3
    younger_than_s: float = 7 * _DAY_S
    attempt_age_s: float = _DAY_S
    skew_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse a policy that would condemn what an alias names."""
        if self.keep_last < 1:
            raise BadInput(f"keep_last is {self.keep_last}; what an alias names is always kept")


DEFAULT_POLICY = Policy()
Done = Literal["kept", "condemned", "pardoned", "waiting", "deleted"]


@dataclass(frozen=True)
class Outcome:
    """What became of a version or of a try, and why."""

    what: str  # version 3, or attempt 1762...
    done: Done
    why: str
    bytes: int = 0


def collect(ledger: Ledger, policy: Policy = DEFAULT_POLICY, *, dry_run: bool) -> list[Outcome]:
    """Delete what nobody needs any more.

    A version is kept if an alias names it or did so lately, if it is young, open, or the newest.
    Another is condemned: it cannot be opened any more. Once the grace period is over and no lease
    on it is left, which may be in a later call, its files are deleted. Manifests, decisions and
    marks stay for ever, so that no number can be given twice.

    Args:
        ledger: the store's versions.
        policy: what to keep.
        dry_run: decide, and change nothing; by this machine's clock.

    Returns:
        An outcome for each version with files, and for each try that never became a version.
    """
    settings = ledger.check_writable()
    collector = Collector(ledger, settings, policy, dry_run)
    return [*collector.versions(), *collector.attempts(), *collector.leftovers()]


class Collector:
    """One run over a store; any number may run at once, and any may die."""

    def __init__(
        self, ledger: Ledger, settings: StoreFile, policy: Policy, dry_run: bool = False
    ) -> None:
        self._ledger, self._blobs, self._settings = ledger, ledger.blobs, settings
        self._policy, self._dry_run = policy, dry_run
        self._aliases, self._fates = Aliases(ledger), Fates(ledger.blobs)

    def now(self) -> float:
        """The time by the storage's clock, the only one that leases and marks are dated by."""
        if self._dry_run:
            return time.time()
        name = f"{FATES}/clock/{secrets.token_hex(8)}.json"
        self._blobs.create_if_absent(name, seal({}))
        now = self._blobs.modified(name)
        self._blobs.delete(name)
        return now

    # -- versions --------------------------------------------------------------------------------

    def versions(self) -> Iterator[Outcome]:
        """Condemn, then delete those whose time has come."""
        waiting = []
        needed, now, head = self._needed(), self.now(), self._ledger.head()
        for stored in self._ledger.all_stored():
            fate = self._fates.of(stored.manifest.version)
            if fate.is_readable:
                why = self._why_kept(stored, needed, now, head)
                yield self._outcome(stored, "kept", why) if why else self._condemn(stored, fate)
            elif fate.state != "deleted":
                waiting.append(stored)
        if not waiting:
            return
        # Read before the leases are listed: a lease that is missing from the list was created
        # after this, and then the reader's lease before it had not run out by now.
        now = self.now()
        for stored in waiting:
            yield self._finish(stored, now)

    def _needed(self) -> dict[int, str]:
        """Why aliases keep versions.

        Read after a version was condemned, it sees every promotion that did not see that.
        """
        needed: dict[int, str] = {}
        for alias in self._aliases.names():
            lately: list[int] = []
            for sequence in range(self._aliases.last(alias), 0, -1):
                version = self._aliases.entry(alias, sequence)[0].version
                if version not in lately and not self._fates.of(version).is_final:
                    lately.append(version)
                if len(lately) == self._policy.keep_last:
                    break
            for place, version in enumerate(lately):
                said = f"'{alias}' named it lately" if place else f"'{alias}' names it"
                needed[version] = said if place == 0 else needed.get(version, said)
        return needed

    def _why_kept(self, stored: Stored, needed: dict[int, str], now: float, head: int) -> str:
        version = stored.manifest.version
        if version in needed:
            return needed[version]
        if version == head:
            return "it is the newest"
        age = now - self._blobs.modified(slot_name(version))
        if age < self._policy.younger_than_s:
            return f"it is {age / _DAY_S:.1f} days old"
        leases = self._leases(version, now)
        return f"{len(leases)} readers have it open" if leases else ""

    def _leases(self, version: int, now: float) -> list[str]:
        return active_leases(self._blobs, self._settings, version, now - self._policy.skew_s)

    def _condemn(self, stored: Stored, fate: Fate) -> Outcome:
        why = "no alias needs it and it is old"
        if self._dry_run:
            return self._outcome(stored, "condemned", why)
        if not self._fates.move(fate, "condemned", "gc", why):
            return self._outcome(stored, "waiting", "another collector decided at the same time")
        return self._spared(stored) or self._outcome(stored, "condemned", why)

    def _spared(self, stored: Stored) -> Outcome | None:
        """Pardon a condemned version that a promotion has named meanwhile."""
        why = self._needed().get(stored.manifest.version)
        if why is None:
            return None
        if not self._dry_run:
            self._fates.pardon(stored.manifest.version, why)
        return self._outcome(stored, "pardoned", why)

    def _finish(self, stored: Stored, now: float) -> Outcome:
        """Delete a condemned version, unless somebody may still read it."""
        version = stored.manifest.version
        fate = self._fates.of(version)
        if not fate.is_gone:
            if not fate.is_final and (spared := self._spared(stored)):
                return spared
            if why := self.why_not_yet(fate, now):
                return self._outcome(stored, "waiting", why)
        if not self._dry_run and not self.delete(stored, fate):
            return self._outcome(stored, "waiting", "it was pardoned at the last moment")
        reason = fate.mark.reason if fate.mark else ""
        return self._outcome(stored, "deleted", reason)

    def why_not_yet(self, fate: Fate, now: float) -> str:
        """Who may still read a condemned version at `now`; nobody if empty."""
        rest = self._fates.marked_at(fate) + self._settings.grace_s + self._policy.skew_s - now
        if rest > 0:
            return f"condemned; {rest:.0f} s of its grace period are left"
        if leases := self._leases(fate.version, now):
            return f"condemned; {len(leases)} readers still have it open"
        return ""

    def delete(self, stored: Stored, fate: Fate) -> bool:
        """Pass the point of no return and delete; False if an alias was faster."""
        if not fate.is_gone:
            assert fate.mark is not None
            if not self._fates.move(fate, "doomed", _by(fate), fate.mark.reason):
                return False
            fate = self._fates.of(fate.version)
        self._fates.secure(fate)
        self._blobs.delete_folder(f"{DATA}/{stored.manifest.attempt}")
        assert fate.mark is not None
        self._fates.move(fate, "deleted", _by(fate), fate.mark.reason)
        return True

    def _outcome(self, stored: Stored, done: Done, why: str) -> Outcome:
        size = sum(entry.bytes for entry in stored.manifest.files)
        return Outcome(f"version {stored.manifest.version}", done, why, size)

    # -- tries that never became a version -------------------------------------------------------

    def attempts(self) -> Iterator[Outcome]:
        """Delete the tries that can never become a version any more."""
        tries = self._blobs.list(DATA)
        made = {stored.manifest.attempt for stored in self._ledger.all_stored()}
        decided = made | set(self._ledger.committed().values())
        orphans = [attempt for attempt in tries if attempt not in decided]
        now = self.now() if orphans else 0.0
        for attempt in orphans:
            done, why = self._orphan(attempt, now)
            yield Outcome(f"attempt {attempt}", done, why)

    def _orphan(self, attempt: str, now: float) -> tuple[Done, str]:
        digits = attempt.split("-")[0]
        if not digits.isdigit():
            return "kept", "no try of this store has such a name"
        if now - int(digits) / 1e9 < self._policy.attempt_age_s:
            return "waiting", "its publisher may still be writing"
        name = f"{DATA}/{attempt}/{RUN_FILE}"
        try:
            run, _ = unseal(name, self._blobs.read(name), RunFile)
        except FileNotFoundError:
            run = None  # it died at its first file, and nothing can come of it
        except Corrupted as error:
            return "kept", str(error)
        if self._dry_run:
            return "deleted", "it never became a version"
        if run and not self._ledger.give_up(run.run_key, run.generation, attempt, "gc"):
            return "kept", "its run has just been decided for it"
        self._blobs.delete_folder(f"{DATA}/{attempt}")
        return "deleted", "it never became a version"

    def leftovers(self) -> Iterator[Outcome]:
        """Remove unfinished files of processes that died, and leases that have run out."""
        if self._dry_run:
            return
        now = self.now()
        for version in range(1, self._ledger.head() + 1):
            sweep_leases(self._blobs, self._settings, version, now - self._policy.skew_s)
        folders = [VERSIONS, INTENTS]
        for above in (REFS, LEASES, FATES):
            folders += [f"{above}/{name}" for name in self._blobs.list(above)]
        before = now - self._policy.attempt_age_s
        n_deleted = sum(self._blobs.delete_unfinished(folder, before) for folder in folders)
        if n_deleted:
            yield Outcome(f"{n_deleted} unfinished files", "deleted", "their writers died")


def _by(fate: Fate) -> Literal["gc", "erase"]:
    return "erase" if fate.mark is not None and fate.mark.by == "erase" else "gc"
