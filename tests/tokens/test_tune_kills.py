"""kill -9 in `tune`: the same bytes in the end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from jobs.datasets import TOKEN_CONFIG, TOKEN_WEIGHTS, TUNE_VALID, TUNED_ADAPTER
from jobs.home import Home
from tests.conftest import DAY
from tests.tokens.conftest import QUICK

N_KILLS, SEED = 4, 7


def test_a_joint_tuning_that_was_killed_ends_as_an_undisturbed_one(
    aligned_home: Home, tiny_folder: Path, tmp_path: Path
) -> None:
    homes = [Home(tmp_path / name) for name in ("killed", "undisturbed")]
    for home in homes:
        shutil.copytree(aligned_home.root, home.root)
    flags = QUICK | {"checkpoint_steps": 2, "steering_bias": "signed"}
    words = ["--day", str(DAY), "--model", str(tiny_folder), "--preset", "sailrec"]
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.llm.killed_at_random", "jobs.tokens.tune"]
        + [str(home.root) for home in homes]
        + [str(N_KILLS), str(SEED), "--", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["killed"] >= 1
    for dataset in (TOKEN_WEIGHTS, TOKEN_CONFIG, TUNED_ADAPTER, TUNE_VALID):
        killed, undisturbed = (home.output(dataset, DAY).read_bytes() for home in homes)
        assert killed == undisturbed, dataset.name
