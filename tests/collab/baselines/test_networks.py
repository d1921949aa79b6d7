"""What SASRec and DIN do alike: unseen ids, biases, chance, devices."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from jobs.collab.baselines.din import PUBLISHED_DIN, Din
from jobs.collab.baselines.network_systems import NetworkSystem
from jobs.collab.baselines.sasrec import PUBLISHED_SASREC, SasRec
from jobs.collab.factors import log_odds
from jobs.collab.systems import Catalogue, Evidence, Histories, Labelled, Requests
from jobs.errors import JobError
from jobs.report.metrics import auc
from tests.collab.baselines.planted_bench import Bench, bench

SMALL = {"n_factors": 12, "n_positives": 4, "batch_size": 64, "device": "cpu"}
BOTH = pytest.mark.parametrize("kind", [SasRec, Din])


@lru_cache
def given() -> Bench:
    return bench(n_train=200, n_later=60)


def small(kind: type[NetworkSystem], **settings) -> NetworkSystem:
    return kind.model_validate(SMALL | settings)


def last_topic_decides(n_users: int = 40, n_rows: int = 40) -> tuple[Evidence, Labelled]:
    """Items have three topics; a row is positive if its topic is that of the last positive.

    Every user begins with a positive at random. Neither user nor item alone says anything.
    """
    random = np.random.default_rng(0)
    users, items, labels, ends, lists = [], [], [], [], []
    for user in range(n_users):
        liked = [int(random.integers(0, 60))]
        for item in random.integers(0, 60, n_rows).tolist():
            users.append(user)
            items.append(item)
            ends.append(len(liked))
            labels.append(float(item % 3 == liked[-1] % 3))
            if labels[-1]:
                liked.append(item)
        lists.append(liked)
    n, starts = len(users), np.concatenate([[0], np.cumsum([len(each) for each in lists])])
    flat = np.concatenate(lists)
    columns = np.array(users), np.array(items), np.arange(n), np.array(ends)
    rows = Labelled(Requests(*columns), np.array(labels, dtype=np.float32))
    parts = np.array_split(np.random.default_rng(1).permutation(n), [n * 3 // 4, n * 7 // 8])
    catalogue = Catalogue(
        n_users, 60, np.zeros((60, 1), np.float32), np.arange(60), np.zeros((60, 1), np.int64)
    )
    train, valid, test = (rows.at(np.sort(part)) for part in parts)
    return Evidence(catalogue, Histories(flat, np.arange(len(flat)), starts), train, valid), test


@pytest.mark.parametrize(
    "system",
    [
        SasRec(n_factors=16, n_positives=3, l2=1e-4, batch_size=128, device="cpu"),
        Din(n_factors=48, n_positives=1, l2=1e-4, batch_size=128, learning_rate=1e-2, device="cpu"),
    ],
    ids=["sasrec", "din"],
)
def test_what_the_last_positive_decides_is_found(system):
    evidence, test = last_topic_decides()
    fitted = system.fit(evidence, seed=0)
    assert auc(test.labels, fitted.score(test.requests, evidence.histories)) > 0.95


@BOTH
def test_as_many_epochs_as_the_best_give_the_weights_of_the_best(kind):
    stopped = small(kind, max_epochs=6, patience=3).fit(given().evidence, seed=3)
    fixed = small(kind).fit(given().evidence, seed=3, n_epochs=stopped.n_epochs)
    np.testing.assert_equal(fixed.tensors(), stopped.tensors())


@BOTH
def test_another_seed_gives_other_weights(kind):
    a, b = (small(kind).fit(given().evidence, seed, n_epochs=1).tensors() for seed in (0, 1))
    assert not np.array_equal(a["items.weight"], b["items.weight"])


@BOTH
def test_the_chance_of_others_is_left_alone(kind):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    small(kind).fit(given().evidence, seed=0, n_epochs=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("unseen", ["zero", "mean"])
def test_ids_that_train_has_not_are_zero_or_the_mean_of_the_others(unseen):
    evidence = given().evidence
    rows = small(Din, unseen=unseen).fit(evidence, seed=0, n_epochs=2).tensors()
    met = {
        "users": np.unique(evidence.train.requests.users),
        "items": np.unique(evidence.train.requests.items),
    }
    for name, seen in met.items():
        table = rows[f"{name}.weight"][1:]
        others = np.setdiff1d(np.arange(len(table)), seen)
        assert len(others)
        assert np.abs(table[seen]).min() > 0
        expected = table[seen].mean(axis=0) if unseen == "mean" else np.zeros(table.shape[1])
        np.testing.assert_allclose(table[others], np.tile(expected, (len(others), 1)), atol=1e-7)


def test_an_item_that_only_histories_have_is_not_unseen_to_sasrec():
    evidence = given().evidence
    requests = evidence.train.requests
    late = evidence.train.at(np.flatnonzero(requests.history_ends > 1))
    item = int(evidence.histories.items[evidence.histories.starts[late.requests.users[0]]])
    without = replace(evidence, train=late.at(late.requests.items != item))
    table = small(SasRec, n_positives=30).fit(without, seed=0, n_epochs=1).tensors()["items.weight"]
    assert np.abs(table[item + 1]).max() > 0


@BOTH
def test_a_stranger_scores_as_any_other_stranger_with_the_same_history(kind):
    evidence = given().evidence
    fitted = small(kind, biases="user_item").fit(evidence, seed=0, n_epochs=2)
    strangers = np.setdiff1d(np.arange(evidence.catalogue.n_users), evidence.train.requests.users)
    items = np.arange(len(strangers)) * 0 + 7
    none = np.zeros(len(strangers), np.int64)
    found = fitted.score(Requests(strangers, items, none, none), evidence.histories)
    assert len(strangers) > 1
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


@BOTH
def test_biases_start_where_a_newton_step_leads_and_pay_for_their_size(kind):
    evidence = given().evidence
    still = small(kind, biases="item", learning_rate=1e-12).fit(evidence, seed=0, n_epochs=1)
    tables = still.tensors()
    start = log_odds(evidence.train.labels)
    assert tables["biases.tables.0"] == pytest.approx([start])
    item = evidence.train.requests.items[0]
    labels = evidence.train.labels[evidence.train.requests.items == item]
    p = 1 / (1 + np.exp(-start))
    expected = (labels - p).sum() / (len(labels) * p * (1 - p) + 0.5)
    assert tables["biases.tables.1"][item] == pytest.approx(expected, rel=1e-5)
    free, held = (
        small(kind, biases="item", l2_item_bias=l2, learning_rate=1e-2).fit(evidence, 0, n_epochs=5)
        for l2 in (0.0, 100.0)
    )
    sizes = [np.abs(each.tensors()["biases.tables.1"]).mean() for each in (free, held)]
    assert sizes[1] < sizes[0] / 4


@BOTH
def test_weights_that_diverge_end_in_an_error_that_says_what_to_change(kind):
    with pytest.raises(JobError, match="lower learning_rate"):
        small(kind, learning_rate=1e30).fit(given().evidence, seed=0, n_epochs=2)


@BOTH
def test_rows_from_outside_the_catalogue_are_refused(kind):
    fitted = small(kind).fit(given().evidence, seed=0, n_epochs=1)
    one = np.array([1])
    for users, items, what in ((one, one * 999, "item"), (one * 999, one, "user")):
        with pytest.raises(JobError, match=f"{what} rows run from 999"):
            fitted.score(Requests(users, items, one, one * 0), given().evidence.histories)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@BOTH
def test_a_gpu_that_is_not_there_is_named(kind):
    with pytest.raises(JobError, match="cuda"):
        small(kind, device="cuda").fit(given().evidence, seed=0, n_epochs=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@BOTH
def test_both_devices_fit_the_same_network_within_rounding(kind):
    systems = [small(kind, dropout=0.0, device=device) for device in ("cpu", "cuda")]
    scores = [
        system.fit(given().evidence, seed=0, n_epochs=1).score(
            given().test.requests, given().evidence.histories
        )
        for system in systems
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3)


def test_published_settings_have_no_biases():
    for published in (PUBLISHED_SASREC, PUBLISHED_DIN):
        assert published.biases == "none"
        assert not published.decoupled
