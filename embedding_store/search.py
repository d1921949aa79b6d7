"""Nearest neighbours in a version: an index proposes, exact scores decide."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa

from embedding_store import index as indexes
from embedding_store.errors import BadInput
from embedding_store.lookup import Ids, VectorSet, Version
from embedding_store.manifest import IndexEntry
from embedding_store.ranking import Neighbours, Ranking
from embedding_store.tables import LONGEST, SHORTEST

_SPARE = 32  # candidates asked of an index beyond 2 k, so that exact scores have a choice


class SearchableSet(VectorSet):
    """A table whose vectors can be searched.

    Scores are larger for what is closer, whatever the metric; ties break by id.
    """

    _read: Any | None = None  # the index, once a search has needed it

    def search(
        self,
        queries: np.ndarray | None = None,
        k: int = 10,
        *,
        ids: Ids | None = None,
        exact: bool = False,
    ) -> pa.Table:
        """The k closest ids of each query.

        Args:
            queries: (m, d) vectors, or one (d,) vector.
            k: how many; fewer come back when the table has fewer.
            ids: instead of `queries`: ids of this table, whose neighbours are wanted. An id is
                not its own neighbour.
            exact: look at every row, even if there is an approximate index.

        Returns:
            query (the query's number, or its id), rank (1 is closest), id, score (float32);
            the schema's metadata names version, table, metric and how it was found.

        Raises:
            BadInput: queries of another dimension, not finite, or zero under cosine.
            IdNotFound: ids that are not in the table.
        """
        if (queries is None) == (ids is None):
            raise BadInput("search takes either queries or ids")
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise BadInput(f"k is {k!r}; it is a number from 1 up")
        if ids is not None:
            own = self.rows_of(ids)
            asked = self.ids.take(pa.array(own))
            found = [
                _without(row, neighbours, k)
                for row, neighbours in zip(
                    own, self._nearest(self.vectors[own], k + 1, exact), strict=True
                )
            ]
        else:
            matrix = self._as_queries(queries)
            asked = pa.array(np.arange(len(matrix)))
            found = self._nearest(matrix, k, exact)
        return self._as_table(asked, found, exact)

    def _nearest(self, queries: np.ndarray, k: int, exact: bool) -> list[Neighbours]:
        if exact or self._stated is None or len(self) <= 2 * k + _SPARE or not len(queries):
            return self._ranking.nearest(queries, k)
        return self._indexed(self._stated, queries, k)

    def _indexed(self, stated: IndexEntry, queries: np.ndarray, k: int) -> list[Neighbours]:
        """Exact scores of an index's candidates.

        An index that scans everything is held to the exact answer: where its candidates end too
        close to the k-th score to be sure that no tie was left out, all rows are looked at.
        """
        index = self._index(stated)
        ready = indexes.unit(queries) if self.metric == "cosine" else queries
        _, proposed = index.search(ready, 2 * k + _SPARE)
        found = []
        for query, candidates in zip(queries, proposed, strict=True):
            candidates = candidates[candidates >= 0]
            all_of_them = self._ranking.best(candidates, query, len(candidates))
            if stated.factory == indexes.FLAT and self._is_unsure(all_of_them.scores, query, k):
                found += self._ranking.nearest(query[None], k)
            else:
                found.append(Neighbours(all_of_them.rows[:k], all_of_them.scores[:k]))
        return found

    def _is_unsure(self, scores: np.ndarray, query: np.ndarray, k: int) -> bool:
        norm = float(np.linalg.norm(query.astype(np.float64))) if self.metric == "cosine" else 1.0
        return bool(scores[k - 1] - scores[-1] <= self._ranking.margin(query) / norm)

    def _as_queries(self, queries: Any) -> np.ndarray:
        try:
            matrix = np.ascontiguousarray(np.atleast_2d(queries), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise BadInput(f"queries are not a matrix of numbers ({error})") from error
        if self.dim is None or matrix.ndim != 2 or matrix.shape[1] != self.dim:
            raise BadInput(
                f"queries are of shape {matrix.shape}; {self.name} of version {self.version} "
                f"has {self.dim or 'no'} dimensions"
            )
        norms = np.sqrt((matrix.astype(np.float64) ** 2).sum(axis=1))
        if not (norms <= LONGEST).all():
            raise BadInput("queries hold NaN, infinity or values too large for a float32 score")
        if self.metric == "cosine" and (norms < SHORTEST).any():
            raise BadInput(f"query {int(norms.argmin())} is zero; cosine has no answer for it")
        return matrix

    def _as_table(self, asked: pa.Array, found: list[Neighbours], exact: bool) -> pa.Table:
        lengths = [len(neighbours.rows) for neighbours in found]
        rows = np.concatenate([np.empty(0, np.int64), *(one.rows for one in found)])
        ranks = [np.arange(1, length + 1, dtype=np.int32) for length in lengths]
        scores = np.concatenate([np.empty(0, np.float32), *(one.scores for one in found)])
        table = pa.table(
            {
                "query": asked.take(pa.array(np.repeat(np.arange(len(found)), lengths))),
                "rank": np.concatenate([np.empty(0, np.int32), *ranks]),
                "id": self.ids.take(pa.array(rows)),
                "score": scores,
            }
        )
        by = "exact" if exact or self._stated is None else self._stated.factory
        return self._stamped(table, metric=str(self.metric), searched=by)

    @cached_property
    def _ranking(self) -> Ranking:
        vectors = self.vectors
        assert self.metric is not None
        return Ranking(vectors, self.metric)

    @cached_property
    def _stated(self) -> IndexEntry | None:
        return self._manifest.index_of(self.name)

    def _index(self, stated: IndexEntry) -> Any:
        if self._read is None:
            entry = self._manifest.file(stated.file)
            assert entry is not None  # check_references
            self._read = indexes.read(self._path(stated.file), entry.path, stated)
        return self._read


def _without(row: int, neighbours: Neighbours, k: int) -> Neighbours:
    others = neighbours.rows != row
    return Neighbours(neighbours.rows[others][:k], neighbours.scores[others][:k])


class SearchableVersion(Version):
    """A version whose tables can be searched."""

    def __getitem__(self, table: str) -> SearchableSet:
        """The table of that name; raises as `Version` does."""
        return cast(SearchableSet, super().__getitem__(table))

    def _open(self, table: str) -> SearchableSet:
        return SearchableSet(self._blobs, self.manifest, table)
