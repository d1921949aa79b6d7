"""The LightGBM control: what its features may know, and what becomes of its trees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jobs.collab.baselines.lightgbm import LightGbm
from jobs.collab.systems import Evidence, Labelled
from jobs.errors import JobError
from jobs.report.metrics import auc
from tests.collab.baselines.planted_bench import bench

QUICK = LightGbm(min_rows=20, max_trees=60, trees_without_valid=5)


def test_labels_of_a_rows_own_day_do_not_reach_its_features() -> None:
    """Flipping all labels of the last train day moves no score of a train row of that day."""
    given = bench(n_train=300, n_later=50)
    evidence, day = given.evidence, 86_400_000_000
    train = evidence.train
    is_last = train.requests.times // day == train.requests.times.max() // day
    flipped = Labelled(train.requests, np.where(is_last, 1 - train.labels, train.labels))
    rows = train.requests.at(is_last)
    features = [
        QUICK.fit(replace(evidence, train=each), 0, 1).known.features(rows, evidence.histories)
        for each in (train, flipped)
    ]
    np.testing.assert_array_equal(*features)


def test_it_finds_what_only_the_texts_say() -> None:
    given = bench()
    scores = {
        each: QUICK.model_copy(update={"with_similarities": each})
        .fit(given.evidence, 0)
        .score(given.test.requests, given.evidence.histories)
        for each in (True, False)
    }
    assert auc(given.test.labels, scores[True]) > auc(given.test.labels, scores[False]) + 0.1


def test_only_the_last_days_are_fitted_when_asked() -> None:
    given = bench(n_train=400, n_later=50).evidence
    system = QUICK.model_copy(update={"fitted_days": 3})
    old = given.train.requests.times < given.train.requests.times.max() - 3 * 86_400_000_000
    assert old.any()
    trees = system.fit(given, 0, 3).trees
    assert trees.dump_model()["tree_info"][0]["tree_structure"]["internal_count"] <= int(
        (~old).sum()
    )


def test_trees_that_are_no_text_are_refused() -> None:
    given: Evidence = bench(n_train=60, n_later=20).evidence
    tensors = QUICK.fit(given, 0, 2).tensors()
    with pytest.raises(JobError, match="holds no trees"):
        QUICK.restore({**tensors, "trees": np.zeros(4, np.uint8)})


def test_fewer_than_one_tree_is_refused() -> None:
    with pytest.raises(JobError, match="at least one tree"):
        QUICK.fit(bench(n_train=60, n_later=20).evidence, 0, 0)
