"""What is kept of a drill: a line for each fault that is done, and the table at the end."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

Line = dict[str, Any]
_LIBRARIES = ("tidemark", "apache-airflow", "duckdb", "faiss-cpu", "pyarrow", "torch")


def lines_of(path: Path, seed: int) -> dict[str, Line]:
    """Faults that are done, by name; a line that a killed drill left unfinished is none."""
    found = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if line["seed"] == seed:
            found[line["fault"]] = line
    return found


def append(path: Path, line: Line) -> None:
    """One more fault is done, whatever happens next."""
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{json.dumps(line)}")  # a torn line before it stays one line
        file.flush()
        os.fsync(file.fileno())


def said(line: Line) -> str:
    """One line for whoever watches."""
    verdict = "skipped" if "skipped" in line else "BROKEN" if line["problems"] else "kept"
    about = line.get("skipped") or "; ".join([line["end"], *line["problems"]])
    return f"{verdict:8} {line['fault']:58} {line['seconds']:6.1f} s  {about}"


def result_of(done: dict[str, Line], seed: int) -> Line:
    """What is kept of a drill."""
    lines = list(done.values())
    struck = [line for line in lines if "skipped" not in line]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "benchmarks/fault_drill.py " + " ".join(sys.argv[1:]),
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine()},
        "load": [round(one, 1) for one in os.getloadavg()],  # others ran beside it, or not
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        "seed": seed,
        "faults": len(struck),
        "promises_broken": sum(bool(line["problems"]) for line in struck),
        "skipped": dict(Counter(line["skipped"] for line in lines if "skipped" in line)),
        "seconds": round(sum(line["seconds"] for line in struck), 1),
        "cpu_seconds": round(sum(line["cpu_s"] for line in struck), 1),
        "kinds": summary(struck),
        "lines": lines,
    }


def summary(lines: list[Line]) -> list[Line]:
    """One row for each kind."""
    kinds = dict.fromkeys((line["part"], line["kind"]) for line in lines)
    rows = []
    for part, kind in kinds:
        mine = [line for line in lines if (line["part"], line["kind"]) == (part, kind)]
        rows.append(
            {
                "part": part,
                "kind": kind,
                "faults": len(mine),
                "broken": sum(bool(line["problems"]) for line in mine),
                "seconds": round(sum(line["seconds"] for line in mine), 1),
                "recovered_by": sorted({line["recovered_by"] for line in mine}),
            }
        )
    return rows


def table(result: Line) -> str:
    """The rows of the summary, for people."""
    head = f"{'part':10} {'kind':22} {'faults':>6} {'broken':>6} {'seconds':>8}"
    rows = [
        f"{row['part']:10} {row['kind']:22} {row['faults']:6} {row['broken']:6} {row['seconds']:8}"
        for row in result["kinds"]
    ]
    last = f"{'':10} {'all':22} {result['faults']:6} {result['promises_broken']:6}"
    skipped = [f"skipped {n}: {why}" for why, n in result["skipped"].items()]
    return "\n".join([head, *rows, f"{last} {result['seconds']:8}", *skipped])
