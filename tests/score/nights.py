"""Steps of a tiny night that the tests of scoring share."""

from __future__ import annotations

from typing import Any

from jobs.check import check
from jobs.home import Home
from jobs.job import Outcome, execute
from jobs.score import candidates, ctr_scores
from tests.conftest import DAY


def choose(home: Home, version: int, **fields: Any) -> Outcome:
    """Run the job `candidates` and its checks."""
    outcome = execute(
        "candidates",
        candidates.CandidatesConfig(version=version, **fields),
        DAY,
        home,
        candidates.job,
        sources=candidates.sources,
        intact=ctr_scores.is_of_the_same_version,
    )
    check("candidates", DAY, home)
    return outcome


def score(home: Home, version: int, *, force: bool = False, **fields: Any) -> Outcome:
    """Run the job `score` on what `choose` chose."""
    return execute(
        "score",
        ctr_scores.ScoreConfig(version=version, **fields),
        DAY,
        home,
        ctr_scores.job,
        sources=ctr_scores.sources,
        intact=ctr_scores.is_of_the_same_version,
        force=force,
    )
