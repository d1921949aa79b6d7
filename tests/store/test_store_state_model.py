"""Every interleaving of small settings of the protocol, and mistakes that must show in them."""

from __future__ import annotations

import pytest
from state_model import Setting, explore

COMMIT = {"writers": (0, 1, 0), "promoting": False}  # two runs, and a retry of the first
READING = {"readers": 2, "promoter": True, "versions": 2}
ONE_READER = {**READING, "readers": 1}
TOGETHER = {"writers": (0,), "readers": 1, "versions": 1}


@pytest.mark.parametrize("setting", [COMMIT, READING, TOGETHER], ids=["commit", "read", "both"])
def test_nothing_goes_wrong_in_any_interleaving(setting):
    n_worlds, problem = explore(Setting(**setting))
    assert problem == ""
    assert n_worlds > 1_000


@pytest.mark.parametrize(
    ("setting", "mutant", "problem"),
    [
        (COMMIT, "walk without run-key check", "a run has two versions"),
        (COMMIT, "gc that does not fence", "a decided run has lost its files"),
        (
            ONE_READER,
            "gc without a look at leases",
            "a reader with a valid lease has lost its files",
        ),
        (ONE_READER, "reader that looks before its lease", "a reader with a valid lease has lost"),
        (
            ONE_READER,
            "late renewal without a look",
            "a reader with a valid lease has lost its files",
        ),
        (ONE_READER, "clock after the list", "a reader with a valid lease has lost its files"),
        (ONE_READER, "promotion that does not look back", "an acknowledged promotion is lost"),
        (ONE_READER, "gc that does not look at aliases again", "an acknowledged promotion is lost"),
    ],
)
def test_a_planted_mistake_is_found(setting, mutant, problem):
    _, found = explore(Setting(**setting, mutant=mutant))
    assert found.startswith(problem)
