"""The rotation from any version to any other, composed of those that versions carry."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from embedding_store.commit import Ledger
from embedding_store.errors import Corrupted, Incompatible
from embedding_store.integrity import check_file
from embedding_store.manifest import AlignmentGroup, Manifest

ALIGNMENT_FILE = "alignment.safetensors"


class _Step(NamedTuple):
    """A version on the way, and the group whose rotation leads on to the version it names."""

    manifest: Manifest
    group: AlignmentGroup | None  # None: the way ends here


def rotation_between(ledger: Ledger, table: str, source: int, target: int) -> np.ndarray:
    """(d, d) float64 Q: `vectors of version source @ Q` are on the axes of version `target`.

    Each version was aligned with one before it, so all of them hang in a tree; the way goes up
    from `source` to the first version that is also above `target`, and down again. Every step
    adds its own residual, which the manifests state.

    Raises:
        VersionNotFound: no such version.
        Incompatible: no way leads from one to the other: another dimension or space in between.
        Corrupted: a file of rotations is not what was published.
    """
    up, down = _way(ledger, table, source), _way(ledger, table, target)
    above = {step.manifest.version: place for place, step in enumerate(down)}
    meeting = next((n for n, step in enumerate(up) if step.manifest.version in above), None)
    if meeting is None:
        raise Incompatible(
            f"no rotation leads from {table} of version {source} to version {target}: "
            f"{_end(up[-1], table)}, {_end(down[-1], table)}"
        )
    rotation = np.eye(_dim(up[0], table))
    for step in up[:meeting]:
        rotation = rotation @ _rotation(ledger, step).T
    for step in reversed(down[: above[up[meeting].manifest.version]]):
        rotation = rotation @ _rotation(ledger, step)
    return rotation


def _way(ledger: Ledger, table: str, version: int) -> list[_Step]:
    """The version, the one that it was aligned with, and so on to the last."""
    way: list[_Step] = []
    sha256 = None
    while True:
        stored = ledger.stored(version)
        if sha256 not in (None, stored.sha256):
            raise Corrupted(way[-1].manifest.attempt, f"was aligned with another version {version}")
        alignment = stored.manifest.alignment
        group = alignment.group_of(table) if alignment else None
        way.append(_Step(stored.manifest, group))
        if group is None or alignment is None:
            return way
        version, sha256 = alignment.to.version, alignment.to.manifest_sha256


def _end(step: _Step, table: str) -> str:
    """Why the way up ends at a version."""
    alignment, version = step.manifest.alignment, step.manifest.version
    if alignment is None:
        return f"version {version} was aligned with none"
    why = "; ".join(alignment.skipped.values()) or f"'{table}' is not among its groups"
    return f"version {version} was not aligned with version {alignment.to.version} ({why})"


def _dim(step: _Step, table: str) -> int:
    entry = step.manifest.tables.get(table)
    if entry is None or entry.dim is None:
        raise Incompatible(f"version {step.manifest.version} has no vectors '{table}'")
    return entry.dim


def _rotation(ledger: Ledger, step: _Step) -> np.ndarray:
    """(d, d): vectors of the version that this one was aligned with, times it, are on its axes."""
    assert step.group is not None
    entry = step.manifest.file(ALIGNMENT_FILE)
    assert entry is not None  # check_references
    try:
        check_file(ledger.blobs, entry, "full")
    except Corrupted as error:
        if ledger.blobs.exists(entry.path):
            raise
        raise Incompatible(
            f"the rotation of version {step.manifest.version} is on the way, and its files are "
            "gone; fit one directly with embedding_store.alignment.align"
        ) from error
    return load_file(ledger.blobs.local_path(entry.path))[step.group.name]
