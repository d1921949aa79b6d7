"""What the DAG files are, read once; and three nights on a real scheduler, made once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

# Airflow configures logging, warnings and a database when it is imported, so its facts come from
# a process of its own.
FACTS = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
before = set(sys.modules)
bag = BundleDagBag(sys.argv[1], bundle_path=Path(sys.argv[1]), bundle_name="tidemark")
heavy = {"torch", "transformers", "dask", "pandas", "numpy", "pyarrow", "duckdb", "faiss"}
heavy |= {"pydantic_settings", "safetensors", "embedding_store", "kubernetes", "docker"}
added = sorted(heavy & (sys.modules.keys() - before))
dags = {
    name: {
        "doc": dag.doc_md,
        "tags": sorted(dag.tags),
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "start": dag.start_date and str(dag.start_date.date()),
        "schedule": type(dag.timetable).__name__,
        "deadlines": [type(each.reference).__name__ for each in dag.deadline or []],
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
        "tasks": {
            task.task_id: {
                "down": sorted(task.downstream_task_ids),
                "pool": task.pool,
                "owner": task.owner,
                "retries": task.retries,
                "doc": task.doc_md or "",
                "rule": task.trigger_rule.value,
                "timeout": task.execution_timeout and task.execution_timeout.total_seconds(),
            }
            for task in dag.tasks
        },
    }
    for name, dag in bag.dags.items()
}
print("FACTS" + json.dumps({"errors": bag.import_errors, "added": added, "dags": dags}))
"""


@pytest.fixture(scope="session")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """errors, added (heavy modules that parsing imported), dags: see FACTS."""
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


def dag_files() -> list[Path]:
    """The files that hold a DAG; what they share is none."""
    return sorted(path for path in (ROOT / "dags").glob("*.py") if path.stem != "jobs_as_tasks")
