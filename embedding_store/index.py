"""FAISS indexes: built to the same bytes every time, and bound to the data they came from."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

logging.getLogger("faiss").setLevel(logging.WARNING)  # its loader logs eight INFO lines
import faiss  # noqa: E402  the level must be set before the import

from embedding_store.errors import BadInput, Corrupted  # noqa: E402
from embedding_store.manifest import IndexEntry, Metric  # noqa: E402
from embedding_store.tables import row_norms  # noqa: E402

_faiss: Any = faiss  # its type stubs leave out what Python adds to the C++ classes
Kind = Literal["auto", "flat", "ivf-sq8", "hnsw"]

FLAT = "Flat"
FLAT_ROWS = 50_000  # below, scanning everything takes a millisecond or two
_SEED = 20_240_229
_THREADS = 1  # more threads add in another order: other bytes
_FAISS_METRIC = {
    "cosine": faiss.METRIC_INNER_PRODUCT,  # of vectors of length 1
    "inner_product": faiss.METRIC_INNER_PRODUCT,
    "l2": faiss.METRIC_L2,
}
_EXTRA_DIMENSIONS = ("bias", "levelled")
# Which parameters each kind takes.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "auto": (),
    "flat": (),
    "ivf-sq8": ("lists", "nprobe"),
    "hnsw": ("links", "ef_construction", "ef_search"),
}


@dataclass(frozen=True)
class IndexSpec:
    """An index to build over the vectors of a table of the same publication.

    The defaults were chosen by measurement; `docs/store.md` has the figures.

    Args:
        table: the table.
        metric: how its vectors compare.
        kind: `flat` scans every row; `ivf-sq8` scans some of many lists of bytes; `hnsw` walks a
            graph over bytes, and takes ten times as long to build; `auto` is flat up to 50,000
            rows and ivf-sq8 past that.
        bias: a column of numbers that belongs to the score: inner product plus bias, with
            `search(..., bias=column)`, which alone the index then serves: it holds the bias as one
            more dimension.
        lists: ivf-sq8: number of lists; about 2 sqrt(rows) if not given.
        nprobe: ivf-sq8: lists that a search looks at; a 16th of them if not given.
        links: hnsw: neighbours of a node, 2 or more; 32 if not given.
        ef_construction: hnsw: nodes kept while a new one is linked; 80 if not given.
        ef_search: hnsw: nodes kept while searching; 64 if not given.
    """

    table: str
    metric: Metric = "cosine"
    kind: Kind = "auto"
    bias: str | None = None
    lists: int | None = None
    nprobe: int | None = None
    links: int | None = None
    ef_construction: int | None = None
    ef_search: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no index can be built from."""
        if self.kind not in get_args(Kind):
            raise BadInput(
                f"index of {self.table}: kind {self.kind!r} is none of {', '.join(get_args(Kind))}"
            )
        if self.bias is not None and self.metric != "inner_product":
            raise BadInput(f"index of {self.table}: a bias is added to inner_product alone")
        for name in ("lists", "nprobe", "links", "ef_construction", "ef_search"):
            self._check_parameter(name, getattr(self, name))

    def _check_parameter(self, name: str, value: Any) -> None:
        if value is None:
            return
        takes = _PARAMETERS[self.kind]
        if name not in takes:
            raise BadInput(
                f"index of {self.table}: kind '{self.kind}' has no {name}; "
                f"it takes {', '.join(takes) or 'no parameters'}"
            )
        least = 2 if name == "links" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadInput(f"index of {self.table}: {name} is {value!r}, not a number from {least}")


def index_name(table: str) -> str:
    """Name of the file of a table's index."""
    return f"{table}.faiss"


def build(
    vectors: np.ndarray, spec: IndexSpec, path: Path, bias: np.ndarray | None = None
) -> tuple[str, dict[str, Any]]:
    """Write an index over (n, d) float32 vectors, whose ids are the row numbers.

    Args:
        vectors: the rows, in order of id.
        spec: what to build; its metric is that of the table.
        path: the file.
        bias: (n,) float32, the values of the column `spec.bias`, if it names one.

    Returns:
        The factory string and the parameters that a reader may want to know.
    """
    factory, params = _plan(spec, len(vectors))
    metric, ready = _FAISS_METRIC[spec.metric], vectors
    if spec.metric == "cosine":
        ready = unit(vectors)
    if bias is not None:
        ready = _widened(ready, bias)
    if params.get("levelled"):
        metric, ready = faiss.METRIC_L2, _levelled(ready)
    index: Any = faiss.index_factory(ready.shape[1], factory, metric)
    _configure(index, params)  # both are kept in the file
    with _one_thread():
        if not index.is_trained:
            index.train(ready)
        index.add(ready)
    faiss.write_index(index, str(path))
    return factory, {**params, **({"bias": spec.bias} if spec.bias else {})}


