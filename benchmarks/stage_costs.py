"""What the stages cost that no other benchmark measures: ingest, features, texts, profiles.

    python benchmarks/stage_costs.py /tmp/stage-costs --scales 12 40 125

The sample warehouse at rising scales (scale 125 is a million events) goes through the jobs as a
night runs them, each job a process of its own with one thread; CPU seconds and peak
memory are those of that process. Profiles are measured on the random home of `profiles_scale.py`.
Written to benchmarks/results/stage-costs.json, which docs/scaling.md is made from.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from profiles_scale import make
from side_by_side import machine, write

from jobs.datasets import EVENT_TOTALS
from jobs.home import Home
from jobs.launch import arguments
from jobs.prepare.sample import write_sample

DAY = date(2026, 3, 2)
PROFILED = (500_000, 2_000_000)
JOBS = ("ingest", "splits", "features", "item_texts")


def cost(words: Sequence[str], home: Home) -> dict[str, float]:
    """CPU seconds, wall seconds and peak memory of one process.

    Raises:
        SystemExit: it failed; it has said why.
    """
    started = time.perf_counter()
    environment = {**os.environ, "TIDEMARK_HOME": str(home.root), "TIDEMARK_THREADS": "1"}
    child = os.posix_spawn(words[0], list(words), environment)
    _, status, used = os.wait4(child, 0)
    if status:
        sys.exit(f"{' '.join(words)} ended with status {os.waitstatus_to_exitcode(status)}")
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "wall_s": round(time.perf_counter() - started, 3),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
    }


def of_sample(folder: Path, scale: int) -> dict[str, Any]:
    """The jobs of data preparation on a sample of that scale, in a home that knows nothing yet."""
    home, raw = Home(folder / f"home-{scale}"), folder / f"raw-{scale}"
    shutil.rmtree(home.root, ignore_errors=True)
    write_sample(raw, scale=scale)
    costs: dict[str, dict[str, float]] = {}
    for job in JOBS:
        flags = {"source": raw} if job == "ingest" else {}
        costs[job] = cost(arguments(job, **flags, day=str(DAY)), home)
        cost(arguments("check", producer=job, day=str(DAY)), home)  # the next job asks for it
    (totals,) = pq.read_table(home.output(EVENT_TOTALS, DAY), partitioning=None).to_pylist()
    return {"scale": scale, "n_events": totals["n_events"], "costs": costs}


def of_profiles(folder: Path, n_events: int) -> dict[str, Any]:
    """Profiles of users, each of 20 events, over 200,000 items."""
    home = Home(folder / f"profiles-{n_events}")
    if not home.root.exists():
        make(home, n_events)
    costs = {"user_profiles": cost(arguments("user_profiles", force=True, day=str(DAY)), home)}
    return {"n_events": n_events, "costs": costs}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scales", type=int, nargs="+", default=[12, 40, 125])
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    result = {
        **machine("duckdb", "numpy", "pyarrow"),
        "threads": 1,
        "clock": "CPU seconds of the process, its start included",
        "sample": [of_sample(asked.folder, scale) for scale in asked.scales],
        "profiles": [of_profiles(asked.folder, n) for n in PROFILED],
    }
    write("stage-costs.json", result)


if __name__ == "__main__":
    main()
