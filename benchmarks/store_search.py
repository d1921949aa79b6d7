"""What the store adds to raw FAISS, 200,000 x 128: `store_search.py [--rounds N]`.

Both search the same index file on one thread, with the same nprobe, each in a process of its own,
A B B A. FAISS returns row numbers and its own scores from bytes; the store returns a table with
ids, ranks and the exact scores of each row, so its recall is the higher one. `at equal recall`
gives FAISS what it needs to be as good: the candidates that the store asks for, ranked again by
their vectors in C++ (IndexRefineFlat).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from side_by_side import Clock, machine, middle, run_alone, write

from embedding_store import EmbeddingStore, IndexSpec, TableSpec

N_ROWS, DIM, N_QUERIES, K = 200_000, 128, 2_000, 10
EFFORTS = (4, 16, 64)  # nprobe; 64 is the default for this size
CONTENDERS = ("faiss", "faiss_refined", "store")


def data(n: int, seed: int) -> np.ndarray:
    """Rows around 2,000 centres, as items are around their genres."""
    centres = np.random.default_rng(0).normal(size=(2_000, DIM)).astype(np.float32)
    random = np.random.default_rng(seed)
    noise = random.normal(size=(n, DIM)).astype(np.float32)
    return centres[random.integers(len(centres), size=n)] + np.float32(0.6) * noise


def make(root: str) -> None:
    """A store with the table and its index, and the exact answers beside it."""
    rows = data(N_ROWS, 1)
    lists = pa.FixedSizeListArray.from_arrays(rows.ravel(), DIM)
    EmbeddingStore(root).publish(
        {"t": TableSpec(pa.table({"id": np.arange(N_ROWS) * 7, "vector": lists}), "id", "vector")},
        run_key="search",
        day="2026-03-01",
        indexes=[IndexSpec("t", "cosine", "ivf-sq8")],
    )
    found = EmbeddingStore(root).open(1)["t"].search(data(N_QUERIES, 2), K, exact=True)
    np.save(f"{root}.npy", found["id"].to_numpy().reshape(N_QUERIES, K))


def measure(root: str, contender: str) -> dict[str, Any]:
    """Microseconds of CPU a query and recall, for each effort."""
    import faiss

    faiss.omp_set_num_threads(1)
    version = EmbeddingStore(root).open(1)
    table, queries = version["t"], data(N_QUERIES, 2)
    exact = np.load(f"{root}.npy")
    path = next(Path(root).rglob("t.faiss"))
    index: Any = faiss.read_index(str(path))
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    if contender == "faiss_refined":
        rows = table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True)
        refined: Any = faiss.IndexRefineFlat(index, faiss.swig_ptr(rows))
    result = {}
    for effort in EFFORTS:
        inner = faiss.SearchParametersIVF(nprobe=effort)
        calls = {
            "faiss": lambda p=inner: index.search(unit, K, params=p)[1] * 7,
            "faiss_refined": lambda p=inner: (
                refined.search(
                    unit,
                    K,
                    params=faiss.IndexRefineSearchParameters(k_factor=1.8, base_index_params=p),
                )[1]
                * 7
            ),
            "store": lambda e=effort: table.search(queries, K, effort=e)["id"],
        }
        call = calls[contender]
        call()
        with Clock() as clock:
            found = call()
        ids = found.to_numpy() if contender == "store" else found
        hits = [len(set(a) & set(b)) for a, b in zip(ids.reshape(-1, K), exact, strict=True)]
        result[f"us_{effort}"] = clock.cpu_s / N_QUERIES * 1e6
        result[f"recall_{effort}"] = sum(hits) / exact.size
    return result


def main() -> None:
    """A B C C B A, several rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("ROOT", "CONTENDER"))
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(*chosen.measure)))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(folder) / "store")
        make(root)
        for _ in range(chosen.rounds):
            for contender in (*CONTENDERS, *reversed(CONTENDERS)):
                found[contender].append(run_alone(__file__, ["--measure", root, contender]))
    figures = {name: middle(rounds) for name, rounds in found.items()}
    write(
        "store-search.json",
        {
            **machine("numpy", "faiss-cpu"),
            "rows": N_ROWS,
            "dim": DIM,
            "queries": N_QUERIES,
            "k": K,
            "store_over": {
                f"{other}, nprobe {effort}": figures["store"][f"us_{effort}"]["median"]
                / figures[other][f"us_{effort}"]["median"]
                for other in ("faiss", "faiss_refined")
                for effort in EFFORTS
            },
            "figures": figures,
        },
    )


if __name__ == "__main__":
    main()
