"""kill -9 of real processes during distil, align and publish, then a retry.

The sample warehouse is the real one; the backbone has two random layers, so that a run takes
seconds and can be killed at many points.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embedding_store import EmbeddingStore
from embedding_store.errors import StoreNotFound
from jobs.datasets import Format, made_by
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import load_manifest
from jobs.launch import MODULES
from jobs.prepare.sample import write_sample
from tests.conftest import DAY, ROOT
from tests.in_process import run_job
from tests.tiny_backbone import write_tiny_backbone

BEFORE = ("ingest", "splits", "item_texts", "distil", "align", "tune", "project", "publish")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_backbone(tmp_path_factory.mktemp("tiny") / "backbone")


@pytest.fixture(scope="module")
def fields(
    backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, object]]:
    """Config of each job: small, and the same for every run here."""
    raw = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(raw)
    return {
        "ingest": {"source": str(raw)},
        "distil": {"model": str(backbone)},
        "align": {"max_epochs": 2},
        "tune": {"model": str(backbone), "max_tokens_total": 1_000, "valid_rows": 100},
        "project": {"model": str(backbone)},
    }


@pytest.fixture(scope="module")
def homes(
    fields: dict[str, dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Home]:
    """For each job a home in which everything before it has run."""
    folder = tmp_path_factory.mktemp("homes")
    found = {}
    home = Home(folder / "all")
    home.root.mkdir()
    for job in BEFORE:
        shutil.copytree(home.root, folder / job)
        found[job] = Home(folder / job)
        run_job(job, home, **fields.get(job, {}))
    found["done"] = home
    return found


def flags(job: str, fields: dict[str, dict[str, object]]) -> list[str]:
    words = ["--day", str(DAY)]
    for name, value in fields.get(job, {}).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def drive(job: str, home: Home, work: Path, mode: list[str], words: list[str]) -> list[int]:
    """Ask the crash driver; see tests/crash_driver.py."""
    driver = [sys.executable, "-m", "tests.crash_driver", MODULES[job], str(home.root), str(work)]
    done = subprocess.run(
        [*driver, *mode, "--", *words],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def outputs(home: Home, job: str) -> dict[str, str]:
    """sha256 of everything that a job made: its files and its version in the store."""
    made = {
        dataset.name: sha256_file(home.output(dataset, DAY))
        for dataset in made_by(job)
        if home.output(dataset, DAY).exists()
    }
    if job == "publish":
        version = EmbeddingStore(home.store).open("production")
        made |= {f"store/{each.name}": each.sha256 for each in version.manifest.files}
    return made


def assert_nothing_half_written(home: Home, job: str) -> None:
    """What a reader would see right after the kill."""
    manifest = load_manifest(home, job, DAY)
    for dataset in made_by(job):
        path = home.output(dataset, DAY)
        if manifest is not None:
            artifact = manifest.output(dataset.name)
            assert artifact is not None
            assert sha256_file(path) == artifact.sha256
        elif path.exists() and dataset.format is Format.PARQUET:
            assert path.read_bytes()[-4:] == b"PAR1"  # named late, but only when whole
    if job == "publish":
        try:
            store = EmbeddingStore(home.store)
            versions = [each.version for each in store.versions()]
        except StoreNotFound:
            return
        assert versions in ([], [1])
        for version in versions:
            store.open(version)  # verifies every file
        assert set(store.aliases().values()) <= set(versions)


@pytest.mark.parametrize("job", ["distil", "align", "publish"])
def test_a_kill_at_any_change_of_a_file_leaves_nothing_half_done_and_a_retry_mends_it(
    job: str, homes: dict[str, Home], fields: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    step = {"distil": 1, "align": 2, "publish": 5}[job]  # tests/store kills publish at each one
    killed = drive(job, homes[job], tmp_path, ["1", str(step)], flags(job, fields))
    assert len(killed) >= 6
    for n in killed:
        assert_nothing_half_written(Home(tmp_path / str(n)), job)
    ended = drive(job, homes[job], tmp_path, ["retry"], flags(job, fields))
    assert ended == [0] * len(killed)
    undisturbed = outputs(homes["done"], job)
    assert undisturbed
    for n in killed:
        home = Home(tmp_path / str(n))
        assert outputs(home, job) == undisturbed, n
        if job == "publish":
            assert [each.version for each in EmbeddingStore(home.store).versions()] == [1]


@pytest.mark.parametrize("job", ["distil", "align", "publish"])
def test_a_kill_in_the_middle_of_the_work_leaves_no_output(
    job: str, homes: dict[str, Home], fields: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(homes[job].root, home.root)
    words = [sys.executable, "-m", MODULES[job], *flags(job, fields)]
    environment = {**os.environ, **ONE_THREAD, "TIDEMARK_HOME": str(home.root)}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    lock = home.run(job, DAY) / "lock"
    while not lock.exists() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert_nothing_half_written(home, job)
    subprocess.run(words, env=environment, check=True, capture_output=True)
    assert outputs(home, job) == outputs(homes["done"], job)
