"""Residual quantiser: a few codes for a vector, each for what those before it leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

logging.getLogger("faiss").setLevel(logging.WARNING)  # its loader logs eight INFO lines

import faiss  # noqa: E402  the level must be set before the import

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_faiss: Any = faiss  # its type stubs leave out what Python adds to the C++ classes
_ROWS_AT_ONCE = 16_384
_N_ROUNDS = 25  # of k-means from a random start; what is left to do, `settled` does
_MAX_ROUNDS = 200
_N_STARTS = 4  # of a k-means, the best one counts: one start in three missed planted clusters


@dataclass(frozen=True)
class Space:
    """The directions in which vectors vary most.

    Attributes:
        mean: (d,).
        components: (n_dims, d) orthonormal rows, the strongest first.
        explained: share of the variance that they hold; 1 where nothing varies.
    """

    mean: Floats
    components: Floats
    explained: float

    def project(self, vectors: Floats) -> Floats:
        """(n, n_dims) coordinates of vectors (n, d)."""
        coordinates = np.empty((len(vectors), len(self.components)), dtype=np.float32)
        for rows in _chunks(len(vectors)):
            coordinates[rows] = (vectors[rows] - self.mean) @ self.components.T
        return coordinates


def principal_space(vectors: Floats, n_dims: int) -> Space:
    """Mean and leading principal components of vectors (n, d), at most `n_dims` of them.

    Directions without variance are left out, but for one where nothing varies at all. Each points
    so that its largest entry is positive: the sign that an eigensolver picks does not show.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((vectors.shape[1], vectors.shape[1]))
    for rows in _chunks(len(vectors)):
        centred = vectors[rows] - mean
        covariance += centred.T @ centred
    variances, directions = np.linalg.eigh(covariance)
    variances, directions = np.maximum(variances[::-1], 0), directions.T[::-1]
    rank = int((variances > variances[0] * 1e-10).sum()) if variances[0] > 1e-12 else 1
    kept = directions[: min(n_dims, rank)]
    largest = np.take_along_axis(kept, np.abs(kept).argmax(axis=1)[:, None], axis=1)
    total = variances.sum()
    return Space(
        mean=mean.astype(np.float32),
        components=(kept * np.sign(largest)).astype(np.float32),
        explained=float(variances[: len(kept)].sum() / total) if total > 0 else 1.0,
    )


