"""Hidden states share a large common part; without it their cosines mean something."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jobs.errors import JobError

_CHUNK = 65_536  # rows held in float64 at a time
_NOTHING = 1e-6  # of the raw length: what float32 leaves of a vector that was projected away


def _chunks(n_rows: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, n_rows, _CHUNK))


def _covariance(raw: np.ndarray, mean: np.ndarray) -> np.ndarray:
    total = np.zeros((raw.shape[1], raw.shape[1]))
    for rows in _chunks(len(raw)):
        centred = raw[rows] - mean
        total += centred.T @ centred
    return total / len(raw)


def _top_directions(covariance: np.ndarray, n_components: int, n_rows: int) -> np.ndarray:
    """(d, n_components) orthonormal: the directions in which the vectors vary most."""
    variances, directions = np.linalg.eigh(covariance)  # ascending
    if variances[-1] <= 0:
        raise JobError(
            f"all {n_rows} raw vectors are the same; the texts, or the backbone, say nothing"
        )
    rank = int((variances > variances[-1] * 1e-10).sum())
    if n_components >= rank:
        raise JobError(
            f"{n_rows} raw vectors vary in {rank} directions, so {n_components} cannot be removed; "
            f"give --n-components {rank - 1} or less"
        )
    return directions[:, len(variances) - n_components :]


def top_directions(raw: np.ndarray, n_components: int) -> np.ndarray:
    """(d, n_components) the directions that `all_but_the_top` removes; raises as it does."""
    mean = raw.mean(axis=0, dtype=np.float64)
    return _top_directions(_covariance(raw, mean), n_components, len(raw))


def all_but_the_top(raw: np.ndarray, n_components: int) -> np.ndarray:
    """Unit vectors without what all rows share: the mean and the top principal components.

    With m the mean and U the top `n_components` eigenvectors of the covariance,
    v = x - m - U U^T (x - m), then v / ||v|| (Mu and Viswanath 2018, "All-but-the-Top", with the
    normalisation added). U enters as the projection U U^T only, so the signs that an eigensolver
    picks do not show. Computed in float64.

    Args:
        raw: (n, d).
        n_components: how many directions to remove, 0 or more.

    Returns:
        (n, d) float32. A row of which nothing is left (it was the mean) is zero, not noise.

    Raises:
        JobError: the rows are all the same, or vary in no more directions than are to be removed.
    """
    mean = raw.mean(axis=0, dtype=np.float64)
    top = top_directions(raw, n_components)
    vectors = np.empty(raw.shape, dtype=np.float32)
    for rows in _chunks(len(raw)):
        x = raw[rows].astype(np.float64)
        rest = x - mean
        rest -= (rest @ top) @ top.T
        length = np.linalg.norm(rest, axis=1, keepdims=True)
        lost = length <= _NOTHING * np.linalg.norm(x, axis=1, keepdims=True)
        vectors[rows] = np.where(lost, 0.0, rest / np.where(lost, 1.0, length))
    return vectors


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean cosine over all pairs of different rows, in linear time.

    The sum over all pairs is ||sum of unit rows||^2; the n pairs of a row with itself leave it.
    Zero rows count as orthogonal to everything. One row alone has no pair: 0.
    """
    if len(vectors) < 2:
        return 0.0
    total, n_units = np.zeros(vectors.shape[1]), 0
    for rows in _chunks(len(vectors)):
        x = vectors[rows].astype(np.float64)
        length = np.linalg.norm(x, axis=1, keepdims=True)
        n_units += int((length > 0).sum())
        total += (x / np.where(length > 0, length, 1.0)).sum(axis=0)
    n = len(vectors)
    return float((total @ total - n_units) / (n * (n - 1)))
