"""Runs of jobs that may be killed, paused and waited for: the other end of `drill.nursery`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BENCHMARKS = Path(__file__).resolve().parents[1]
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
TIMEOUT_S = 600.0  # of one run, on a machine that others use too


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: its exit status; negative: the signal that ended it.
        printed: its standard output.
        said: its standard error.
        seconds: from its start to its end.
        cpu_s: that it took itself.
        changes: of files below its home, if they were counted.
        is_late: whether it was killed because it took too long.
    """

    status: int
    printed: str
    said: str
    seconds: float
    cpu_s: float
    changes: int = 0
    is_late: bool = False

    @property
    def answer(self) -> dict[str, Any]:
        """The small JSON that a job prints last."""
        lines = self.printed.splitlines()
        return json.loads(lines[-1]) if lines else {}

    @property
    def last_words(self) -> str:
        """What it said at the end, for a report of what went wrong."""
        return self.said.strip()[-600:]


class Run:
    """One run that has been started."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self.pid, self._nursery, self._log = pid, nursery, log
        self._started = time.monotonic()
        self._ended: Ended | None = None

    def kill(self, kind: int = signal.SIGKILL) -> None:
        """Send it a signal; one that has ended is a zombie until it is waited for."""
        os.kill(self.pid, kind)

    def wait(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Its end; asked for twice, the same."""
        if self._ended is None:
            said = self._nursery.ask({"do": "wait", "pid": self.pid, "timeout_s": timeout_s})
            changes = self._read("changes")
            self._ended = Ended(
                status=said["status"],
                printed=self._read("out"),
                said=self._read("err"),
                seconds=time.monotonic() - self._started,
                cpu_s=said["cpu_s"],
                changes=int(changes or 0),
                is_late=said["is_late"],
            )
            self._nursery.cpu_s += self._ended.cpu_s
        return self._ended

    def _read(self, ending: str) -> str:
        path = self._log.with_name(f"{self._log.name}.{ending}")
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


class Nursery:
    """A process that has imported the jobs, and the runs that it forked.

    Args:
        logs: a folder for what the runs print.
        prefix: what the process is started with: `unshare`, for a file system of its own.
        environment: more variables, for all of its runs: a preloaded library.
    """

    def __init__(
        self,
        logs: Path,
        *,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.cpu_s = 0.0
        self._logs, self._n_runs = logs, 0
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "drill.nursery"],
            cwd=BENCHMARKS,
            env={**os.environ, **ONE_THREAD, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = int(self._answer()["ready"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it; it ends by itself when this process dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request, one answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the nursery ended with status {self._process.wait()}")
        return json.loads(line)

    def start(
        self,
        module: str,
        words: Sequence[str],
        home: Path,
        *,
        die_at: int | None = None,
        count: bool = False,
    ) -> Run:
        """Fork a run of `module`; it dies right before its n-th change of a file if asked to."""
        self._n_runs += 1
        log = self._logs / f"{self.pid}-{self._n_runs}"
        request = {
            "do": "start",
            "module": module,
            "arguments": [str(word) for word in words],
            "home": str(home),
            "environment": {"TIDEMARK_HOME": str(home)},
            "log": str(log),
            "die_at": die_at,
            "count": count,
        }
        return Run(self, int(self.ask(request)["pid"]), log)

    def run(self, module: str, words: Sequence[str], home: Path, *, count: bool = False) -> Ended:
        """A run to its end."""
        return self.start(module, words, home, count=count).wait()

    def tool(self, *words: object) -> None:
        """A command of the system, in the nursery's own namespace."""
        done = self.ask({"do": "tool", "words": [str(word) for word in words]})
        if done["status"]:
            raise RuntimeError(f"{words} ended with {done['status']}: {done['said']}")

    def seen(self, path: Path) -> Path:
        """A path of its file systems, from here."""
        return Path(f"/proc/{self.pid}/root{path}")
