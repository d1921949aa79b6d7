from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from jobs.collab.baselines.aligned import AlignedMf, FittedAligned
from jobs.collab.baselines.factorised import BiasedMf
from jobs.errors import JobError
from jobs.report.metrics import auc
from tests.collab.baselines.planted_bench import Bench, bench

SMALL: dict[str, Any] = {
    "n_factors": 8,
    "learning_rate": 1e-2,
    "batch_size": 256,
    "max_epochs": 15,
    "n_hidden": 32,
    "aligned_items": 64,
    "temperature": 0.2,
    "cold_share": 0.2,
}


@lru_cache
def planted() -> Bench:
    return bench()


def fitted(**settings: Any) -> FittedAligned:
    return AlignedMf(**{**SMALL, **settings}).fit(planted().evidence, seed=0)


def auc_where(found: FittedAligned, rows: np.ndarray) -> float:
    test = planted().test.at(rows)
    value = auc(test.labels, found.score(test.requests, planted().evidence.histories))
    assert value is not None
    return value


def strangers() -> np.ndarray:
    users = planted().evidence.train.requests.users
    return ~np.isin(planted().test.requests.users, users)


def new_items() -> np.ndarray:
    items = planted().evidence.train.requests.items
    return ~np.isin(planted().test.requests.items, items) & ~strangers()


def test_without_weights_it_is_the_factorisation_with_biases():
    given, mf = planted(), {k: SMALL[k] for k in ("n_factors", "learning_rate", "batch_size")}
    plain = BiasedMf(**mf).fit(given.evidence, seed=3, n_epochs=3)
    aligned = AlignedMf(**{**SMALL, "alignment_weight": 0}).fit(given.evidence, 3, n_epochs=3)
    asked = given.test.requests, given.evidence.histories
    np.testing.assert_array_equal(aligned.score(*asked), plain.score(*asked))


def test_texts_place_items_that_have_no_events_and_permuted_texts_do_not():
    aligned, permuted, plain = (
        fitted(),
        fitted(permuted="items"),
        fitted(alignment_weight=0),
    )
    assert auc_where(aligned, new_items()) > auc_where(plain, new_items()) + 0.1
    assert auc_where(aligned, new_items()) > auc_where(permuted, new_items()) + 0.1


def test_strangers_are_known_by_their_history_and_with_permuted_items_are_not():
    without, mapped = fitted(), fitted(cold_users="profile")
    permuted = fitted(cold_users="profile", permuted="items")
    assert auc_where(mapped, strangers()) > auc_where(without, strangers()) + 0.1
    assert auc_where(mapped, strangers()) > auc_where(permuted, strangers()) + 0.1


def test_a_stranger_without_a_history_scores_as_one_without_a_map():
    found = fitted(cold_users="profile")
    requests = planted().test.at(strangers()).requests
    empty = replace(requests, history_ends=np.zeros_like(requests.history_ends))
    histories = planted().evidence.histories
    by_item = found.score(empty, histories)
    np.testing.assert_array_equal(by_item, found.plain.score(empty, histories))
    assert (found.score(requests, histories) != by_item).any()


def test_agreement_is_told_of_each_side_that_is_aligned():
    assert set(fitted().agreements) == {"items"}
    both = fitted(user_alignment_weight=0.1, aligned_users=32)
    assert set(both.agreements) == {"items", "users"}
    for before, after in both.agreements.values():
        assert after.cosine > before.cosine + 0.3


def test_profiles_of_codes_need_codes():
    evidence = planted().evidence
    bare = replace(evidence.catalogue, codes=evidence.catalogue.codes[:, :0])
    system = AlignedMf(cold_users="profile", profile="codes")
    with pytest.raises(JobError, match="the items have none; run the job codebook"):
        system.fit(replace(evidence, catalogue=bare), seed=0)