def _plan(spec: IndexSpec, n_rows: int) -> tuple[str, dict[str, Any]]:
    """Factory string and parameters for a table of this size."""
    kind = spec.kind
    if kind == "auto":
        kind = "flat" if n_rows < FLAT_ROWS else "ivf-sq8"
    if kind == "flat":
        return FLAT, {}
    if kind == "hnsw":
        links, construction = spec.links or 32, spec.ef_construction or 80
        searching = {"ef_construction": construction, "ef_search": spec.ef_search or 64}
        return f"HNSW{links},SQ8", searching
    lists = min(spec.lists or 2 ** round(math.log2(2 * math.sqrt(n_rows))), n_rows)
    nprobe = min(spec.nprobe or max(8, lists // 16), lists)
    levelled = {"levelled": True} if spec.metric == "inner_product" else {}
    return f"IVF{lists},SQ8", {"seed": _SEED, "nprobe": nprobe, **levelled}


def _configure(index: Any, params: dict[str, Any]) -> None:
    if "nprobe" in params:
        index.cp.seed, index.nprobe = params["seed"], params["nprobe"]
        index.cp.min_points_per_centroid = 1  # few rows are no mistake: the caller asked for it
    if "ef_search" in params:
        index.hnsw.efConstruction = params["ef_construction"]
        index.hnsw.efSearch = params["ef_search"]


def spec_of(stated: IndexEntry) -> IndexSpec:
    """What an index was asked to be, so that it can be built again over other rows."""
    bias = stated.params.get("bias")
    if stated.factory == FLAT:
        return IndexSpec(stated.table, stated.metric, "flat", bias)
    size = int("".join(filter(str.isdigit, stated.factory.split(",")[0])))
    if stated.factory.startswith("IVF"):
        nprobe = stated.params["nprobe"]
        return IndexSpec(stated.table, stated.metric, "ivf-sq8", bias, lists=size, nprobe=nprobe)
    given = {name: stated.params[name] for name in ("ef_construction", "ef_search")}
    return IndexSpec(stated.table, stated.metric, "hnsw", bias, links=size, **given)


def entry(
    spec: IndexSpec,
    built: tuple[str, dict[str, Any]],
    vectors: np.ndarray,
    built_from: dict[str, str],
) -> IndexEntry:
    """What the manifest says of an index over (n, d) vectors."""
    factory, params = built
    return IndexEntry(
        table=spec.table,
        metric=spec.metric,
        file=index_name(spec.table),
        built_from=built_from,
        factory=factory,
        library=f"faiss {faiss.__version__}",
        threads=_THREADS,
        params=params,
        rows=vectors.shape[0],
        dim=vectors.shape[1] + sum(1 for name in _EXTRA_DIMENSIONS if name in params),
    )


def read(path: Path, name: str, stated: IndexEntry) -> faiss.Index:
    """The index in a verified file.

    Raises:
        Corrupted: it is not of the size that the manifest states.
    """
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise Corrupted(name, f"is not a FAISS index ({error})") from error
    if (index.ntotal, index.d) != (stated.rows, stated.dim):
        raise Corrupted(
            name,
            f"holds {index.ntotal} x {index.d}, the manifest says {stated.rows} x {stated.dim}",
        )
    return index


def propose(
    index: Any,
    stated: IndexEntry,
    queries: np.ndarray,
    n: int,
    *,
    rows: np.ndarray | None = None,
    effort: int | None = None,
) -> np.ndarray:
    """(m, n) int64 row numbers that the index holds to be closest, -1 where it has no more.

    Args:
        index: what `read` gave.
        stated: its entry in the manifest.
        queries: (m, d) float32.
        n: candidates for each query.
        rows: ascending row numbers; others are not proposed.
        effort: `nprobe` or `ef_search` for this search, instead of the index's own.
    """
    ready = unit(queries) if stated.metric == "cosine" else queries
    if "bias" in stated.params:
        ready = _widened(ready, np.ones(len(ready)))
    if stated.params.get("levelled"):
        ready = _widened(ready, np.zeros(len(ready)))
    # The rarer the rows allowed, the further it looks.
    wider = 1.0 if rows is None else stated.rows / len(rows)
    params: Any = _faiss.SearchParameters()
    if stated.factory.startswith("IVF"):
        wanted = math.ceil((effort or stated.params["nprobe"]) * wider)
        params = _faiss.SearchParametersIVF(nprobe=min(wanted, index.nlist))
    if stated.factory.startswith("HNSW"):
        wanted = math.ceil(max(effort or stated.params["ef_search"], n) * wider)
        params = _faiss.SearchParametersHNSW(efSearch=min(wanted, stated.rows))
    if rows is not None:
        allowed = np.zeros(stated.rows, dtype=bool)
        allowed[rows] = True
        params.sel = _faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    return index.search(ready, n, params=params)[1]


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, d) float32, each row divided by its length; no row may be zero."""
    return (vectors / row_norms(vectors)[:, None]).astype(np.float32)


def _widened(vectors: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(n, d + 1) float32: with a bias last, the product with (query, 1) has the bias added."""
    return np.ascontiguousarray(np.column_stack([vectors, last]), dtype=np.float32)


def _levelled(vectors: np.ndarray) -> np.ndarray:
    """(n, d + 1) float32, all as long as the longest: the nearest have the largest products.

    Bachrach et al. 2014. Lists are drawn by distance, and long vectors are close to no centre:
    by product, 512 lists of factors with biases gave a recall of 0.68 where this gives 0.94, in
    a quarter of the time. A graph has no lists and is better off without.
    """
    squares = row_norms(vectors) ** 2
    return _widened(vectors, np.sqrt(squares.max() - squares))


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(_THREADS)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
