"""A night up to aligned factors, with a two-layer backbone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.collab import align
from jobs.collab.align import AlignConfig
from jobs.datasets import CONTROL_LOGITS, ITEM_FACTORS, USER_FACTORS
from jobs.home import Home
from jobs.job import Config, Run, execute, mark_checked
from tests.conftest import DAY
from tests.in_process import run_job
from tests.llm.tastes import commit, tables
from tests.tiny_backbone import write_tiny_backbone

QUICK: dict[str, object] = {
    "learning_rate": 0.1,
    "warmup_steps": 2,
    "step_tokens": 600,
    "eval_steps": 5,
    "checkpoint_steps": 5,
    "epochs": 2,
}


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a two-layer Llama."""
    return write_tiny_backbone(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def aligned_home(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Splits, an adapter, semantics, codes, profiles and factors; copy it before you write."""
    home = Home(tmp_path_factory.mktemp("aligned") / "home")
    commit(home, tables())
    run_job("adapt", home, model=str(tiny_folder), rank=4, step_tokens=600, learning_rate=0.006)
    for job, flags in (
        ("distil", {"model": str(tiny_folder), "adapter": str(DAY), "n_components": 0}),
        ("codebook", {"n_bits": 2, "n_dims": 4}),
        ("user_profiles", {}),
    ):
        run_job(job, home, **flags)
    # Its checks compare with events, which this warehouse does not have.
    execute("align", AlignConfig(n_factors=8, max_epochs=3), DAY, home, align.job)
    for dataset in (USER_FACTORS, ITEM_FACTORS):
        mark_checked(home, dataset, DAY)
    return home


@pytest.fixture
def home(aligned_home: Home, tmp_path: Path) -> Home:
    """A copy of `aligned_home`."""
    copy = Home(tmp_path / "home")
    shutil.copytree(aligned_home.root, copy.root)
    return copy


def commit_control(home: Home, splits: pa.Table, logits: np.ndarray) -> None:
    """CONTROL_LOGITS as the job `control` leaves them."""
    columns = {name: splits[name] for name in ("split", "row")}
    with Run("control", DAY, Config(), home) as run:
        run.write(CONTROL_LOGITS, pa.table(columns | {"logit": logits, "frozen_logit": logits}))
    mark_checked(home, CONTROL_LOGITS, DAY)
