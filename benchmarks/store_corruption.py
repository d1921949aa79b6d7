"""Damages a store a thousand times in each of nine ways; every door must refuse every time."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "store-corruption.json"
sys.path.insert(0, str(ROOT / "tests" / "store"))

from corruptions import DOORS, KINDS, Victim, accepted_by, disconnect  # noqa: E402  found by the path above


def damaged(kind: str, n_times: int, victim: Victim, seed: int) -> dict[str, object]:
    """How often each door let a kind of damage in."""
    random, accepted = Random(f"{seed} {kind}"), dict.fromkeys([*DOORS, "verify"], 0)
    started = time.monotonic()
    for _ in range(n_times):
        damage = KINDS[kind](victim, random)
        for door in accepted_by(victim, damage):
            accepted[door] += 1
        damage.undo()
    return {
        "times": n_times,
        "accepted_by": accepted,
        "seconds": round(time.monotonic() - started, 1),
    }


def main() -> int:
    """Parse, run, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    kinds = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EMBEDDING_STORE_CACHE"] = f"{folder}/cache"
        victim = Victim(Path(folder) / "store")
        for kind in KINDS:
            kinds[kind] = damaged(kind, arguments.each, victim, arguments.seed)
            print(kind, kinds[kind], flush=True)
    disconnect()
    n_accepted = sum(sum(one["accepted_by"].values()) for one in kinds.values())  # type: ignore[attr-defined]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("pyarrow", "faiss-cpu", "duckdb")},
        "seed": arguments.seed,
        "doors": [*DOORS, "verify"],
        "accepted": n_accepted,
        "kinds": kinds,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(n_accepted > 0)


if __name__ == "__main__":
    sys.exit(main())
