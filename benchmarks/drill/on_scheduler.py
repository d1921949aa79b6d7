"""Faults that strike a night on a real scheduler; `drill.stage` is what they strike."""

from __future__ import annotations

import os
import signal
import time

from drill.faults import Kind, Seen
from drill.stage import Process, Stage

PART = "scheduler"
NIGHT_OVER = "the night had ended"  # such a fault strikes the next one
_NO_LOCK = ("jobs.check", "jobs.previous", "jobs.promotions", "jobs.maintain")
_ON_GPU = ("distil", "align", "score")


class TooLate(Exception):
    """The night ended before the fault could strike; the next one will do."""


def _job(stage: Stage, *, with_lock: bool = False) -> Process:
    """A running job that was not struck yet."""
    found = stage.next_job(lambda each: not with_lock or each.module not in _NO_LOCK)
    if found is None:
        raise TooLate(NIGHT_OVER)
    stage.struck.add(found.task)
    return found


def _sent(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def kill_job(what: str, stage: Stage) -> Seen:
    """Kill -9 of a job: its task notices at once, and is tried again."""
    while True:
        job = _job(stage)
        time.sleep(stage.random.uniform(0, 0.5))
        if _sent(job.pid, signal.SIGKILL) and stage.is_tried_again(job.task):
            return Seen(end=f"the job of {job.task[2]} was killed", recovered_by="itself")


def kill_runner(what: str, stage: Stage) -> Seen:
    """Kill -9 of a task's process or of its supervisor; the job lives on and holds its lock."""
    while True:
        job = _job(stage, with_lock=True)
        if _sent(job.pid, signal.SIGSTOP):  # a job that takes longer than its task's heartbeat
            break
    seen = Seen(end=f"the {what} of {job.task[2]} was killed", recovered_by="itself")
    try:
        _sent(job.runner if what == "runner" else job.supervisor, signal.SIGKILL)
        seen.expect(stage.is_tried_again(job.task), "the task was not tried again")
        time.sleep(stage.random.uniform(10, 25))  # the next try finds the job alive
    finally:
        lives = _sent(job.pid, signal.SIGCONT)
    seen.expect(lives, "the job did not outlive its runner")
    return seen


def kill_scheduler(what: str, stage: Stage) -> Seen:
    """Kill -9 of the scheduler, alone or with its workers."""
    time.sleep(stage.random.uniform(0, 4))
    stage.forsaken |= set(stage.workers())
    stage.airflow.kill("scheduler", with_children=what == "with its workers")
    time.sleep(stage.random.uniform(0, 2))
    stage.airflow.start("scheduler")
    others = [name for name in stage.revive() if name != "scheduler"]
    seen = Seen(end=f"the scheduler was killed, {what}", recovered_by="start it again")
    seen.expect(not others, f"{others} ended too")
    return seen


def kill_database(what: str, stage: Stage) -> Seen:
    """Kill -9 of PostgreSQL; it recovers from its log when it is started again."""
    time.sleep(stage.random.uniform(0, 4))
    stage.airflow.kill("postgres")
    time.sleep(stage.random.uniform(0, 3))
    stage.airflow.start("postgres")
    ended = stage.revive()
    also = f", and {', '.join(ended)}, which had ended" if ended else ""
    return Seen(end="PostgreSQL was killed", recovered_by=f"start it again{also}")


def fill_pool(what: str, stage: Stage) -> Seen:
    """No slot of the pool `gpu` is left: its tasks wait, and start when there is one again."""
    if stage.has_ended():
        raise TooLate(NIGHT_OVER)
    seen = Seen(end="the pool gpu had no slot", recovered_by="a free slot")
    set_slots(stage, 0)
    try:
        waiting = _wait_for_a_waiting_task(stage)
        time.sleep(stage.random.uniform(3, 6))
        state, _ = stage.state_of(waiting)
        seen.expect(state == "scheduled", f"{waiting[2]} was {state} though the pool was full")
        seen.end += f"; {waiting[2]} waited"
    finally:
        set_slots(stage, 1)
    return seen


def set_slots(stage: Stage, slots: int) -> None:
    """Give the pool `gpu` so many slots."""
    body = {"name": "gpu", "slots": slots, "include_deferred": False, "description": "one card"}
    stage.airflow.call("PATCH", "/pools/gpu", json=body)


def _wait_for_a_waiting_task(stage: Stage) -> tuple[str, str, str]:
    found: list[tuple[str, str, str]] = []

    def is_there() -> bool:
        for dag, run in stage.runs().items():
            for task in stage.airflow.tasks(dag, run["dag_run_id"]):
                if task["task_id"] in _ON_GPU and task["state"] == "scheduled":
                    found.append((dag, run["dag_run_id"], task["task_id"]))
        return bool(found) or stage.has_ended()

    stage.airflow.until(is_there, "a task of the pool waits", 600)
    if not found:
        raise TooLate(NIGHT_OVER)
    return found[0]


def run_beside(what: str, stage: Stage) -> Seen:
    """Somebody runs a task's job by hand while the task runs."""
    job = stage.next_job(lambda each: each.module not in _NO_LOCK)
    if job is None:
        raise TooLate(NIGHT_OVER)
    waits = what == "by hand, waiting"
    words = [*job.words[1:], *(["--wait-s", "300"] if waits else [])]
    ended = stage.nursery.run(job.module, words, stage.home.root)
    seen = Seen(end=f"{job.task[2]} was run {what}", recovered_by="itself")
    said = ended.answer.get("status") if ended.status == 0 else f"status {ended.status}"
    seen.end += f": {said}"
    # Done: it was faster than the task, which then finds nothing to do or tries again.
    wanted = ("unchanged", "done") if waits else ("unchanged", "done", "status 75")
    seen.expect(said in wanted, f"the run by hand ended with {said}: {ended.last_words}")
    return seen


STRUCK_AT_NIGHT = [
    Kind(
        name="job-killed",
        expected="the task is tried again",
        recovery="itself",
        times={"a task's job": 8},
        strike=kill_job,
        part=PART,
    ),
    Kind(
        name="task-runner-killed",
        expected="the job lives on and holds its lock; the task's next try waits for it",
        recovery="itself",
        times={"runner": 4, "supervisor": 3},
        strike=kill_runner,
        part=PART,
    ),
    Kind(
        name="scheduler-killed",
        expected="tasks that ran end or are tried again",
        recovery="start it again (a service manager does)",
        times={"alone": 5, "with its workers": 5},
        strike=kill_scheduler,
        part=PART,
    ),
    Kind(
        name="database-killed",
        expected="components wait or end; no state of a task is lost",
        recovery="start it, and what has ended, again",
        times={"postmaster": 8},
        strike=kill_database,
        part=PART,
    ),
    Kind(
        name="pool-full",
        expected="tasks wait as scheduled",
        recovery="a free slot",
        times={"gpu": 3},
        strike=fill_pool,
        part=PART,
    ),
    Kind(
        name="two-runs",
        expected="the second is refused with status 75, or waits and finds the work done",
        recovery="itself",
        times={"by hand": 2, "by hand, waiting": 1},
        strike=run_beside,
        part=PART,
    ),
]
