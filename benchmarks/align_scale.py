"""What training costs against users, items and events, beside what memory was predicted.

    python benchmarks/align_scale.py
    python benchmarks/align_scale.py --only events

Made-up events with Zipf items, aligned to random embeddings of 576 numbers: the arithmetic does
not depend on what they mean. Each size in a process of its own, one thread, two epochs and a tenth
as many valid rows; seconds are those of the second epoch, with valid judged. Memory is the
process's high-water mark against `jobs.collab.memory`. Writes benchmarks/results/align-scale.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import side_by_side
import torch
from align_events import events, unit_rows

from jobs.collab.align import AlignConfig
from jobs.collab.factors import Ratings
from jobs.collab.memory import Sizes, program_and_fit_bytes
from jobs.collab.mf import Epoch, fit
from jobs.collab.sides import DualAlignment, Targets

NAME = "align-scale.json"
D_LLM = 576
CURVES = {
    # (users, items, events)
    "events": [(100_000, 20_000, n) for n in (250_000, 1_000_000, 4_000_000)],
    "users": [(n, 20_000, 1_000_000) for n in (10_000, 400_000)],
    "items": [(100_000, n, 1_000_000) for n in (2_000, 80_000)],
    "largest": [(1_000_000, 200_000, 20_000_000)],
}


def one(n_users: int, n_items: int, n_events: int) -> dict[str, Any]:
    """One size, in this process."""
    torch.set_num_threads(1)
    n_valid = n_events // 10
    made = events(n_users, n_items, n_events + n_valid, seed=0)
    train, valid = (
        Ratings(made.users[part], made.items[part], made.labels[part])
        for part in (slice(0, n_events), slice(n_events, None))
    )
    config = AlignConfig(max_epochs=2, patience=3)
    targets = unit_rows(n_items, D_LLM, seed=1)
    side = DualAlignment(
        Targets(targets),
        None,
        config.n_factors,
        config,
        config.learning_rate,
        0,
        torch.device("cpu"),
    )
    marks: list[tuple[float, float]] = []

    def mark(_: Epoch) -> None:
        marks.append((time.process_time(), time.perf_counter()))

    done = fit(train, valid, n_users, n_items, config, side, mark)
    cpu_s, wall_s = (marks[1][k] - marks[0][k] for k in (0, 1))
    sizes = Sizes(n_users, n_items, n_events, n_valid, D_LLM)
    peak, predicted = side_by_side.peak_mb(), program_and_fit_bytes(sizes, config) / 2**20
    return {
        "n_users": n_users,
        "n_items": n_items,
        "n_events": n_events,
        "epoch_cpu_s": cpu_s,
        "epoch_wall_s": wall_s,
        "events_per_cpu_s": n_events / cpu_s,
        "peak_mb": peak,
        "predicted_mb": predicted,
        "peak_over_predicted": peak / predicted,
        "is_fused": int(done.is_fused),
        "valid_auc": done.best.valid_auc or 0.0,
    }


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["one"]:
        found = one(*map(int, sys.argv[2:5]))
        print(json.dumps({name: round(value, 3) for name, value in found.items()}))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(CURVES), action="append")
    parser.add_argument("--python", default=sys.executable, help="an interpreter with numba")
    given = parser.parse_args()
    curves: dict[str, Any] = {}
    kept = side_by_side.RESULTS / NAME
    if given.only and kept.exists():
        curves = json.loads(kept.read_text())["curves"]
    facts = side_by_side.machine("numba", "numpy", "torch")
    for name in given.only or CURVES:
        curves[name] = []
        for size in CURVES[name]:
            found = side_by_side.run_alone(__file__, ["one", *map(str, size)], python=given.python)
            print(f"{name}: {found}", file=sys.stderr, flush=True)
            curves[name].append(found)
    settings = {"n_factors": 64, "d_llm": D_LLM, "threads": 1, "epochs": 2}
    side_by_side.write(NAME, {**facts, **settings, "curves": curves})


if __name__ == "__main__":
    main()
