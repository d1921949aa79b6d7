"""docs/tutorial.md, everyday.md and runbook.md, command by command, on a night that has run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from embedding_store import EmbeddingStore
from embedding_store import cli as store_cli
from jobs import cli as tidemark_cli
from tests.chain.conftest import TOKENS, Night
from tests.conftest import ROOT
from tests.docs.page_blocks import Block, Terminal, agrees, blocks, words_of

# Of these the arguments are looked at, and they are not run: each would be a night of its own.
NIGHTS = ("tidemark run --source", "do tidemark run")
GAMES = "app_id,helpful,date,is_recommended,hours,user_id\n"


@dataclass(frozen=True)
class Followed:
    """A page that was followed to its end: each block with what it printed."""

    page: str
    said: list[tuple[Block, str]]


@pytest.fixture(scope="module")
def clone(night: Night, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A folder like a clone in which `make nightly` has just run, and a person in it.

    The night is that of the suite's own fixture: the very command that the first line runs.
    """
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copytree(night.home.root, folder / ".tidemark", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("TIDEMARK_HOME", "TIDEMARK_STORE"):
            patch.delenv(name, raising=False)
        patch.setenv("PWD", str(folder))
        patch.setenv("COLUMNS", "200")
        yield Terminal(folder, patch)


def made_by_make(line: str) -> list[str]:
    """The commands of a target, without running them."""
    words = ["make", "-n", "-o", "setup", *words_of(line)[1:]]
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def followed(page: str, terminal: Terminal) -> Followed:
    """Do what a page says, block after block."""
    said: list[tuple[Block, str]] = []
    printed = ""
    for block in blocks(page):
        if block.language == "text":
            assert agrees(block.text, printed), f"{page}, line {block.line}:\n{printed}"
        elif block.language == "python":
            printed = terminal.python(block.text)
            said.append((block, printed))
        elif block.language == "sh":
            printed = "".join(outcome(line, terminal) for line in block.commands)
            said.append((block, printed))
    return Followed(page, said)


def outcome(line: str, terminal: Terminal) -> str:
    """What a line of a page prints; of `make nightly` and whole nights, that it could be run."""
    if line.startswith("make "):
        assert made_by_make(line)
        return ""
    if any(each in line for each in NIGHTS):
        subprocess.run(["bash", "-n", "-c", line], check=True)
        return ""
    return terminal.run(line)


@pytest.fixture(scope="module")
def tutorial(clone: Terminal) -> Followed:
    return followed("tutorial.md", clone)


@pytest.fixture(scope="module")
def everyday(clone: Terminal, runbook: Followed) -> Followed:
    shop = clone.folder / "warehouse"
    shop.mkdir()
    votes = (
        f"g{n % 7},0,2022-03-{1 + n // 5:02d},{['false', 'true'][n % 3 > 0]},1.5,user{n % 11}\n"
        for n in range(155)
    )
    (shop / "recommendations.csv").write_text(GAMES + "".join(votes))
    titles = "".join(f"g{n},Game {n},2020-01-01\n" for n in range(7))
    (shop / "games.csv").write_text("app_id,title,date_release\n" + titles)
    return followed("everyday.md", clone)


@pytest.fixture(scope="module")
def runbook(clone: Terminal, tutorial: Followed) -> Followed:
    return followed("runbook.md", clone)


# -- the tutorial ----------------------------------------------------------------------------------


def test_the_tutorials_first_command_is_the_night_that_this_test_stands_on(night: Night) -> None:
    (first,) = blocks("tutorial.md")[0].commands
    assert first == f"make nightly TOKENS={TOKENS}"
    (recipe,) = [line for line in made_by_make(first) if "jobs.cli" in line]
    asked = [".venv/bin/python", "-m", "jobs.cli", "run", "--airflow", "--tokens", f'"{TOKENS}"']
    assert recipe.split() == asked
    assert "version 1" in night.printed


def test_every_command_of_the_tutorial_runs_and_prints_what_the_page_shows(
    tutorial: Followed,
) -> None:
    assert sum(len(block.commands) for block, _ in tutorial.said if block.language == "sh") >= 12
    shown = [block for block in blocks("tutorial.md") if block.language == "text"]
    assert len(shown) >= 6


def test_after_the_tutorial_there_are_two_versions_and_production_went_back(
    tutorial: Followed, clone: Terminal
) -> None:
    store = EmbeddingStore(clone.folder / ".tidemark" / "store")
    assert [each.version for each in store.versions()][:2] == [1, 2]


# -- everyday tasks --------------------------------------------------------------------------------


def test_every_everyday_task_does_what_its_page_says(everyday: Followed, clone: Terminal) -> None:
    assert len(everyday.said) >= 9
    store = EmbeddingStore(clone.folder / ".tidemark" / "store")
    with store.open("production") as night:
        assert 1056 not in night["user_factors"].table()["user_id"].to_pylist()
    assert store.open("ranking-team").version != 1  # the one without the user
    assert (clone.folder / "warehouse" / "tidemark.yaml").is_file()


# -- the runbook -----------------------------------------------------------------------------------


def test_every_command_of_the_runbook_runs_on_a_sound_home(runbook: Followed) -> None:
    assert len(runbook.said) >= 12


PARSE = """
import json, sys
from airflow.cli.cli_parser import get_parser
parser = get_parser()
for words in json.load(sys.stdin):
    print(" ".join(words), file=sys.stderr)
    parser.parse_args(words)
"""


def test_every_command_to_airflow_is_one_that_airflow_takes(tmp_path: Path) -> None:
    lines = [
        line
        for page in ("runbook.md", "everyday.md")
        for block in blocks(page)
        if block.language == "airflow"
        for line in block.commands
    ]
    assert len(lines) > 8
    asked = [words_of(line)[1:] for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(asked),
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]


def test_every_command_that_is_not_run_is_one_that_its_program_takes() -> None:
    programs = {
        "embedding-store": typer.main.get_command(store_cli.app),
        "tidemark": typer.main.get_command(tidemark_cli.app),
    }
    lines = [
        line
        for page in ("runbook.md", "everyday.md")
        for block in blocks(page)
        if block.language == ""
        for line in block.commands
    ]
    assert lines
    for line in lines:
        program, command, *arguments = words_of(line)
        click_command = programs[program].commands[command]  # type: ignore[attr-defined]
        click_command.make_context(command, arguments)
