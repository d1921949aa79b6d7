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

# The real LLM tells items apart and is not tuned here: that would be most of the suite's time.
# test_string_ids tunes a two-layer one on the way through the whole chain.
TOKENS = "0"


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
