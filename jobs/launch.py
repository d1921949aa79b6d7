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
    "diagnostics": "jobs.llm.diagnostics",
    "distil": "jobs.llm.distil",
    "codebook": "jobs.codebook.codebook",
    "labels": "jobs.llm.labels",
    "user_profiles": "jobs.codebook.user_profiles",
    "align": "jobs.collab.align",
    "project": "jobs.tokens.project",
    "publish": "jobs.publish",
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
    "distil",
    "codebook",
    "user_profiles",
    "align",
    "project",
    "publish",
    "score",
    "report",
)
# These start from the version of the night before: their --previous-version.
AFTER_LAST_NIGHT = ("distil", "codebook", "align")

# Run when somebody asks for them: no night needs them.
ON_DEMAND = ("adapt", "llm_scores", "diagnostics", "labels")


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
