"""A whole backtest: outcomes first, then night after night in a worker, then the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import structlog
from rich.console import Console

from jobs.bench.backtest.beside import title_of
from jobs.bench.backtest.figures import BacktestFigures, judged
from jobs.bench.backtest.nights import refuse_unknown
from jobs.bench.backtest.outcomes import find_outcomes, outcomes
from jobs.bench.backtest.page import render
from jobs.bench.backtest.plan import Folder, Plan
from jobs.bench.backtest.scores import CONTROL_TITLES, MODEL
from jobs.errors import AlreadyRunning, JobError
from jobs.files import write_atomically
from jobs.home import Home
from jobs.lock import take_lock
from jobs.report.metrics import auc


class NightFailed(JobError):
    """A night of the period could not be run."""


def planned(
    home: Home, root: Path | None, source_ends: Callable[[], date], **fields: object
) -> tuple[Plan, Folder]:
    """The plan that a command asks for, and its folder.

    Args:
        home: of the warehouse.
        root: the backtest's folder; below `backtests/` of the home by default.
        source_ends: the first day that knows all of the source; asked if `known_by` is None, and
            no earlier call has settled it. A source that has grown since leaves a plan as it is.
        fields: of the plan.

    Raises:
        JobError: a value that no plan can have.
    """
    given = {**fields, "known_by": fields["known_by"] or date.max}
    folder = Folder((root or home.root / "backtests" / Plan.of(**given).name).absolute())
    if fields["known_by"] is None:
        given["known_by"] = folder.plan().known_by if folder.is_begun else source_ends()
    return Plan.of(**given), folder


def backtest(
    plan: Plan, folder: Folder, home: Home, console: Console, *, keep_going: bool = False
) -> BacktestFigures:
    """Replay the nights of `plan` that are not done yet and judge all that are.

    Args:
        plan: what to replay.
        folder: its own; a call after a kill or a failure goes on there.
        home: the home of the warehouse; only its cache of backbones is shared.
        console: for the course of it.
        keep_going: a night that fails is passed over, and the version before serves its days.

    Raises:
        NightFailed: a night failed; the days before it are judged and written.
        JobError: the folder is another backtest's, or the period has no events.
    """
    refuse_unknown(plan.settings)
    with _alone(folder):
        folder.begin(plan, home.cache)
        if not folder.requests.is_file():
            console.print("bringing in the events of the period", style="dim")
            find_outcomes(plan, folder)
        failure = _run_nights(plan, folder, console, keep_going=keep_going)
        figures = judged(plan, folder)
        write_atomically(folder.result, figures.model_dump_json(indent=2) + "\n")
        write_atomically(folder.page, render(figures))
        if failure:
            raise NightFailed(failure)
        return figures


def known_systems(names: Sequence[str]) -> tuple[str, ...]:
    """The systems that were named, if the bench has them.

    Raises:
        JobError: it has not, or the system is a control of every backtest.
    """
    for name in names:
        if name in CONTROL_TITLES:
            raise JobError(f"--beside {name}: it is a control of every backtest; leave it out")
        title_of(name)
    return tuple(dict.fromkeys(names))


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    folder.root.mkdir(parents=True, exist_ok=True)
    try:
        lock = take_lock(folder.root / "lock", 0.0, structlog.get_logger())
    except AlreadyRunning as error:
        raise AlreadyRunning(f"this backtest is already running in {folder.root}") from error
    with lock:
        yield


# -- the worker ----------------------------------------------------------------------------------


def _environment(folder: Folder) -> dict[str, str]:
    """The worker's: TIDEMARK_STORE may name the production store, so it is not handed on."""
    given = {name: value for name, value in os.environ.items() if name != "TIDEMARK_STORE"}
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    return {**defaults, **given, "TIDEMARK_HOME": str(folder.nights.root)}


def _run_nights(plan: Plan, folder: Folder, console: Console, *, keep_going: bool) -> str:
    """Run what is not done; why the last night failed, or nothing."""
    left = [night for night in plan.nights() if not folder.record(night).is_file()]
    if not left:
        return ""
    words = [sys.executable, "-m", "jobs.bench.backtest.worker", str(folder.root)]
    course = _Course(plan, folder, console, len(left))
    with (
        folder.log.open("a", encoding="utf-8") as log,
        subprocess.Popen(
            [*words, "--keep-going"] if keep_going else words,
            env=_environment(folder),
            stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        failure = ""
        for line in process.stdout:
            failure = course.told(json.loads(line))
    if process.returncode and not failure:
        undone = next(n for n in plan.nights() if not folder.record(n).is_file())
        failure = (
            f"the night of {undone}: its process ended with status {process.returncode}; the end "
            f"of {folder.log} may say why; the same command goes on with that night"
        )
    return failure


class _Course:
    """Says how each night went, the AUC so far, and how long the rest will take."""

    def __init__(self, plan: Plan, folder: Folder, console: Console, n_left: int) -> None:
        self._plan, self._folder, self._console = plan, folder, console
        self._n_left, self._n_done, self._started = n_left, 0, time.monotonic()
        rows = outcomes(plan, folder)
        self._labels = dict(zip(rows["row"].to_pylist(), rows["label"].to_pylist(), strict=True))
        self._scored: list[tuple[np.ndarray, np.ndarray]] = []
        for night in plan.nights():
            if folder.record(night).is_file():
                self._take(night)

    def told(self, event: dict[str, Any]) -> str:
        """Say what the worker said; a failure, if it was one."""
        if "failed" in event:
            return (
                f"the night of {event['failed']}: {event['why']}\nthe nights before it are kept; "
                "the same command tries it again and goes on, --keep-going passes over it"
            )
        night, record = date.fromisoformat(event["night"]), event["record"]
        n_rows = self._take(night)
        self._n_done += 1
        left_s = (time.monotonic() - self._started) / self._n_done * (self._n_left - self._n_done)
        how = f"version {record['published']}"
        if record["why_not_promoted"]:
            how += f" (not promoted: {record['why_not_promoted']})"
        if record["why_failed"]:
            how = f"failed: {record['why_failed']}"
        so_far = self._auc()
        self._console.print(
            f"{night}: {how}, {n_rows:,} rows, AUC so far "
            f"{'not defined' if so_far is None else f'{so_far:.4f}'}, "
            f"{sum(record['seconds'].values()):.1f} s, {self._n_done}/{self._n_left}, "
            f"{left_s / 60:.0f} min left",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return ""

    def _take(self, night: date) -> int:
        path = self._folder.scores(night)
        if not path.is_file():
            return 0
        rows = pq.read_table(path, columns=["row", MODEL])
        labels = np.array([self._labels[row] for row in rows["row"].to_pylist()], dtype=np.int8)
        self._scored.append((labels, rows[MODEL].to_numpy()))
        return len(labels)

    def _auc(self) -> float | None:
        if not self._scored:
            return None
        labels, scores = (np.concatenate(column) for column in zip(*self._scored, strict=True))
        return auc(labels, scores)
