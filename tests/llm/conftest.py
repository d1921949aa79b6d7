"""Backbones that take milliseconds to load."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.llm.backbone import Backbone, load, resolve
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
