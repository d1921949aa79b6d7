"""A home with the prepared sample and its embeddings, and small rows made by hand."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from jobs.bench.config import load_bench
from jobs.bench.evidence import BenchRows, bench_rows
from jobs.bench.figures import BenchResult
from jobs.bench.result import result_of
from jobs.bench.runner import Bench
from jobs.collab.baselines.registry import SYSTEMS
from jobs.collab.systems import Catalogue, Histories, Labelled, Requests
from jobs.home import Home
from jobs.prepare.sample import write_sample
from tests.conftest import ROOT
from tests.in_process import run_job
from tests.tiny_backbone import write_tiny_backbone

DAY_US = 86_400_000_000


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The sample up to its item embeddings, by a backbone of two random layers; do not change."""
    folder = tmp_path_factory.mktemp("bench")
    write_sample(folder / "sample")
    home = Home(folder / "home")
    run_job("ingest", home, source=str(folder / "sample"))
    for job in ("splits", "item_texts"):
        run_job(job, home)
    run_job("distil", home, model=str(write_tiny_backbone(folder / "model")))
    return home


@dataclass(frozen=True)
class BenchFolder:
    """A home of its own and a bench file, on which `tidemark bench` is run."""

    home: Home
    config: Path

    @property
    def words(self) -> list[str]:
        """The command."""
        return [sys.executable, "-m", "jobs.cli", "bench", str(self.config)]

    @property
    def environment(self) -> dict[str, str]:
        """With the home."""
        return {**os.environ, "TIDEMARK_HOME": str(self.home.root)}

    def result(self, *only: str, any_code: bool = False) -> BenchResult:
        """What the command would write, computed here: fits are processes of their own."""
        bench = load_bench(self.config, SYSTEMS)
        assert bench.day is not None
        rows = bench_rows(self.home, bench.day)
        quiet = Console(file=io.StringIO())
        folder = self.config.parent
        found = Bench(bench, rows, self.home, folder, quiet, any_code=any_code).run(only)
        return result_of(bench, rows, found)

    def change(self, *pairs: tuple[str, str]) -> None:
        """Rewrite parts of the bench file."""
        text = self.config.read_text(encoding="utf-8")
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        self.config.write_text(text, encoding="utf-8")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`tidemark bench` with more words."""
        return subprocess.run(
            [*self.words, *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def bench_folder(prepared: Home, tmp_path: Path) -> BenchFolder:
    """The prepared home, nothing fitted yet, and the bench of the sample."""
    home = Home(tmp_path / "home")
    shutil.copytree(prepared.root, home.root)
    config = tmp_path / "sample.yaml"
    shutil.copy(ROOT / "benchmarks" / "configs" / "sample.yaml", config)
    return BenchFolder(home, config)


# Three users, four items; day, user, item, label, split. Day 0 is 1970-01-01.
BY_HAND = (
    (0, 0, 0, 1, 0),
    (0, 0, 1, 0, 0),
    (1, 0, 2, 1, 0),
    (1, 1, 0, 1, 0),
    (2, 1, 1, 1, 1),
    (3, 0, 3, 1, 2),
    (3, 2, 0, 0, 2),
    (3, 1, 2, 0, 2),
    (5, 0, 0, 0, 2),
    (5, 2, 1, 1, 2),
)


def made_of(events: np.ndarray) -> BenchRows:
    """Rows of (day, user, item, label, split), ten minutes apart within a day."""
    n = len(events)
    days, users, items, labels, splits = events.T
    times = days * DAY_US + (np.arange(n) + 1) * 600_000_000
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    seen = [int(((users == users[k]) & (labels == 1) & (times < times[k])).sum()) for k in range(n)]
    requests = Requests(users, items, times, np.array(seen))
    is_positive = labels == 1
    order = np.lexsort((times[is_positive], users[is_positive]))
    counts = np.bincount(users[is_positive], minlength=n_users)
    vectors = np.random.default_rng(0).normal(size=(n_items, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = np.concatenate([np.arange((splits == part).sum()) for part in range(3)])
    return BenchRows(
        catalogue=Catalogue(
            n_users, n_items, vectors, np.arange(n_items), np.zeros((n_items, 0), np.int64)
        ),
        histories=Histories(
            items[is_positive][order],
            times[is_positive][order],
            np.concatenate([[0], np.cumsum(counts)]),
        ),
        rows=Labelled(requests, labels.astype(np.float32)),
        splits=splits.astype(np.int8),
        numbers=numbers,
        user_ids=pa.array(range(n_users)),
        item_ids=pa.array(range(n_items)),
        fingerprint="by hand",
    )


@pytest.fixture
def by_hand() -> BenchRows:
    """Ten rows whose nights can be worked out by hand."""
    return made_of(np.array(BY_HAND, dtype=np.int64))


def random_events(n_days: int, seed: int) -> np.ndarray:
    """Rows of 30 users and 40 items in order of time: six tenths of the days train, two valid."""
    random = np.random.default_rng(seed)
    per_day = 30
    days = np.repeat(np.arange(n_days), per_day)
    users, items = random.integers(0, 30, len(days)), random.integers(0, 40, len(days))
    labels = random.random(len(days)) < 0.3 + 0.5 * (items % 2)
    splits = np.digitize(days, [0.6 * n_days, 0.8 * n_days])
    return np.stack([days, users, items, labels, splits], axis=1).astype(np.int64)


def with_labels(rows: BenchRows, labels: np.ndarray) -> BenchRows:
    """The same rows with other labels, histories included."""
    requests = rows.rows.requests
    events = np.stack(
        [requests.times // DAY_US, requests.users, requests.items, labels, rows.splits], axis=1
    ).astype(np.int64)
    made = made_of(events)
    return replace(made, catalogue=rows.catalogue)
