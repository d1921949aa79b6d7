"""Exact nearest neighbours: the reference that every index is measured by."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from embedding_store.manifest import Metric
from embedding_store.tables import row_norms

_UNIT_ROUNDOFF = 2.0**-24  # of float32
_BLOCK_SCORES = 2**24  # approximate scores held at once


class Neighbours(NamedTuple):
    """The closest rows of one query, closest first."""

    rows: np.ndarray  # (<= k,) int64
    scores: np.ndarray  # (<= k,) float32, larger is closer


class Ranking:
    """Scores of (n, d) float32 vectors under one metric.

    A score is computed in float64 from the query and the one row, then rounded to float32. So it
    does not depend on the other rows, on the batch or on the index that proposed the row, equal
    vectors tie, and ties break by row number, which is the order of ids.

    - inner_product: x . q
    - cosine: x . q / (|x| |q|)
    - l2: -|x - q|^2
    """

    def __init__(self, vectors: np.ndarray, metric: Metric) -> None:
        self.vectors, self.metric = vectors, metric

    def scores(self, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(m,) float32 scores of some rows for a (d,) query."""
        some, query = self.vectors[rows].astype(np.float64), query.astype(np.float64)
        if self.metric == "l2":
            return -((some - query) ** 2).sum(axis=1).astype(np.float32)
        products = (some * query).sum(axis=1)
        if self.metric == "cosine":
            products /= np.sqrt((some * some).sum(axis=1)) * np.sqrt((query * query).sum())
        return products.astype(np.float32)

    def best(self, rows: np.ndarray, query: np.ndarray, k: int) -> Neighbours:
        """The k closest of some rows."""
        scores = self.scores(rows, query)
        order = np.lexsort((rows, -scores))[:k]
        return Neighbours(rows[order], scores[order])

    def nearest(self, queries: np.ndarray, k: int) -> list[Neighbours]:
        """The k closest of all rows for each of (m, d) queries.

        A float32 matrix product finds candidates: every row whose approximate score is within
        the product's error bound of the k-th largest. Exact scores then decide.
        """
        n_rows = len(self.vectors)
        k, step = min(k, n_rows), max(1, _BLOCK_SCORES // n_rows)
        found = []
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            for query, rough in zip(block, self._rough(block), strict=True):
                kth = np.partition(rough, n_rows - k)[n_rows - k]
                candidates = np.flatnonzero(rough >= kth - self.margin(query))
                found.append(self.best(candidates, query, k))
        return found

    def margin(self, query: np.ndarray) -> float:
        """How far the order of two rough scores can be trusted (Higham 2002, section 3.1)."""
        norm = float(np.linalg.norm(query.astype(np.float64)))
        scale = {
            "cosine": norm,
            "inner_product": self._longest * norm,
            "l2": (self._longest + norm) ** 2,
        }[self.metric]
        return 8 * (self.vectors.shape[1] + 4) * _UNIT_ROUNDOFF * scale

    def _rough(self, queries: np.ndarray) -> np.ndarray:
        """(m, n) float32, in the order of the scores up to the margin."""
        products = queries @ self.vectors.T
        if self.metric == "cosine":
            return products / self._norms
        if self.metric == "l2":
            return 2 * products - self._norms**2
        return products

    @cached_property
    def _norms(self) -> np.ndarray:
        return row_norms(self.vectors).astype(np.float32)

    @cached_property
    def _longest(self) -> float:
        return float(self._norms.max())
