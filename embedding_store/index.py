"""FAISS indexes: built to the same bytes every time, and bound to the data they came from."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

logging.getLogger("faiss").setLevel(logging.WARNING)  # its loader logs eight INFO lines
import faiss  # noqa: E402  the level must be set before the import

from embedding_store.errors import Corrupted  # noqa: E402
from embedding_store.manifest import IndexEntry, Metric  # noqa: E402
from embedding_store.tables import row_norms  # noqa: E402

FLAT = "Flat"
FLAT_ROWS = 50_000  # below, scanning everything takes under a millisecond
_SEED = 20_240_229
_THREADS = 1  # more threads add in another order: other bytes
_FAISS_METRIC = {
    "cosine": faiss.METRIC_INNER_PRODUCT,  # of vectors of length 1
    "inner_product": faiss.METRIC_INNER_PRODUCT,
    "l2": faiss.METRIC_L2,
}


@dataclass(frozen=True)
class IndexSpec:
    """An index to build over the vectors of a table of the same publication."""

    table: str
    metric: Metric = "cosine"


def index_name(table: str) -> str:
    """Name of the file of a table's index."""
    return f"{table}.faiss"


def build(vectors: np.ndarray, metric: Metric, path: Path) -> tuple[str, dict[str, Any]]:
    """Write an index over (n, d) float32 vectors, whose ids are the row numbers.

    Flat up to 50,000 rows; past that inverted lists of bytes (IVF-SQ8), of about 2 sqrt(n) lists,
    of which a search looks at a sixteenth.

    Returns:
        The factory string and the parameters that a reader may want to know.
    """
    n_rows, dim = vectors.shape
    ready = unit(vectors) if metric == "cosine" else vectors
    factory, params = FLAT, {}
    if n_rows >= FLAT_ROWS:
        n_lists = 2 ** round(math.log2(2 * math.sqrt(n_rows)))
        factory = f"IVF{n_lists},SQ8"
        params = {"seed": _SEED, "nprobe": max(8, n_lists // 16)}
    index: Any = faiss.index_factory(dim, factory, _FAISS_METRIC[metric])
    with _one_thread():
        if params:
            index.cp.seed = params["seed"]
            index.train(ready)
            index.nprobe = params["nprobe"]  # kept in the file
        index.add(ready)
    faiss.write_index(index, str(path))
    return factory, params


def entry(
    spec: IndexSpec,
    built: tuple[str, dict[str, Any]],
    vectors: np.ndarray,
    built_from: dict[str, str],
) -> IndexEntry:
    """What the manifest says of an index."""
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
        dim=vectors.shape[1],
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


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, d) float32, each row divided by its length; no row may be zero."""
    return (vectors / row_norms(vectors)[:, None]).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(_THREADS)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
