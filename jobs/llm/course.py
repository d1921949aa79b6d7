"""A training run from its first step to its last: curve, early stop, checkpoints, resumption."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from torch import Tensor

from jobs.llm.checkpoints import Checkpoint, Checkpoints, grouped
from jobs.llm.schedule import Step, learning_rate, steps
from jobs.llm.training import Rows, StepDone, Trainer, TrainingConfig
from jobs.report.metrics import auc, uauc


class CourseConfig(TrainingConfig):
    """How long training goes on, and how often it is judged and written down."""

    epochs: int = Field(default=1, gt=0, description="passes over the train rows at most")
    max_tokens_total: int | None = Field(
        default=None, gt=0, description="tokens to train on at most; the step that reaches it ends"
    )
    eval_steps: int = Field(default=200, gt=0, description="steps between two valid AUCs")
    patience: int = Field(
        default=10, gt=0, description="valid AUCs without a better one before the end"
    )
    checkpoint_steps: int = Field(default=20, gt=0, description="steps between two checkpoints")


@dataclass(frozen=True)
class Point:
    """One row of ADAPT_CURVE."""

    step: int
    tokens: int
    seconds: float
    learning_rate: float
    train_loss: float | None
    valid_auc: float | None
    valid_uauc: float | None


@dataclass
class Course:
    """What has happened so far; a checkpoint holds all of it.

    Attributes:
        step: optimiser steps done.
        tokens: tokens read.
        seconds: time spent, over all processes that were killed and resumed.
        loss, n_answers: sums since the last point of the curve.
        curve: points so far.
        best_step: where valid AUC was highest; 0 before there is one.
        best_auc: that AUC.
        n_worse: evaluations since.
        best: the weights of `best_step`.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    n_answers: int = 0
    curve: list[Point] = field(default_factory=list)
    best_step: int = 0
    best_auc: float | None = None
    n_worse: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def read(self, step: Step, done: StepDone) -> None:
        """Count a step."""
        self.step, self.tokens = step.number, self.tokens + step.n_tokens
        self.loss, self.n_answers = self.loss + done.loss, self.n_answers + done.n_answers

    def judge(self, point: Point, weights: dict[str, Tensor]) -> None:
        """Add a point to the curve; without an AUC to compare, later weights are better."""
        self.curve.append(point)
        self.loss, self.n_answers = 0.0, 0
        if point.step == 0:
            return
        if point.valid_auc is None or self.best_auc is None or point.valid_auc > self.best_auc:
            self.best_step, self.best_auc, self.n_worse = point.step, point.valid_auc, 0
            self.best = weights
        else:
            self.n_worse += 1

    @property
    def mean_loss(self) -> float | None:
        """Mean over the answers since the last point."""
        return self.loss / self.n_answers if self.n_answers else None


class Fitted(NamedTuple):
    """How a run ended."""

    course: Course
    n_steps_planned: int
    batch_tokens: int  # in force at the end: less than asked for where memory fell short


Tell = Callable[[int, dict[str, float]], None]  # tokens just read, figures to show


def planned_steps(train: Rows, config: CourseConfig) -> list[Step]:
    """The steps of a whole run."""
    return steps(
        train.lengths,
        step_tokens=config.step_tokens,
        epochs=config.epochs,
        seed=config.seed,
        max_tokens=config.max_tokens_total,
    )


def fit(
    trainer: Trainer,
    train: Rows,
    valid: Rows,
    config: CourseConfig,
    checkpoints: Checkpoints,
    tell: Tell = lambda n_tokens, figures: None,
    on_point: Callable[[Point], None] = lambda point: None,
) -> Fitted:
    """Train to the end, from the newest checkpoint if there is one.

    On a CPU with one thread a resumed run has the weights of an undisturbed one, bit for bit.

    Args:
        trainer: model, weights that learn, optimiser.
        train: rows to learn from.
        valid: rows to stop on; without both classes there, training runs to the end of its plan.
        config: for how long.
        checkpoints: of this config on this data, and of no other.
        tell: told after each step.
        on_point: told after each evaluation.
    """
    planned = planned_steps(train, config)
    run = _Run(trainer, train, valid, config, checkpoints, len(planned), on_point)
    run.begin()
    tell(0, run.shown())
    for step in planned[run.course.step :]:
        if run.has_ended:
            break
        run.advance(step)
        tell(step.n_tokens, run.shown())
    return Fitted(run.course, len(planned), trainer.batch_tokens)


