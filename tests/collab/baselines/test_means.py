import numpy as np
import pytest

from jobs.collab.baselines.registry import system_of
from jobs.report.metrics import auc, uauc
from tests.collab.baselines.ml1m import published
from tests.collab.baselines.planted_bench import bench, only_train


@pytest.mark.parametrize(
    ("name", "test_auc", "test_uauc"),
    [("item_mean", 0.7094, 0.6816), ("item_user_mean", 0.7317, 0.6816)],
)
def test_the_known_answers_of_movielens_come_out_through_the_contract(
    name, test_auc, test_uauc, ml_1m
):
    given = published(ml_1m)
    rows = given.test.requests
    scores = system_of(name, {}).fit(given.evidence, seed=0).score(rows, given.evidence.histories)
    assert auc(given.test.labels, scores) == pytest.approx(test_auc, abs=5e-5)
    value, n_users = uauc(rows.users, given.test.labels, scores)
    assert value == pytest.approx(test_uauc, abs=5e-5)
    assert n_users == 224


def test_an_item_mean_is_the_log_odds_of_its_smoothed_mean():
    given = bench(n_train=200, n_later=50)
    train = given.evidence.train
    found = system_of("item_mean", {"smoothing": 2.0}).fit(given.evidence, seed=0)
    item = train.requests.items[0]
    own, mu = train.labels[train.requests.items == item], train.labels.mean()
    mean = (own.sum() + 2 * mu) / (len(own) + 2)
    scores = found.score(train.requests, given.evidence.histories)
    assert scores[0] == pytest.approx(np.log(mean / (1 - mean)), rel=1e-5)


def test_who_is_not_in_train_has_the_global_mean():
    given = only_train(bench(n_train=200, n_later=50), np.arange(20))
    labels = given.evidence.train.labels
    found = system_of("item_user_mean", {}).fit(given.evidence, seed=0)
    rows = given.test.requests
    train = given.evidence.train.requests
    strange = ~np.isin(rows.users, train.users) & ~np.isin(rows.items, train.items)
    logits = found.score(rows, given.evidence.histories)[strange]
    assert strange.any()
    np.testing.assert_allclose(logits, np.log(labels.mean() / (1 - labels.mean())), rtol=1e-5)
