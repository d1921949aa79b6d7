"""One whole night on the sample, with the real LLM, through the real Airflow; made once."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.home import Home
from tests.conftest import ROOT

TOKENS = "2000"  # for each stage of tuning: enough to go every way, too few to learn much


@dataclass(frozen=True)
class Night:
    """A night that has run: its home, and what the command printed."""

    home: Home
    printed: str

    def tidemark(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the `tidemark` command on this home."""
        return run_tidemark(self.home, *words)


def run_tidemark(home: Home, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words],
        cwd=ROOT,
        env={**os.environ, "TIDEMARK_HOME": str(home.root)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory, backbone_cache: Path) -> Night:
    """`make nightly`, without its installation."""
    home = Home(tmp_path_factory.mktemp("night") / "home")
    home.root.mkdir()
    home.cache.symlink_to(backbone_cache)
    done = run_tidemark(home, "run", "--airflow", "--tokens", TOKENS)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return Night(home, done.stdout)
