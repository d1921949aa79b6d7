"""A short fault drill: a dozen faults on jobs; and the drill sees it when a promise is broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding_store import EmbeddingStore
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from drill.invariants import (
    differences,
    half_visible,
    outputs,
    store_problems,
)
from drill.results import append, lines_of
from drill.world import SECOND, World

N_FAULTS = 12
pytestmark = pytest.mark.timeout(1_800)  # a minute of CPU, on a machine that others use too


@dataclass(frozen=True)
class Drill:
    """A drill that has run: its folder, what it printed and wrote."""

    work: Path
    printed: str
    result: dict[str, Any]

    @property
    def world(self) -> World:
        return World(self.work)


def run_drill(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "benchmarks" / "fault_drill.py"
    asked = ("--part", "jobs", "--n", str(N_FAULTS), "--work", str(work), *words)
    return subprocess.run(
        [sys.executable, str(script), *asked],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Drill:
    work = tmp_path_factory.mktemp("drill")
    done = run_drill(work, "--out", str(work / "result.json"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return Drill(work, done.stdout, json.loads((work / "result.json").read_text()))


@pytest.fixture
def struck(drill: Drill, tmp_path: Path) -> Iterator[Any]:
    """A copy of both nights, to do harm to."""
    with World(drill.work).copy(drill.world.done, tmp_path.name) as home:
        yield home


def test_a_dozen_faults_break_no_promise(drill: Drill) -> None:
    assert drill.result["promises_broken"] == 0
    assert drill.result["faults"] + sum(drill.result["skipped"].values()) == N_FAULTS
    kinds = {row["kind"] for row in drill.result["kinds"]}
    assert kinds >= {"job-killed", "corrupt-input", "bad-mapping", "gate-refuses", "two-runs"}
    assert all(kind in drill.printed for kind in kinds)


def test_a_drill_goes_on_after_the_last_fault_that_was_done(drill: Drill) -> None:
    log = drill.work / "faults.jsonl"
    before = log.read_text()
    again = run_drill(drill.work, "--out", str(drill.work / "again.json"))
    assert again.returncode == 0, again.stderr[-2000:]
    assert log.read_text() == before  # nothing was left to strike
    kept = json.loads((drill.work / "again.json").read_text())
    assert kept["lines"] == drill.result["lines"]


def test_a_line_that_a_killed_drill_left_unfinished_is_no_fault(tmp_path: Path) -> None:
    log = tmp_path / "faults.jsonl"
    append(log, {"fault": "a", "seed": 1})
    with log.open("a") as file:
        file.write('\n{"fault": "b", "se')
    append(log, {"fault": "c", "seed": 1})
    append(log, {"fault": "d", "seed": 2})
    assert set(lines_of(log, 1)) == {"a", "c"}


def test_a_table_of_other_bytes_than_its_manifest_says_is_seen(struck: Any) -> None:
    assert half_visible(struck) == []
    path = next((struck.root / "tables" / "splits" / f"day={SECOND}").iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    told = half_visible(struck)
    assert any("is not what the manifest of splits says" in one for one in told)
    assert any("is not whole" in one for one in told)


def test_an_output_that_differs_from_the_undisturbed_one_is_seen(drill: Drill, struck: Any) -> None:
    wanted = outputs(drill.world.done, "align", SECOND)
    assert differences(outputs(struck, "align", SECOND), wanted) == []
    shutil.rmtree(struck.root / "tables" / "user_factors" / f"day={SECOND}")
    told = differences(outputs(struck, "align", SECOND), wanted)
    assert told == ["user_factors is not that of the undisturbed run"]


def test_a_damaged_version_is_seen(struck: Any) -> None:
    assert store_problems(struck) == []
    with EmbeddingStore(struck.store).open("production", verify="off") as version:
        file = Path(struck.store) / max(version.manifest.files, key=lambda one: one.bytes).path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert any("'production' does not open" in one for one in store_problems(struck))


def test_a_reader_that_sees_other_vectors_than_those_of_the_day_says_so(
    drill: Drill, struck: Any, tmp_path: Path
) -> None:
    known = dict(np.load(drill.world.known))
    known[f"{SECOND}/item_semantics/vectors"] = known[f"{SECOND}/item_semantics/vectors"] + 1
    np.savez(tmp_path / "known.npz", **known)
    words = [struck.store, str(tmp_path / "known.npz"), str(tmp_path / "stop"), "0.01"]
    reader = subprocess.Popen(
        [sys.executable, "-m", "drill.reading", *words],
        cwd=ROOT / "benchmarks",
        stdout=subprocess.PIPE,
        text=True,
    )
    leases = Path(struck.store) / "leases"
    while not list(leases.glob("*/*.json")) and reader.poll() is None:
        time.sleep(0.002)
    (tmp_path / "stop").touch()
    printed, _ = reader.communicate(timeout=300)
    assert "item_semantics that is not that of its day" in json.loads(printed)["wrong"][0]
