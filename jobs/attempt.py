"""One execution of a job: its id, what became of it, and who is told. Never fails the job."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Literal

import structlog

from jobs import lineage
from jobs.failures import one_line
from jobs.files import write_atomically
from jobs.home import Home
from jobs.lineage import Facts, Kind
from jobs.manifest import Manifest, code_version

if TYPE_CHECKING:
    from jobs.job import Run

Status = Literal["running", "done", "unchanged", "failed"]
ENDS = ("done", "unchanged", "failed", "killed")  # killed: the next run found it without an end
_SCHEDULER = {"dag_run": "AIRFLOW_CTX_DAG_RUN_ID", "try": "AIRFLOW_CTX_TRY_NUMBER"}


@dataclass(frozen=True)
class Attempt:
    """The last execution of a job on a day, and how often it ended in which way.

    Attributes:
        run: its id: the same in logs, lineage and here.
        status: running where it has not ended, or was killed.
        started_at: in UTC.
        ended_at: None while it runs.
        seconds: from the lock to the end.
        error: one line, of one that failed.
        last_success_at: end of the last one that was done or had nothing to do.
        ends: how many executions of this job and day ended so.
    """

    run: str
    status: Status
    started_at: str
    ended_at: str | None = None
    seconds: float | None = None
    error: str | None = None
    last_success_at: str | None = None
    ends: dict[str, int] = field(default_factory=dict)


def load_attempt(home: Home, job: str, day: date) -> Attempt | None:
    """The last execution of a job on a day; None if there was none, or nothing readable of it."""
    try:
        said = json.loads(home.attempt(job, day).read_text(encoding="utf-8"))
        return Attempt(**{each.name: said[each.name] for each in fields(Attempt)})
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def named(run: Run) -> Iterator[str]:
    """Every line that is logged inside names the run, its job and day; yields the run's id."""
    run_id = str(uuid.uuid4())
    names = {"run": run_id, "job": run.job, "day": str(run.day)}
    names |= {name: os.environ[key] for name, key in _SCHEDULER.items() if os.environ.get(key)}
    version = getattr(run.config, "version", None)
    with structlog.contextvars.bound_contextvars(**names):
        if version is not None:
            structlog.contextvars.bind_contextvars(version=version)
        try:
            yield run_id
        finally:
            structlog.contextvars.unbind_contextvars("version")


class Told:
    """Writes down and tells what becomes of an execution, while the lock of its job is held.

    Args:
        run: entered.
        run_id: of `named`.
    """

    def __init__(self, run: Run, run_id: str) -> None:
        self._run = run
        before = load_attempt(run.home, run.job, run.day)
        ends = dict(before.ends) if before else {}
        killed = before if before and before.status == "running" else None
        if killed:
            ends["killed"] = ends.get("killed", 0) + 1
        self.now = Attempt(
            run=run_id,
            status="running",
            started_at=_now(),
            last_success_at=before.last_success_at if before else None,
            ends=ends,
        )
        self._write()
        if killed:
            self._emit("ABORT", killed.run)
        self._emit("START", run_id)

    def end(self, error: BaseException | None, manifest: Manifest | None, status: Status) -> None:
        """Tell the end.

        Args:
            error: what ended it, if something did.
            manifest: that now stands, of one that did not fail.
            status: done or unchanged, unless there is an error.
        """
        status, ended = "failed" if error else status, _now()
        why = one_line(error, self._run.home) if error else None
        self.now = replace(
            self.now,
            status=status,
            ended_at=ended,
            seconds=round(_seconds_between(self.now.started_at, ended), 3),
            error=why,
            last_success_at=self.now.last_success_at if error else ended,
            ends={**self.now.ends, status: self.now.ends.get(status, 0) + 1},
        )
        self._write()
        self._emit("FAIL" if error else "COMPLETE", self.now.run, manifest, why)

    def _write(self) -> None:
        path = self._run.home.attempt(self._run.job, self._run.day)
        try:
            write_atomically(path, json.dumps(asdict(self.now), indent=2))
        except OSError as error:
            self._run.log.warning("the attempt is not written down", why=str(error))

    def _emit(
        self, kind: Kind, run_id: str, manifest: Manifest | None = None, error: str | None = None
    ) -> None:
        run = self._run
        facts = Facts(
            job=run.job,
            day=run.day,
            run=run_id,
            status=self.now.status,
            code=code_version(),
            sources=manifest.sources if manifest else (),
            inputs=manifest.inputs if manifest else run.inputs,
            outputs=manifest.outputs if manifest else (),
            versions=_versions(manifest),
            version=manifest.result.get("version") if manifest and run.job == "publish" else None,
            error=error,
        )
        lineage.emit(lineage.event(kind, facts, run.home), run.day, run.home, run.log)


def _versions(manifest: Manifest | None) -> tuple[int, ...]:
    """Versions of the store that were read."""
    config = manifest.config if manifest else {}
    found = (config.get(name) for name in ("version", "previous_version"))
    return tuple(each for each in found if isinstance(each, int))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
