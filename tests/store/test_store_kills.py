"""Processes die at every operation on the file system; a fresh one looks, and puts things right."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median

import numpy as np
from kill_scenarios import SCENARIOS, Tally, run

KILLS = int(os.environ.get("STORE_KILLS", "500"))


def test_killed_processes_leave_no_part_no_double_no_gap_and_no_lost_promotion(
    processes, fast_folder
):
    tally, turn = Tally(), 0
    while tally.total < KILLS:
        # later turns are of other data, and kill the retry too
        random = np.random.default_rng(turn) if turn else None
        for scenario in SCENARIOS:
            folder = fast_folder / f"{turn}-{scenario.name.replace(' ', '-')}"
            run(scenario, processes, folder, turn + 1, tally, random)
        turn += 1
    assert set(tally.kills) == {scenario.name for scenario in SCENARIOS}
    assert tally.total >= KILLS
    assert median(tally.recovery_s) < 1
    assert max(tally.recovery_cpu_s) < 1
    if report := os.environ.get("STORE_KILLS_REPORT"):
        counted = {
            "kills": tally.kills,
            "total": tally.total,
            "turns": turn,
            "violations": 0,
            "recovery_s": spread(tally.recovery_s),
            "recovery_cpu_s": spread(tally.recovery_cpu_s),
        }
        Path(report).write_text(json.dumps(counted))


def spread(seconds):
    """What one of them took."""
    ordered = sorted(seconds)
    p99 = ordered[int(len(ordered) * 0.99)]
    return {"median": round(median(ordered), 3), "p99": round(p99, 3), "max": round(ordered[-1], 3)}
