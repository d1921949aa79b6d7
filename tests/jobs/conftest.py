"""What tests of where a job runs share: an environment of their own, and a places file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.jobs.places import UsePlaces


@pytest.fixture
def scheduler_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a scheduler would have set, and nothing that the machine of the test happens to have."""
    for name in list(os.environ):
        if name.startswith(("TIDEMARK_", "HF_", "OMP_", "JOBS_", "OPENLINEAGE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TIDEMARK_HOME", "/srv/tidemark")
    monkeypatch.setenv("TIDEMARK_MODELS", "/srv/my models")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def use(scheduler_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UsePlaces:
    def write(text: str) -> Path:
        path = tmp_path / "places.toml"
        path.write_text(text, encoding="utf-8")
        monkeypatch.setenv("TIDEMARK_PLACES", str(path))
        return path

    return write
