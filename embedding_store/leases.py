"""Leases: what keeps the files of a version that somebody has open.

A reader creates a lease and then looks whether the version was condemned; the collector condemns
and then looks for leases. So one of them always sees the other.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
import time
import weakref
from contextlib import suppress
from itertools import count

from embedding_store.blobs import Blobs
from embedding_store.errors import LeaseLost, StorageFull, StoreError
from embedding_store.fates import Fates
from embedding_store.manifest import StoreFile, seal

LEASES = "leases"
_CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS}
_RENEWALS = 3  # tries in the life of a lease
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # runs on while a laptop sleeps


def clock() -> float:
    """Seconds that have passed on this machine; never compared with another machine's."""
    return time.clock_gettime(_CLOCK)


def lease_folder(version: int) -> str:
    """Where the leases of a version are."""
    return f"{LEASES}/{version:020d}"


class Hold:
    """The right to read a version's files for a while, renewed as long as it is held.

    With a lease the collector waits for its end. Without one (a reader that cannot write) it waits
    for the store's grace period after the version was condemned, and no longer. Either way the
    holder knows when its right ends and stops by itself: it never reads what may be deleted.
    """

    def __init__(self, blobs: Blobs, settings: StoreFile, version: int, *, leased: bool) -> None:
        self._blobs, self._fates, self._version = blobs, Fates(blobs), version
        self.leased = leased
        self._lifetime = settings.lease_ttl_s if leased else settings.grace_s
        self._pid, self._lost, self._lock = os.getpid(), "", threading.Lock()
        self._reader = f"{os.getpid()}-{secrets.token_hex(8)}"
        self._numbers, self._writing = count(1), threading.Lock()
        self._release = self._finalizer()
        self.renew_at = self._valid_until = asked = clock()
        if leased:
            self._write_lease()
        if not (fate := self._fates.of(version)).is_readable:
            self._release()
            raise fate.expired()
        self._extend(asked)
        if leased:
            _keeper.add(self)

    def _finalizer(self) -> weakref.finalize[..., Hold]:
        """Releases the lease when nobody has this any more, and when the process ends."""
        reader = self._reader if self.leased else ""
        args = (self._blobs, self._version, reader, self._pid, self._writing)
        return weakref.finalize(self, _release, *args)

    def check(self) -> None:
        """Return if the files may be read now.

        Raises:
            LeaseLost: they may be deleted, or the version was closed.
        """
        if clock() >= self.renew_at or self._lost or self._pid != os.getpid():
            self.renew()
            if self._lost:
                raise LeaseLost(f"version {self._version} {self._lost}; open it again")

    def renew(self) -> None:
        """Extend the right if a third of its time is over; in time, or else only if nobody minds.

        A renewal counts from the moment before it was asked for, and only if it was there before
        the last one ran out: then the collector, which reads its clock before it lists, has seen
        one of the two. A later one is a new lease, for which the version must not be condemned.
        """
        with self._lock:
            has_forked = self._pid != os.getpid()
            if self._lost or (clock() < self.renew_at and not has_forked):
                return
            if has_forked:  # the lease is the parent's: take another
                self._pid, self._reader = os.getpid(), f"{os.getpid()}-{secrets.token_hex(8)}"
                self._valid_until, self._numbers = -1.0, count(1)
                self._release.detach()
                self._writing = threading.Lock()
                self._release = self._finalizer()
                _keeper.add(self)
            reason = "was condemned while it was open, and its time is over"
            try:
                self._ask_again()
            except (OSError, StoreError) as error:
                reason = f"was open, and its lease could not be renewed ({error})"
                self.renew_at = clock() + self._lifetime / (10 * _RENEWALS)
            if clock() >= self._valid_until:
                self._lost = reason

    def _ask_again(self) -> None:
        asked = clock()
        fate = self._fates.of(self._version)
        if fate.is_final or not (self.leased or fate.is_readable):
            self.renew_at = self._valid_until  # it runs out
            return
        if self.leased:
            self._write_lease()
            is_late = clock() >= self._valid_until
            if is_late and not self._fates.of(self._version).is_readable:
                return
        self._extend(asked)

    def _extend(self, asked: float) -> None:
        self._valid_until = asked + self._lifetime
        self.renew_at = asked + self._lifetime / _RENEWALS

    def _write_lease(self) -> None:
        """The next lease of this reader. Those before stay: a listing must not miss both."""
        name = f"{lease_folder(self._version)}/{self._reader}.{next(self._numbers)}.json"
        with self._writing:
            if self._release.alive:
                self._blobs.create_if_absent(name, seal({"expires_after_s": self._lifetime}))

    def release(self) -> None:
        """Give the right up; every later `check` fails."""
        with self._lock:
            self._lost = self._lost or "was closed"
            self._release()


