"""docs/store.md and `embedding-store --help` say the same: every command, every flag, both ways."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from embedding_store import cli
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "store.md").read_text(encoding="utf-8")
REFERENCE = PAGE[PAGE.index("## Command line") :]
PROGRAM = typer.main.get_command(cli.app)
COMMANDS: dict[str, Any] = PROGRAM.commands  # type: ignore[attr-defined]
TABLE = {
    found[1]: found[2]
    for found in re.finditer(r"^\| `([a-z]+)` \|(.*)\|$", REFERENCE, re.MULTILINE)
}


def flags_of(command: Any) -> set[str]:
    return {
        name
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def test_the_table_holds_every_command_and_no_other() -> None:
    assert sorted(TABLE) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_row_of_a_command_names_each_of_its_flags_and_no_other(name: str) -> None:
    said = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", TABLE[name]))
    everywhere = {"--store", "--help"} | ({"--format"} if name != "export" else set())
    assert said == flags_of(COMMANDS[name]) - everywhere


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_row_of_a_command_names_its_arguments_in_order(name: str) -> None:
    wanted = [
        (parameter.metavar or parameter.name or "").upper().removesuffix("...")
        for parameter in COMMANDS[name].params
        if parameter.param_type_name == "argument"
    ]
    said = re.findall(r"\b[A-Z]{1,}\b", TABLE[name].split("|")[0])
    assert [each for each in said if each in wanted] == wanted


def test_every_flag_that_a_page_gives_the_store_is_one_that_it_has() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for command, rest in lines_of(path):
            assert command in COMMANDS, f"{path.name}: embedding-store {command}"
            given = set(re.findall(r"(?<!\S)--[a-z][a-z-]*", rest.split(" #")[0]))
            assert given <= flags_of(COMMANDS[command]) | {"--help"}, f"{path.name}: {command}"


def lines_of(path: Path) -> list[tuple[str, str]]:
    """Command and arguments of each line of a block that calls the store."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)
    lines = (line for block in blocks for line in block.splitlines())
    found = (re.match(r"(?:\S*/)?embedding-store ([a-z]+)(.*)", line) for line in lines)
    return [(each[1], each[2]) for each in found if each]
