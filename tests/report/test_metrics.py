from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from jobs.report.metrics import (
    auc,
    auc_by_user,
    calibration,
    ece,
    log_loss,
    ndcg,
    paired_user_bootstrap,
    uauc,
    user_bootstrap,
)

# Three users by hand. "a": positives .9 and .4, negative .6, so one of two pairs is right.
# "b": positive .5 ties with its negative: one half. "c": a single class, "d": a single row.
USERS = np.array(["a", "b", "a", "c", "a", "b", "c", "d"])
LABELS = np.array([1, 1, 0, 1, 1, 0, 1, 0])
SCORES = np.array([0.9, 0.5, 0.6, 0.2, 0.4, 0.5, 0.8, 0.1])


def test_auc_counts_pairs_in_the_right_order_and_ties_as_one_half():
    # Positives .9 .5 .2 .4 .8 against negatives .6 .5 .1: 3 + 1.5 + 1 + 1 + 3 of 15 pairs.
    assert auc(LABELS, SCORES) == pytest.approx(9.5 / 15)


def test_auc_of_a_single_class_or_of_nothing_is_none():
    assert auc([1, 1, 1], [0.1, 0.2, 0.3]) is None
    assert auc([0], [0.1]) is None
    assert auc([], []) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=2, max_size=40))
@settings(deadline=None)
def test_auc_equals_sklearn_with_and_without_ties(rows):
    labels, scores = np.array(rows).T
    if len(set(labels)) == 2:
        assert auc(labels, scores) == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores))
    else:
        assert auc(labels, scores) is None


def test_a_score_that_is_not_finite_is_named():
    with pytest.raises(ValueError, match="score 1 is not finite"):
        auc([0, 1], [0.5, np.nan])


def test_a_label_that_is_neither_0_nor_1_is_refused():
    with pytest.raises(ValueError, match="expected 0 and 1"):
        auc([0, 5], [0.5, 0.6])


def test_uauc_is_the_plain_mean_over_users_with_both_classes():
    assert uauc(USERS, LABELS, SCORES) == (pytest.approx((1 / 2 + 1 / 2) / 2), 2)
    assert uauc(USERS, LABELS, -SCORES) == (pytest.approx(1 / 2), 2)
    better = SCORES.copy()
    better[4] = 0.7
    assert uauc(USERS, LABELS, better) == (pytest.approx((1 + 1 / 2) / 2), 2)


def test_uauc_is_none_when_no_user_counts():
    assert uauc(["a", "b"], [1, 0], [0.3, 0.4]) == (None, 0)
    assert uauc([], [], []) == (None, 0)


def test_users_may_be_integers_or_strings():
    numbers = np.unique(USERS, return_inverse=True)[1] * 1_000
    assert uauc(numbers, LABELS, SCORES) == uauc(USERS, LABELS, SCORES)
    assert ndcg(numbers, LABELS, SCORES) == ndcg(USERS.astype(object), LABELS, SCORES)


def test_auc_by_user_equals_sklearn_user_by_user():
    random = np.random.default_rng(3)
    users, labels = random.integers(0, 40, 600), random.integers(0, 2, 600)
    scores = np.round(random.normal(size=600), 1)
    places, values = auc_by_user(users, labels, scores)
    expected = {
        u: sklearn_metrics.roc_auc_score(labels[users == u], scores[users == u])
        for u in np.unique(users)
        if len(set(labels[users == u])) == 2
    }
    assert np.unique(users)[places].tolist() == list(expected)
    assert values == pytest.approx(list(expected.values()))


def test_ndcg_by_hand():
    # "a" ranks 1 0 1: (1 + 1/2) / (1 + 1/log2 3). "b" ties and keeps the order of its rows, the
    # positive first: 1. "c" and "d" hold one class.
    of_a = 1.5 / (1 + 1 / np.log2(3))
    assert ndcg(USERS, LABELS, SCORES) == pytest.approx((of_a + 1) / 2)


def test_ndcg_is_none_when_no_user_counts():
    assert ndcg(["a"], [1], [0.3]) is None
    assert ndcg([], [], []) is None


def test_log_loss_equals_sklearn():
    probabilities = np.array([0.9, 0.5, 0.6, 0.2, 0.4, 0.5, 0.8, 0.1])
    assert log_loss(LABELS, probabilities) == pytest.approx(
        sklearn_metrics.log_loss(LABELS, probabilities)
    )


