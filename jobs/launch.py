"""A job's command line as one string, for schedulers. Standard library only: DAGs import it."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Any

from jobs.where.checks import PlacesError
from jobs.where.container import docker_run
from jobs.where.places import Place, Pod, inside_words, place_of
from jobs.where.pod import operator_arguments

MODULES = {
    "ingest": "jobs.prepare.ingest",
    "splits": "jobs.prepare.splits",
    "features": "jobs.prepare.features",
    "item_texts": "jobs.prepare.item_texts",
    "adapt": "jobs.llm.adapt",
    "llm_scores": "jobs.llm.llm_scores",
    "diagnostics": "jobs.tokens.diagnostics",
    "distil": "jobs.llm.distil",
    "codebook": "jobs.codebook.codebook",
    "labels": "jobs.llm.labels",
    "user_profiles": "jobs.codebook.user_profiles",
    "align": "jobs.collab.align",
    "control": "jobs.collab.control",
    "tune": "jobs.tokens.tune",
    "project": "jobs.tokens.project",
    "calibrate": "jobs.score.calibrate",
    "publish": "jobs.publish",
    "candidates": "jobs.score.candidates",
    "score": "jobs.score.ctr_scores",
    "report": "jobs.report.report",
    "check": "jobs.check",
    "previous": "jobs.previous",
    "promotions": "jobs.promotions",
    "maintain": "jobs.maintain",
}

# The chain in an order that one process after the other can take; the DAGs of a
# night hold the same edges for a scheduler that can do more at once; adapt is weekly_adapt's.
NIGHTLY = (
    "ingest",
    "splits",
    "features",
    "item_texts",
    "adapt",
    "distil",
    "codebook",
    "user_profiles",
    "align",
    "tune",
    "project",
    "calibrate",
    "publish",
    "candidates",
    "score",
    "report",
)
# These start from the version of the night before: their --previous-version.
AFTER_LAST_NIGHT = ("distil", "codebook", "align")

# These tune the LLM and make its soft tokens; a night without them serves the factors alone.
TUNING = ("adapt", "tune", "project")
# That a stage reads unless somebody asks: so the sample's night stays below ten minutes on two
# cores. A GPU reads an epoch.
TUNING_TOKENS = 8_000
JUDGED_ON_THE_WAY = 50_000  # tokens from which on valid rows are looked at before the end
# An adapter of stage 1 serves so many days before the next one is trained.
ADAPTER_DAYS = 7

# Run when somebody asks for them: no night needs them.
ON_DEMAND = ("llm_scores", "diagnostics", "labels", "control")

# Their image holds torch, and no DuckDB, FAISS or Airflow.
GPU = ("adapt", "distil", "align", "tune", "project", "score", *ON_DEMAND)
GROUPS = {"all": tuple(MODULES), "gpu": GPU}  # that a places file may name


def tuning_flags(tokens: int | None) -> dict[str, object]:
    """Flags of `adapt` and `tune` that read about `tokens` tokens: some 30 steps at the least.

    A budget past an epoch is an epoch. None and 0 give no flags: the jobs' own defaults. A small
    one is judged at its start and its end alone: valid rows would take longer than what is learned.
    """
    if not tokens:
        return {}
    step_tokens = min(4_000, max(512, tokens // 32))
    n_steps = tokens // step_tokens
    return {
        "max_tokens_total": tokens,
        "step_tokens": step_tokens,
        "eval_steps": max(2, n_steps // 2 if tokens >= JUDGED_ON_THE_WAY else 2 * n_steps),
        "valid_rows": min(10_000, max(200, tokens // 40)),
    }


def _flags(flags: dict[str, object]) -> list[str]:
    """`batch_tokens=512` as `--batch-tokens 512`; True is `--flag`, False `--no-flag`."""
    words: list[str] = []
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if value is True or value is False:
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def place(job: str) -> Place:
    """Where a job runs, by the file that TIDEMARK_PLACES names; None is this machine.

    Raises:
        PlacesError: the file is not usable.
    """
    return place_of(job, GROUPS)


def _words(job: str, flags: dict[str, object], *, is_one_stream: bool) -> list[str]:
    where = place(job)
    if isinstance(where, Pod):
        raise PlacesError(
            f"job '{job}' runs in a pod (place '{where.name}'), and this is a command line of this "
            "machine; run it by its DAG, or take TIDEMARK_PLACES out of the environment"
        )
    words = _flags(flags)
    if where is None:
        return [os.environ.get("JOBS_PYTHON") or sys.executable, "-m", MODULES[job], *words]
    return docker_run(where, job, MODULES[job], words, is_one_stream=is_one_stream)


def arguments(job: str, **flags: object) -> list[str]:
    """Argument list of a job, on this machine or in a container of it.

    `batch_tokens=512` becomes `--batch-tokens 512`. None leaves a flag out, True and False become
    `--flag` and `--no-flag`.

    Raises:
        PlacesError: the places file is not usable, or puts the job into a pod.
    """
    return _words(job, flags, is_one_stream=False)


def command(job: str, **flags: object) -> str:
    """Shell line that becomes the job itself: `exec` leaves no shell between it and a signal.

    Raises:
        PlacesError: as for `arguments`.
    """
    return "exec " + shlex.join(_words(job, flags, is_one_stream=True))


def pod_arguments(job: str) -> dict[str, Any] | None:
    """What `@task.kubernetes_cmd` needs for a job that runs in a pod; None for every other job.

    Raises:
        PlacesError: the places file, or the environment that it asks for, is not usable.
    """
    where = place(job)
    return operator_arguments(where, job) if isinstance(where, Pod) else None


def pod_command(job: str, **flags: object) -> list[str]:
    """Argument list inside the pod of a job: what a function under `@task.kubernetes_cmd` returns.

    Raises:
        PlacesError: the places file is not usable, or puts the job elsewhere.
    """
    where = place(job)
    if not isinstance(where, Pod):
        raise PlacesError(f"job '{job}' runs in no pod: TIDEMARK_PLACES does not say so")
    return inside_words(where, MODULES[job], _flags(flags))
