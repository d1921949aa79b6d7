"""What the store's benchmarks share: contenders in processes of their own, medians, the machine."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
_CPU, _STATUS = Path("/proc/cpuinfo"), Path("/proc/self/status")


class Clock:
    """Wall and CPU seconds of a block, of all its threads."""

    def __enter__(self) -> Clock:
        """Start."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.wall_s = time.perf_counter() - self._wall
        self.cpu_s = time.process_time() - self._cpu


def peak_mb() -> float:
    """Most resident memory that this process has had; where Linux says so, since its start.

    What getrusage says begins with the memory of the process that started this one.
    """
    if _STATUS.exists():
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_alone(
    script: str, arguments: Sequence[str], python: str = sys.executable, threads: int = 1
) -> dict[str, Any]:
    """What `script arguments` prints as its last line, as JSON, with a process and threads set."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LANCE_CPU_THREADS", "RAYON_NUM_THREADS")
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **dict.fromkeys(names, str(threads))}
    done = subprocess.run(
        [python, script, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return {**json.loads(done.stdout.splitlines()[-1]), "load": round(os.getloadavg()[0], 1)}


def middle(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median, least and largest of every number over the rounds."""
    names = [name for name, value in rounds[0].items() if isinstance(value, int | float)]
    return {
        name: {
            "median": statistics.median(one[name] for one in rounds),
            "min": min(one[name] for one in rounds),
            "max": max(one[name] for one in rounds),
        }
        for name in names
    }


def machine(*packages: str) -> dict[str, Any]:
    """Where, when and with what the figures were taken."""
    models = [
        line.split(":")[1].strip()
        for line in (_CPU.read_text().splitlines() if _CPU.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "load": round(os.getloadavg()[0], 1),
        "is_idle": os.getloadavg()[0] <= (os.cpu_count() or 1) + 0.5,
    }


def write(name: str, result: dict[str, Any]) -> None:
    """Keep a result, and print it."""
    text = json.dumps(result, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text + "\n")
    print(text)
