"""Click-through gates: which rows judge, and when a version is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from embedding_store.lookup import open_version
from jobs.home import Home
from jobs.report.metrics import auc
from jobs.score.ctr_gate import LabelledRows, click_through_gates, last_labelled_rows
from tests.conftest import DAY
from tests.report import tiny_night
from tests.report.tiny_night import Truth


def rows(*days: tuple[str, str, int]) -> pa.Table:
    """(split, day, how many rows) one after the other."""
    splits = [split for split, _, n in days for _ in range(n)]
    times = [f"{day}T12:00:00" for _, day, n in days for _ in range(n)]
    rated_at = pa.array(np.array(times, "datetime64[us]"))
    return pa.table({"split": splits, "rated_at": rated_at})


def days_of(labelled: LabelledRows) -> list[str]:
    days = labelled.rows["rated_at"].cast(pa.date32())
    return sorted(str(day) for day in pc.unique(days).to_pylist())


def test_the_last_labelled_day_judges_if_it_has_rows_enough():
    found = last_labelled_rows(
        rows(("valid", "2026-02-01", 9), ("test", "2026-02-27", 5), ("test", "2026-02-28", 4)), 4
    )
    assert days_of(found) == ["2026-02-28"]
    assert found.says == "4 rows of 2026-02-28"


def test_days_before_join_whole_until_there_are_rows_enough():
    found = last_labelled_rows(
        rows(("valid", "2026-02-01", 9), ("test", "2026-02-27", 5), ("test", "2026-02-28", 4)), 6
    )
    assert days_of(found) == ["2026-02-27", "2026-02-28"]
    assert found.says == "9 rows of 2026-02-27 to 2026-02-28"


def test_rows_that_a_version_was_fitted_on_never_judge():
    found = last_labelled_rows(rows(("train", "2026-02-28", 50), ("valid", "2026-02-01", 3)), 100)
    assert days_of(found) == ["2026-02-01"]
    none = last_labelled_rows(rows(("train", "2026-02-28", 50)), 1)
    assert none.rows.num_rows == 0
    assert none.says == "there are no labelled rows outside train"


# -- versions ------------------------------------------------------------------------------------


def changed(truth: Truth, **arrays: np.ndarray) -> Truth:
    return Truth(**{**vars(truth), **arrays})


@pytest.fixture
def night(home: Home) -> tuple[Home, Truth, pa.Table]:
    """A version of the planted model, and the rows that it was planted for."""
    truth, version = tiny_night.prepare(home, DAY)
    assert version == 1
    return home, truth, tiny_night.splits(truth, (), as_text=False)


def gates(home: Home, splits: pa.Table, candidate: int, reference: int | None, **bounds: float):
    labelled = last_labelled_rows(splits, 200)
    versions = [open_version(home.store, n) if n else None for n in (candidate, reference)]
    found = click_through_gates(
        labelled, *versions, **{"min_auc": 0.5, "max_auc_loss": 0.01, **bounds}
    )
    return {gate.name: gate for gate in found}


def test_the_first_version_is_judged_alone(night):
    home, truth, splits = night
    found = gates(home, splits, 1, None)
    assert found["auc"].passed
    assert (found["auc_change"].passed, found["auc_change"].value) == (True, None)
    held = last_labelled_rows(splits, 200).rows
    users, items = (held[name].to_numpy() // 10 for name in ("user_id", "item_id"))
    expected = auc(held["label"].to_numpy(), truth.logits(users, items))
    assert f"{expected:+.4f}" in found["auc"].says  # by the definition, from the planted model
    assert f"on {held.num_rows} rows of" in found["auc"].says


def test_the_same_model_again_loses_nothing(night):
    home, truth, splits = night
    tiny_night.publish(home, DAY, truth, as_text=False, run_key="two")
    change = gates(home, splits, 2, 1)["auc_change"]
    assert (change.passed, change.value) == (True, 0.0)
    assert "against version 1" in change.says


def test_a_model_that_forgot_its_users_is_refused_beside_a_good_one(night):
    home, truth, splits = night
    random = np.random.default_rng(5)
    users = random.normal(0, 1.2, truth.user_factors.shape).astype(np.float32)
    spoiled = changed(truth, user_factors=users, item_biases=0 * truth.item_biases)
    tiny_night.publish(home, DAY, spoiled, as_text=False, run_key="two")
    found = gates(home, splits, 2, 1)
    assert not found["auc_change"].passed
    assert found["auc_change"].value < -0.01
    assert gates(home, splits, 2, 1, max_auc_loss=1.0)["auc_change"].passed
    assert gates(home, splits, 1, 2)["auc_change"].passed  # the other way is a gain


def test_a_model_with_its_sign_turned_is_refused_without_another(night):
    home, truth, splits = night
    turned = Truth(
        *(-array for array in (truth.user_factors, truth.item_factors)),
        *(-array for array in (truth.user_biases, truth.item_biases)),
    )
    spoiled = changed(turned, item_factors=truth.item_factors)  # p becomes -p, q stays
    tiny_night.publish(home, DAY, spoiled, as_text=False, run_key="two")
    found = gates(home, splits, 2, None)["auc"]
    assert not found.passed
    assert found.value < 0.5


def test_too_little_to_judge_by_is_said_and_refuses_nothing(night):
    home, _, splits = night
    for few in (splits.slice(0, 0), splits.filter(pc.equal(splits["label"], 1))):
        for gate in gates(home, few, 1, 1).values():
            assert (gate.passed, gate.value) == (True, None)
            assert "too little to judge by" in gate.says


def test_a_version_of_another_kind_cannot_be_compared_and_refuses_nothing(night):
    home, truth, splits = night
    tiny_night.publish(home, DAY, truth, as_text=True, run_key="two")
    change = gates(home, splits, 1, 2)["auc_change"]
    assert (change.passed, change.value) == (True, None)
    assert "not comparable: version 2 has user_id as string" in change.says
