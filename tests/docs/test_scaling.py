"""docs/scaling.md says what the results say: its tables are made from them."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/scaling.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
