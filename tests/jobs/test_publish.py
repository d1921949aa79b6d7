"""The job publish: a healthy night moves production, a spoiled one is kept and passed by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embedding_store import EmbeddingStore
from jobs.check import check
from jobs.home import Home
from jobs.job import execute
from jobs.report import report as report_job
from jobs.score import candidates, ctr_scores
from tests.jobs.published_night import FIRST, SECOND, THIRD, night, publish, turn
from tests.report import tiny_night
from tests.report.tiny_night import DIM, N_ITEMS, Truth


@pytest.fixture
def truth() -> Truth:
    return tiny_night.planted()


@pytest.fixture
def production(home: Home, truth: Truth) -> EmbeddingStore:
    """A first night, in production."""
    night(home, FIRST, truth, turn=np.eye(DIM))
    assert publish(home, FIRST).manifest.result == {
        "version": 1,
        "promoted": True,
        "alias": "production",
    }
    return EmbeddingStore(home.store)


def spoiled(truth: Truth) -> Truth:
    """Users that the model has forgotten."""
    users = np.random.default_rng(5).normal(0, 1.2, truth.user_factors.shape).astype("f4")
    return Truth(users, truth.item_factors, truth.user_biases, 0 * truth.item_biases)


def test_a_healthy_second_night_is_promoted_and_aligned_with_the_first(home, truth, production):
    planted = turn(1)
    night(home, SECOND, truth, turn=planted)
    outcome = publish(home, SECOND)
    assert outcome.manifest.result["promoted"]
    version = production.open("production")
    assert (version.version, version.manifest.reviewed_against) == (2, 1)
    assert {gate.name for gate in version.manifest.gates} >= {
        "coverage.user_factors",
        "catalogue.item_semantics",
        "overlap.item_semantics",
        "recall.item_factors",
        "auc",
        "auc_change",
    }
    first = production.open(1)
    for name in ("user_factors", "item_factors"):
        assert version[name].map_to(1) == pytest.approx(first[name].vectors, abs=1e-5)
    assert outcome.manifest.metrics["n_gates_failed"] == 0
    assert outcome.manifest.metrics["gate.auc_change"] == pytest.approx(0, abs=1e-6)
    assert outcome.manifest.metrics["gate.overlap.item_semantics"] == 1
    assert version.manifest.index_of("item_factors").certificate.queries == "user_factors"
    assert production.alias_log("production")[-1].gates == version.manifest.gates


def test_a_spoiled_candidate_stays_readable_and_production_stays(home, truth, production):
    night(home, SECOND, spoiled(truth), turn=np.eye(DIM))
    outcome = publish(home, SECOND)
    result = outcome.manifest.result
    assert (result["version"], result["promoted"]) == (2, False)
    assert "auc_change" in result["why"]
    assert outcome.manifest.metrics["n_gates_failed"] >= 1
    assert production.aliases() == {"production": 1}
    refused = production.open(2)
    assert len(refused["item_factors"]) == N_ITEMS
    assert "auc_change" in {gate.name for gate in refused.manifest.refused}
    assert production.verify() == []


def test_after_a_refusal_the_chain_goes_on_with_the_candidate(home, truth, production):
    night(home, SECOND, spoiled(truth), turn=np.eye(DIM))
    version = publish(home, SECOND).manifest.result["version"]
    chosen = candidates.CandidatesConfig(version=version)
    execute("candidates", chosen, SECOND, home, candidates.job)
    check("candidates", SECOND, home)
    scored = execute("score", ctr_scores.ScoreConfig(version=version), SECOND, home, ctr_scores.job)
    assert scored.manifest.result["version"] == version
    assert report_job.ReportConfig(version=version).version == version


def test_the_night_after_a_refusal_is_compared_with_production(home, truth, production):
    night(home, SECOND, spoiled(truth), turn=np.eye(DIM))
    publish(home, SECOND)
    night(home, THIRD, truth, turn=turn(2))
    assert publish(home, THIRD).manifest.result["promoted"]
    assert production.open("production").manifest.reviewed_against == 1
    assert production.open(3)["item_factors"].map_to(1) == pytest.approx(
        production.open(1)["item_factors"].vectors, abs=1e-5
    )


def test_a_rerun_of_a_refused_night_does_nothing_and_looser_thresholds_publish_anew(
    home, truth, production
):
    night(home, SECOND, spoiled(truth), turn=np.eye(DIM))
    assert publish(home, SECOND).status == "done"
    again = publish(home, SECOND)
    assert (again.status, again.manifest.result["promoted"]) == ("unchanged", False)
    loose = publish(home, SECOND, max_auc_loss=1.0)
    assert loose.manifest.result == {"version": 3, "promoted": True, "alias": "production"}


def test_a_backfill_is_compared_with_what_stood_then_and_moves_nothing(home, truth, production):
    night(home, THIRD, truth, turn=turn(1))
    publish(home, THIRD)
    night(home, SECOND, truth, turn=turn(2))
    result = publish(home, SECOND).manifest.result
    assert (result["version"], result["promoted"]) == (3, False)
    assert "a backfill is published and not promoted" in result["why"]
    assert production.open(3).manifest.reviewed_against == 1
    assert production.open(3).manifest.refused == []


def test_a_version_that_waited_is_compared_once_more_with_what_took_its_place(
    home, truth, production
):
    night(home, SECOND, spoiled(truth), turn=np.eye(DIM))
    publish(home, SECOND, alias="staging")  # without a version to compare with, it passes
    assert production.aliases() == {"production": 1, "staging": 2}
    night(home, SECOND, truth, turn=turn(1))
    publish(home, SECOND, alias="staging", max_auc_loss=1.0)
    assert [one.version for one in production.alias_log("staging")] == [2, 3]
    # the run of version 2 once more, after `staging` has moved on to a better one
    night(home, SECOND, spoiled(truth), turn=np.eye(DIM))
    result = publish(home, SECOND, alias="staging").manifest.result
    assert (result["version"], result["promoted"]) == (2, False)
    assert "beside version 3, which 'staging' names since: auc_change" in result["why"]
    assert production.aliases()["staging"] == 3


def test_a_damaged_production_does_not_keep_a_healthy_night_out(home, truth, production):
    damaged = next(Path(home.store).rglob("item_factors.vec.arrow"))
    content = bytearray(damaged.read_bytes())
    content[-20] ^= 1
    damaged.write_bytes(content)
    night(home, SECOND, truth, turn=turn(1))
    assert publish(home, SECOND).manifest.result["promoted"]
    assert production.open("production").manifest.reviewed_against is None


def test_thresholds_are_flags_and_count_as_another_run(home, truth, production):
    night(home, SECOND, truth, turn=turn(1))
    result = publish(home, SECOND, min_recall=1.1).manifest.result
    assert not result["promoted"]
    assert "recall.item_factors" in result["why"]
