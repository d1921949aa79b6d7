"""kill -9 of real processes during adapt: what comes out is what an undisturbed run writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from jobs.home import Home
from tests.conftest import DAY, ROOT
from tests.llm.tastes import commit, tables

KILLS = 20
FLAGS = {
    "--day": DAY,
    "--step-tokens": 300,
    "--batch-tokens": 200,
    "--epochs": 3,
    "--eval-steps": 4,
    "--checkpoint-steps": 2,
    "--dropout": 0.1,
    "--learning-rate": 0.01,
    "--rank": 4,
}


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bytes(
    tiny_folder: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    commit(home, tables(n_users=20))
    words = [str(word) for pair in FLAGS.items() for word in pair]
    driver = [sys.executable, "-m", "tests.llm.adapt_kills", str(home.root), str(tmp_path)]
    done = subprocess.run(
        [*driver, str(KILLS), "0", "--", *words, "--model", str(tiny_folder)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["kills"] == KILLS
    assert said["resumed"] >= 3  # the others died before the first checkpoint or after the last
    assert said["homes"] == [said["undisturbed"]] * len(said["homes"])
