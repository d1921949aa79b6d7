from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from jobs.collab.baselines.training import Course, Schedule, batches, places, train
from jobs.collab.factors import UNKNOWN
from jobs.errors import JobError

LABELS = np.array([1, 0, 1, 0], np.float32)


@dataclass
class Scripted:
    """A learner whose valid logits are written down epoch by epoch; its weight counts epochs."""

    logits: Sequence[list[float]]
    losses: Sequence[float] = ()
    weight: Tensor = field(default_factory=lambda: torch.zeros(1))
    looks: int = 0

    def epoch(self) -> float:
        self.weight += 1
        at = int(self.weight)
        return self.losses[at - 1] if at <= len(self.losses) else 0.5

    def valid_logits(self) -> np.ndarray:
        self.looks += 1
        return np.array(self.logits[int(self.weight) - 1], np.float32)

    def weights(self) -> list[Tensor]:
        return [self.weight]


GOOD, MIDDLING, BAD = [2, 0, 3, 1], [1, 0, 0, 0], [0, 1, 0, 1]


def test_the_weights_of_the_best_epoch_are_kept():
    learner = Scripted([BAD, GOOD, MIDDLING, BAD, BAD])
    course = train(learner, LABELS, Schedule(max_epochs=5, patience=5))
    assert course == Course(n_epochs=2, n_run=5, valid_auc=1.0)
    assert learner.weight.item() == 2


def test_patience_ends_it():
    learner = Scripted([MIDDLING] * 9)
    assert train(learner, LABELS, Schedule(max_epochs=9, patience=3)) == Course(1, 4, 0.75)


def test_where_valid_has_no_auc_a_fixed_number_of_epochs_is_run():
    learner = Scripted([])
    ones = np.ones(4, np.float32)
    assert train(learner, ones, Schedule(epochs_without_valid=7)) == Course(7, 7, None)
    assert learner.looks == 0


def test_a_given_number_of_epochs_looks_at_no_valid_row():
    learner = Scripted([])
    assert train(learner, LABELS, Schedule(), n_epochs=3) == Course(3, 3, None)
    assert (learner.weight.item(), learner.looks) == (3, 0)
    with pytest.raises(JobError, match="n_epochs is 0"):
        train(learner, LABELS, Schedule(), n_epochs=0)


def test_divergence_ends_it_and_says_what_to_change():
    with pytest.raises(JobError, match="infinite in epoch 2; lower learning_rate"):
        train(Scripted([GOOD, [np.nan, 0, 0, 0]]), LABELS, Schedule())
    with pytest.raises(JobError, match="infinite in epoch 1"):
        train(Scripted([], losses=[np.inf]), LABELS, Schedule(), n_epochs=2)


def test_batches_hold_every_row_once_and_few_rows_get_small_ones():
    random = torch.Generator().manual_seed(0)
    cuts = batches(10, 4, random)
    assert sorted(torch.cat(list(cuts)).tolist()) == list(range(10))
    assert [len(cut) for cut in cuts] == [4, 3, 3]
    assert [len(cut) for cut in batches(10, 4, random, min_steps=5)] == [2] * 5
    assert [len(cut) for cut in batches(2, 4, random, min_steps=5)] == [1, 1]


def test_places_are_found_among_the_known_and_strangers_are_unknown():
    known = np.array([2, 5, 9])
    assert places(known, np.array([9, 2, 3, 11, 0, 5])).tolist() == [
        2, 0, UNKNOWN, UNKNOWN, UNKNOWN, 1,
    ]  # fmt: skip
    assert places(np.zeros(0, np.int64), known).tolist() == [UNKNOWN] * 3