def bits_for(n_distinct: int, n_bits: int, min_items_per_code: int) -> int:
    """Bits of a code: `n_bits`, fewer where each code would have too few items."""
    n_codes = max(n_distinct // min_items_per_code, 1)
    return min(n_bits, n_codes.bit_length() - 1)


def train(points: Floats, n_levels: int, n_bits: int, seed: int) -> Floats:
    """(n_levels, 2 ** n_bits, d) centroids: k-means, level after level, on what is left.

    The same points and seed give the same bits: faiss runs on one thread here. Codes that no point
    is nearest to are moved to where the quantiser does worst.

    Args:
        points: (n, d) with at least 2 ** n_bits rows.
        n_levels: M.
        n_bits: log2 of K; 0 gives one code a level.
        seed: of its first centroids.
    """
    if n_bits == 0:
        first = points.mean(axis=0, dtype=np.float64).astype(np.float32)
        return np.stack([first, *[np.zeros_like(first)] * (n_levels - 1)])[:, None]
    with _one_thread():
        quantiser: Any = _faiss.ResidualQuantizer(points.shape[1], n_levels, n_bits)
        # A beam of one is what `encode` does, and what a code means: the nearest centroid.
        quantiser.max_beam_size = 1
        quantiser.train_type = _faiss.ResidualQuantizer.Train_default
        quantiser.cp.seed, quantiser.cp.niter = seed, _N_ROUNDS
        quantiser.cp.nredo = _N_STARTS
        quantiser.cp.min_points_per_centroid = 1  # else it warns on stderr
        quantiser.cp.max_points_per_centroid = len(points)  # no sample of the points
        quantiser.train(np.ascontiguousarray(points))
        flat = _faiss.vector_to_array(quantiser.codebooks)
    trained = flat.reshape(n_levels, 2**n_bits, points.shape[1])
    return _level_by_level(points, n_levels, lambda level, rest: trained[level])


def train_on(points: Floats, codes: Ints, n_codes: int) -> Floats:
    """(n_levels, n_codes, d) centroids as `train`, but k-means goes on from known codes.

    Its first centroids are the means of what is left of the points with each code, so that it ends
    near the codebook that the codes are of, and keeps its numbers; for the same points it ends
    where it begins.

    Args:
        points: (n, d).
        codes: (n, n_levels) of the same points; below zero where a point had none.
        n_codes: K.
    """

    def first(level: int, rest: Floats) -> Floats:
        known = codes[:, level] >= 0
        nowhere = np.zeros((n_codes, points.shape[1]), dtype=np.float32)
        return _means(rest[known], codes[known, level], nowhere)

    return _level_by_level(points, codes.shape[1], first)


def _level_by_level(
    points: Floats, n_levels: int, first: Callable[[int, Floats], Floats]
) -> Floats:
    rest, centroids = points.copy(), []
    for level in range(n_levels):
        centroids.append(settled(rest, first(level, rest)))
        rest -= centroids[-1][nearest(rest, centroids[-1])[0]]
    return np.stack(centroids)


def settled(points: Floats, centroids: Floats) -> Floats:
    """Centroids (K, d) after k-means on points (n, d), until no point changes its own.

    None is nearest to no point in the end, as far as the points differ.
    """
    before = np.full(len(points), -1)
    for _ in range(_MAX_ROUNDS):
        centroids, codes = alive(points, centroids)
        if (codes == before).all():
            return centroids
        before, centroids = codes, _means(points, codes, centroids)
    return alive(points, centroids)[0]


def _means(points: Floats, codes: Ints, instead: Floats) -> Floats:
    """(K, d) mean of the points of each code; without any, what `instead` (K, d) says."""
    sums = np.zeros(instead.shape)
    np.add.at(sums, codes, points)
    n_points = np.bincount(codes, minlength=len(instead))[:, None]
    return np.where(n_points, sums / np.maximum(n_points, 1), instead).astype(np.float32)


def alive(points: Floats, centroids: Floats) -> tuple[Floats, Ints]:
    """Centroids (K, d) none of which is nearest to no point, and the nearest of points (n, d).

    Each dead one moves to the point that is farthest from its own centroid. That takes error away
    with every move, so it ends; it gives up where fewer points differ than there are codes.
    """
    centroids = centroids.copy()
    for _ in range(4 * len(centroids)):
        codes, distances = nearest(points, centroids)
        dead = np.flatnonzero(np.bincount(codes, minlength=len(centroids)) == 0)
        worst = int(distances.argmax())
        if not len(dead) or distances[worst] <= 1e-12:
            return centroids, codes
        centroids[dead[0]] = points[worst]
    return centroids, nearest(points, centroids)[0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """The last bits of a sum depend on how many threads share it."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def nearest(points: Floats, centroids: Floats) -> tuple[Ints, Floats]:
    """(n,) the nearest centroid of each point, the lowest number of equals; (n,) its distance²."""
    codes = np.empty(len(points), dtype=np.int64)
    distances = np.empty(len(points), dtype=np.float32)
    half = np.square(centroids).sum(axis=1) / 2
    for rows in _chunks(len(points)):
        codes[rows] = (half - points[rows] @ centroids.T).argmin(axis=1)
        # of the difference: the expanded square loses the last digits, and zero with them
        distances[rows] = np.square(points[rows] - centroids[codes[rows]]).sum(axis=1)
    return codes, distances


@dataclass(frozen=True)
class Encoded:
    """Codes of points, and what each level leaves.

    Attributes:
        codes: (n, n_levels).
        distances: (n, n_levels) squared length of what a level leaves of a point.
    """

    codes: Ints
    distances: Floats

    @property
    def mse(self) -> list[float]:
        """Mean squared error after each level."""
        return [float(each) for each in self.distances.mean(axis=0, dtype=np.float64)]


def encode(points: Floats, centroids: Floats) -> Encoded:
    """Codes of points (n, d), level after level, by centroids (n_levels, K, d)."""
    rest, codes, distances = points.copy(), [], []
    for of_level in centroids:
        code, distance = nearest(rest, of_level)
        rest -= of_level[code]
        codes.append(code)
        distances.append(distance)
    return Encoded(np.stack(codes, axis=1), np.stack(distances, axis=1))


def _chunks(n_rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_ONCE) for start in range(0, n_rows, _ROWS_AT_ONCE))
