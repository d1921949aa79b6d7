"""How a version is opened: what a reference means, held before it is read, and verified."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from embedding_store.aliases import Aliases
from embedding_store.commit import Ledger, Stored
from embedding_store.compatibility import check_expected
from embedding_store.errors import BadInput, VersionExpired
from embedding_store.fates import Fates
from embedding_store.integrity import Level, check_decision, check_files, check_successor
from embedding_store.leases import Hold, hold
from embedding_store.manifest import StoreFile

_PAUSES_S = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)


def opened(
    ledger: Ledger,
    ref: int | str,
    expect: Mapping[str, Any] | None = None,
    level: Level = "full",
    lease: bool | None = None,
) -> tuple[Stored, Hold]:
    """The manifest that `ref` means, once it and its files have passed, and the hold on them.

    The order matters: the manifest, a lease, then a look whether the version is condemned, and
    only then its files. See `lookup.open_version`.
    """
    settings = ledger.check_readable()
    stored, held = _held(ledger, settings, ref, lease)
    try:
        check_successor(ledger, stored)
        check_decision(ledger, stored)
        check_expected(stored.manifest, expect or {})
        check_files(ledger.blobs, stored.manifest, level)
    except BaseException:
        held.release()
        raise
    return stored, held


def _held(
    ledger: Ledger, settings: StoreFile, ref: int | str, lease: bool | None
) -> tuple[Stored, Hold]:
    for pause in _PAUSES_S:
        stored = resolve(ledger, ref)
        try:
            return stored, hold(ledger.blobs, settings, stored.manifest.version, lease)
        except VersionExpired:
            if not is_alias(ref):
                raise
        time.sleep(pause)  # the alias has moved on, or gc is about to see that it names this
    # gc died after it condemned the version, and before it looked which aliases name it
    version = stored.manifest.version
    Fates(ledger.blobs).pardon(version, f"alias '{ref}' names it")
    return stored, hold(ledger.blobs, settings, version, lease)


def is_alias(ref: object) -> bool:
    """Whether a reference is a name that moves, and no number."""
    return isinstance(ref, str) and not (ref.isascii() and ref.isdigit())


def resolve(ledger: Ledger, ref: int | str) -> Stored:
    """The manifest that a number, a number as text or an alias names now."""
    if isinstance(ref, str) and is_alias(ref):
        return Aliases(ledger).target(ref)
    if isinstance(ref, bool) or not isinstance(ref, int | str):
        raise BadInput(f"{ref!r} is neither a version's number nor an alias")
    return ledger.stored(int(ref))
