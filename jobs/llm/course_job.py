"""What jobs that train have in common: progress, checkpoints of a day, the curve, the figures."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.datasets import Dataset
from jobs.job import Run, load_manifest
from jobs.llm.checkpoints import Checkpoints
from jobs.llm.course import CourseConfig, Fitted, Point, fit, planned_steps
from jobs.llm.estimate import peak_memory_bytes
from jobs.llm.training import Rows, Trainer
from jobs.progress import progress


def checkpoints_of(run: Run, key: str) -> Checkpoints:
    """Checkpoints of everything that `key` stands for."""
    return Checkpoints(_folder(run) / key)


def _folder(run: Run) -> Path:
    return run.home.run(run.job, run.day) / "checkpoints"


def forget_others(run: Run, key: str) -> None:
    """Remove the checkpoints of other configs and inputs: the run has ended."""
    for folder in _folder(run).iterdir():
        if folder.name != key:
            shutil.rmtree(folder, ignore_errors=True)


def fit_and_tell(
    run: Run,
    trainer: Trainer,
    train: Rows,
    valid: Rows,
    config: CourseConfig,
    checkpoints: Checkpoints,
) -> Fitted:
    """`fit`; the first of the processes shows its progress and logs each evaluation."""
    if not trainer.processes.is_first:
        return fit(trainer, train, valid, config, checkpoints)
    n_read = _resumable(run, checkpoints)
    n_tokens = sum(step.n_tokens for step in planned_steps(train, config))

    def on_point(point: Point) -> None:
        said = {name: value for name, value in asdict(point).items() if value is not None}
        run.log.info("judged", **{name: round(value, 5) for name, value in said.items()})

    with progress(run.job, n_tokens - n_read, "tokens") as advance:
        return fit(
            trainer, train, valid, config, checkpoints, lambda n, s: advance(n, **s), on_point
        )


def _resumable(run: Run, checkpoints: Checkpoints) -> int:
    """Tokens that an earlier, unfinished run has read.

    A run that ended is not resumed: --force asks for all of the work again.
    """
    last = load_manifest(run.home, run.job, run.day)
    newest = checkpoints.newest()
    if newest is None:
        return 0
    if (
        newest.facts["is_finished"]
        and last
        and last.result.get("checkpoints") == checkpoints.folder.name
    ):
        checkpoints.clear()
        return 0
    run.log.info("going on from a checkpoint", step=newest.step)
    return int(newest.facts["course"]["tokens"])


def curve_table(dataset: Dataset, points: list[Point]) -> pa.Table:
    """The curve as a table, for instance ADAPT_CURVE."""
    types = {"step": pa.int32(), "tokens": pa.int64()}
    return pa.table(
        {
            name: pa.array(
                [getattr(point, name) for point in points], types.get(name, pa.float64())
            )
            for name in dataset.columns or {}
        }
    )


def say_what(run: Run, trainer: Trainer, files: Any, train: Rows, valid: Rows) -> None:
    """What is about to be trained, in the log."""
    run.log.info(
        f"{run.job} begins",
        backbone=files.name,
        fingerprint=files.fingerprint[:12],
        device=str(trainer.device),
        dtype=str(trainer.model.dtype).removeprefix("torch."),
        processes=trainer.processes.n,
        learned=sum(weight.numel() for weight in trainer.learned.values()),
        train_rows=train.n_answers,
        train_tokens=sum(train.lengths),
        valid_rows=valid.n_answers,
    )


def measure(run: Run, trainer: Trainer, train: Rows, fitted: Fitted) -> None:
    """Figures of the run, into its manifest."""
    course = fitted.course
    best = next(point for point in course.curve if point.step == course.best_step)
    figures = {
        "n_train_rows": train.n_answers,
        "n_train_tokens": course.tokens,
        "n_steps": course.step,
        "best_step": course.best_step,
        "valid_auc_before": course.curve[0].valid_auc,
        "valid_auc": best.valid_auc,
        "valid_uauc": best.valid_uauc,
        "tokens_per_s": course.tokens / max(course.seconds, 1e-9),  # evaluations included
        "batch_tokens": fitted.batch_tokens,
        "peak_memory_bytes": peak_memory_bytes(trainer.device),
    }
    for name, value in figures.items():
        if value is not None:
            run.metric(name, value)
