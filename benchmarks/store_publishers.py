"""32 processes publish 25 keys each, every key sent by two of them: one version a key, one chain.

`store_publishers.py --rounds 20` writes the result; it stops early at `--minutes` and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

from embedding_store import EmbeddingStore, TableSpec
from embedding_store.manifest import sha256_hex

RESULT = Path(__file__).resolve().parent / "results" / "store-publishers.json"
ROWS = pa.table({"item_id": [3, 1, 2], "title": ["c", "a", "b"]})


def publish_all(root: Path, keys: list[str]) -> dict[str, int]:
    """The version that this process is told for each of its keys."""
    store = EmbeddingStore(root)
    tables = {"items": TableSpec(ROWS, "item_id")}
    return {key: store.publish(tables, run_key=key, day="2026-03-01") for key in keys}


def keys_of(process: int, n_processes: int, n_keys: int) -> list[str]:
    """Its own keys, and those of the next process in another order."""
    own = [f"p{process}-k{key}" for key in range(n_keys)]
    others = [f"p{(process + 1) % n_processes}-k{key}" for key in reversed(range(n_keys))]
    return [key for pair in zip(own, others, strict=True) for key in pair]


def start(root: Path, answer: Path, keys: list[str]) -> int:
    """The pid of a process that publishes the keys and writes what it was told."""
    pid = os.fork()
    if pid == 0:
        try:
            answer.write_text(json.dumps(publish_all(root, keys)), encoding="utf-8")
        finally:
            # without the parent's clean-up
            os._exit(0)
    return pid


def one_round(folder: Path, n_processes: int, n_keys: int) -> list[str]:
    """What is wrong after all have ended; nothing, if the promises were kept."""
    root = folder / "store"
    answers = [folder / f"answer-{process}.json" for process in range(n_processes)]
    pids = [
        start(root, answer, keys_of(process, n_processes, n_keys))
        for process, answer in enumerate(answers)
    ]
    for pid in pids:
        os.waitpid(pid, 0)
    told: dict[str, set[int]] = {}
    missing = [answer.name for answer in answers if not answer.exists()]
    for answer in answers:
        if answer.exists():
            for key, number in json.loads(answer.read_text(encoding="utf-8")).items():
                told.setdefault(key, set()).add(number)
    wrong = [f"{len(missing)} processes failed"] if missing else []
    return wrong + checked(root, told, n_processes * n_keys)


def checked(root: Path, told: dict[str, set[int]], n_wanted: int) -> list[str]:
    """The chain, read from the files themselves, against what the publishers were told."""
    slots = sorted((root / "versions").glob("[0-9]*.json"))
    contents = [slot.read_bytes() for slot in slots]
    manifests = [json.loads(content) for content in contents]
    wrong = []
    if [int(slot.stem) for slot in slots] != list(range(1, n_wanted + 1)):
        wrong.append(f"{len(slots)} slots, {n_wanted} wanted, or a gap")
    if told != {one["run_key"]: {one["version"]} for one in manifests}:
        wrong.append("what the publishers were told is not what is there")
    for number, content in enumerate(contents[:-1]):
        parent = {"version": number + 1, "manifest_sha256": sha256_hex(content)}
        if manifests[number + 1]["parent"] != parent:
            wrong.append(f"version {number + 2} is not chained to version {number + 1}")
    return wrong + [str(problem) for problem in EmbeddingStore(root).verify()]


def main() -> int:
    """Parse, run, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=32)
    parser.add_argument("--keys", type=int, default=25, help="of each process")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60.0, help="start no round after this")
    parser.add_argument("--folder", type=Path, help="where the stores are made")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    begun, rounds = time.monotonic(), []
    while len(rounds) < asked.rounds and time.monotonic() - begun < asked.minutes * 60:
        folder, started = Path(tempfile.mkdtemp(dir=asked.folder)), time.monotonic()
        wrong = one_round(folder, asked.processes, asked.keys)
        shutil.rmtree(folder)
        rounds.append({"violations": wrong, "seconds": round(time.monotonic() - started, 1)})
        print(f"round {len(rounds)}: {rounds[-1]}", flush=True)
    n_wrong = sum(len(one["violations"]) for one in rounds)
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {"pyarrow": version("pyarrow")},
        "folder": str(asked.folder or "the temporary one"),
        "processes": asked.processes,
        "keys_of_each": asked.keys,
        "sent": 2,
        "versions_of_a_round": asked.processes * asked.keys,
        "rounds_asked": asked.rounds,
        "rounds": len(rounds),
        "violations": n_wrong,
        "seconds_of_each": [one["seconds"] for one in rounds],
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(n_wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
