"""Imports every job once and forks a child for each run: a fault costs no imports.

Speaks JSON lines: `start` a module, `wait` for a child, run a `tool` (mount, in a namespace of its
own). `drill.runs` is the other end.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jobs.launch import MODULES
from tests.crash_driver import changes_below, die_at

LATE = ("transformers.models.llama.modeling_llama", "peft", "embedding_store.cli", "faiss")
OWN = ("drill.reading", "drill.collecting")
_POLL_S = 0.01


def count_changes(root: str) -> list[int]:
    """A counter of the changes of files below `root`, as `tests.crash_driver` counts them."""
    seen = [0]

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        seen[0] += changes_below(root, event, arguments)

    sys.addaudithook(hook)
    return seen


def start(request: dict[str, Any]) -> int:
    """Process id of a forked run; its two streams go to `<log>.out` and `<log>.err`."""
    pid = os.fork()
    if pid:
        return pid
    os.environ |= request["environment"]
    for number, ending in ((1, "out"), (2, "err")):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(f"{request['log']}.{ending}", flags), number)
    sys.argv = [request["module"], *request["arguments"]]
    counted = count_changes(request["home"]) if request["count"] else [0]
    if request["die_at"]:
        die_at(request["die_at"], Path(request["home"]))
    status = 70
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        Path(f"{request['log']}.changes").write_text(str(counted[0]), encoding="utf-8")
        os._exit(status)


def wait(request: dict[str, Any]) -> dict[str, Any]:
    """How a child ended and the CPU that it took; it is killed when the time is up."""
    deadline, is_late = time.monotonic() + request["timeout_s"], False
    while True:
        pid, status, used = os.wait4(request["pid"], os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline and not is_late:
            is_late = True
            os.kill(request["pid"], signal.SIGKILL)
        select.select([], [], [], _POLL_S)  # under libfaketime time.sleep raises now and then
    ended = os.waitstatus_to_exitcode(status)
    return {"status": ended, "cpu_s": used.ru_utime + used.ru_stime, "is_late": is_late}


def tool(words: list[str]) -> dict[str, Any]:
    """Run a command of the system where this process is."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return {"status": done.returncode, "said": done.stderr}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do one thing that was asked for."""
    if request["do"] == "start":
        return {"pid": start(request)}
    return wait(request) if request["do"] == "wait" else tool(request["words"])


def main() -> None:
    """Serve until the other end closes the pipe, also when it was killed."""
    for module in (*MODULES.values(), *LATE, *OWN):
        importlib.import_module(module)
    sys.stdout.write(json.dumps({"ready": os.getpid()}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
