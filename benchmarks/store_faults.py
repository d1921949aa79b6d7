"""Seeded fault schedules on an object store: `store_faults.py --schedules 10000`, or `--seed 7`.

A seed is a whole history of publishers, promoters and a reader (`tests/store/fault_schedules.py`);
with `--seed` it is replayed and its violations are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "store-faults.json"
sys.path.insert(0, str(ROOT / "tests" / "store"))

from fault_schedules import N_KEYS, N_TWINS, Schedule  # noqa: E402  found by the path above


def machine() -> dict[str, object]:
    """Where and with what the figures were taken."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("obstore", "pyarrow", "pydantic")},
    }


def replay(seed: int, folder: str) -> int:
    """Print one history; 1 if it breaks a promise."""
    schedule = Schedule(seed, folder).run()
    print(f"seed {seed}: {schedule.n_steps} requests, faults {dict(schedule.faults)}")
    print("\n".join(schedule.violations) or "no violation")
    return int(bool(schedule.violations))


def run_all(n_schedules: int, first: int, folder: str) -> dict[str, object]:
    """Many histories, and what came of them."""
    faults: Counter[str] = Counter()
    violations: dict[str, list[str]] = {}
    n_requests, started, cpu = 0, time.monotonic(), time.process_time()
    for seed in range(first, first + n_schedules):
        schedule = Schedule(seed, folder).run()
        faults += schedule.faults
        n_requests += schedule.n_steps
        if schedule.violations:
            violations[str(seed)] = schedule.violations
            print(f"seed {seed}: {schedule.violations}", flush=True)
    return {
        "schedules": n_schedules,
        "first_seed": first,
        "publishers": N_KEYS * N_TWINS,
        "requests": n_requests,
        "faults": dict(sorted(faults.items())),
        "schedules_with_violations": len(violations),
        "violations": violations,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def main() -> int:
    """Parse, run, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, help="replay one history")
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.seed is not None:
            return replay(arguments.seed, folder)
        result = machine() | run_all(arguments.schedules, arguments.first, folder)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("schedules", "schedules_with_violations")}))
    return int(bool(result["violations"]))


if __name__ == "__main__":
    sys.exit(main())
