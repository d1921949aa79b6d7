"""What an operator asks a running Airflow and tells it, by its REST API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

ENDED = ("success", "failed")
PATIENCE_S = 600.0  # machines that run tests may be busy
POLL_S = 0.5


class RunFailed(AssertionError):
    """A run ended otherwise than expected, or not in time; says what its tasks logged."""


class Operator:
    """A person with a browser: triggers, waits, reads states, events and logs.

    Args:
        url: of the API server.
        user: who logs in there.
        password: of that user.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url, self.user, self.password = url, user, password
        self._api = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def call(self, method: str, path: str, **request: Any) -> Any:
        """One call of the REST API below /api/v2, as the admin; its answer, decoded.

        Raises:
            RuntimeError: the server refused; with what it said.
        """
        answer = self._ask(method, path, **request)
        if answer.is_error:
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None

    def unpause(self, *dag_ids: str) -> None:
        """Wait until the dag processor knows these DAGs, then let them run."""
        for dag_id in dag_ids:
            self.until(lambda dag_id=dag_id: self._knows(dag_id), f"{dag_id} is parsed")  # type: ignore[misc]
            self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    def pause(self, *dag_ids: str) -> None:
        """Let these DAGs start nothing."""
        for dag_id in dag_ids:
            self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": True})

    def trigger(
        self,
        dag_id: str,
        *,
        day: str | None = None,
        partition: str | None = None,
        conf: Mapping[str, Any] | None = None,
    ) -> str:
        """Start a run by hand, as the page does.

        Args:
            dag_id: of an unpaused DAG.
            day: logical date of a DAG that goes by the clock; its time of day is that of the
                schedule, 04:00.
            partition: partition key of a DAG that an asset starts.
            conf: its params.

        Returns:
            The run's id.
        """
        body = {
            "logical_date": f"{day}T04:00:00Z" if day else None,
            "conf": dict(conf or {}),
            **({"partition_key": partition} if partition else {}),
        }
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def pass_over_tonight(self, dag_id: str) -> None:
        """Make a run that has failed of the last 04:00 for a DAG that goes by that clock.

        Once a DAG has been backfilled, the scheduler starts the last hour that went by without a
        run; a test whose nights lie in the past wants none of today.
        """
        self.until(lambda: self._knows(dag_id), f"{dag_id} is parsed")
        self.pause(dag_id)
        last = (datetime.now(UTC) - timedelta(hours=4)).date()
        run_id = self.trigger(dag_id, day=str(last))
        self.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", json={"state": "failed"})

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Every run of a DAG, oldest first: dag_run_id, state, run_type, partition_key, conf..."""
        words = {"order_by": "id", "limit": 100}
        return list(self.call("GET", f"/dags/{dag_id}/dagRuns", params=words)["dag_runs"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run: task_id, state, try_number, start_date, pid, hostname..."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self.call("GET", path, params={"limit": 100})["task_instances"])

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """State of each task of a run."""
        return {task["task_id"]: str(task["state"]) for task in self.tasks(dag_id, run_id)}

    def wait(
        self, dag_id: str, run_id: str, *, state: str = "success", patience_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Wait until a run has ended.

        Raises:
            RunFailed: it ended in another state, or not in time.
        """
        path = f"/dags/{dag_id}/dagRuns/{run_id}"
        deadline = time.monotonic() + patience_s
        while (run := self.call("GET", path))["state"] not in ENDED:
            if time.monotonic() > deadline:
                raise RunFailed(f"{dag_id} {run_id} is {run['state']}\n{self.told(dag_id, run_id)}")
            time.sleep(POLL_S)
        if run["state"] != state:
            raise RunFailed(f"{dag_id} {run_id}: {run['state']}\n{self.told(dag_id, run_id)}")
        return dict(run)

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: Iterable[str],
        *,
        patience_s: float = PATIENCE_S,
    ) -> dict[str, Any]:
        """Wait until a task is in one of some states; the task instance.

        Raises:
            RunFailed: not in time.
        """
        wanted = set(states)

        def found() -> bool:
            return self._task(dag_id, run_id, task_id).get("state") in wanted

        try:
            self.until(found, f"{task_id} is {' or '.join(sorted(wanted))}", patience_s)
        except TimeoutError as late:
            raise RunFailed(f"{late}\n{self.told(dag_id, run_id)}") from late
        return self._task(dag_id, run_id, task_id)

    def wait_for_runs(
        self, dag_id: str, n_runs: int, *, state: str = "success", patience_s: float = PATIENCE_S
    ) -> list[dict[str, Any]]:
        """Wait until a DAG has so many runs, whoever started them, and each has ended; the runs.

        Raises:
            RunFailed: one ended in another state, or they did not come in time.
        """
        try:
            self.until(
                lambda: len(self.runs(dag_id)) >= n_runs, f"{n_runs} runs of {dag_id}", patience_s
            )
        except TimeoutError as late:
            raise RunFailed(f"{late}; there are {len(self.runs(dag_id))}") from late
        for run in self.runs(dag_id):
            self.wait(dag_id, run["dag_run_id"], state=state, patience_s=patience_s)
        return self.runs(dag_id)

    def asset_events(self, asset: str) -> list[dict[str, Any]]:
        """Events of the asset of that name, oldest first: extra, partition_key, created_dagruns."""
        found = self.call("GET", "/assets", params={"name_pattern": asset})["assets"]
        number = next(each["id"] for each in found if each["name"] == asset)
        words = {"asset_id": number, "order_by": "timestamp", "limit": 100}
        return list(self.call("GET", "/assets/events", params=words)["asset_events"])

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """What a try of a task logged, one event a line."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.call("GET", path, params={"full_content": True})["content"]
        return "\n".join(str(each.get("event", each)) for each in content)

    def told(self, dag_id: str, run_id: str) -> str:
        """For a failed test: the state of each task, and the logs of those that failed."""
        said = []
        for task in self.tasks(dag_id, run_id):
            said.append(f"{task['task_id']}: {task['state']}, try {task['try_number']}")
            if task["state"] in ("failed", "up_for_retry", "running"):
                log = self.task_log(dag_id, run_id, task["task_id"], max(1, task["try_number"]))
                said.append(log[-4000:])
        return "\n".join(said)

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """One request; it logs in where that is needed."""
        answer = self._api.request(method, f"/api/v2{path}", **request)
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            return answer
        login = self._api.post(
            "/auth/token", json={"username": self.user, "password": self.password}
        )
        login.raise_for_status()
        self._api.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
        return self._api.request(method, f"/api/v2{path}", **request)

    def _knows(self, dag_id: str) -> bool:
        return self._ask("GET", f"/dags/{dag_id}").status_code == httpx.codes.OK

    def _task(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        found = (task for task in self.tasks(dag_id, run_id) if task["task_id"] == task_id)
        return next(found, {})

    def until(self, holds: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: it does not in time; names `what`.
        """
        deadline = time.monotonic() + patience_s
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in {patience_s:.0f} s: {what}")
            time.sleep(POLL_S)
