"""A real Airflow for tests: its own PostgreSQL, scheduler, dag processor, API server, triggerer.

    with Scheduler(tidemark_home) as airflow:
        airflow.unpause("nightly_features", "nightly_embeddings", "offline_scoring")
        run = airflow.trigger("nightly_features", day="2026-02-27", conf={"source": "..."})
        airflow.wait("nightly_features", run)
        airflow.kill("scheduler")
        airflow.start("scheduler")

What an operator asks and tells (trigger, wait, tasks, asset_events, task_log) is in
`tests.dags.operating.Operator`, which a `Scheduler` is.
Everything lies below one folder and listens on loopback alone. Nothing of Airflow is imported here:
it configures logging, warnings and a database of its own as soon as it is.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from tests.conftest import ROOT
from tests.dags.operating import PATIENCE_S, Operator
from tests.dags.postgres import Postgres, binary, free_port

COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")


def why_not() -> str | None:
    """Why no scheduler can be started on this machine; None where one can."""
    if sys.platform == "win32":
        return "Airflow does not run on Windows"
    missing = [
        name for name in ("initdb", "postgres", "pg_isready", "createdb") if not binary(name)
    ]
    return f"PostgreSQL's {', '.join(missing)} are not installed" if missing else None


class Scheduler(Operator):
    """Airflow with a LocalExecutor on a PostgreSQL of its own; a context manager.

    Args:
        home: TIDEMARK_HOME of the jobs that run.
        dags: folder of DAG files.
        components: which of `COMPONENTS` to start; deadline alerts need the triggerer.
        parallelism: how many tasks run at once.
        gpu_slots: slots of the pool `gpu`.
        environment: more variables, for Airflow and for the jobs; they win over those set here.

    Attributes:
        folder: everything of this Airflow, removed at the end: `airflow/` (AIRFLOW_HOME with the
            task logs), `<component>.log`, `postgres/`, `postgres.log`.
        postgres: the metadata's server: `postgres.pid`, `postgres.kill()`, `postgres.start()`.
        environment: of every process started here; hand it to an `airflow` command of your own.
        url: of the API server and the pages.
        user, password: who may log in there.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path = ROOT / "dags",
        components: Iterable[str] = COMPONENTS,
        parallelism: int = 2,
        gpu_slots: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home, self.dags, self.gpu_slots = home, dags, gpu_slots
        self.components = tuple(components)
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}", "admin", secrets.token_urlsafe(24))
        self._parallelism, self._more = parallelism, dict(environment or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()  # of every component that was ever started

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Start PostgreSQL, make the tables and the pool, start the components, wait for health."""
        self.folder = Path(tempfile.mkdtemp(prefix="tidemark-scheduler-"))
        self.folder.chmod(0o711)  # the server that is not root must reach its data
        self.postgres = Postgres(self.folder / "postgres")
        try:
            self._start_all()
        except BaseException:
            self._stop_all()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every process that was started here, with its children, and remove the folder."""
        self._stop_all()

    def _start_all(self) -> None:
        self.postgres.create()
        self.environment = self._environment()
        self.airflow("db", "migrate")
        for name in self.components:
            self.start(name)
        self.wait_until_healthy()
        slots = {"name": "gpu", "slots": self.gpu_slots, "include_deferred": False}
        self.call("POST", "/pools", json={**slots, "description": "one task at a time on the card"})

    def _stop_all(self) -> None:
        for process in self._processes.values():  # all at once; each takes seconds to leave
            _signal(os.killpg, process.pid, signal.SIGTERM)
        for name in tuple(self._processes):
            self.stop(name)
        for pid in self.left_over():
            _signal(os.kill, pid, signal.SIGKILL)
        self.postgres.stop()
        self._api.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        airflow = self.folder / "airflow"
        airflow.mkdir(mode=0o700)
        passwords = airflow / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({self.user: self.password}), encoding="utf-8")
        settings = {
            "CORE__DAGS_FOLDER": str(self.dags),
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": str(self._parallelism),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{self.user}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "5",
            "DATABASE__SQL_ALCHEMY_CONN": self.postgres.url,
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.port),
            "API__BASE_URL": self.url,
            "API__SECRET_KEY": secrets.token_urlsafe(32),
            "API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
            "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            "DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "SCHEDULER__JOB_HEARTBEAT_SEC": "2",
            "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "SCHEDULER__TASK_QUEUED_TIMEOUT": "120",
            "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
            "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
        }
        jobs = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return {
            **os.environ,
            **jobs,
            "TIDEMARK_HOME": str(self.home),
            "AIRFLOW_HOME": str(airflow),
            **{f"AIRFLOW__{name}": value for name, value in settings.items()},
            **self._more,
        }

    # -- components ------------------------------------------------------------------------------

    def start(self, component: str) -> None:
        """Start one of `COMPONENTS`, or `postgres`; its output goes to `<component>.log`."""
        if component == "postgres":
            self.postgres.start()
            return
        # The API server reads task logs from the disk that all share.
        quiet = ["--skip-serve-logs"] if component in ("scheduler", "triggerer") else []
        with self._log(component).open("ab") as log:
            self._processes[component] = subprocess.Popen(
                [sys.executable, "-m", "airflow", component, *quiet],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._sessions.add(self._processes[component].pid)

    def pid(self, component: str) -> int:
        """Process id of a component, or of `postgres`; it leads a process group of its own.

        Raises:
            RuntimeError: it does not run.
        """
        if component == "postgres":
            found = self.postgres.pid
        else:
            process = self._processes.get(component)
            found = process.pid if process is not None and process.poll() is None else None
        if found is None:
            raise RuntimeError(f"{component} does not run")
        return found

    @property
    def scheduler_pid(self) -> int:
        """Process id of the scheduler; the LocalExecutor's workers are its children."""
        return self.pid("scheduler")

    def kill(self, component: str, *, with_children: bool = False) -> None:
        """kill -9 of a component, or of `postgres`; `start` brings it back.

        Args:
            component: which.
            with_children: its whole process group, so the executor's workers too. Jobs are in
                sessions of their own and live on either way.
        """
        if component == "postgres":
            self.postgres.kill()
            return
        pid = self.pid(component)
        os.killpg(pid, signal.SIGKILL) if with_children else os.kill(pid, signal.SIGKILL)
        self._processes[component].wait(60)

    def stop(self, component: str) -> None:
        """Stop a component with its children, by SIGTERM and after 20 s by SIGKILL."""
        process = self._processes.pop(component, None)
        if process is None:
            return
        for wait_s, number in ((20, signal.SIGTERM), (20, signal.SIGKILL)):
            _signal(os.killpg, process.pid, number)
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                continue
        _signal(os.killpg, process.pid, signal.SIGKILL)  # what outlived its leader

    def healthy(self) -> bool:
        """Whether every component that was started says that it is well."""
        try:
            found = self._api.get("/api/v2/monitor/health").json()
        except (httpx.HTTPError, ValueError):
            return False
        asked = {name: name.replace("-", "_") for name in self.components if name != "api-server"}
        return all(found[key]["status"] == "healthy" for key in (*asked.values(), "metadatabase"))

    def wait_until_healthy(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until every component that was started is well.

        Raises:
            RuntimeError: one of them has ended; with what it printed.
            TimeoutError: not in time.
        """

        def holds() -> bool:
            self._raise_if_ended()
            return self.healthy()

        self.until(holds, "every component is healthy", patience_s)

    def airflow(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run an `airflow` command as an operator would: `airflow("backfill", "create", ...)`.

        Raises:
            RuntimeError: it failed, and `check` asks for that.
        """
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise RuntimeError(f"airflow {' '.join(words)}:\n{done.stdout}\n{done.stderr}")
        return done

    def left_over(self) -> list[int]:
        """Processes of this Airflow: components with workers, and jobs, which have its environment.

        Those that a kill left behind are among them. Linux alone tells; elsewhere none is found.
        """
        mark = f"AIRFLOW_HOME={self.folder / 'airflow'}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = (path / "environ").read_bytes().split(b"\0")
                session = int((path / "stat").read_text().rpartition(")")[2].split()[3])
            except OSError:  # it has just ended, or is somebody else's
                continue
            # Airflow writes its workers' titles over their environment.
            if mark in variables or session in self._sessions:
                found.append(int(path.name))
        return sorted(found)

    def component_log(self, component: str) -> str:
        """All that a component has printed."""
        return self._log(component).read_text(encoding="utf-8", errors="replace")

    # -- inside ----------------------------------------------------------------------------------

    def _log(self, component: str) -> Path:
        return self.folder / f"{component}.log"

    def _raise_if_ended(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} has ended:\n{self.component_log(name)[-4000:]}")


def _signal(send: Callable[[int, int], None], pid: int, number: signal.Signals) -> None:
    try:
        send(pid, number)
    except ProcessLookupError:
        return
