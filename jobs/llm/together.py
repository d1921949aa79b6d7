"""One job in several processes: the first runs it as ever, the others help and write nothing."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TypeVar

import torch

from jobs.command_line import parse
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import EXIT_FAILED, Config, Declared, Job, Run, main
from jobs.llm.backbone import chosen_device
from jobs.llm.processes import Processes, connected, from_environment

C = TypeVar("C", bound=Config)
_STAY, _GO = 0, 1


def lead_or_follow(declared: Declared[C]) -> None:
    """`jobs.job.main` for a job that torchrun or accelerate may start in several processes.

    The first process takes the lock, compares with the last manifest and writes. The others wait
    until it calls the job, then run the job on a `Run` that only reads; if there is nothing to do,
    or the run is refused, they end without a word.
    """
    processes = from_environment()
    if processes.n == 1:
        main(declared)
        return
    name, job = declared.name, declared.job
    can_estimate = declared.estimate is not None
    asked = parse(name, declared.config_class, sys.argv[1:], can_estimate=can_estimate)
    device = _device(getattr(asked.config, "device", "auto"), processes)
    with connected(processes, device):
        if not processes.is_first:
            if processes.of_first(_STAY, device) == _GO:
                _follow(job, asked.config, Run(name, asked.day, asked.config, _home()))
            return
        called = False

        def leading(config: C, run: Run) -> None:
            nonlocal called
            called = processes.of_first(_GO, device) == _GO
            job(config, run)

        try:
            main(replace(declared, job=leading))
        finally:
            if not called:
                processes.of_first(_STAY, device)


def _home() -> Home:
    return Home.from_environment()


def _device(device: str, processes: Processes) -> torch.device:
    chosen = chosen_device(device)
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", processes.local_rank)
    return chosen


def _follow(job: Job[C], config: C, run: Run) -> None:
    try:
        job(config, run)
    except JobError as error:
        # The first process says the same, unless it is this machine's own trouble.
        sys.stderr.write(f"{run.job} {run.day}: {error}\n")
        sys.exit(EXIT_FAILED)