class _Run:
    """The state of `fit`."""

    def __init__(
        self,
        trainer: Trainer,
        train: Rows,
        valid: Rows,
        config: CourseConfig,
        checkpoints: Checkpoints,
        n_steps: int,
        on_point: Callable[[Point], None],
    ) -> None:
        self._trainer, self._train, self._valid = trainer, train, valid
        self._config, self._checkpoints, self._n_steps = config, checkpoints, n_steps
        self._on_point = on_point
        self._clock = time.monotonic()
        self.course = Course()
        self._last_loss: float | None = None

    def begin(self) -> None:
        """Take up the newest checkpoint that every process can read, or start."""
        processes, device = self._trainer.processes, self._trainer.device
        newest = self._checkpoints.newest() if processes.is_first else None
        step = processes.of_first(newest.step if newest else -1, device)
        if step < 0:
            self._judge()
            self._save()
            return
        found = newest or self._checkpoints.newest(step)
        assert found is not None, "processes on several machines need one folder for checkpoints"
        self._restore(found)

    def _restore(self, found: Checkpoint) -> None:
        facts = dict(found.facts["course"])
        curve = [Point(**point) for point in facts.pop("curve")]
        self.course = Course(**facts, curve=curve, best=found.group("best"))
        if self.course.step:
            self._trainer.restore(
                self.course.step,
                found.group("weights"),
                found.group("moment1"),
                found.group("moment2"),
                found.facts["batch_tokens"],
            )

    @property
    def has_ended(self) -> bool:
        """Whether valid AUC has not become better for long enough."""
        return self.course.n_worse >= self._config.patience

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        return learning_rate(
            step,
            self._n_steps,
            peak=self._config.learning_rate,
            warmup_steps=self._config.warmup_steps,
            floor=self._config.min_learning_rate,
        )

    def advance(self, step: Step) -> None:
        """One step, and what falls due after it."""
        done = self._trainer.step(step, self._train, self.rate(step.number))
        self._last_loss = done.loss / max(done.n_answers, 1)
        self.course.read(step, done)
        is_last = step.number == self._n_steps
        if is_last or step.number % self._config.eval_steps == 0:
            self._judge()
        if is_last or self.has_ended or step.number % self._config.checkpoint_steps == 0:
            self._save()

    def _judge(self) -> None:
        course = self.course
        valid_auc, valid_uauc = self._aucs()
        self._spend()
        point = Point(
            step=course.step,
            tokens=course.tokens,
            seconds=course.seconds,
            learning_rate=self.rate(course.step) if course.step else 0.0,
            train_loss=course.mean_loss,
            valid_auc=valid_auc,
            valid_uauc=valid_uauc,
        )
        course.judge(point, self._trainer.weights())
        self._on_point(point)

    def _aucs(self) -> tuple[float | None, float | None]:
        logits = self._valid.with_offsets(self._trainer.score(self._valid))
        scored = np.flatnonzero(~np.isnan(logits))
        labels, users = self._valid.labels[scored], self._valid.users[scored]
        return auc(labels, logits[scored]), uauc(users, labels, logits[scored])[0]

    def _spend(self) -> None:
        now = time.monotonic()
        self.course.seconds += now - self._clock
        self._clock = now

    def _save(self) -> None:
        if not self._trainer.processes.is_first:
            return
        self._spend()
        first, second = self._trainer.moments()
        config, course = self._config, self.course
        facts = {f.name: getattr(course, f.name) for f in fields(course) if f.name != "best"}
        facts["curve"] = [asdict(point) for point in course.curve]
        self._checkpoints.save(
            Checkpoint(
                course.step,
                {
                    "course": facts,
                    "is_finished": self.has_ended or course.step == self._n_steps,
                    "batch_tokens": self._trainer.batch_tokens,
                    # The order of an epoch and the dropout of a step are drawn from these.
                    "sampler": {"seed": config.seed, "next_step": course.step + 1},
                    "random": {"seed": config.seed, "next_step": course.step + 1},
                },
                grouped(
                    weights=self._trainer.learned,
                    moment1=first,
                    moment2=second,
                    best=course.best,
                ),
            )
        )

    def shown(self) -> dict[str, float]:
        """What a person who waits wants to see."""
        figures: dict[str, Any] = {
            "step": self.course.step,
            "loss": self._last_loss,
            "valid_auc": self.course.curve[-1].valid_auc if self.course.curve else None,
            "best": self.course.best_auc,
        }
        return {name: value for name, value in figures.items() if value is not None}
