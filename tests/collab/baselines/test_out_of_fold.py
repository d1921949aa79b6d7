"""Out-of-fold logits: nobody's own label, and nothing of the user's later ones, is in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from jobs.collab.baselines.means import ItemUserMean
from jobs.collab.baselines.out_of_fold import Folds, out_of_fold_logits
from jobs.errors import JobError
from jobs.report.metrics import auc
from tests.collab.baselines.planted_bench import bench, only_train

FOLDS = Folds(n_users=3, n_blocks=4)


def logits(evidence: object) -> np.ndarray:
    return out_of_fold_logits(ItemUserMean(), evidence, seed=0, folds=FOLDS)


def test_a_rows_own_label_and_its_users_later_ones_do_not_move_its_logit() -> None:
    evidence = bench(n_train=600, n_later=50).evidence
    train = evidence.train
    user = int(train.requests.users[300])
    mine = np.flatnonzero(train.requests.users == user)
    later = mine[len(mine) // 2 :]
    labels = train.labels.copy()
    labels[later] = 1 - labels[later]
    changed = replace(evidence, train=replace(train, labels=labels))
    before, after = logits(evidence), logits(changed)
    until = mine[mine <= later[0]]
    np.testing.assert_array_equal(before[until], after[until])
    assert (before != after).any()  # other users' rows have learned from it


def test_users_are_warm_after_the_first_block_and_strangers_in_it() -> None:
    """With labels that only a user's mean tells, the first block is a guess and the rest is not."""
    evidence = bench(n_train=1_200, n_later=50).evidence
    train = evidence.train
    labels = (train.requests.users % 2).astype(np.float32)
    evidence = replace(evidence, train=replace(train, labels=labels))
    found = logits(evidence)
    first, rest = slice(0, 290), slice(320, None)
    assert abs(auc(labels[first], found[first]) - 0.5) < 0.2
    assert auc(labels[rest], found[rest]) > 0.95


def test_the_same_seed_gives_the_same_bits() -> None:
    evidence = bench(n_train=300, n_later=50).evidence
    np.testing.assert_array_equal(logits(evidence), logits(evidence))


def test_more_folds_than_users_are_refused() -> None:
    given = bench(n_train=300, n_later=50)
    users = given.evidence.train.requests.users
    alone = only_train(given, users == users[0]).evidence
    with pytest.raises(JobError, match="1 users cannot make 3 folds"):
        logits(alone)
