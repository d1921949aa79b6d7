"""What many tests share. Threads are set before anything imports torch or faiss."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Sums are split among threads: the last bits of a result, hence its sha256, depend on their number.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from collections.abc import Iterator

import pytest
import structlog

from jobs.home import Home

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
DAY = date(2026, 3, 2)


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """Logs that a command in this process set up are not those of the next test."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home."""
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def backbone_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of converted backbones, shared by the session: a conversion takes half a minute."""
    kept = os.environ.get("TIDEMARK_TEST_CACHE")
    return Path(kept) if kept else tmp_path_factory.mktemp("backbones")


@pytest.fixture(scope="session")
def ml_1m() -> Path:
    """Folder of the MovieLens-1M files; the licence forbids to ship them."""
    folder = DATA / "ml-1m"
    if not folder.is_dir():
        pytest.skip(f"MovieLens-1M is not at {folder}; its licence forbids to ship it")
    return folder
