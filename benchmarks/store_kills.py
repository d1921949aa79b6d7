"""Kill the store's processes 4,000 times, at every step of what they do, and write down the result.

Example: .venv/bin/python benchmarks/store_kills.py
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "store-kills.json"


def main() -> None:
    """Run the test with a larger number, and keep what it counted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=4_000)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environment = {
            **os.environ,
            "STORE_KILLS": str(given.kills),
            "STORE_KILLS_REPORT": str(report),
        }
        test = str(ROOT / "tests" / "store" / "test_store_kills.py")
        command = [sys.executable, "-m", "pytest", test, "-o", "timeout=7200"]
        started = time.perf_counter()
        subprocess.run(command, env=environment, cwd=ROOT, check=True)
        counted = json.loads(report.read_text())
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "benchmarks/store_kills.py --kills " + str(given.kills),
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine()},
        "load": [round(one, 1) for one in os.getloadavg()],  # others ran beside it, or not
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("tidemark", "pyarrow", "faiss-cpu")},
        },
        "seconds": round(time.perf_counter() - started, 1),
        **counted,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
