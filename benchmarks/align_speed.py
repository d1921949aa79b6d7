"""Training speed of the aligned factorisation beside implicit's BPR and ALS, 64 factors each.

    python benchmarks/align_speed.py --peer /path/to/a/venv/with/implicit/bin/python

Equal events, one thread, each contender in a process of its own, in the order A B B A. `plain` is
the factorisation with biases, `items` aligns its item side, `both` its user side too, `torch` is
plain without compiled code. What is timed are whole epochs after the first, without the judging of
valid rows; a sample is an event. BPR draws one unseen item for each positive, ALS solves each row;
both see all events as positives, so that they have as many samples as we have. Two sizes: about
MovieLens-1M, and one whose tables leave the caches. Writes benchmarks/results/align-speed.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import side_by_side

SIZES = {"small": (6_040, 3_883, 1_000_000), "large": (200_000, 50_000, 2_000_000)}
D, D_LLM, N_EPOCHS = 64, 576, 3
NAMES = ("plain", "items", "both", "torch", "bpr", "als")


def ours(size: Sequence[int], align: str) -> dict[str, float]:
    """Seconds of an epoch of ours."""
    import torch
    from align_events import events, unit_rows

    from jobs.collab.align import AlignConfig
    from jobs.collab.factors import Ratings
    from jobs.collab.mf import Epoch, fit
    from jobs.collab.sides import DualAlignment, Targets

    torch.set_num_threads(1)
    n_users, n_items, n_events = size
    train = events(n_users, n_items, n_events, seed=0)
    nothing = Ratings(train.users[:0], train.items[:0], train.labels[:0])
    n_epochs = 2 if align == "torch" else N_EPOCHS
    config = AlignConfig(
        epochs_without_valid=n_epochs,
        user_alignment_weight=float(align == "both"),
        compiled="never" if align == "torch" else "auto",
    )
    side = None
    if align in ("items", "both"):
        users = Targets(unit_rows(n_users, D_LLM, seed=2)) if align == "both" else None
        side = DualAlignment(
            Targets(unit_rows(n_items, D_LLM, seed=1)),
            users,
            D,
            config,
            config.learning_rate,
            0,
            torch.device("cpu"),
        )
    marks: list[tuple[float, float]] = []

    def mark(_: Epoch) -> None:
        marks.append((time.process_time(), time.perf_counter()))

    fit(train, nothing, n_users, n_items, config, side, mark)
    cpu_s, wall_s = ((marks[-1][k] - marks[0][k]) / (n_epochs - 1) for k in (0, 1))
    return {"cpu_s": cpu_s, "wall_s": wall_s, "samples_per_cpu_s": n_events / cpu_s}


def peer(size: Sequence[int], name: str) -> dict[str, float]:
    """Seconds of an iteration of implicit: that of a long fit less that of a short one."""
    from align_events import events
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking
    from scipy.sparse import csr_matrix

    n_users, n_items, n_events = size
    train = events(n_users, n_items, n_events, seed=0)
    shape = (n_users, n_items)
    ones = np.ones(n_events, np.float32)
    matrix = csr_matrix((ones, (train.users, train.items)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    common = {"factors": D, "num_threads": 1, "random_state": 0, "use_gpu": False}
    took = []
    for n in (1, 1 + N_EPOCHS):
        if name == "bpr":
            model = BayesianPersonalizedRanking(iterations=n, **common)
        else:
            model = AlternatingLeastSquares(iterations=n, calculate_training_loss=False, **common)
        cpu, wall = time.process_time(), time.perf_counter()
        model.fit(matrix, show_progress=False)
        took.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu_s, wall_s = ((took[1][k] - took[0][k]) / N_EPOCHS for k in (0, 1))
    # A pair that occurs twice is one sample of theirs.
    return {"cpu_s": cpu_s, "wall_s": wall_s, "samples_per_cpu_s": matrix.nnz / cpu_s}


CONTENDERS: dict[str, Callable[[Sequence[int], str], dict[str, float]]] = {
    name: peer if name in ("bpr", "als") else ours for name in NAMES
}


def version_of(package: str, python: str) -> str:
    """What another interpreter has installed."""
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run(
        [python, "-c", ask], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["one"]:
        found = CONTENDERS[sys.argv[2]](SIZES[sys.argv[3]], sys.argv[2])
        print(json.dumps({**found, "peak_mb": round(side_by_side.peak_mb())}))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=sys.executable, help="an interpreter with implicit")
    parser.add_argument("--ours", default=sys.executable, help="an interpreter with numba")
    parser.add_argument("--rounds", type=int, default=2, help="of A B B A")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    given = parser.parse_args()
    facts = side_by_side.machine("numba", "numpy", "torch")
    facts["versions"]["implicit"] = version_of("implicit", given.peer)
    found: dict[str, Any] = {}
    for size in given.sizes:
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        for _ in range(given.rounds):
            for name in (*NAMES, *reversed(NAMES)):
                if name == "torch" and (rounds[name] or size == "large"):
                    continue  # once: it takes as long as all the others
                python = given.peer if CONTENDERS[name] is peer else given.ours
                figures = side_by_side.run_alone(__file__, ["one", name, size], python=python)
                print(f"{size} {name}: {figures}", file=sys.stderr, flush=True)
                rounds[name].append(figures)
        found[size] = {
            "users, items, events": SIZES[size],
            "rounds": {name: side_by_side.middle(each) for name, each in rounds.items() if each},
        }
    settings = {"n_factors": D, "d_llm": D_LLM, "threads": 1, "epochs": N_EPOCHS}
    side_by_side.write("align-speed.json", {**facts, **settings, "sizes": found})


if __name__ == "__main__":
    main()