def test_log_loss_of_a_certain_and_wrong_row_is_finite():
    assert log_loss([1], [0.0]) == pytest.approx(-np.log(1e-7))
    assert log_loss([], []) is None


def test_calibration_by_hand():
    bins = calibration([1, 0, 1, 1], [0.11, 0.19, 0.95, 1.0], n_bins=10)
    assert bins.n_rows.tolist() == [2, 2]
    assert bins.predicted == pytest.approx([0.15, 0.975])
    assert bins.observed == pytest.approx([0.5, 1.0])
    # Wilson's interval for 1 of 2 and 2 of 2, from its closed form.
    z2 = 1.959963984540054**2
    assert bins.low == pytest.approx([0.5 - bins.high[0] + 0.5, 2 / (2 + z2)])
    assert bins.high[1] == pytest.approx(1.0)
    assert ece([1, 0, 1, 1], [0.11, 0.19, 0.95, 1.0]) == pytest.approx((0.35 + 0.025) / 2)


def test_calibration_of_nothing_has_no_bins():
    assert len(calibration([], []).n_rows) == 0
    assert ece([], []) is None


def test_probabilities_outside_zero_to_one_are_refused():
    with pytest.raises(ValueError, match="range from"):
        calibration([0, 1], [0.2, 1.3])


def _rows(n_users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    users = np.sort(random.integers(0, n_users, 12 * n_users))
    labels = random.integers(0, 2, len(users))
    return users, labels, labels + random.normal(0, 2, len(users))


def test_a_resample_has_the_auc_of_its_rows_written_out():
    """Against rows copied as often as their user was drawn, with sklearn on the copies."""
    users, labels, scores = _rows(9, seed=5)
    scores = np.round(scores)
    draws = np.random.default_rng(11).integers(0, 9, (200, 9))
    values = []
    for drawn in draws:
        rows = np.concatenate([np.flatnonzero(users == u) for u in drawn])
        values.append(sklearn_metrics.roc_auc_score(labels[rows], scores[rows]))
    found = user_bootstrap(users, labels, scores, n=200, seed=11).auc
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))))
    assert found.value == pytest.approx(auc(labels, scores))


def test_the_bootstrap_does_not_depend_on_how_rows_are_ordered_or_users_named():
    users, labels, scores = _rows(20, seed=1)
    order = np.random.default_rng(0).permutation(len(users))
    names = np.array([f"user-{u:04d}" for u in users])
    first = user_bootstrap(users, labels, scores, n=50, seed=7)
    second = user_bootstrap(names[order], labels[order], scores[order], n=50, seed=7)
    for name in ("auc", "uauc"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    # Users with a common AUC of Phi(.5 / sqrt 2): 95 % of the intervals should hold it.
    truth = 0.6381631951
    hits = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        users, labels = np.repeat(np.arange(60), 8), np.tile([0, 1], 240)
        scores = random.normal(0.5 * labels, 1)
        interval = user_bootstrap(users, labels, scores, n=200, seed=seed).auc
        hits += interval.low <= truth <= interval.high
    assert 180 <= hits <= 199


def test_a_score_against_itself_differs_by_exactly_zero():
    users, labels, scores = _rows(20, seed=2)
    paired = paired_user_bootstrap(users, labels, scores, scores, n=100)
    assert (paired.auc.value, paired.auc.low, paired.auc.high) == (0, 0, 0)
    assert (paired.uauc.value, paired.uauc.low, paired.uauc.high) == (0, 0, 0)


def test_a_paired_interval_is_narrower_than_the_two_intervals_it_compares():
    users, labels, scores = _rows(60, seed=4)
    slightly_worse = scores + np.random.default_rng(0).normal(0, 0.1, len(scores))
    paired = paired_user_bootstrap(users, labels, scores, slightly_worse, n=300).auc
    alone = user_bootstrap(users, labels, scores, n=300).auc
    assert paired.high - paired.low < (alone.high - alone.low) / 3


def test_the_bootstrap_of_nothing_or_of_one_class_has_no_interval():
    assert user_bootstrap([], [], []).auc is None
    found = user_bootstrap(["a", "b"], [1, 1], [0.2, 0.3], n=10)
    assert (found.auc, found.uauc, found.n_users, found.n_users_counted) == (None, None, 2, 0)


def test_a_rare_class_that_some_resamples_miss_still_has_an_interval():
    found = user_bootstrap(["a", "b", "c"], [1, 0, 0], [0.5, 0.4, 0.6], n=200)
    assert found.auc.low == 0
    assert found.auc.high == 1
    assert found.uauc is None
