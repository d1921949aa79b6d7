"""Runs jobs of the chain in this process, with their checks, for tests that need a home."""

from __future__ import annotations

import importlib
from datetime import date
from typing import get_type_hints

from jobs.check import check
from jobs.home import Home
from jobs.job import Outcome, execute
from jobs.launch import MODULES
from tests.conftest import DAY


def run_job(job: str, home: Home, day: date = DAY, **fields: object) -> Outcome:
    """One job of the chain with its checks; `fields` set its config."""
    module = importlib.import_module(MODULES[job])
    config_class = get_type_hints(module.job)["config"]
    outcome = execute(
        job,
        config_class(**fields),
        day,
        home,
        module.job,
        sources=getattr(module, "sources", None),
        intact=getattr(module, "intact", None),
    )
    check(job, day, home)
    return outcome
