"""The code blocks of a page, run as a reader would type them, in a folder like a clone."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

from embedding_store import cli as store_cli
from jobs import cli as tidemark_cli
from tests.conftest import ROOT

_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(r"[|;<>&`]|\$\(|^(for|while|if)\b")
ANYTHING = "..."
OURS = ("tidemark", "embedding-store", "python")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and where it begins."""

    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[str]:
        """One for each line; a line that ends in a backslash goes on."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line.strip()]


def blocks(page: str) -> list[Block]:
    """Of docs/`page`, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


def agrees(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; `...` stands for anything."""
    pattern = ".*".join(re.escape(part) for part in shown.strip().split(ANYTHING))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def words_of(line: str) -> list[str]:
    """Of a command without shell syntax, variables filled in."""
    return [os.path.expandvars(word) for word in shlex.split(line, comments=True)]


@dataclass
class Terminal:
    """A person's session: a folder, exported variables, what was printed.

    Commands of this project run in this process: starting Python for each would take most of the
    time. Everything with shell syntax in it goes to bash.

    Args:
        folder: where the person is; has `.venv` and `.tidemark`.
    """

    folder: Path
    patch: pytest.MonkeyPatch
    variables: dict[str, Any] = field(default_factory=dict)

    def run(self, line: str) -> str:
        """What one command prints; raises AssertionError if it fails."""
        words = words_of(line)
        if not words:
            return ""
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self.patch.setenv(name, value)
            return ""
        if _SHELL.search(line.split(" #")[0]) or words[0] not in OURS:
            return self._bash(line)
        code, out, err = called(words)
        assert code == 0, f"{line}\n{out[-2000:]}\n{err[-4000:]}"
        return out

    def python(self, text: str) -> str:
        """What a Python block prints; blocks of a page share their names."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(text, "page", "exec"), self.variables)
        return printed.getvalue()

    def _bash(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def called(words: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, output and errors of a command of this project, in this process."""
    program, arguments = words[0], list(words[1:])
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = [program, *arguments]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if program == "embedding-store":
                store_cli.main(arguments)
            elif program == "tidemark":
                tidemark_cli.main()
            else:
                assert arguments[0] == "-m", words
                sys.argv = arguments[1:]
                with warnings.catch_warnings():  # that other tests have imported it is no matter
                    warnings.filterwarnings("ignore", "'jobs.*found in sys.modules")
                    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        sys.argv = before
        structlog.reset_defaults()
    return code, out.getvalue(), err.getvalue()
