"""Writing and reading 1 M x 128, beside Lance: `store_against_lance.py --lance-python PATH`.

The same Arrow table from the same file. The store writes Parquet, the lookup sidecars and a sha256
of every file, syncs them all, and reads every byte again before it hands out a row; Lance writes
its own format, without checksums. Read: open, and every id and vector as NumPy arrays. Each in a
process of its own, A B B A, on as many threads as are given; PATH is a Python with pylance.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from side_by_side import Clock, machine, middle, peak_mb, run_alone, write

DIM = 128


def rows_of(path: str) -> pa.Table:
    """The table that everybody gets: ascending ids, vectors read into memory."""
    with pa.OSFile(path) as file, pa.ipc.open_file(file) as arrow:
        return arrow.read_all()


def write_store(rows: pa.Table, root: str) -> None:
    """Publish: Parquet, sidecars, sha256, fsync, manifest."""
    from embedding_store import EmbeddingStore, TableSpec

    EmbeddingStore(root).publish(
        {"t": TableSpec(rows, "id", "vector")}, run_key="run", day="2026-03-01"
    )


def read_store(root: str) -> tuple[np.ndarray, np.ndarray]:
    """Every byte verified, then copied out of the memory map."""
    from embedding_store import EmbeddingStore

    table = EmbeddingStore(root).open(1)["t"]
    return table.ids.to_numpy().copy(), table.vectors.copy()


def write_lance(rows: pa.Table, root: str) -> None:
    """A new dataset; then synced, as the store's files are."""
    import lance

    lance.write_dataset(rows, root)
    for path in Path(root).rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def read_lance(root: str) -> tuple[np.ndarray, np.ndarray]:
    """The whole dataset; nothing is verified."""
    import lance

    rows = lance.dataset(root).to_table().combine_chunks()
    vectors = rows["vector"].chunk(0).flatten().to_numpy().reshape(-1, DIM)
    return rows["id"].to_numpy(), vectors


def measure(contender: str, source: str, root: str) -> dict[str, Any]:
    """Write and read once."""
    writing, reading = {"store": (write_store, read_store), "lance": (write_lance, read_lance)}[
        contender
    ]
    rows = rows_of(source)
    small = rows.slice(0, 1_000)
    writing(small, f"{root}-first")  # imports and thread pools are not what is measured
    reading(f"{root}-first")
    with Clock() as clock:
        writing(rows, root)
    result = {
        "write_cpu_s": clock.cpu_s,
        "write_wall_s": clock.wall_s,
        "write_rows_per_cpu_s": len(rows) / clock.cpu_s,
    }
    with Clock() as clock:
        ids, vectors = reading(root)
    result |= {
        "read_cpu_s": clock.cpu_s,
        "read_wall_s": clock.wall_s,
        "read_rows_per_cpu_s": len(rows) / clock.cpu_s,
        "bytes": sum(path.stat().st_size for path in Path(root).rglob("*") if path.is_file()),
        "peak_mb": peak_mb(),
    }
    given = rows["vector"].chunk(0).flatten().to_numpy().reshape(-1, DIM)
    assert (ids == rows["id"].to_numpy()).all()
    assert (vectors == given).all()  # equal outputs
    name = "pylance" if contender == "lance" else "pyarrow"
    return {**result, "library": f"{name} {version(name)}"}


def main() -> None:
    """A B B A, several rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lance-python", default=sys.executable)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="of A B B A")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", nargs=3, metavar=("CONTENDER", "SOURCE", "ROOT"))
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(*chosen.measure)))
        return
    pythons = {"store": sys.executable, "lance": chosen.lance_python}
    found: dict[str, list[dict[str, Any]]] = {"store": [], "lance": []}
    with tempfile.TemporaryDirectory() as folder:
        source = str(Path(folder) / "rows.arrow")
        vectors = np.random.default_rng(1).normal(size=(chosen.rows, DIM)).astype(np.float32)
        lists = pa.FixedSizeListArray.from_arrays(vectors.ravel(), DIM)
        batch = pa.record_batch({"id": np.arange(chosen.rows) * 7, "vector": lists})
        with pa.OSFile(source, "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        del vectors, lists, batch
        for _ in range(chosen.rounds):
            for contender in ("store", "lance", "lance", "store"):
                with tempfile.TemporaryDirectory(dir=folder) as scratch:
                    arguments = ["--measure", contender, source, f"{scratch}/{contender}"]
                    found[contender].append(
                        run_alone(__file__, arguments, pythons[contender], chosen.threads)
                    )
    figures = {contender: middle(rounds) for contender, rounds in found.items()}
    ratio = {
        name: figures["store"][name]["median"] / figures["lance"][name]["median"]
        for name in ("write_rows_per_cpu_s", "read_rows_per_cpu_s")
    }
    write(
        "store-against-lance.json",
        {
            **machine("numpy", "pyarrow"),
            "lance": found["lance"][0]["library"],
            "rows": chosen.rows,
            "dim": DIM,
            "threads": chosen.threads,
            "rounds": chosen.rounds,
            "store_over_lance": ratio,
            "figures": figures,
        },
    )


if __name__ == "__main__":
    main()