def hold(blobs: Blobs, settings: StoreFile, version: int, lease: bool | None) -> Hold:
    """Hold a version that is not condemned.

    Args:
        blobs: where it is.
        settings: how long leases and the grace period of this store are.
        version: its number.
        lease: True insists on a lease, False writes nothing; None takes one where this process
            may write, and where the disk has room for it.

    Raises:
        VersionExpired: it is condemned.
    """
    if lease is not False:
        try:
            return Hold(blobs, settings, version, leased=True)
        except (OSError, StorageFull) as error:
            is_reader = isinstance(error, StorageFull | PermissionError)
            if lease or not (is_reader or getattr(error, "errno", None) in _CANNOT_WRITE):
                raise
    return Hold(blobs, settings, version, leased=False)


def active_leases(blobs: Blobs, settings: StoreFile, version: int, now: float) -> list[str]:
    """Readers with a lease that has not run out at `now`, which was read before this call."""
    folder, active = lease_folder(version), set()
    for name in blobs.list(folder):
        with suppress(FileNotFoundError):  # released meanwhile
            if blobs.modified(f"{folder}/{name}") + settings.lease_ttl_s > now:
                active.add(name.split(".")[0])
    return sorted(active)


def sweep_leases(blobs: Blobs, settings: StoreFile, version: int, now: float) -> None:
    """Remove leases that have run out."""
    folder = lease_folder(version)
    for name in blobs.list(folder):
        with suppress(FileNotFoundError):
            if blobs.modified(f"{folder}/{name}") + settings.lease_ttl_s <= now:
                blobs.delete(f"{folder}/{name}")


def _release(blobs: Blobs, version: int, reader: str, pid: int, writing: threading.Lock) -> None:
    """Remove a reader's leases, once one that is being written is there; others run out."""
    if not reader or pid != os.getpid():
        return
    folder = lease_folder(version)
    with writing, suppress(Exception):
        for name in blobs.list(folder):
            if name.startswith(f"{reader}."):
                blobs.delete(f"{folder}/{name}")


class _Keeper:
    """The one thread of a process that renews its leases; it ends when there are none."""

    def __init__(self) -> None:
        self._holds: weakref.WeakSet[Hold] = weakref.WeakSet()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0

    def add(self, hold: Hold) -> None:
        with self._changed:
            self._holds.add(hold)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            elif hold.renew_at < self._wakes_at:
                self._changed.notify()

    def _run(self) -> None:
        while holds := self._due():
            while holds:  # held by nobody but its reader while this thread sleeps
                holds.pop().renew()

    def _due(self) -> list[Hold]:
        """Sleep until a lease has to be renewed; nothing if there are no more leases."""
        with self._changed:
            while times := [hold.renew_at for hold in self._holds if not hold._lost]:
                self._wakes_at = min(times)
                if (pause := self._wakes_at - clock()) <= 0:
                    return list(self._holds)
                self._changed.wait(pause)
            self._thread = None
            return []


_keeper = _Keeper()


def _start_afresh() -> None:
    """In a forked child there is no thread, and locks may be held by one that is not there."""
    global _keeper
    for hold in list(_keeper._holds):
        hold._lock = threading.Lock()
    _keeper = _Keeper()


os.register_at_fork(after_in_child=_start_afresh)
