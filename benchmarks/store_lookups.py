"""Lookups by id in 1 M x 128: `store_lookups.py [--rows N] [--rounds N]`.

One id, 100 ids, 100,000 ids at once; one id in SQL through a view and through the closed door;
opening with every byte verified. Percentiles of wall time, and beside them of the CPU time of the
thread, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from side_by_side import Clock, machine, middle, peak_mb, run_alone, write

from embedding_store import EmbeddingStore, TableSpec

DIM = 128
BATCH = 100_000


def percentiles(call: Callable[[], object], n: int) -> dict[str, float]:
    """p50 and p99 of n calls, milliseconds of wall and of the thread's CPU."""
    wall, cpu = np.empty(n), np.empty(n)
    for number in range(n):
        start, used = time.perf_counter_ns(), time.thread_time_ns()
        call()
        cpu[number], wall[number] = time.thread_time_ns() - used, time.perf_counter_ns() - start
    return {
        f"{name}_p{p}_ms": float(np.percentile(values, p)) / 1e6
        for name, values in (("wall", wall), ("cpu", cpu))
        for p in (50, 99)
    }


def make(root: str, n_rows: int) -> None:
    """A store with one table; ids are multiples of 7."""
    vectors = np.random.default_rng(1).normal(size=(n_rows, DIM)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(vectors.ravel(), DIM)
    rows = pa.table({"id": np.arange(n_rows) * 7, "vector": lists})
    EmbeddingStore(root).publish(
        {"t": TableSpec(rows, "id", "vector")}, run_key="lookups", day="2026-03-01"
    )


def measure(root: str) -> dict[str, Any]:
    """All figures once, in this process."""
    with Clock() as opening:
        version = EmbeddingStore(root).open(1)
    table = version["t"]
    random, n = np.random.default_rng(), len(table)
    some = np.sort(random.integers(n, size=1_000))
    expected = table.vectors[some].copy()
    found = table.vectors_of(some * 7)
    assert (found == expected).all()
    by_view, by_door = _in_sql(version)
    assert by_view().fetchone()[1] == tuple(table.vectors_of([7 * (n // 2)])[0].tolist())
    result = {"open_verified_wall_s": opening.wall_s, "open_verified_cpu_s": opening.cpu_s}
    result["bytes"] = sum(file.bytes for file in version.manifest.files)
    cases: dict[str, tuple[Callable[[], object], int]] = {
        "one": (lambda: table.vectors_of([int(random.integers(n)) * 7]), 20_000),
        "hundred": (lambda: table.vectors_of(random.integers(n, size=100) * 7), 5_000),
        "view": (by_view, 200),
        "closed_sql": (by_door, 200),
    }
    for name, (call, times) in cases.items():
        call()
        result |= {f"{name}_{key}": value for key, value in percentiles(call, times).items()}
    batch = random.integers(n, size=BATCH) * 7
    with Clock() as clock:
        table.vectors_of(batch)
    result["batch_rows_per_cpu_s"] = BATCH / clock.cpu_s
    return {**result, "peak_mb": peak_mb()}


def _in_sql(version: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One row by id, through a view of the version and through its closed SQL."""
    con = duckdb.connect(":memory:", config={"threads": 1})
    version.attach(con)
    wanted = [7 * (len(version["t"]) // 2)]
    return (
        lambda: con.execute("select * from t_v1 where id = ?", wanted),
        lambda: version.sql("select * from t where id = ?", wanted),
    )


def main() -> None:
    """Several rounds, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", help="a store: measure it once, in this process")
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(chosen.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(folder) / "store")
        make(root, chosen.rows)
        rounds = [run_alone(__file__, ["--measure", root]) for _ in range(chosen.rounds)]
    write(
        "store-lookups.json",
        {
            **machine("numpy", "pyarrow", "duckdb"),
            "rows": chosen.rows,
            "dim": DIM,
            "rounds": chosen.rounds,
            "figures": middle(rounds),
        },
    )


if __name__ == "__main__":
    main()
