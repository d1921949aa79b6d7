"""Policies that every DAG file meets, and the edges of the nightly ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.launch import AFTER_LAST_NIGHT, MODULES, NIGHTLY, TUNING_TOKENS, command
from tests.conftest import ROOT
from tests.dags.conftest import dag_files

NIGHT = ("nightly_features", "nightly_embeddings", "offline_scoring")


def test_every_dag_file_parses(facts: dict[str, Any]) -> None:
    assert facts["errors"] == {}
    assert set(facts["dags"]) == {path.stem for path in dag_files()}


def test_dag_files_import_nothing_heavy(facts: dict[str, Any]) -> None:
    assert facts["added"] == []


def test_every_dag_says_what_an_operator_needs_at_night(facts: dict[str, Any]) -> None:
    for name, dag in facts["dags"].items():
        assert len(dag["doc"]) > 500, name
        assert "failed" in dag["doc"], name
        assert "tidemark" in dag["tags"]
        assert dag["catchup"] is False
        assert dag["max_active_runs"] == 1
        # One on DAGRUN_QUEUED_AT would keep Airflow 3.3.2 from clearing a task: docs/dags.md.
        assert dag["deadlines"] == ["AverageRuntimeDeadline"], name


def test_every_task_has_an_owner_a_doc_a_timeout_a_pool_and_retries(facts: dict[str, Any]) -> None:
    for dag in facts["dags"].values():
        for name, task in dag["tasks"].items():
            assert task["owner"] == "tidemark", name
            assert len(task["doc"]) > 30, name
            assert 0 < task["timeout"] <= 12 * 3600, name
            assert task["pool"] in ("default_pool", "gpu"), name
            assert task["retries"] >= 1, name


def test_every_parameter_of_a_run_by_hand_has_a_type_and_says_what_it_is(
    facts: dict[str, Any],
) -> None:
    for dag in facts["dags"].values():
        for name, schema in dag["params"].items():
            assert schema["type"], name
        assert "day" in dag["params"]


def test_no_dag_has_a_start_date_before_which_airflow_would_run_nothing_and_say_success(
    facts: dict[str, Any],
) -> None:
    assert {dag["start"] for dag in facts["dags"].values()} == {None}


def test_dag_files_stay_thin() -> None:
    for path in dag_files():
        code = [line for line in path.read_text().split('"""', 2)[2].splitlines() if line.strip()]
        assert 15 <= len(code) <= 65, path.name


def test_what_comes_in_steps_of_a_day_is_started_by_partitions(facts: dict[str, Any]) -> None:
    """An event without a partition would batch several days into one run."""
    schedules = {name: dag["schedule"] for name, dag in facts["dags"].items()}
    assert schedules == {
        "nightly_features": "CronTriggerTimetable",
        "nightly_embeddings": "PartitionedAssetTimetable",
        "weekly_adapt": "CronTriggerTimetable",
        "offline_scoring": "PartitionedAssetTimetable",
        "store_maintenance": "CronTriggerTimetable",
    }


def tasks_of_a_night(facts: dict[str, Any]) -> dict[str, Any]:
    """Tasks of the three DAGs of a night, as if the events were edges."""
    tasks = {
        name: dict(task) for dag in NIGHT for name, task in facts["dags"][dag]["tasks"].items()
    }
    tasks["announce_day"]["down"] = ["previous"]
    tasks["announce_versions"]["down"] = [*tasks["announce_versions"]["down"], "which_version"]
    return tasks


def test_the_dags_hold_the_jobs_of_the_chain_in_an_order_that_the_chain_keeps(
    facts: dict[str, Any],
) -> None:
    tasks = tasks_of_a_night(facts)
    jobs = [job for job in NIGHTLY if job != "adapt"]
    checks = {f"check_{job}" for job in jobs if job != "report"}
    own = {"previous", "promotions", "announce_day", "announce_versions", "mark_announced"}
    assert set(tasks) == {*jobs, *checks, *own, "which_version"}
    place = {job: number for number, job in enumerate(jobs)}
    for name, task in tasks.items():
        for after in task["down"]:
            if name in place and after in place:
                assert place[name] < place[after], (name, after)


def test_no_job_starts_before_the_checks_of_what_it_reads(facts: dict[str, Any]) -> None:
    tasks = tasks_of_a_night(facts)

    def before(name: str) -> set[str]:
        direct = {task for task, each in tasks.items() if name in each["down"]}
        return direct.union(*(before(each) for each in direct))

    assert {"check_splits", "check_features", "check_item_texts"} <= before("distil")
    assert {"check_splits", "check_distil"} <= before("codebook")
    assert {"check_user_profiles", "check_codebook"} <= before("align")
    assert all("previous" in before(job) for job in (*AFTER_LAST_NIGHT, "tune"))
    assert {"check_align", "check_distil", "check_project", "check_ingest"} <= before("publish")
    assert "check_publish" in before("promotions")
    assert "announce_versions" in before("mark_announced")
    assert {"check_splits", "check_publish", "check_candidates"} <= before("score")
    assert {"check_score", "check_ingest"} <= before("report")


def test_gpu_work_goes_to_the_gpu_pool(facts: dict[str, Any]) -> None:
    tasks = tasks_of_a_night(facts) | facts["dags"]["weekly_adapt"]["tasks"]
    on_gpu = {name for name, task in tasks.items() if task["pool"] == "gpu"}
    assert on_gpu == {"adapt", "distil", "align", "tune", "project", "score"}


def test_a_night_without_tuning_is_published_and_a_failed_one_is_not(facts: dict[str, Any]) -> None:
    tasks = facts["dags"]["nightly_embeddings"]["tasks"]
    rules = {name for name, task in tasks.items() if task["rule"] != "all_success"}
    assert rules == {"calibrate", "publish"}
    assert {tasks[name]["rule"] for name in rules} == {"none_failed"}


def test_every_job_has_a_module_that_runs() -> None:
    for module in MODULES.values():
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file(), module


def test_a_command_replaces_its_shell_and_quotes_its_values() -> None:
    line = command("ingest", source="my data; rm -rf /", force=True, model=None, day="2026-03-02")
    assert line.startswith("exec ")
    assert line.endswith(
        "-m jobs.prepare.ingest --source 'my data; rm -rf /' --force --day 2026-03-02"
    )


@pytest.mark.parametrize(
    ("given", "usual", "full"),
    [
        ({}, TUNING_TOKENS, TUNING_TOKENS),
        ({"TOKENS": "90000"}, 90_000, 0),
        ({"FULL_TOKENS": "50000"}, TUNING_TOKENS, 50_000),
        ({"TOKENS": "0"}, 0, 0),
    ],
)
def test_who_sets_no_budget_gets_the_sample_s(given: dict[str, str], usual: int, full: int) -> None:
    kept = {
        k: v for k, v in os.environ.items() if k not in ("TIDEMARK_TOKENS", "TIDEMARK_FULL_TOKENS")
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from jobs_as_tasks import *; print(TOKENS.value, FULL_TOKENS.value)",
        ],
        cwd=ROOT / "dags",
        env={**kept, "PYTHONPATH": str(ROOT), **{f"TIDEMARK_{k}": v for k, v in given.items()}},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-2:] == [str(usual), str(full)]
