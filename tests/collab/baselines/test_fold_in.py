"""The fold-in: posterior means worked out by hand, what a user may know, and monthly items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jobs.collab.baselines.bayesian_items import BayesianConfig, bayesian_loadings
from jobs.collab.baselines.counts import DAY_US
from jobs.collab.baselines.fold_in import FoldIn
from jobs.collab.baselines.item_side import ItemSide, Kept
from jobs.collab.baselines.user_process import UserEvents, UserProcessConfig, departures
from jobs.collab.systems import Histories
from jobs.report.metrics import auc
from tests.collab.baselines.planted_bench import bench

SMALL = BayesianConfig(n_factors=4, n_rounds=6)
QUICK = FoldIn(items="bayesian", bayesian=SMALL, text_variance=0.1)
LEVEL_ONLY = UserProcessConfig(level_variance=0.1, taste=0, text_variance=0, noise_variance=0.2)


def told(
    config: UserProcessConfig, labelled: list[float], beyond: int = 0, n_seen: int | None = None
) -> float:
    """Departure at item 0 of a user with events at items 1, 2, ... on days 0, 1, ..."""
    m = len(labelled) + beyond
    events = UserEvents(
        items=np.arange(1, m + 1),
        times=np.arange(m) * DAY_US,
        departures=np.array([*labelled, *[config.liked_beyond] * beyond]),
        n_labelled=len(labelled),
    )
    loadings, vectors = np.ones((m + 1, 1)), np.eye(m + 1)
    seen = np.array([m if n_seen is None else n_seen])
    at = np.array([0]), np.array([m * DAY_US])
    return float(departures(events, *at, seen, loadings, vectors, config)[0])


def test_a_level_alone_is_the_shrunk_mean_of_departures() -> None:
    # Variance .1 against noise .2: two pseudo-events at zero.
    assert told(LEVEL_ONLY, [0.4, 0.2, 0.3]) == pytest.approx(0.9 / (3 + 2))


def test_positives_beyond_train_say_nothing_of_the_level() -> None:
    assert told(LEVEL_ONLY, [0.4], beyond=3) == pytest.approx(told(LEVEL_ONLY, [0.4]))


def test_positives_beyond_train_speak_of_taste() -> None:
    taste = LEVEL_ONLY.model_copy(update={"level_variance": 0.0, "taste": 0.1})
    assert told(taste, [], beyond=3) == pytest.approx(3 * 0.3 / (3 + 2))


def test_a_fading_taste_counts_an_old_event_less() -> None:
    fading = LEVEL_ONLY.model_copy(
        update={"level_variance": 0.0, "fading_taste": 0.1, "fading_days": 2.0}
    )
    # One event, a day before the row: k / (k(0) + noise) * departure.
    assert told(fading, [0.6]) == pytest.approx(0.1 * np.exp(-0.5) / 0.3 * 0.6)


def test_rows_that_see_less_of_one_user_share_the_factor_and_not_the_answer() -> None:
    assert told(LEVEL_ONLY, [0.4, 0.2, 0.3], n_seen=1) == pytest.approx(0.4 / 3)
    assert told(LEVEL_ONLY, [0.4], n_seen=0) == 0


def test_loadings_recover_which_items_are_liked_together() -> None:
    random = np.random.default_rng(1)
    taste, side = random.normal(size=200), np.repeat([1.0, -1.0], 15)
    users, items = (each.ravel() for each in np.indices((200, 30)))
    kept = random.random(len(users)) < 0.4
    values = 0.3 * taste[users] * side[items] + random.normal(0, 0.3, len(users))
    loadings = bayesian_loadings(
        users[kept], items[kept], values[kept], 200, 30, BayesianConfig(n_factors=3), seed=0
    )
    shared, truth = loadings @ loadings.T, 0.09 * np.outer(side, side)
    assert np.corrcoef(shared.ravel(), truth.ravel())[0, 1] > 0.97
    # A prior that is learned shrinks, and must not shrink away.
    assert 0.5 < (shared * truth).sum() / (truth**2).sum() < 1.05


def test_loadings_of_items_without_events_are_zero() -> None:
    found = bayesian_loadings(np.array([0]), np.array([1]), np.array([0.5]), 2, 3, SMALL, seed=0)
    np.testing.assert_array_equal(found[[0, 2]], 0)


def test_a_stranger_with_a_history_is_told_from_it() -> None:
    given = bench()
    trained = set(given.evidence.train.requests.users.tolist())
    is_cold = np.array([user not in trained for user in given.test.requests.users.tolist()])
    rows = given.test.at(is_cold & (given.test.requests.history_ends > 2))
    fitted = QUICK.fit(given.evidence, 0)
    blind = replace(rows.requests, history_ends=np.zeros(len(rows), np.int64))
    with_history = auc(rows.labels, fitted.score(rows.requests, given.evidence.histories))
    without = auc(rows.labels, fitted.score(blind, given.evidence.histories))
    assert with_history > without + 0.03


def test_the_item_side_is_learned_from_rows_before_the_last_month_and_users_from_all() -> None:
    given = bench(n_train=400, n_later=50).evidence
    monthly = QUICK.model_copy(update={"relearn_days": 5})
    day = given.train.requests.times // DAY_US
    boundary = (day.max() + 1) // 5 * 5
    flipped = np.where(day >= boundary, 1 - given.train.labels, given.train.labels)
    changed = replace(given, train=replace(given.train, labels=flipped.astype(np.float32)))
    assert (day >= boundary).any()
    a, b = (monthly.fit(each, 0) for each in (given, changed))
    np.testing.assert_array_equal(a.side.loadings, b.side.loadings)
    assert (a.score(given.valid.requests, nobody(given.catalogue.n_users)) != 0).any()
    assert not np.array_equal(a.events.labels, b.events.labels)


def nobody(n_users: int) -> Histories:
    nothing = np.zeros(0, np.int64)
    return Histories(nothing, nothing, np.zeros(n_users + 1, np.int64))


def test_an_item_side_is_learned_once_for_the_same_rows_and_the_oldest_is_forgotten() -> None:
    learned: list[str] = []

    def learn(name: str) -> ItemSide:
        learned.append(name)
        return ItemSide(np.zeros(1, np.float32), np.zeros((1, 1), np.float32), 0)

    kept = Kept(2)
    for name in ("a", "a", "b", "a", "c", "b"):
        kept.get(name, lambda name=name: learn(name))
    assert learned == ["a", "b", "c", "b"]
