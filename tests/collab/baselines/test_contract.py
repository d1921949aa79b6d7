"""What every system of the bench must do, whatever it is."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from jobs.collab.baselines.kept import load, save
from jobs.collab.baselines.registry import SYSTEMS, system_of
from jobs.collab.systems import Fitted, Requests, System
from jobs.errors import JobError
from jobs.report.metrics import auc
from tests.collab.baselines.planted_bench import (
    Bench,
    all_labelled,
    bench,
    only_train,
    with_another_future,
    without_valid,
)

# Seconds for a test: small models, large steps. A system that is not here runs as it is.
_FEW_EPOCHS: dict[str, Any] = {"max_epochs": 15, "patience": 5, "epochs_without_valid": 5}
_SMALL_MF = {**_FEW_EPOCHS, "n_factors": 8, "learning_rate": 1e-2, "batch_size": 256}
_SMALL_ALIGNED = {**_SMALL_MF, "n_hidden": 32, "aligned_items": 64, "temperature": 0.2}
QUICK: dict[str, dict[str, Any]] = {
    "mf": _SMALL_MF,
    "mf_biases": _SMALL_MF,
    "aligned_mf": _SMALL_ALIGNED,
    "lightgcn": {**_SMALL_MF, "learning_rate": 3e-2},
    "sasrec": {**_SMALL_MF, "n_factors": 16, "l2": 3e-3, "init_sd": 0.1, "n_positives": 20},
    "lightgbm": {"min_rows": 20, "max_trees": 150},
    "blend": {
        "fold_in": {"aligned": {**_SMALL_ALIGNED, "max_epochs": 25}},
        "trees": {"min_rows": 20, "max_trees": 150},
    },
    "fold_in": {"aligned": {**_SMALL_ALIGNED, "max_epochs": 25}},
    "din": {**_SMALL_MF, "n_factors": 24, "l2": 1e-3, "patience": 15},
}
# Test AUC on the planted world, three rows in ten of which have a stranger or a new item. The truth
# has .915, the item mean .53, the factorisations .77 to .81. SASRec does not know who asks, both
# networks want more rows than these, and factors of aligned users more epochs.
LEARNS_AT_LEAST = {
    "item_mean": 0.515,
    "item_user_mean": 0.55,
    "sasrec": 0.65,
    "din": 0.68,
    "aligned_mf, both sides": 0.62,
}
LEARNS = 0.7

# Settings under which a system is another one: name -> the system's, and what is set.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "aligned_mf, both sides": (
        "aligned_mf",
        {
            **_SMALL_ALIGNED,
            "user_alignment_weight": 0.1,
            "cold_users": "profile",
            "profile": "codes",
            "aligned_users": 32,
            "cold_share": 0.2,
        },
    ),
    "fold_in, bayesian": (
        "fold_in",
        {"items": "bayesian", "bayesian": {"n_factors": 4, "n_rounds": 6}, "text_variance": 0.1},
    ),
    "lightgcn, biases": ("lightgcn", {**QUICK["lightgcn"], "biases": True}),
}
every_system = pytest.mark.parametrize("name", [*SYSTEMS, *VARIANTS])


def quick(name: str) -> System:
    kind, settings = VARIANTS.get(name, (name, QUICK.get(name, {})))
    return system_of(kind, settings)


@lru_cache
def planted() -> Bench:
    return bench()


@lru_cache
def small() -> Bench:
    return bench(n_train=200, n_later=60)


@lru_cache
def fitted(name: str) -> Fitted:
    """Fitted to the planted world with seed 0, once for all tests; nothing here changes it."""
    return quick(name).fit(planted().evidence, seed=0)


def scores(found: Fitted, given: Bench) -> np.ndarray:
    return found.score(given.test.requests, given.evidence.histories)


def fits_and_scores_finitely(name: str, given: Bench, n_epochs: int | None = None) -> None:
    found = scores(quick(name).fit(given.evidence, seed=0, n_epochs=n_epochs), given)
    assert found.shape == (len(given.test),)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


@every_system
def test_it_learns_what_was_planted(name):
    value = auc(planted().test.labels, scores(fitted(name), planted()))
    assert value > LEARNS_AT_LEAST.get(name, LEARNS)


@every_system
def test_the_same_seed_gives_the_same_bits_and_leaves_the_evidence_alone(name):
    given = planted()
    before = asdict(given)  # copies
    again = quick(name).fit(given.evidence, seed=0)
    np.testing.assert_array_equal(scores(again, given), scores(fitted(name), given))
    np.testing.assert_equal(asdict(given), before)


@every_system
def test_scoring_twice_gives_the_same_bits(name):
    np.testing.assert_array_equal(scores(fitted(name), planted()), scores(fitted(name), planted()))


@every_system
def test_what_is_saved_scores_bit_for_bit_alike(name, tmp_path):
    save(fitted(name), quick(name), tmp_path / "system.safetensors")
    found, system = load(tmp_path / "system.safetensors")
    assert system == quick(name)
    assert found.n_epochs == fitted(name).n_epochs
    np.testing.assert_array_equal(scores(found, planted()), scores(fitted(name), planted()))
    save(found, system, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "system.safetensors"
    ).read_bytes()


@every_system
def test_tensors_that_are_not_its_own_are_refused(name):
    tensors = fitted(name).tensors()
    first = next(iter(tensors))
    with pytest.raises(JobError, match="stranger"):
        quick(name).restore({**tensors, "stranger": np.zeros(1, np.float32)})
    with pytest.raises(JobError, match=first):
        quick(name).restore({key: each for key, each in tensors.items() if key != first})


@every_system
def test_a_row_alone_scores_as_among_others(name):
    requests, histories = planted().test.requests, planted().evidence.histories
    together = scores(fitted(name), planted())
    for place in (0, 7, 500, len(requests) - 1):
        alone = fitted(name).score(requests.at(np.array([place])), histories)
        np.testing.assert_allclose(alone, together[place : place + 1], rtol=1e-5, atol=1e-6)
    backwards = fitted(name).score(requests.at(np.arange(len(requests))[::-1].copy()), histories)
    np.testing.assert_allclose(backwards[::-1], together, rtol=1e-5, atol=1e-6)


@every_system
def test_no_rows_have_no_scores(name):
    nothing = planted().test.requests.at(np.zeros(0, np.int64))
    assert fitted(name).score(nothing, planted().evidence.histories).shape == (0,)


@every_system
def test_strangers_and_new_items_score_finitely_even_without_a_history(name):
    catalogue, histories = planted().evidence.catalogue, planted().evidence.histories
    users, items = np.divmod(np.arange(catalogue.n_users * catalogue.n_items), catalogue.n_items)
    times = np.full(len(users), histories.times.max() + 1)
    lengths = np.diff(histories.starts)[users]
    for ends in (np.zeros_like(lengths), lengths):
        found = fitted(name).score(Requests(users, items, times, ends), histories)
        assert np.isfinite(found).all()


@every_system
def test_nothing_beyond_what_a_row_may_see_changes_its_score(name):
    given = planted()
    requests = given.test.requests
    early = requests.at(np.flatnonzero(requests.history_ends > 2)[:300])
    early = Requests(early.users, early.items, early.times, early.history_ends // 2)
    evidence, histories = with_another_future(given, early)
    before = fitted(name).score(early, given.evidence.histories)
    np.testing.assert_array_equal(fitted(name).score(early, histories), before)
    blind = quick(name).fit(evidence, seed=0)
    np.testing.assert_array_equal(blind.score(early, histories), before)


@every_system
def test_with_a_given_number_of_epochs_no_valid_row_counts(name):
    given = small()
    found = quick(name).fit(given.evidence, seed=1, n_epochs=2)
    without = quick(name).fit(without_valid(given).evidence, seed=1, n_epochs=2)
    assert found.n_epochs in (0, 2)
    np.testing.assert_array_equal(scores(found, given), scores(without, given))


@every_system
def test_without_valid_rows_it_still_fits(name):
    fits_and_scores_finitely(name, without_valid(small()))


@every_system
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_labels_of_one_class_are_no_trouble(name, label):
    fits_and_scores_finitely(name, all_labelled(small(), label), n_epochs=3)


@every_system
def test_a_user_of_one_class_scores_finitely(name):
    train = small().evidence.train
    is_one = train.requests.users == train.requests.users[0]
    train = replace(train, labels=np.where(is_one, 1, train.labels).astype(np.float32))
    evidence = replace(small().evidence, train=train)
    fits_and_scores_finitely(name, replace(small(), evidence=evidence), n_epochs=3)


@every_system
def test_one_user_is_enough(name):
    users = small().evidence.train.requests.users
    fits_and_scores_finitely(name, only_train(small(), users == users[0]))


@every_system
def test_one_row_is_enough(name):
    fits_and_scores_finitely(name, only_train(small(), np.array([0])))


@every_system
def test_without_train_rows_it_says_so(name):
    with pytest.raises(JobError, match="no train rows"):
        quick(name).fit(only_train(small(), np.zeros(0, np.int64)).evidence, seed=0)


@every_system
def test_its_settings_survive_json(name):
    system = quick(name)
    assert system_of(SYSTEMS.name_of(system), system.model_dump(mode="json")) == system
    assert system.title
