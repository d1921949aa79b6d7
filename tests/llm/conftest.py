"""Backbones that take milliseconds to load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.home import Home
from jobs.llm.backbone import Backbone, load, resolve
from tests.in_process import run_job
from tests.llm.tastes import commit, tables
from tests.tiny_backbone import write_tiny_backbone


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama."""
    return write_tiny_backbone(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A loaded two-layer backbone of each shape."""
    root = tmp_path_factory.mktemp(request.param)
    folder = write_tiny_backbone(root / "model", architecture=request.param)
    return load(resolve(str(folder), root / "cache"))


QUICK_ADAPT: dict[str, object] = {
    "rank": 8,
    "learning_rate": 0.006,
    "step_tokens": 500,
    "epochs": 9,
    "eval_steps": 10,
    "checkpoint_steps": 10,
}


@pytest.fixture(scope="session")
def tastes_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which titles tell what is liked; copy it before you write."""
    home = Home(tmp_path_factory.mktemp("tastes") / "home")
    commit(home, tables())
    return home


@pytest.fixture(scope="session")
def adapted(tastes_home: Home, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which adapt has run on the two-layer Llama."""
    home = Home(tmp_path_factory.mktemp("adapted") / "home")
    shutil.copytree(tastes_home.root, home.root)
    run_job("adapt", home, model=str(tiny_folder), **QUICK_ADAPT)
    return home
