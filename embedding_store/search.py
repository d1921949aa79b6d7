"""Nearest neighbours in a version: an index proposes, exact scores decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import pyarrow as pa

from embedding_store import index as indexes
from embedding_store import views
from embedding_store.closed_sql import ClosedSql
from embedding_store.compatibility import check_one_version
from embedding_store.errors import BadInput
from embedding_store.lookup import Ids, VectorSet, Version, find_rows
from embedding_store.manifest import IndexEntry
from embedding_store.ranking import Neighbours, Ranking
from embedding_store.tables import LONGEST, SHORTEST, bias_values

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]
Excluded: TypeAlias = pa.Table | Mapping[Any, Ids]

_SPARE = 32  # candidates asked of a flat index beyond 2 k: room for ties at the k-th place
_EXACT = "exact"


def _n_candidates(k: int, factory: str) -> int:
    """How many candidates exact scores choose from.

    The bytes of an approximate index misplace few rows, and by few places: of 10 neighbours 97.3 %
    are among its first 10, 99.99 % among its first 14.
    """
    return 2 * k + _SPARE if factory == indexes.FLAT else k + max(4, k // 4)


@dataclass(frozen=True)
class _Ask:
    """What is wanted of each query.

    Attributes:
        k: how many neighbours.
        exact: look at every row allowed.
        bias: column that is added to the score.
        rows: ascending numbers of the rows allowed; None for all.
        effort: of an approximate index.
        banned: ascending `query number * rows of the table + row` of the pairs not wanted.
    """

    k: int
    exact: bool
    bias: str | None
    rows: np.ndarray | None
    effort: int | None
    banned: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


class _Found(NamedTuple):
    neighbours: Neighbours
    by: str  # "exact", or the factory of the index that proposed them


class SearchableSet(VectorSet):
    """A table whose vectors can be searched.

    Scores are larger for what is closer, whatever the metric; ties break by id.
    """

    _read: Any | None = None  # the index, once a search has needed it
    _closed: ClosedSql | None = None  # of the version; set by `SearchableVersion`

    def search(
        self,
        queries: np.ndarray | VectorSet | None = None,
        k: int = 10,
        *,
        ids: Ids | None = None,
        exact: bool = False,
        within: Ids | None = None,
        where: str | None = None,
        params: Parameters | None = None,
        bias: str | None = None,
        effort: int | None = None,
    ) -> pa.Table:
        """The k closest ids of each query.

        Args:
            queries: (m, d) vectors, or one (d,) vector; or another table of the same version, all
                of whose vectors are then asked about.
            k: how many; fewer come back when the table has fewer.
            ids: instead of `queries`: ids of this table, whose neighbours are wanted. An id is
                not its own neighbour.
            exact: look at every row, even if there is an approximate index.
            within: ids to choose from.
            where: an SQL condition on the rows to choose from. It may name the columns of this
                table and of the version's other tables with the same key, `items` for instance.
            params: values of the condition's `?` or `$name`.
            bias: a column that is added to the inner product. Only an index that was built with
                it serves; without one every row is looked at.
            effort: lists that an IVF index looks at, or nodes that an HNSW index keeps, instead of
                what it was built with.

        Returns:
            query (the query's number, or its id), rank (1 is closest), id, score (float32);
            the schema's metadata names version, table, metric and how it was found.

        Raises:
            BadInput: queries of another dimension, not finite, or zero under cosine; a condition
                that is not one.
            Incompatible: a table of another version: `compatibility.check_one_version`.
            IdNotFound: ids that are not in the table.
        """
        if (queries is None) == (ids is None):
            raise BadInput("search takes either queries or ids")
        _check_number("k", k)
        _check_number("effort", 1 if effort is None else effort)
        ask = _Ask(k, exact, bias, self._allowed(within, where, params), effort)
        if ids is None:
            self.check_held()
            matrix = self._as_queries(queries)
            asked = queries.ids if isinstance(queries, VectorSet) else np.arange(len(matrix))
            return self._as_table(pa.array(asked), self._find(matrix, ask))
        own = self.rows_of(ids)
        ask = replace(ask, banned=np.arange(len(own)) * len(self) + own)
        return self._as_table(self.ids.take(pa.array(own)), self._find(self.vectors[own], ask))

    # -- which rows ------------------------------------------------------------------------------

    def _allowed(
        self, within: Ids | None, where: str | None, params: Parameters | None
    ) -> np.ndarray | None:
        """Ascending numbers of the rows to choose from; None for all."""
        if where is None and params is not None:
            raise BadInput("params are the values of a condition; give it as where=")
        rows = None if within is None else np.unique(self.rows_of(within))
        if where is not None:
            if self._closed is None:
                raise BadInput(f"{self!r} was opened without its version; conditions need it")
            chosen = np.sort(find_rows(self.ids, self._closed.ids_where(self, where, params)))
            rows = chosen if rows is None else np.intersect1d(rows, chosen)
        return rows

    # -- neighbours ------------------------------------------------------------------------------

    def _find(self, queries: np.ndarray, ask: _Ask) -> _Found:
        """Neighbours of (m, d) queries, without the pairs that are banned.

        As many more are asked for as a query has banned pairs. Queries go together by the power
        of two above that number, so that one with thousands of them does not burden the rest.
        """
        counts = np.bincount(ask.banned // len(self), minlength=len(queries))
        spare = 2 ** np.ceil(np.log2(counts + 1)).astype(np.int64) - 1
        found, ways = Neighbours.none(len(queries), ask.k), set()
        for n_spare in np.unique(spare):
            some = np.flatnonzero(spare == n_spare)
            more, by = self._nearest(queries[some], ask.k + int(n_spare), ask)
            if n_spare:
                more = self._without(some, more, ask.banned)
            found.rows[some], found.scores[some] = more.first(ask.k)
            ways.add(by)
        return _Found(found, ", ".join(sorted(ways)) or _EXACT)

    def _nearest(self, queries: np.ndarray, k: int, ask: _Ask) -> _Found:
        stated = self._usable_index(k, ask)
        if stated is None:
            return _Found(self._ranking(ask.bias).nearest(queries, k, ask.rows), _EXACT)
        return _Found(self._indexed(stated, queries, k, ask), stated.factory)

    def _usable_index(self, k: int, ask: _Ask) -> IndexEntry | None:
        """The table's index, where it can answer and scanning the rows would take longer."""
        stated = self._manifest.index_of(self.name)
        if ask.exact or stated is None or ask.bias != stated.params.get("bias"):
            return None
        n_rows = len(self) if ask.rows is None else len(ask.rows)
        is_few = ask.rows is not None and n_rows <= indexes.FLAT_ROWS
        return None if is_few or n_rows <= 2 * k + _SPARE else stated

    def _indexed(self, stated: IndexEntry, queries: np.ndarray, k: int, ask: _Ask) -> Neighbours:
        """Exact scores of an index's candidates.

        An index that scans everything is held to the exact answer: where its candidates end too
        close to the k-th score to be sure that no tie was left out, all rows are looked at.
        """
        ranking, n = self._ranking(ask.bias), _n_candidates(k, stated.factory)
        proposed = indexes.propose(
            self._index(stated), stated, queries, n, rows=ask.rows, effort=ask.effort
        )
        found = ranking.best(proposed, queries, n)
        if stated.factory == indexes.FLAT:
            margins = ranking.margins(queries)
            if self.metric == "cosine":
                margins = margins / np.linalg.norm(queries.astype(np.float64), axis=1)
            unsure = found.scores[:, k - 1] - found.scores[:, n - 1] <= margins
            again = ranking.nearest(queries[unsure], k, ask.rows)
            found = found.first(k)
            found.rows[unsure], found.scores[unsure] = again
        return found.first(k)

    def _without(self, queries: np.ndarray, found: Neighbours, banned: np.ndarray) -> Neighbours:
        """`found`, of queries of these numbers, without the banned pairs; the rest moves up."""
        pairs = queries[:, None] * len(self) + found.rows
        gone = np.isin(pairs, banned) & (found.rows >= 0)
        rows, scores = np.where(gone, -1, found.rows), np.where(gone, -np.inf, found.scores)
        order = np.argsort(rows < 0, axis=1, kind="stable")
        return Neighbours(
            np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
        )

    # -- what comes in and goes out --------------------------------------------------------------

    def _as_queries(self, queries: Any) -> np.ndarray:
        if isinstance(queries, VectorSet):
            check_one_version(self._manifest, queries._manifest)
            queries = queries.vectors
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

    def _as_table(
        self, asked: pa.Array, found: _Found, shift: np.ndarray | None = None
    ) -> pa.Table:
        """One row for each neighbour; `shift` (m,) float64 is added to the scores of a query."""
        is_there = found.neighbours.rows >= 0
        query, place = np.nonzero(is_there)
        scores = found.neighbours.scores[is_there]
        if shift is not None:
            scores = (scores + shift[query]).astype(np.float32)
        table = pa.table(
            {
                "query": asked.take(pa.array(query)),
                "rank": (place + 1).astype(np.int32),
                "id": self.ids.take(pa.array(found.neighbours.rows[is_there])),
                "score": scores,
            }
        )
        return self._stamped(table, metric=str(self.metric), searched=found.by)

    @cached_property
    def _rankings(self) -> dict[str | None, Ranking]:
        return {}

    def _ranking(self, bias: str | None) -> Ranking:
        if bias not in self._rankings:
            vectors, added = self.vectors, None
            assert self.metric is not None
            if bias is not None:
                added = self.numbers(bias)
            self._rankings[bias] = Ranking(vectors, self.metric, added)
        return self._rankings[bias]

    def numbers(self, column: str) -> np.ndarray:
        """(n,) float32, a column of finite numbers, row i belonging to id i."""
        return bias_values(self.name, column, self.table([column]))

    def _index(self, stated: IndexEntry) -> Any:
        if self._read is None:
            entry = self._manifest.file(stated.file)
            assert entry is not None  # check_references
            self._read = indexes.read(self._path(stated.file), entry.path, stated)
        return self._read


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise BadInput(f"{name} is {value!r}; it is a number from 1 up")


class SearchableVersion(Version):
    """A version whose tables can be searched and asked in SQL."""

    def __getitem__(self, table: str) -> SearchableSet:
        """The table of that name; raises as `Version` does."""
        return cast(SearchableSet, super().__getitem__(table))

    def _open(self, table: str) -> SearchableSet:
        opened = SearchableSet(self._blobs, self.manifest, table, self._held)
        opened._closed = self._closed
        return opened

    @cached_property
    def _closed(self) -> ClosedSql:
        # A plain one of its own: with this one it would be a cycle, and a version that nobody
        # closes would keep its lease until the cyclic collector comes by.
        return ClosedSql(Version(self._blobs, self._stored, self._held))

    def sql(self, query: str, params: Parameters | None = None) -> pa.Table:
        """The answer to one SELECT over this version's tables; see `closed_sql.ClosedSql`."""
        return self._closed.query(query, params)

    def attach(
        self, connection: Any, *, schema: str | None = None, prefix: str = ""
    ) -> views.Attached:
        """Make views of this version in a DuckDB connection; see `views.attach`."""
        return views.attach(connection, [views.Named(self)], schema, prefix)

    def recommend(
        self,
        user_ids: Ids,
        k: int = 10,
        *,
        users: str = "user_factors",
        items: str = "item_factors",
        bias: str | None = "bias",
        exclude: Excluded | None = None,
        exact: bool = False,
        within: Ids | None = None,
        where: str | None = None,
        params: Parameters | None = None,
    ) -> pa.Table:
        """The k items with the highest logit of each user.

        The logit of a matrix factorisation is user . item + the item's bias + the user's bias +
        the global bias; the last two change no order. The global bias is the version's attribute
        `global_bias`; it and the user's bias are zero where the version does not have them.

        Args:
            user_ids: ids of the table `users`, one query each.
            k: how many items.
            users: table of the queries.
            items: table that is searched.
            bias: column with the biases, in both tables; None ranks by the product alone.
            exclude: what a user has already: a table with the two tables' key columns, or the
                item ids of each user id. Items that the version does not know do no harm.
            exact: as in `search`.
            within: as in `search`, of the items.
            where: as in `search`, of the items.
            params: as in `search`.

        Returns:
            As `search`; query is the user's id.

        Raises:
            BadInput: as `search`, or tables of two dimensions.
            IdNotFound: users whom the version does not know.
        """
        _check_number("k", k)
        side, catalogue = self[users], self[items]
        own = side.rows_of(user_ids)
        queries = catalogue._as_queries(side.vectors[own])
        asked = side.ids.take(pa.array(own))
        ask = _Ask(k, exact, bias, catalogue._allowed(within, where, params), None)
        if exclude is not None:
            ask = replace(ask, banned=_pairs(side, catalogue, asked, exclude))
        shift = None
        if bias is not None:
            shift = np.full(len(own), float(self.attributes.get("global_bias", 0.0)))
            if bias in side.entry.columns:
                shift += side.numbers(bias)[own]
        return catalogue._as_table(asked, catalogue._find(queries, ask), shift)


def _pairs(
    users: SearchableSet, items: SearchableSet, asked: pa.Array, exclude: Excluded
) -> np.ndarray:
    """`query number * items + row` of each pair that is excluded, of users asked for."""
    if isinstance(exclude, pa.Table):
        if lacking := {users.key, items.key} - set(exclude.column_names):
            raise BadInput(f"exclude has no column {', '.join(sorted(lacking))}")
        who, what = users._as_ids(exclude[users.key]), items._as_ids(exclude[items.key])
    else:
        given = [(user, items._as_ids(some)) for user, some in exclude.items()]
        who = users._as_ids([user for user, some in given for _ in range(len(some))])
        what = pa.concat_arrays([items.ids[:0], *(some for _, some in given)])
    rows = find_rows(items.ids, what)
    pairs = pa.table({"user": who, "row": rows}).filter(pa.array(rows >= 0))
    queries = pa.table({"user": asked, "query": np.arange(len(asked))})
    both = pairs.join(queries, "user", join_type="inner")
    return np.unique(both["query"].to_numpy() * len(items) + both["row"].to_numpy())
