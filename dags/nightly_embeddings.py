"""Nightly embeddings: raw files in; one published version, its scores and its report out.

**Schedule** 04:00 UTC, for the day *D* of the run: everything is fitted on what was known before
*D* 00:00 UTC. Any day can be run again, in any order; a task whose inputs and config did not change
says so and redoes nothing.

**When a task fails** the last lines of its log say what was wrong, where, and what to do; then
clear the task. Outputs appear only when they are whole, so a retry is harmless. A failed `check_`
task means that the table before it holds rows that break `sql/checks`; no later task reads it.

**Adapt, tune, project skipped?** The parameter `tokens` is 0: this night tunes no LLM, and the
factors score alone. With tokens, `adapt` runs once in seven nights; the last adapter serves else.

**Announce skipped?** The version was published, but `production` was not moved to it: it failed a
gate, or it is the backfill of an older day. The message says which. It stays readable by its
number, it is scored and reported, and the night before stays in production.
"""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import Asset, Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from jobs.datasets import EMBEDDING_VERSIONS_URI
from jobs.launch import TUNING_TOKENS, command, tuning_flags

EMBEDDING_VERSIONS = Asset(name="embedding_versions", uri=EMBEDDING_VERSIONS_URI)
# Commands are rendered once more as templates, so a brace in a parameter is refused.
PLAIN = {"type": "string", "minLength": 1, "pattern": r"^[^{}]+$"}


@task.bash
def run(job: str, flags: dict[str, str], *, ds: str) -> str:
    """One job of the day."""
    return command(job, **flags, day=ds)


@task.bash
def run_after_last_night(job: str, flags: dict[str, str], previous: str, *, ds: str) -> str:
    """One job of the day, with the number of last night's version if there is one."""
    return command(job, **flags, previous_version=json.loads(previous)["version"], day=ds)


@task.bash
def run_tuning(job: str, previous: str, *, ds: str, params: Any) -> str:
    """One job that the adapter of this night concerns: it is trained, or used."""
    said, tokens = json.loads(previous), params["tokens"]
    adapter = said["adapter"] if tokens else None
    if adapter is None and job != "distil":
        raise AirflowSkipException("this night tunes no LLM")
    if job == "adapt" and adapter != ds:
        raise AirflowSkipException(f"the adapter of {adapter} still serves")
    flags = {
        "adapt": tuning_flags(tokens),
        "distil": {"adapter": adapter, "previous_version": said["version"]},
        "tune": {"adapter": adapter, **tuning_flags(tokens)},
    }
    return command(job, **flags[job], model=params["model"], day=ds)


@task.bash
def run_on_version(job: str, published: str, flags: dict[str, str], *, ds: str) -> str:
    """One job of the day, on the version that `publish` named in its last line."""
    return command(job, version=json.loads(published)["version"], **flags, day=ds)


@task(outlets=[EMBEDDING_VERSIONS])
def announce(published: str, *, ds: str, outlet_events: Any) -> None:
    """Tell the scheduler that an alias has moved; consumers dedupe by version."""
    said = json.loads(published)
    if not said["promoted"]:
        raise AirflowSkipException(f"version {said['version']} was not promoted: {said.get('why')}")
    outlet_events[EMBEDDING_VERSIONS].extra = {"day": ds, "version": said["version"]}


@dag(
    schedule="0 4 * * *",
    start_date=pendulum.datetime(1995, 1, 1, tz="UTC"),  # a day before it runs nothing, silently
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["tidemark", "embeddings"],
    params={
        "source": Param("sample", description="mapping file, folder or zip; or: sample", **PLAIN),
        "model": Param("smollm2-135m-instruct", description="hub id or folder", **PLAIN),
        "tokens": Param(
            TUNING_TOKENS,
            type="integer",
            minimum=0,
            description="that each stage of tuning reads; more than an epoch is one; 0: no tuning",
        ),
    },
    default_args={
        "owner": "tidemark",
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "execution_timeout": timedelta(hours=6),
    },
)
def nightly_embeddings() -> None:
    """Order and pools only; the work is in jobs."""

    def step(
        job: str, *, pool: str = "default_pool", rule: str = "all_success", **flags: str
    ) -> Any:
        return run.override(task_id=job, pool=pool, trigger_rule=rule)(job, flags)

    def check(producer: str) -> Any:
        return run.override(task_id=f"check_{producer}")("check", {"producer": producer})

    previous = step("previous")

    def step_after_last_night(job: str, *, pool: str = "default_pool", **flags: str) -> Any:
        return run_after_last_night.override(task_id=job, pool=pool)(job, flags, previous)

    def tuning(job: str, rule: str = "all_success") -> Any:
        return run_tuning.override(task_id=job, pool="gpu", trigger_rule=rule)(job, previous)

    left_out_or_done = "none_failed"  # an adapter that still serves, a night without tuning
    published = step("publish", rule=left_out_or_done)

    def step_on_version(job: str, *, pool: str = "default_pool", **flags: str) -> Any:
        return run_on_version.override(task_id=job, pool=pool)(job, published, flags)

    model = "{{ params.model }}"
    chosen, page = step_on_version("candidates"), step_on_version("report")
    scores = step_on_version("score", pool="gpu", backbone=model)

    prepared = step("ingest", source="{{ params.source }}") >> check("ingest")
    splits = prepared >> step("splits") >> check("splits")
    splits >> step("features") >> check("features")
    texts = prepared >> step("item_texts") >> check("item_texts")
    adapted = [splits, texts] >> tuning("adapt") >> check("adapt")
    semantics = [texts, adapted] >> tuning("distil", left_out_or_done) >> check("distil")
    codes = [splits, semantics] >> step_after_last_night("codebook") >> check("codebook")
    profiles = codes >> step("user_profiles") >> check("user_profiles")
    aligned = step_after_last_night("align", pool="gpu")
    factors = profiles >> aligned >> check("align")
    tuned = factors >> tuning("tune") >> check("tune")
    tuned >> step("project", model=model, pool="gpu") >> check("project") >> published
    tuned >> step("calibrate", rule=left_out_or_done) >> check("calibrate") >> published
    published >> check("publish") >> [chosen, announce(published)]
    chosen >> check("candidates") >> scores >> check("score") >> page


nightly_embeddings()
