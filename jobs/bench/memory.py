"""How much memory this process holds, and the most that it ever held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_MIB = 1024  # KiB


def peak_mib() -> float:
    """Largest resident size so far.

    Linux hands the parent's peak of `getrusage` down to a child, so the kernel's own mark of this
    address space is read where there is one.
    """
    if (found := _status("VmHWM")) is not None:
        return found
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / (_MIB * _MIB if sys.platform == "darwin" else _MIB)


def resident_mib() -> float:
    """Resident size now; the peak where the system does not tell."""
    found = _status("VmRSS")
    return peak_mib() if found is None else found


def _status(field: str) -> float | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / _MIB
    return None
