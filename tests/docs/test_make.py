"""What `make` would run, and in which home: also where names and folders have spaces."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT


def made(folder: Path, *words: str) -> list[str]:
    """What make says, without running anything."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "told.mk").write_text("$(info HOME=$(TIDEMARK_HOME))\n")
    return subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "-f", "Makefile", "-f", "told.mk", *words],
        cwd=folder,
        env={
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("TIDEMARK_HOME", "MAKE", "MFLAGS"))
        },
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def told_of_last(words: list[str], folder: Path) -> str:
    """The arguments that the shell would give to the command."""
    line = words[-1].replace(".venv/bin/python", "printf '%s\\n'")
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize(
    ("source", "home"),
    [
        ("/data/ml-1m", ".tidemark-ml-1m"),
        ("/data/ml-1m.zip", ".tidemark-ml-1m"),
        ("warehouse/", ".tidemark-warehouse"),
        ("warehouse/tidemark.yaml", ".tidemark-warehouse"),
        ("/my data/ml 1m.zip", ".tidemark-ml_1m"),
        ("/my data/our shop/tidemark.yaml", ".tidemark-our_shop"),
        ("our shop/", ".tidemark-our_shop"),
    ],
)
def test_a_source_gets_a_home_called_after_it_and_reaches_the_command_whole(
    tmp_path: Path, source: str, home: str
) -> None:
    folder = tmp_path / "a clone"
    folder.mkdir()
    said = made(folder, "nightly", f"SOURCE={source}", "DAY=2026-03-02")
    assert f"HOME={home}" in said
    asked = told_of_last(said, folder).splitlines()
    assert asked[1:] == ["jobs.cli", "run", "--airflow", "--source", source, "--day", "2026-03-02"]


def test_without_a_source_the_home_is_the_usual_one(tmp_path: Path) -> None:
    said = made(tmp_path, "nightly")
    assert "HOME=" in said
    assert told_of_last(said, tmp_path).splitlines()[1:] == ["jobs.cli", "run", "--airflow"]


def test_every_target_that_the_readme_names_is_there_and_says_what_it_does() -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in ("nightly", "run", "test", "check", "docs", "audit"):
        assert f"make {target}" in readme
        assert any(line.split()[0] == target for line in listed.splitlines())
