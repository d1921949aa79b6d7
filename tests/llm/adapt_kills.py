"""Kills adapt for real, with SIGKILL, again and again, until it has come to its end.

    python -m tests.llm.adapt_kills HOME WORK KILLS SEED -- ARGUMENTS

Imports the job once. Runs it undisturbed on a copy of HOME; then on further copies, one after the
other, kills run after run, every second one right before a random change of a file and the others
at a random moment, until a run comes to its end by itself, and begins with the next copy until
KILLS runs were killed. Prints as JSON what the undisturbed run and each copy's last run wrote, how
many runs were killed and how many went on from a checkpoint.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from jobs.datasets import ADAPTER, ADAPTER_CONFIG
from jobs.files import sha256_file
from jobs.home import Home
from tests.conftest import DAY
from tests.crash_driver import die_at

MODULE = "jobs.llm.adapt"
LATE = ("transformers.models.llama.modeling_llama", "torch.distributed", "peft")


def started(home: Path, arguments: list[str], die_at_change: int | None) -> int:
    """Process id of a forked run of the job on `home`."""
    pid = os.fork()
    if pid:
        return pid
    os.environ["TIDEMARK_HOME"] = str(home)
    log = os.open(home / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = [MODULE, *arguments]
    if die_at_change is not None:
        die_at(die_at_change, home)
    status = 70
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
    os._exit(status)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_after(pid: int, delay_s: float) -> int:
    """Exit status of a run that is killed unless it ends before."""
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)  # a run that has ended is a zombie until it is waited for
    return ended(pid)


def outputs(home: Path) -> list[str]:
    return [sha256_file(Home(home).output(each, DAY)) for each in (ADAPTER, ADAPTER_CONFIG)]


def kill_until_it_ends(
    home: Path, arguments: list[str], most: int, whole_s: float, rng: random.Random
) -> int:
    """Kill up to `most` runs on `home`, and see one come to its end; how many were killed."""
    for n_killed in range(most):
        if n_killed % 2:
            status = ended(started(home, arguments, rng.randint(1, 50)))
        else:
            status = killed_after(started(home, arguments, None), rng.uniform(0.2, 0.9) * whole_s)
        if status != -signal.SIGKILL:
            break
    else:
        n_killed = most
        status = ended(started(home, arguments, None))
    if status:
        sys.exit(f"a run ended with {status}:\n{(home / 'log').read_text()}")
    return n_killed


def main() -> None:
    """See the module's docstring."""
    split = sys.argv.index("--")
    home, work = map(Path, sys.argv[1:3])
    n_kills, seed = map(int, sys.argv[3:split])
    arguments, rng = sys.argv[split + 1 :], random.Random(seed)
    for late in (MODULE, *LATE):
        importlib.import_module(late)
    result: dict[str, Any] = {"kills": 0, "resumed": 0, "homes": []}
    undisturbed = work / "undisturbed"
    shutil.copytree(home, undisturbed, symlinks=True)
    begun = time.monotonic()
    if ended(started(undisturbed, arguments, None)):
        sys.exit((undisturbed / "log").read_text())
    whole_s = time.monotonic() - begun
    result["undisturbed"] = outputs(undisturbed)
    while result["kills"] < n_kills:
        copy = work / str(len(result["homes"]))
        shutil.copytree(home, copy, symlinks=True)
        left = n_kills - result["kills"]
        result["kills"] += kill_until_it_ends(copy, arguments, left, whole_s, rng)
        result["resumed"] += (copy / "log").read_text().count("going on from a checkpoint")
        result["homes"].append(outputs(copy))
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
