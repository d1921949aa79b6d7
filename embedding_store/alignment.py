"""Rotations between versions: vectors of one night, seen from the axes of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from embedding_store.lookup import VectorSet, Version, find_rows
from embedding_store.manifest import AlignmentEntry, AlignmentGroup, Parent
from embedding_store.rotations import ALIGNMENT_FILE

_CHUNK = 65_536  # rows held in float64 at a time
_UNDETERMINED = 1e-9  # of the largest singular value: below, the shared rows say nothing


@dataclass(frozen=True)
class Fit:
    """A rotation and how well it fits.

    Attributes:
        rotation: (d, d) float64 orthogonal; `source @ rotation` is close to `target`.
        rank: directions that the rows determine; the others stay as they are.
        residual: ||source @ rotation - target|| / ||target||.
        unrotated: the same without a rotation.
    """

    rotation: np.ndarray
    rank: int
    residual: float
    unrotated: float


def procrustes_rotation(source: np.ndarray, target: np.ndarray) -> Fit:
    """Orthogonal map that brings `source` closest to `target`.

    Minimises ||source @ Q - target||_F over orthogonal Q (Schönemann 1966): with
    U S Vt = svd(source.T @ target), Q = U @ Vt. Where the rows span fewer than d directions Q is
    not unique; a billionth of the identity is added to the matrix, so that those stay in place.

    Args:
        source: (n, d), row i describing the same thing as row i of `target`.
        target: (n, d).

    Raises:
        ValueError: shapes differ, or there are no rows.
    """
    if source.shape != target.shape or source.ndim != 2 or not len(source):
        raise ValueError(f"source has shape {source.shape}, target {target.shape}")
    return _fit([(source, target)])


def _fit(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Fit:
    """One rotation for several pairs of (n_i, d) matrices."""
    dim = pairs[0][0].shape[1]
    product = np.zeros((dim, dim))
    for source, target in _chunks(pairs):
        product += source.T @ target
    largest = float(np.linalg.norm(product, 2)) or 1.0
    u, singular, vt = np.linalg.svd(product + _UNDETERMINED * largest * np.eye(dim))
    rotation = u @ vt
    rotated = unrotated = length = 0.0
    for source, target in _chunks(pairs):
        rotated += float(((source @ rotation - target) ** 2).sum())
        unrotated += float(((source - target) ** 2).sum())
        length += float((target**2).sum())
    length = length or 1.0
    rank = int((singular > 2 * _UNDETERMINED * largest).sum())
    return Fit(rotation, rank, float(np.sqrt(rotated / length)), float(np.sqrt(unrotated / length)))


def _chunks(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for source, target in pairs:
        for start in range(0, len(source), _CHUNK):
            rows = slice(start, start + _CHUNK)
            yield source[rows].astype(np.float64), target[rows].astype(np.float64)


# -- between two versions ------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    """What `align` found: the manifest's entry, and the rotations that go into the file."""

    entry: AlignmentEntry
    rotations: dict[str, np.ndarray]  # of each group: (d, d), reference @ rotation ~ candidate

    def save(self, path: Path) -> None:
        """Write the rotations as safetensors, float64."""
        save_file({name: np.ascontiguousarray(r) for name, r in self.rotations.items()}, path)


def align(candidate: Version, reference: Version, groups: Mapping[str, Sequence[str]]) -> Alignment:
    """Rotations from `reference` to `candidate`, fitted on the ids that both hold.

    Args:
        candidate: the version that will keep them.
        reference: an earlier version.
        groups: name of each group and its tables. Tables whose vectors are compared with one
            another (users and items of one factorisation) must turn together, so a group has one
            rotation, fitted on all its shared rows.

    Returns:
        The rotations; groups that cannot be aligned (another dimension, another space, nothing
        shared) are in `entry.skipped` with the reason.
    """
    found: list[AlignmentGroup] = []
    rotations: dict[str, np.ndarray] = {}
    skipped: dict[str, str] = {}
    for name, tables in groups.items():
        if why := _cannot(candidate, reference, tables):
            skipped[name] = why
            continue
        pairs = [shared_rows(candidate[table], reference[table]) for table in tables]
        n_shared = sum(len(mine) for mine, _ in pairs)
        if not n_shared:
            skipped[name] = "no id is in both versions"
            continue
        sides = [
            (reference[table].vectors[theirs], candidate[table].vectors[mine])
            for table, (mine, theirs) in zip(tables, pairs, strict=True)
        ]
        fit = _fit(sides)
        rotations[name] = fit.rotation
        found.append(
            AlignmentGroup(
                name=name,
                tables=list(tables),
                dim=len(fit.rotation),
                rank=fit.rank,
                n_shared=n_shared,
                residual=fit.residual,
                unrotated=fit.unrotated,
            )
        )
    to = Parent(version=reference.version, manifest_sha256=reference.manifest_sha256)
    entry = AlignmentEntry(to=to, file=ALIGNMENT_FILE, groups=found, skipped=skipped)
    return Alignment(entry, rotations)


def _cannot(candidate: Version, reference: Version, tables: Sequence[str]) -> str:
    """Why these tables of two versions share no axes that a rotation could bring together."""
    for table in tables:
        for version in (candidate, reference):
            if table not in version or version[table].dim is None:
                return f"version {version.version} has no vectors '{table}'"
        mine, theirs = candidate[table], reference[table]
        if mine.dim != theirs.dim:
            return f"'{table}' has {mine.dim} dimensions, version {reference.version} {theirs.dim}"
        if mine.ids.type != theirs.ids.type:
            return f"the ids of '{table}' are {mine.ids.type}, there {theirs.ids.type}"
    dims = {candidate[table].dim for table in tables}
    if len(dims) > 1:
        return f"the tables have different dimensions: {sorted(map(str, dims))}"
    return different_space(candidate.space, reference.space)


def different_space(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In which facts two spaces differ; empty if they are one. `space_id` decides if both have it.

    Facts that change every night although the space stays (the hash of weights that are trained
    anew) do not belong into `space` without a `space_id`.
    """
    names = sorted(one.keys() | other.keys())
    if "space_id" in one and "space_id" in other:
        names = ["space_id"]
    said = [
        f"{name} is {one.get(name)!r}, there {other.get(name)!r}"
        for name in names
        if one.get(name) != other.get(name)
    ]
    return f"the spaces differ: {'; '.join(said)}" if said else ""


def shared_rows(one: VectorSet, other: VectorSet) -> tuple[np.ndarray, np.ndarray]:
    """(n,) rows in `one` and (n,) rows in `other` of the ids that both hold, in order of id."""
    places = find_rows(other.ids, one.ids)
    mine = np.flatnonzero(places >= 0)
    return mine, places[mine]
