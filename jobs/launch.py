"""A job's command line as one string, for schedulers. Standard library only: DAGs import it."""

from __future__ import annotations

import os
import shlex
import sys

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
}

# The chain in an order that one process after the other can take; dags/nightly_embeddings.py
# holds the same edges for a scheduler that can do more at once.
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
TUNING_TOKENS = 0  # that a stage reads unless somebody asks: a GPU reads an epoch, a CPU 20,000
# An adapter of stage 1 serves so many days before the next one is trained.
ADAPTER_DAYS = 7

# Run when somebody asks for them: no night needs them.
ON_DEMAND = ("llm_scores", "diagnostics", "labels", "control")


def tuning_flags(tokens: int) -> dict[str, object]:
    """Flags of `adapt` and `tune` that read about `tokens` tokens: some 30 steps at the least.

    A budget past an epoch is an epoch.
    """
    step_tokens = min(4_000, max(512, tokens // 32))
    return {
        "max_tokens_total": tokens,
        "step_tokens": step_tokens,
        "eval_steps": max(2, tokens // step_tokens // 2),
        "valid_rows": min(10_000, max(200, tokens // 40)),
    }


def arguments(job: str, **flags: object) -> list[str]:
    """Argument list of a job: `batch_tokens=512` becomes `--batch-tokens 512`.

    None leaves a flag out, True and False become `--flag` and `--no-flag`.
    """
    words = [os.environ.get("JOBS_PYTHON") or sys.executable, "-m", MODULES[job]]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if value is True or value is False:
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def command(job: str, **flags: object) -> str:
    """Shell line that becomes the job itself: `exec` leaves no shell between it and a signal."""
    return "exec " + shlex.join(arguments(job, **flags))
