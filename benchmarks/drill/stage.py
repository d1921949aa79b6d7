"""A night on a real scheduler while faults strike it: its runs, its processes, its readers."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from drill.faults import Fault, Seen
from drill.nights import Nights
from drill.runs import Nursery, Run
from jobs.home import Home
from tests.dags.operating import ENDED
from tests.dags.scheduler import Scheduler

FEATURES, EMBEDDINGS, SCORING = "nightly_features", "nightly_embeddings", "offline_scoring"
PATIENCE_S = 900.0
_POLL_S = 0.5
_MODULE = re.compile(rb"\0-m\0(jobs\.[a-z_.]+)\0")
_READ_EVERY_S = "2"


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
    """

    airflow: Scheduler
    nights: Nights
    nursery: Nursery
    home: Home
    day: date
    random: random.Random = field(default_factory=random.Random)
    number: int = 0
    struck: set[tuple[str, str, str]] = field(default_factory=set)

    def enter(self, fault: Fault, seed: int) -> None:
        """Draw for this fault what is always drawn for it."""
        self.random, self.number = random.Random(f"{seed}/{fault.name}"), fault.number

    # -- runs --------------------------------------------------------------------------------------

    def runs(self) -> dict[str, dict[str, Any]]:
        """The run of each DAG for the day, as far as they are there."""
        found = {}
        for dag in (FEATURES, EMBEDDINGS, SCORING):
            for run in self.airflow.runs(dag):
                if str(self.day) in (run.get("partition_key"), str(run.get("logical_date"))[:10]):
                    found[dag] = run
        return found

    def has_ended(self) -> bool:
        """Whether the night has come to its end, or to one that no other run follows."""
        states = {dag: run["state"] for dag, run in self.runs().items()}
        return "failed" in states.values() or states.get(SCORING) in ENDED

    def wait_for_the_end(self, seen: Seen, patience_s: float = PATIENCE_S) -> None:
        """Until the night has ended; it must have ended well."""
        try:
            self.airflow.until(self.has_ended, f"the night of {self.day} has ended", patience_s)
        except TimeoutError as late:
            seen.problems.append(str(late))
        states = {dag: run["state"] for dag, run in self.runs().items()}
        wanted = dict.fromkeys((FEATURES, EMBEDDINGS, SCORING), "success")
        if states != wanted:
            told = [
                self.airflow.told(dag, run["dag_run_id"])[-1_500:]
                for dag, run in self.runs().items()
                if run["state"] != "success"
            ]
            seen.problems.append(f"the runs of {self.day} are {states}: {' '.join(told)}")

    def state_of(self, task: tuple[str, str, str]) -> tuple[str, int]:
        """State and number of the try of a task."""
        dag, run, name = task
        for each in self.airflow.tasks(dag, run):
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
            time.sleep(0.1)
        return None

    def wait_for_retry(self, task: tuple[str, str, str], seen: Seen) -> None:
        """Until the task is tried again."""

        def again() -> bool:
            state, number = self.state_of(task)
            return state == "up_for_retry" or number > 1

        try:
            self.airflow.until(again, f"{task[2]} is tried again", 240)
        except TimeoutError as late:
            seen.problems.append(str(late))

    def revive(self) -> list[str]:
        """Start what has ended, as a service manager does, until all is well; what was started."""
        started: list[str] = []

        def well() -> bool:
            for name in self.airflow.components:
                try:
                    self.airflow.pid(name)
                except RuntimeError:
                    self.airflow.start(name)
                    started.append(name)
            return self.airflow.healthy()

        self.airflow.until(well, "every component is healthy", 300)
        return started

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
