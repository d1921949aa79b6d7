"""A night on a real scheduler while faults strike it: its runs, its processes, its readers."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx

from drill.faults import Fault, Seen
from drill.nights import Nights
from drill.runs import Nursery, Run
from jobs.home import Home
from tests.dags.operating import ENDED
from tests.dags.scheduler import Scheduler

FEATURES, EMBEDDINGS, SCORING = "nightly_features", "nightly_embeddings", "offline_scoring"
PATIENCE_S = 1_800.0  # machines may be busy
_ASKED = 60  # times, some seconds apart
_MODULE = re.compile(rb"\0-m\0(jobs\.[a-z_.]+)\0")
_READ_EVERY_S = "2"
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Process:
    """A job that a task has started.

    Attributes:
        pid: of the job.
        runner: of the task's process, which started it.
        supervisor: of the executor's worker, which started that.
        words: module and flags.
        variables: dag, run and task, as Airflow tells them.
    """

    pid: int
    runner: int
    supervisor: int
    words: tuple[str, ...]
    variables: dict[str, str]

    @property
    def module(self) -> str:
        """What it runs."""
        return self.words[0]

    @property
    def task(self) -> tuple[str, str, str]:
        """DAG, run and task."""
        names = ("DAG_ID", "DAG_RUN_ID", "TASK_ID")
        dag, run, task = (self.variables[f"AIRFLOW_CTX_{name}"] for name in names)
        return dag, run, task


def parent_of(pid: int) -> int:
    """Process id of the parent; 0 if there is no such process."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(said.rpartition(")")[2].split()[1])


