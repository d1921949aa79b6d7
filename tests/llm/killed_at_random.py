"""Kills a job with SIGKILL at random moments, again and again on one home; then lets it end.

    python -m tests.llm.killed_at_random MODULE HOME TRIAL_HOME N SEED -- ARGUMENTS

Imports MODULE once and forks a child for each run, so that moments fall into the work and not into
imports. A run on TRIAL_HOME tells how long the work takes. Prints as JSON how many of the N runs
were killed and how many had ended by themselves.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import time

from tests.crash_driver import LATE_IMPORTS


def start(module: str, home: str, arguments: list[str]) -> int:
    """Process id of a forked run of `module` on `home`."""
    pid = os.fork()
    if pid:
        return pid
    os.environ["TIDEMARK_HOME"] = home
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.argv = [module, *arguments]
    status = 70
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)


def main() -> None:
    """See the module's docstring."""
    split = sys.argv.index("--")
    module, home, trial, n, seed = sys.argv[1:split]
    arguments = sys.argv[split + 1 :]
    runpy.run_module(module, run_name="imported", alter_sys=True)
    for late in LATE_IMPORTS.get(module, ()):
        __import__(late)
    started = time.monotonic()
    if status := os.waitpid(start(module, trial, arguments), 0)[1]:
        sys.exit(f"the undisturbed run ended with {os.waitstatus_to_exitcode(status)}")
    whole = time.monotonic() - started
    chance = random.Random(int(seed))
    killed = ended = 0
    for _ in range(int(n)):
        pid = start(module, home, arguments)
        time.sleep(chance.random() * whole)
        os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        killed, ended = killed + (status == -signal.SIGKILL), ended + (status == 0)
    if status := os.waitpid(start(module, home, arguments), 0)[1]:
        sys.exit(f"the last run ended with {os.waitstatus_to_exitcode(status)}")
    sys.stdout.write(json.dumps({"killed": killed, "ended": ended}))


if __name__ == "__main__":
    main()
