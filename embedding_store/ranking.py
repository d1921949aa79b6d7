"""Exact nearest neighbours: the reference that every index is measured by."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from embedding_store.errors import BadInput
from embedding_store.manifest import Metric
from embedding_store.tables import row_norms

_UNIT_ROUNDOFF = 2.0**-24  # of float32
_BLOCK_SCORES = 2**24  # approximate scores held at once
_BLOCK_VALUES = 2**16  # float64 values scored at once: they stay in the cache


class Neighbours(NamedTuple):
    """The closest rows of (m, d) queries, closest first.

    A query that has fewer than k neighbours ends in rows -1 with score -infinity.
    """

    rows: np.ndarray  # (m, k) int64
    scores: np.ndarray  # (m, k) float32, larger is closer

    @staticmethod
    def none(n_queries: int, k: int) -> Neighbours:
        """Places for k neighbours of each query, none of them found."""
        shape = (n_queries, k)
        return Neighbours(np.full(shape, -1), np.full(shape, -np.inf, dtype=np.float32))

    def first(self, k: int) -> Neighbours:
        """The k closest of each query."""
        return Neighbours(self.rows[:, :k], self.scores[:, :k])


class Ranking:
    """Scores of (n, d) float32 vectors under one metric.

    A score is computed in float64 from the query and the one row, then rounded to float32. So it
    does not depend on the other rows, on the batch or on the index that proposed the row, equal
    vectors tie, and ties break by row number, which is the order of ids.

    - inner_product: x . q, plus the row's bias if there are any
    - cosine: x . q / (|x| |q|)
    - l2: -|x - q|^2
    """

    def __init__(self, vectors: np.ndarray, metric: Metric, bias: np.ndarray | None = None) -> None:
        if bias is not None and metric != "inner_product":
            raise BadInput(f"a bias is added to inner products alone; the metric is {metric}")
        self.vectors, self.metric, self.bias = vectors, metric, bias
        self._n_lengths = 0  # asked for so far

    def scores(self, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(c,) float32 scores of some rows for a (d,) query."""
        return self.pair_scores(rows[None], query[None])[0]

    def pair_scores(self, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """(m, c) float32 scores of the (m, c) rows of each of (m, d) queries; -inf for row -1."""
        scores = np.empty(rows.shape, dtype=np.float32)
        step = max(1, _BLOCK_VALUES // max(1, rows.shape[1] * queries.shape[1]))
        for start in range(0, len(queries), step):
            block = slice(start, start + step)
            scores[block] = self._block_scores(rows[block], queries[block].astype(np.float64))
        scores[rows < 0] = -np.inf
        return scores

    def _block_scores(self, rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """(m, c) float64. NumPy sums the last axis pairwise, each row as if it were alone."""
        some = self.vectors[rows].astype(np.float64)
        if self.metric == "l2":
            some -= queries[:, None]
            some *= some
            return -some.sum(axis=2)
        if self.metric == "cosine":
            lengths = (
                self._lengths_of(rows, some) * np.sqrt((queries * queries).sum(axis=1))[:, None]
            )
            some *= queries[:, None]
            return some.sum(axis=2) / lengths
        some *= queries[:, None]
        products = some.sum(axis=2)
        return products if self.bias is None else products + self.bias[rows]

    def _lengths_of(self, rows: np.ndarray, some: np.ndarray) -> np.ndarray:
        """(m, c) float64 lengths, by the sum that `row_norms` makes for the whole table.

        Once as many were asked for as the table has rows, all of them are kept.
        """
        self._n_lengths += rows.size
        if self._n_lengths >= len(self.vectors) or "_lengths" in self.__dict__:
            return self._lengths[rows]
        return np.sqrt((some * some).sum(axis=2))

    def best(self, rows: np.ndarray, queries: np.ndarray, k: int) -> Neighbours:
        """The k closest of the (m, c) rows given for each query."""
        scores = self.pair_scores(rows, queries)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        return Neighbours(
            np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )

    def nearest(self, queries: np.ndarray, k: int, rows: np.ndarray | None = None) -> Neighbours:
        """The k closest of all rows, or of some, for each of (m, d) queries.

        A float32 matrix product finds candidates: every row whose approximate score is within
        the product's error bound of the k-th largest. Exact scores then decide.

        Args:
            queries: (m, d) float32.
            k: how many.
            rows: ascending row numbers to choose from; all if not given.
        """
        n_rows = len(self.vectors) if rows is None else len(rows)
        found = Neighbours.none(len(queries), k)
        k, step = min(k, n_rows), max(1, _BLOCK_SCORES // max(1, n_rows))
        if not k:
            return found
        margins = self.margins(queries)
        for start in range(0, len(queries), step):
            for number, rough in enumerate(self._rough(queries[start : start + step], rows), start):
                kth = np.partition(rough, n_rows - k)[n_rows - k]
                candidates = np.flatnonzero(rough >= kth - margins[number])
                if rows is not None:
                    candidates = rows[candidates]
                best = self.best(candidates[None], queries[number : number + 1], k)
                found.rows[number, :k], found.scores[number, :k] = best.rows[0], best.scores[0]
        return found

    def margins(self, queries: np.ndarray) -> np.ndarray:
        """(m,) how far the order of two rough scores can be trusted (Higham 2002, section 3.1)."""
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        largest = float(np.abs(self.bias).max()) if self.bias is not None else 0.0
        scale = {
            "cosine": lambda: norms,
            "inner_product": lambda: self._longest * norms + largest,
            "l2": lambda: (self._longest + norms) ** 2,
        }[self.metric]()
        return 8 * (self.vectors.shape[1] + 4) * _UNIT_ROUNDOFF * scale

    def _rough(self, queries: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """(m, n) float32, in the order of the scores up to the margin."""
        chosen = slice(None) if rows is None else rows
        products = queries @ self.vectors[chosen].T
        if self.metric == "cosine":
            return products / self._lengths[chosen].astype(np.float32)
        if self.metric == "l2":
            return 2 * products - self._lengths[chosen].astype(np.float32) ** 2
        return products if self.bias is None else products + self.bias[chosen]

    @cached_property
    def _lengths(self) -> np.ndarray:
        return row_norms(self.vectors)

    @cached_property
    def _longest(self) -> float:
        return float(self._lengths.max())