def process_of(pid: int) -> Process | None:
    """The job that a process is; None if it is none, or has ended."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        variables = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    if not _MODULE.search(line):
        return None
    words = tuple(line.decode().rstrip("\0").split("\0"))
    pairs = (each.partition("=") for each in variables.decode(errors="replace").split("\0"))
    runner = parent_of(pid)
    known = {name: value for name, _, value in pairs if name.startswith("AIRFLOW_CTX_")}
    if "AIRFLOW_CTX_TASK_ID" not in known:
        return None
    return Process(pid, runner, parent_of(runner), words[words.index("-m") + 1 :], known)


@dataclass
class Stage:
    """What faults on a scheduler strike.

    Attributes:
        airflow: started.
        nights: the undisturbed ones.
        nursery: forks jobs beside the scheduler.
        home: of the jobs that the scheduler runs.
        day: of the night that goes on.
        random: of the fault that strikes now.
        number: of that fault.
        struck: tasks whose job or runner was killed: each once a night, for a task has three tries.
        forsaken: workers of schedulers that were killed alone.
    """

    airflow: Scheduler
    nights: Nights
    nursery: Nursery
    home: Home
    day: date
    random: random.Random = field(default_factory=random.Random)
    number: int = 0
    struck: set[tuple[str, str, str]] = field(default_factory=set)
    forsaken: set[int] = field(default_factory=set)

    def enter(self, fault: Fault, seed: int) -> None:
        """Draw for this fault what is always drawn for it."""
        self.random, self.number = random.Random(f"{seed}/{fault.name}"), fault.number

    # -- runs --------------------------------------------------------------------------------------

    def runs(self) -> dict[str, dict[str, Any]]:
        """The run of each DAG for the day, as far as they are there."""
        found = {}
        for dag in (FEATURES, EMBEDDINGS, SCORING):
            for run in self._asked(lambda dag=dag: self.airflow.runs(dag)):  # type: ignore[misc]
                if str(self.day) in (run.get("partition_key"), str(run.get("logical_date"))[:10]):
                    found[dag] = run
        return found

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        """What the API says, once it is there: the faults strike what it stands on, too."""
        for _ in range(_ASKED):
            try:
                return ask()
            except (RuntimeError, httpx.HTTPError):
                time.sleep(2)
        return ask()

    def has_ended(self) -> bool:
        """Whether the night has come to its end, or to one that no other run follows."""
        states = {dag: run["state"] for dag, run in self.runs().items()}
        return "failed" in states.values() or states.get(self._dags()[-1]) in ENDED

    def _dags(self) -> tuple[str, ...]:
        """The DAGs that have a run: a version that was refused is not scored."""
        dags = (FEATURES, EMBEDDINGS, SCORING)
        return dags if self.nights.is_promoted(self.day) else dags[:-1]

    def wait_for_the_end(self, seen: Seen) -> None:
        """Until the night has ended well; a task that was struck at all its tries is cleared."""
        self._wait(seen)
        failed = [(dag, run) for dag, run in self.runs().items() if run["state"] == "failed"]
        for dag, run in failed:
            self.clear(dag, run["dag_run_id"])
            seen.recovered_by = f"clear what failed in {dag}"
        if failed:
            self._wait(seen)
        states = {dag: run["state"] for dag, run in self.runs().items()}
        if states != dict.fromkeys(self._dags(), "success"):
            told = [
                self.airflow.told(dag, run["dag_run_id"])[-1_500:]
                for dag, run in self.runs().items()
                if run["state"] != "success"
            ]
            seen.problems.append(f"the runs of {self.day} are {states}: {' '.join(told)}")

    def _wait(self, seen: Seen) -> None:
        try:
            self.airflow.until(self.has_ended, f"the night of {self.day} has ended", PATIENCE_S)
        except TimeoutError as late:
            seen.problems.append(str(late))

    def clear(self, dag: str, run: str, *tasks: str) -> None:
        """What the runbook says: clear some tasks, or what failed, and what waits for it."""
        of_run = self._asked(lambda: self.airflow.tasks(dag, run))
        stopped = {"failed", "upstream_failed"}
        named = [each["task_id"] for each in of_run if each["state"] in stopped]
        body: dict[str, Any] = {
            "dry_run": False,
            "dag_run_id": run,
            "task_ids": list(tasks) or named,
            "only_failed": False,
            "include_downstream": True,
            "reset_dag_runs": True,
        }
        self._asked(lambda: self.airflow.call("POST", f"/dags/{dag}/clearTaskInstances", json=body))

    def state_of(self, task: tuple[str, str, str]) -> tuple[str, int]:
        """State and number of the try of a task."""
        dag, run, name = task
        for each in self._asked(lambda: self.airflow.tasks(dag, run)):
            if each["task_id"] == name:
                return str(each["state"]), int(each["try_number"])
        return "none", 0

    # -- processes ---------------------------------------------------------------------------------

    def jobs(self) -> list[Process]:
        """Jobs that run now and were started by tasks."""
        found = (process_of(pid) for pid in self.airflow.left_over())
        return [each for each in found if each is not None]

    def next_job(self, wanted: Callable[[Process], bool] = lambda _: True) -> Process | None:
        """Wait for a job of a task that was not struck yet; None if the night ends before."""
        looked_at, deadline = 0, time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for each in self.jobs():
                if each.task not in self.struck and wanted(each):
                    return each
            looked_at += 1
            if looked_at % 10 == 0 and self.has_ended():
                return None
            time.sleep(0.2)
        return None

    def is_tried_again(self, task: tuple[str, str, str]) -> bool:
        """Wait until a task is tried again; False if it had ended well before it was struck."""
        found: list[tuple[str, int]] = []

        def known() -> bool:
            found[:] = [self.state_of(task)]
            state, number = found[0]
            return state in ("up_for_retry", *ENDED) or number > 1

        self.airflow.until(known, f"{task[2]} is tried again", PATIENCE_S)
        return found[0] != ("success", 1)

    def workers(self) -> list[int]:
        """Processes of the executor; their titles hide their environment from `left_over`."""
        scheduler = self.airflow.scheduler_pid
        pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
        return [pid for pid in pids if parent_of(pid) == scheduler]

    def end_forsaken(self) -> None:
        """End workers whose scheduler was killed: idle for ever, where nobody ends their group."""
        for pid in self.forsaken:
            with suppress(OSError):
                if b"LocalExecutor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        self.forsaken.clear()

    def revive(self) -> list[str]:
        """Start what has ended, as a service manager does, until all is well; what was started."""
        started: list[str] = []
        since = datetime.now(UTC).isoformat()

        def well() -> bool:
            for name in self.airflow.components:
                try:
                    self.airflow.pid(name)
                except RuntimeError:
                    self.airflow.start(name)
                    started.append(name)
            return self.airflow.healthy() and self._heartbeat() > since

        self.airflow.until(well, "every component is healthy", PATIENCE_S)
        return started

    def _heartbeat(self) -> str:
        """Of the scheduler, in UTC."""
        try:
            found = self.airflow.call("GET", "/monitor/health")
        except (RuntimeError, httpx.HTTPError):
            return ""
        return str(found["scheduler"]["latest_scheduler_heartbeat"])

    # -- readers -----------------------------------------------------------------------------------

    @contextmanager
    def reader(self, seen: Seen) -> Iterator[Run]:
        """Somebody who reads production all the while."""
        stop = self.home.root.with_name("stop")
        stop.unlink(missing_ok=True)
        words = [self.home.store, str(self.nights.known), str(stop), _READ_EVERY_S]
        run = self.nursery.start("drill.reading", words, self.home.root)
        try:
            yield run
        finally:
            stop.touch()
            ended = run.wait()
            stop.unlink()
        if seen.ended_well("a reader", ended):
            seen.problems += [f"a reader: {one}" for one in ended.answer["wrong"]]
