"""Policies that every DAG file meets, and the edges of the nightly one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.launch import AFTER_LAST_NIGHT, MODULES, NIGHTLY, command
from tests.conftest import ROOT

# Airflow configures logging, warnings and a database when it is imported, so its facts come from
# a process of its own.
FACTS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
before = set(sys.modules)
bag = DagBag(sys.argv[1])
heavy = {"torch", "transformers", "dask", "pandas", "pyarrow", "duckdb", "faiss", "pydantic"}
added = sorted(heavy & (sys.modules.keys() - before))
dags = {
    name: {
        "doc": dag.doc_md,
        "tags": sorted(dag.tags),
        "catchup": dag.catchup,
        "start": str(dag.start_date.date()),
        "order": [task.task_id for task in dag.topological_sort()],
        "tasks": {
            task.task_id: {
                "down": sorted(task.downstream_task_ids),
                "pool": task.pool,
                "owner": task.owner,
                "retries": task.retries,
                "timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
            }
            for task in dag.tasks
        },
    }
    for name, dag in bag.dags.items()
}
print("FACTS" + json.dumps({"errors": bag.import_errors, "added": added, "dags": dags}))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("airflow")
    done = subprocess.run(
        [sys.executable, "-c", FACTS, str(ROOT / "dags")],
        env={
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("FACTS"))
    return json.loads(line.removeprefix("FACTS"))


def test_every_dag_file_parses(facts: dict[str, Any]) -> None:
    assert facts["errors"] == {}
    assert set(facts["dags"]) == {path.stem for path in (ROOT / "dags").glob("*.py")}


def test_dag_files_import_nothing_heavy(facts: dict[str, Any]) -> None:
    assert facts["added"] == []


def test_every_dag_and_task_says_who_owns_it_and_when_it_is_late(facts: dict[str, Any]) -> None:
    for dag in facts["dags"].values():
        assert len(dag["doc"]) > 200
        assert "tidemark" in dag["tags"]
        assert dag["catchup"] is False
        for task in dag["tasks"].values():
            assert task["owner"] == "tidemark"
            assert task["retries"] >= 1
            assert task["timeout"] > 0


def test_no_dag_starts_after_the_oldest_events_that_it_may_be_asked_for(
    facts: dict[str, Any],
) -> None:
    """Airflow runs no task of a day before the start date, and calls that a success."""
    for dag in facts["dags"].values():
        assert dag["start"] <= "2000-04-25"  # the first rating of MovieLens-1M


def test_dag_files_stay_thin() -> None:
    for path in (ROOT / "dags").glob("*.py"):
        code = [line for line in path.read_text().split('"""', 2)[2].splitlines() if line.strip()]
        assert len(code) <= 110, path.name


def test_the_dag_holds_the_jobs_of_the_chain_in_an_order_that_the_chain_keeps(
    facts: dict[str, Any],
) -> None:
    tasks = facts["dags"]["nightly_embeddings"]["tasks"]
    checks = {f"check_{job}" for job in NIGHTLY if job != "report"}
    assert set(tasks) == {*NIGHTLY, *checks, "previous", "announce"}
    place = {job: number for number, job in enumerate(NIGHTLY)}
    for name, task in tasks.items():
        for after in task["down"]:
            if name in place and after in place:
                assert place[name] < place[after], (name, after)


def test_no_job_starts_before_the_checks_of_what_it_reads(facts: dict[str, Any]) -> None:
    tasks = facts["dags"]["nightly_embeddings"]["tasks"]

    def before(name: str) -> set[str]:
        direct = {task for task, each in tasks.items() if name in each["down"]}
        return direct.union(*(before(each) for each in direct))

    assert {"check_splits", "check_distil"} <= before("codebook")
    assert {"check_user_profiles", "check_codebook"} <= before("align")
    assert all("previous" in before(job) for job in AFTER_LAST_NIGHT)
    assert {"check_align", "check_distil", "check_project", "check_ingest"} <= before("publish")
    assert {"check_splits", "check_publish"} <= before("score")
    assert {"check_score", "check_ingest"} <= before("report")


def test_gpu_work_goes_to_the_gpu_pool(facts: dict[str, Any]) -> None:
    tasks = facts["dags"]["nightly_embeddings"]["tasks"]
    on_gpu = {name for name, task in tasks.items() if task["pool"] == "gpu"}
    assert on_gpu == {"adapt", "distil", "align", "tune", "project", "score"}


def test_every_job_has_a_module_that_runs() -> None:
    for module in MODULES.values():
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file(), module


def test_a_command_replaces_its_shell_and_quotes_its_values() -> None:
    line = command("ingest", source="my data; rm -rf /", force=True, model=None, day="2026-03-02")
    assert line.startswith("exec ")
    assert line.endswith(
        "-m jobs.prepare.ingest --source 'my data; rm -rf /' --force --day 2026-03-02"
    )
