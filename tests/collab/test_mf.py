import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from jobs.collab.align import align
from jobs.collab.factors import UNKNOWN, Factors, Ratings, first_biases, log_odds
from jobs.collab.mf import MfConfig, first_factors, fit
from jobs.collab.training import Batches
from jobs.errors import JobError
from jobs.report.metrics import auc
from tests.collab.planted import QUICK, world

NOTHING = Ratings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
TINY = MfConfig(n_factors=4, max_epochs=3, epochs_without_valid=3)


def ratings(*rows: tuple[int, int, int]) -> Ratings:
    users, items, labels = zip(*rows, strict=True)
    return Ratings(np.array(users), np.array(items), np.array(labels, dtype=np.float32))


def same(a: Factors, b: Factors) -> bool:
    return a.global_bias == b.global_bias and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("user_factors", "user_biases", "item_factors", "item_biases")
    )


def test_a_logit_is_the_sum_of_its_four_parts():
    factors = Factors(
        user_factors=np.array([[1, 2]], np.float32),
        user_biases=np.array([0.5], np.float32),
        item_factors=np.array([[3, -1], [0, 1]], np.float32),
        item_biases=np.array([0.25, -0.25], np.float32),
        global_bias=0.125,
    )
    users, items = np.array([0, 0, UNKNOWN]), np.array([0, 1, 0])
    assert factors.logits(users, items).tolist() == [
        0.125 + 0.5 + 0.25 + 1,
        0.125 + 0.5 - 0.25 + 2,
        0.125 + 0.25,
    ]


def test_the_first_biases_are_one_newton_step():
    # Two events at offset 0, p = 1/2: (1 - 0.5) + (1 - 0.5) over 2 * 0.25 + 1.5.
    biases = first_biases(
        np.array([1, 1, 2]), np.array([1, 1, 0], np.float32), np.zeros(3), n=4, l2=1.5
    )
    assert biases.tolist() == pytest.approx([0, 1 / 2, -0.5 / 1.75, 0])


def test_log_odds_of_one_class_are_finite():
    assert log_odds(np.ones(4, np.float32)) == pytest.approx(math.log(9))


def test_a_planted_low_rank_matrix_is_recovered():
    planted = world(n_unseen=0)
    train, valid, test = (planted.events(n, seed) for seed, n in enumerate((6_000, 1_500, 4_000)))
    fitted = fit(train, valid, 60, 120, QUICK)
    found = auc(test.labels, fitted.factors.logits(test.users, test.items))
    best_possible = auc(test.labels, planted.logits(test.users, test.items))
    without_factors = auc(
        test.labels,
        fitted.factors.user_biases[test.users] + fitted.factors.item_biases[test.items],
    )
    assert best_possible > 0.9
    assert found > best_possible - 0.04
    assert found > without_factors + 0.1


def test_biases_recover_planted_leniency_and_quality():
    planted = world(n_unseen=0)
    fitted = fit(planted.events(12_000, 0), planted.events(1_500, 1), 60, 120, QUICK)
    leniency = np.corrcoef(fitted.factors.user_biases, planted.leniency)[0, 1]
    quality = np.corrcoef(fitted.factors.item_biases, planted.quality)[0, 1]
    assert leniency > 0.9
    assert quality > 0.7


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    planted = world()
    train, valid = planted.events(3_000, 0), planted.events(500, 1)
    config = QUICK.model_copy(update={"max_epochs": 3})
    runs = [
        align(train, valid, 60, planted.embeddings, np.arange(120), c)
        for c in (config, config, config.model_copy(update={"seed": 1}))
    ]
    assert same(runs[0].factors, runs[1].factors)
    for name, weights in runs[0].projector.tensors().items():
        assert np.array_equal(weights, runs[1].projector.tensors()[name])
    assert not np.array_equal(runs[0].factors.item_factors, runs[2].factors.item_factors)


def test_alignment_of_weight_zero_is_the_plain_factorisation_bit_for_bit():
    planted = world()
    train, valid = planted.events(3_000, 0), planted.events(500, 1)
    config = QUICK.model_copy(update={"max_epochs": 3, "alignment_weight": 0.0})
    aligned = align(train, valid, 60, planted.embeddings, np.arange(120), config)
    assert same(aligned.factors, fit(train, valid, 60, 120, config).factors)


