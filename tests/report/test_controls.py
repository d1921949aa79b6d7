from __future__ import annotations

import numpy as np
import pytest

from jobs.report.controls import controls, smoothed_mean
from jobs.report.metrics import auc, ndcg, paired_user_bootstrap, uauc


def test_a_mean_is_drawn_to_the_global_mean_by_k_rows():
    means = smoothed_mean(["x", "x", "y", "z"], [1, 1, 0, 0], ["x", "y", "new"], k=5)
    assert means == pytest.approx([(2 + 5 * 0.5) / 7, (0 + 5 * 0.5) / 6, 0.5])


def test_without_training_rows_there_is_no_control():
    with pytest.raises(ValueError, match="no training rows"):
        smoothed_mean([], [], ["x"])


def test_a_key_beyond_every_known_key_gets_the_global_mean():
    assert smoothed_mean([1, 2], [1, 0], [99, 0]) == pytest.approx([0.5, 0.5])


def test_probabilities_of_the_summed_means_stay_inside_zero_and_one():
    found = {c.name: c for c in controls(["u"] * 50, ["i"] * 50, [1] * 50, ["u", "v"], ["i", "j"])}
    assert found["item_user_mean"].probabilities.max() < 1
    assert found["item_user_mean"].scores == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize(
    ("split", "control", "expected_auc", "expected_uauc", "n_users", "expected_ndcg"),
    [
        ("valid", "item_mean", 0.6901, 0.6883, 282, 0.868),
        ("test", "item_mean", 0.7094, 0.6816, 224, 0.867),
        ("test", "item_user_mean", 0.7317, 0.6816, 224, 0.867),
        ("test", "global_mean", 0.5, 0.5, 224, 0.817),
    ],
)
def test_the_controls_have_their_known_answers_on_movielens(
    reference_split, split, control, expected_auc, expected_uauc, n_users, expected_ndcg
):
    train, rows = reference_split["train"], reference_split[split]
    scores = {
        c.name: c.scores
        for c in controls(
            train["user_id"], train["item_id"], train["label"], rows["user_id"], rows["item_id"]
        )
    }[control]
    assert auc(rows["label"], scores) == pytest.approx(expected_auc, abs=5e-5)
    value, counted = uauc(rows["user_id"], rows["label"], scores)
    assert (round(value, 4), counted) == (expected_uauc, n_users)
    assert ndcg(rows["user_id"], rows["label"], scores) == pytest.approx(expected_ndcg, abs=5e-4)


def test_on_movielens_the_user_mean_adds_to_auc_and_nothing_to_uauc(reference_split):
    train, rows = reference_split["train"], reference_split["test"]
    both, item, _ = controls(
        train["user_id"], train["item_id"], train["label"], rows["user_id"], rows["item_id"]
    )
    paired = paired_user_bootstrap(
        rows["user_id"], rows["label"], both.scores, item.scores, n=1000, seed=0
    )
    assert paired.auc.value == pytest.approx(0.0223, abs=5e-5)
    assert 0 < paired.auc.low < paired.auc.high < 0.05
    assert np.abs([paired.uauc.low, paired.uauc.high]).max() < 1e-9
