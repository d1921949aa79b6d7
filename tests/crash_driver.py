"""Kills a job for real, with SIGKILL, at every file operation that it makes.

    python -m tests.crash_driver MODULE HOME WORK FIRST STEP -- ARGUMENTS

Imports MODULE once, then for n = FIRST, FIRST + STEP, ... copies HOME to WORK/n and forks a child
that runs the job on the copy and dies right before its n-th change of a file or folder there. Ends
when a child comes through alive, and prints the numbers of the killed ones as JSON. With `retry` in
place of FIRST it runs the job to its end on every WORK/n instead.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

LATE_IMPORTS = {"jobs.llm.distil": ("transformers.models.llama.modeling_llama",)}
CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}


def changes_below(root: str, event: str, arguments: tuple[object, ...]) -> bool:
    """Whether an audit event is a change of something below `root`."""
    if event == "open":
        path, mode = arguments[0], arguments[1]
        writes = isinstance(mode, str) and set(mode) & set("wxa+")
        flags = arguments[2]
        writes = writes or (isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)))
        return bool(writes) and str(path).startswith(root)
    return event in CHANGES and any(str(each).startswith(root) for each in arguments)


def die_at(n: int, root: Path) -> None:
    """Arrange for SIGKILL right before the n-th change below `root`, counted from 1."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if changes_below(str(root), event, arguments):
            seen += 1
            if seen == n:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def child(module: str, home: Path, arguments: list[str], n: int | None) -> int:
    """Exit status of a forked run of `module` on `home`; negative when a signal ended it."""
    pid = os.fork()
    if pid == 0:
        os.environ["TIDEMARK_HOME"] = str(home)
        quiet = os.open(home / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.argv = [module, *arguments]
        if n is not None:
            die_at(n, home)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            status = 70
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """See the module's docstring."""
    split = sys.argv.index("--")
    module, home, work, *mode = sys.argv[1:split]
    arguments = sys.argv[split + 1 :]
    # Imports are paid once, before the forks.
    runpy.run_module(module, run_name="imported", alter_sys=True)
    for late in LATE_IMPORTS.get(module, ()):
        importlib.import_module(late)
    if mode == ["retry"]:
        copies = sorted(Path(work).iterdir(), key=lambda each: int(each.name))
        sys.stdout.write(json.dumps([child(module, each, arguments, None) for each in copies]))
        return
    n, step = int(mode[0]), int(mode[1])
    killed = []
    while True:
        copy = Path(work) / str(n)
        shutil.copytree(home, copy, symlinks=True)
        status = child(module, copy, arguments, n)
        if status != -signal.SIGKILL:
            shutil.rmtree(copy)
            if status:
                sys.exit(f"the job ended with {status} instead of being killed at change {n}")
            break
        killed.append(n)
        n += step
    sys.stdout.write(json.dumps(killed))


if __name__ == "__main__":
    main()