def test_the_weights_of_the_best_epoch_are_kept():
    planted = world()
    train, valid = planted.events(1_500, 0), planted.events(800, 1)
    course = []
    config = QUICK.model_copy(update={"learning_rate": 0.05, "max_epochs": 40, "patience": 4})
    fitted = fit(train, valid, 60, 120, config, on_epoch=course.append)
    assert [epoch.number for epoch in course] == list(range(1, fitted.n_epochs + 1))
    assert fitted.best == max(course, key=lambda epoch: epoch.valid_auc)
    assert fitted.n_epochs == fitted.best.number + 4  # it did get worse, and stopped for that
    assert auc(valid.labels, fitted.factors.logits(valid.users, valid.items)) == pytest.approx(
        fitted.best.valid_auc
    )


@pytest.mark.parametrize("valid", [NOTHING, ratings((0, 0, 1), (UNKNOWN, 1, 1))])
def test_without_an_auc_to_stop_on_training_runs_its_fixed_number_of_epochs(valid):
    train = ratings((0, 0, 1), (1, 1, 0), (1, 0, 1))
    fitted = fit(train, valid, 2, 2, TINY)
    assert (fitted.n_epochs, fitted.best.number, fitted.best.valid_auc) == (3, 3, None)


@pytest.mark.parametrize(
    ("batch_size", "min_steps", "n_steps"),
    [(100, 1, 10), (99, 1, 11), (1000, 7, 7), (1000, 2000, 1000)],
)
def test_an_epoch_has_as_many_steps_as_its_batches_or_the_minimum_ask_for(
    batch_size, min_steps, n_steps
):
    events = world().events(1_000, 0)
    batches = Batches(events, batch_size, min_steps, 0, torch.device("cpu"))
    steps = batches.epoch()
    assert len(steps) == n_steps
    assert sorted(torch.cat(steps).tolist()) == list(range(1_000))


def test_the_loss_falls():
    planted = world()
    course = []
    fit(planted.events(3_000, 0), NOTHING, 60, 120, QUICK, on_epoch=course.append)
    assert all(later.loss < earlier.loss for earlier, later in pairwise(course))


@pytest.mark.parametrize(
    ("train", "n_users", "n_items"),
    [
        pytest.param(ratings((0, 0, 1), (0, 1, 1), (1, 0, 0)), 2, 2, id="a user of one class"),
        pytest.param(ratings((0, 0, 1), (1, 0, 0)), 2, 3, id="items never rated"),
        pytest.param(ratings((0, 0, 1), (0, 1, 0)), 1, 2, id="one user"),
        pytest.param(ratings((0, 0, 1), (1, 1, 1)), 2, 2, id="no negatives"),
        pytest.param(ratings((0, 0, 0)), 1, 1, id="one event"),
    ],
)
def test_degenerate_events_give_finite_factors_of_the_right_size(train, n_users, n_items):
    factors = fit(train, NOTHING, n_users, n_items, TINY).factors
    assert factors.user_factors.shape == (n_users, 4)
    assert factors.item_factors.shape == (n_items, 4)
    logits = factors.logits(train.users, train.items)
    assert np.isfinite(logits).all()
    assert np.isfinite(factors.item_biases).all()


def test_a_user_of_one_class_stays_within_what_the_prior_allows():
    train = ratings(
        *((0, item, 1) for item in range(5)), *((1, item, item % 2) for item in range(5))
    )
    factors = fit(train, NOTHING, 2, 5, TINY).factors
    assert 0 < factors.user_biases[0] < 2
    assert factors.user_biases[0] > factors.user_biases[1]


def test_an_item_without_events_or_alignment_keeps_its_first_factor():
    train = ratings((0, 0, 1), (0, 1, 0))
    fitted = fit(train, NOTHING, 1, 3, TINY)
    first = first_factors(train, 1, 3, TINY)
    assert np.array_equal(fitted.factors.item_factors[2], first.item_factors[2])
    assert abs(fitted.factors.item_biases[2]) < 1e-3


def test_without_biases_only_the_product_is_left():
    planted = world(n_unseen=0)
    config = QUICK.model_copy(update={"biases": False, "max_epochs": 2})
    factors = fit(planted.events(1_000, 0), NOTHING, 60, 120, config).factors
    assert factors.global_bias == 0
    assert not factors.user_biases.any()
    assert not factors.item_biases.any()


def test_no_train_events_is_one_clear_error():
    with pytest.raises(JobError, match="no train events"):
        fit(NOTHING, NOTHING, 0, 3, TINY)


def test_a_row_outside_its_table_is_one_clear_error():
    with pytest.raises(JobError, match="item rows run from 0 to 7 in a table of 3"):
        fit(ratings((0, 0, 1), (0, 7, 0)), NOTHING, 1, 3, TINY)


def test_a_diverging_loss_names_the_way_out():
    config = TINY.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(JobError, match="lower --learning-rate"):
        fit(ratings((0, 0, 1), (0, 1, 0)), NOTHING, 1, 2, config)
