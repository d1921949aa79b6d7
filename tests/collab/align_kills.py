"""Kills align for real, with SIGKILL, at random moments of its work, and lets it go on.

    python -m tests.collab.align_kills HOME WORK N SEED -- ARGUMENTS

Imports the job once and runs it undisturbed on two copies of HOME: the first run of a process pays
for what is compiled. Then, on N further copies, kills a run and starts it again: every second one
as soon as it has a checkpoint, so that how fast the machine is decides nothing, the others at a
random moment. Prints as JSON what the undisturbed run and each second run wrote, and how many runs
left a checkpoint behind when they were killed.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

from jobs.datasets import ITEM_FACTORS, PROJECTORS, USER_FACTORS
from jobs.files import sha256_file
from jobs.home import Home
from tests.conftest import DAY
from tests.llm.killed_at_random import start

MODULE = "jobs.collab.align"


def outputs(home: Path) -> list[str]:
    made = (USER_FACTORS, ITEM_FACTORS, PROJECTORS)
    return [sha256_file(Home(home).output(each, DAY)) for each in made]


def run_to_the_end(home: Path, arguments: list[str]) -> list[str]:
    if status := os.waitpid(start(MODULE, str(home), arguments), 0)[1]:
        sys.exit(f"the run on {home} ended with {os.waitstatus_to_exitcode(status)}")
    return outputs(home)


def has_checkpoint(home: Path) -> bool:
    return any((home / "runs" / "align").rglob("step-*.json"))


def wait_for_checkpoint(home: Path, at_most_s: float) -> None:
    until = time.monotonic() + at_most_s
    while time.monotonic() < until and not has_checkpoint(home):
        time.sleep(0.001)


def main() -> None:
    """See the module's docstring."""
    split = sys.argv.index("--")
    given, work, n, seed = sys.argv[1:split]
    arguments = sys.argv[split + 1 :]
    runpy.run_module(MODULE, run_name="imported", alter_sys=True)
    copies = [Path(work) / f"home-{place}" for place in range(int(n) + 2)]
    for copy in copies:
        shutil.copytree(given, copy)
    took = []
    for copy in copies[:2]:
        started = time.monotonic()
        undisturbed = run_to_the_end(copy, arguments)
        took.append(time.monotonic() - started)
    whole_s = min(took)
    chance, ended, n_resumed = random.Random(int(seed)), [], 0
    for place, copy in enumerate(copies[2:]):
        pid = start(MODULE, str(copy), arguments)
        if place % 2:
            wait_for_checkpoint(copy, at_most_s=10 * whole_s)
        else:
            time.sleep(chance.random() * whole_s)
        os.kill(pid, signal.SIGKILL)  # a run that has ended is a zombie until it is waited for
        os.waitpid(pid, 0)
        n_resumed += has_checkpoint(copy)
        ended.append(run_to_the_end(copy, arguments))
    said = {"undisturbed": undisturbed, "ended": ended, "resumed": n_resumed}
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
