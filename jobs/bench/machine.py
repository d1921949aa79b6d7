"""What figures were measured on, and with which versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jobs.manifest import code_version

_LIBRARIES = ("torch", "numpy", "numba", "lightgbm", "pyarrow")


def machine(n_threads: int) -> dict[str, str | int]:
    """What the seconds were taken on; no name, no path."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "os": platform.system(),
        "threads_of_a_fit": n_threads,
    }


def versions() -> dict[str, str]:
    """Tidemark, Python, and the libraries that are installed."""
    return {
        "tidemark": code_version(),
        "python": platform.python_version(),
        **installed(_LIBRARIES),
    }


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of those of the distributions that are there."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
