"""How long each DAG file takes to parse, in a process of its own that has Airflow loaded already.

    python -m benchmarks.dag_parse

A dag processor parses each file again and again, in a process forked from one that has imported
Airflow. So Airflow's own import is not counted; what a file pulls in by itself is.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "dag_parse.json"
LIMIT_S, REPEATS = 0.5, 5

MEASURE = """
import sys, time
from pathlib import Path
import airflow.providers.standard.decorators.bash
import airflow.providers.standard.decorators.python
from airflow.sdk import dag, task
from airflow.dag_processing.dagbag import BundleDagBag
path = Path(sys.argv[1])
cpu, wall = time.process_time(), time.perf_counter()
bag = BundleDagBag(str(path), bundle_path=path.parent, bundle_name="tidemark")
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
assert not bag.import_errors and len(bag.dags) == 1, bag.import_errors
print(f"MEASURED {wall} {cpu}")
"""


def measured(path: Path, home: str) -> tuple[float, float]:
    """Seconds of the clock and of the CPU that one parse takes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env={
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
    wall, cpu = (float(word) for word in line.split()[1:])
    return wall, cpu


def main() -> int:
    """Measure each file `REPEATS` times; the fastest counts, since others only add to it."""
    files, load = {}, os.getloadavg()
    with tempfile.TemporaryDirectory() as home:
        for path in sorted((ROOT / "dags").glob("*.py")):
            if path.stem == "jobs_as_tasks":
                continue
            runs = [measured(path, home) for _ in range(REPEATS)]
            walls, cpus = ([run[place] for run in runs] for place in (0, 1))
            files[path.name] = {
                "fastest_s": round(min(walls), 4),
                "slowest_s": round(max(walls), 4),
                "cpu_s": round(min(cpus), 4),
            }
            print(f"{path.name:<26}{min(walls):>8.3f} s{min(cpus):>8.3f} s of CPU")
    result = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "load_before_and_after": [round(load[0], 2), round(os.getloadavg()[0], 2)],
        "limit_s": LIMIT_S,
        "repeats": REPEATS,
        "files": files,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    slow = [name for name, each in files.items() if each["fastest_s"] > LIMIT_S]
    print(f"over {LIMIT_S} s: {', '.join(slow) or 'none'}; written to {RESULT}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
