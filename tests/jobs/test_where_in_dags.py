"""The DAGs as they are, with a places file: GPU jobs become pods, the rest stays as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.launch import GPU, MODULES
from tests.conftest import ROOT
from tests.jobs.places import KUBERNETES, UsePlaces

# Airflow configures logging and a database when it is imported: a process of its own.
FACTS = """
import json, sys
from datetime import datetime, timezone
from types import SimpleNamespace
from airflow.dag_processing.dagbag import DagBag
from kubernetes.client import ApiClient
bag = DagBag(sys.argv[1])
kinds = {
    f"{name}.{task.task_id}": type(task).__name__
    for name, dag in bag.dags.items() for task in dag.tasks
}
adapt = bag.dags["weekly_adapt"].get_task("adapt")
run = SimpleNamespace(
    partition_key=None, logical_date=datetime(2026, 3, 1, tzinfo=timezone.utc), run_id="by-hand"
)
params = {"day": None, "model": "my-model", "tokens": 20000, "full_tokens": 20000}
context = {
    "dag_run": run, "params": params, "run_id": run.run_id, "dag": adapt.dag,
    "ti": SimpleNamespace(task_id="adapt", try_number=2),
}
adapt.cmds = adapt._generate_cmds(dict(context))
adapt._do_render_template_fields(
    adapt, ["pod_template_dict", "cmds"], context, adapt.dag.get_template_env(), set()
)
pod = ApiClient().sanitize_for_serialization(adapt.build_pod_request_obj(dry_run=True))
facts = {"errors": bag.import_errors, "kinds": kinds, "pod": pod, "pool": adapt.pool}
print("FACTS" + json.dumps(facts))
"""


@pytest.fixture
def facts(use: UsePlaces, tmp_path: Path) -> dict[str, Any]:
    use(KUBERNETES)
    airflow = tmp_path / "airflow"
    done = subprocess.run(
        [sys.executable, "-c", FACTS, str(ROOT / "dags")],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "dags"),  # what a DAG bundle puts there
            "AIRFLOW_HOME": str(airflow),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",  # Kubernetes' client, on a busy machine
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow}/airflow.db",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("FACTS"))
    facts: dict[str, Any] = json.loads(line.removeprefix("FACTS"))
    return facts


def test_gpu_jobs_of_the_dags_are_pods_and_all_others_are_not(facts: dict[str, Any]) -> None:
    assert facts["errors"] == {}
    pods = {task for task, kind in facts["kinds"].items() if "Kubernetes" in kind}
    of_jobs = {task.partition(".")[2] for task in pods}
    assert of_jobs == {"adapt", "distil", "align", "tune", "project", "score"} <= set(GPU)
    bash = {t.partition(".")[2] for t, kind in facts["kinds"].items() if "Bash" in kind}
    assert bash & set(MODULES) >= {"ingest", "splits", "codebook", "publish", "report", "previous"}

    # The pod of one of them, as it would be sent to the cluster.
    base = facts["pod"]["spec"]["containers"][0]
    assert base["command"][:6] == [
        *("timeout", "--kill-after=30", "43200", "python", "-m", "jobs.llm.adapt"),
    ]
    flags = dict(zip(base["command"][6::2], base["command"][7::2], strict=True))
    assert flags["--model"] == "my-model"
    assert flags["--max-tokens-total"] == "20000"
    assert flags["--day"] == "2026-03-01"
    variables = {each["name"]: each.get("value") for each in base["env"]}
    assert variables["AIRFLOW_CTX_DAG_ID"] == "weekly_adapt"
    assert variables["AIRFLOW_CTX_DAG_RUN_ID"] == "by-hand"
    assert variables["AIRFLOW_CTX_TRY_NUMBER"] == "2"
    assert variables["TIDEMARK_ANSWER"] == "/airflow/xcom/return.json"
    assert facts["pool"] == "gpu"
