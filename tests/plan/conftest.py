"""A small domain whose nights run in this process, with a backbone of two random layers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pytest

from jobs.home import Home
from jobs.launch import NIGHTLY
from jobs.plan.page import Plan, planned
from jobs.plan.steps import flags_of_night
from tests.chain.test_string_ids import AS_OF, write_games
from tests.in_process import run_job
from tests.tiny_backbone import write_tiny_backbone


@dataclass(frozen=True)
class Games:
    """A source, a backbone, and the home of their nights."""

    home: Home
    source: Path  # the folder
    model: Path

    def plan(self, day: date = AS_OF, *, force: bool = False, tokens: int = 0) -> Plan:
        night = flags_of_night(
            day, self.home, source=str(self.source), model=str(self.model), tokens=tokens
        )
        return planned(night, self.home, force=force)

    def run(self, day: date = AS_OF) -> dict[str, str]:
        """The chain, as `jobs.chain` runs it; what each job says of itself: done or unchanged."""
        night = flags_of_night(
            day, self.home, source=str(self.source), model=str(self.model), tokens=0
        )
        said: dict[str, str] = {}
        version = None
        for job in NIGHTLY:
            if night.why_left_out(job):
                continue
            given = {k: v for k, v in night.of(job, version).items() if v is not None}
            outcome = run_job(job, self.home, day, **given)
            said[job] = outcome.status
            if job == "publish":
                version = outcome.manifest.result["version"]
        return said


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Games:
    """Before its first night."""
    folder = tmp_path_factory.mktemp("games")
    write_games(folder / "games")
    model = write_tiny_backbone(folder / "backbone")
    return Games(Home(folder / "home"), folder / "games", model)
