"""Alignment on both sides: who is drawn, what is a negative, what learns."""

import itertools
import math

import numpy as np
import pytest
import torch

from jobs.collab import infonce
from jobs.collab.agreement import permuted_rows
from jobs.collab.align import align
from jobs.collab.infonce import (
    InfoNceConfig,
    catalogue_info_nce,
    info_nce,
    near_twins,
    sampled_info_nce,
)
from jobs.collab.sides import DualAlignment, Targets
from jobs.errors import JobError
from tests.collab.planted import QUICK, profiles_of, world

CPU = torch.device("cpu")
SHORT = QUICK.model_copy(update={"max_epochs": 3})


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def dual(users: np.ndarray | None, **changed: object) -> DualAlignment:
    config = InfoNceConfig(user_alignment_weight=0.5, n_hidden=8, **changed)
    items = Targets(units(9, 5).numpy())
    return DualAlignment(items, None if users is None else Targets(users), 4, config, 0.01, 0, CPU)


# -- the whole catalogue, and samples of it -------------------------------------------------------


def by_hand(projected: torch.Tensor, own: list[int], targets: torch.Tensor, t: float) -> float:
    scores = torch.nn.functional.normalize(projected, dim=1) @ targets.T / t
    return torch.nn.functional.cross_entropy(scores, torch.tensor(own)).item()


def test_the_catalogue_in_chunks_is_the_plain_cross_entropy_with_its_gradient(monkeypatch):
    monkeypatch.setattr(infonce, "_TARGETS_AT_ONCE", 3)
    targets, own = units(10, 6), torch.tensor([7, 0, 4])
    projected = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = catalogue_info_nce(projected, own, targets[own], targets, 0.3)
    assert found.item() == pytest.approx(by_hand(projected, own.tolist(), targets, 0.3), rel=1e-5)
    scores = torch.nn.functional.normalize(projected, dim=1) @ targets.T / 0.3
    plain = torch.nn.functional.cross_entropy(scores, own)
    torch.testing.assert_close(
        torch.autograd.grad(found, projected), torch.autograd.grad(plain, projected)
    )


def test_twins_in_the_catalogue_are_no_negatives():
    targets = units(4, 6)
    targets[3] = targets[0]
    groups = torch.tensor([0, 1, 2, 0])
    projected = units(1, 6, seed=3)
    found = catalogue_info_nce(projected, torch.tensor([0]), targets[:1], targets, 0.5, groups)
    assert found.item() == pytest.approx(by_hand(projected, [0], targets[:3], 0.5), rel=1e-5)


def test_the_expectation_over_all_samples_is_the_sum_over_the_catalogue():
    # Every way to draw 3 of 4 items, with its probability: the mean of the estimated sum is exact.
    targets, projected, own, t, k = units(4, 5), units(1, 5, seed=1), torch.tensor([2]), 0.7, 3
    q = torch.tensor([0.4, 0.3, 0.2, 0.1])
    positive = (projected * targets[2]).sum().item() / t
    expected = 0.0
    for draw in itertools.product(range(4), repeat=k):
        sample = torch.tensor(draw)
        loss = sampled_info_nce(
            projected, own, targets[own], sample, targets[sample], (k * q[sample]).log(), t
        )
        expected += q[sample].prod().item() * math.exp(loss.item() + positive)
    full = catalogue_info_nce(projected, own, targets[own], targets, t).item()
    assert expected == pytest.approx(math.exp(full + positive), rel=1e-5)


def test_items_are_sampled_as_often_as_the_probabilities_say_that_the_loss_corrects_by():
    side = dual(None, negatives="sampled", n_negatives=4_000, negatives_power=1.0).item_side
    popular = DualAlignment(
        Targets(units(3, 5).numpy(), popularity=np.array([0, 1, 5])),
        None,
        4,
        InfoNceConfig(negatives="sampled", n_negatives=4_000, negatives_power=1.0),
        0.01,
        0,
        CPU,
    ).item_side.negatives
    assert side.negatives is not None
    assert popular is not None
    counts = torch.bincount(popular.draw(), minlength=3)
    assert popular.log_expected.exp().tolist() == pytest.approx([4_000 * n / 9 for n in (1, 2, 6)])
    assert counts.tolist() == pytest.approx(popular.log_expected.exp().tolist(), rel=0.15)


@pytest.mark.parametrize("negatives", ["catalogue", "sampled"])
def test_other_negatives_align_as_well(negatives):
    planted = world()
    config = QUICK.model_copy(update={"negatives": negatives, "n_negatives": 64, "max_epochs": 12})
    train, valid = planted.events(3_000, 0), planted.events(500, 1)
    found = align(train, valid, 60, planted.embeddings, np.arange(120), config)
    assert found.after.cosine > 0.7


# -- users ----------------------------------------------------------------------------------------


def test_users_of_nearly_one_profile_are_no_negatives_of_each_other():
    targets = torch.tensor([[1.0, 0.0], [0.99, math.sqrt(1 - 0.99**2)], [0.0, 1.0]])
    excluded = near_twins(targets, 0.95)
    assert excluded.tolist() == [[False, True, False], [True, False, False], [False] * 3]
    # A perfect projection: without the mask the twins would cost each other log 2 and more.
    loss = info_nce(targets, targets, 0.05, excluded)
    assert loss.item() < 0.02
    assert info_nce(targets, targets, 0.05).item() > 0.3


def test_a_user_without_a_profile_is_never_drawn_and_the_others_once_a_pass():
    profiles = units(7, 5).numpy()
    profiles[[2, 5]] = 0
    alignment = dual(profiles, aligned_users=2)
    passes = [[alignment.begin().users for _ in range(3)] for _ in range(2)]
    for one_pass in passes:
        assert sorted(torch.cat(one_pass).tolist()) == [0, 1, 3, 4, 6]
        assert all(len(batch.unique()) == len(batch) for batch in one_pass)


def test_no_user_with_a_profile_is_a_side_that_costs_nothing():
    alignment = dual(np.zeros((3, 5), np.float32))
    drawn = alignment.begin()
    _, of_users = alignment.losses(drawn, torch.zeros(0, 4), torch.ones(len(drawn.items), 4))
    assert len(drawn.users) == 0
    assert of_users.item() == 0


def test_aligned_users_point_where_their_profiles_point_and_unaligned_ones_do_not():
    planted = world()
    train, valid = planted.events(4_000, 0), planted.events(800, 1)
    profiles = profiles_of(planted, train)
    found = {}
    for weight in (0.0, 1.0):
        config = QUICK.model_copy(update={"user_alignment_weight": weight})
        made = align(
            train, valid, 60, planted.embeddings, np.arange(120), config, profiles=profiles
        )
        assert made.users_before is not None
        assert abs(made.users_before.cosine) < 0.2
        found[weight] = made.users_after
    assert found[1.0].cosine > 0.7
    assert found[1.0].cosine > found[0.0].cosine + 0.1
    assert found[1.0].overlap > found[0.0].overlap


def test_a_permutation_keeps_the_rows_and_leaves_those_without_a_target():
    targets = np.array([[1, 0], [0, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    dealt = permuted_rows(targets, 0)
    assert dealt[1].tolist() == [0, 0]
    assert sorted(dealt.tolist()) == sorted(targets.tolist())
    assert not np.array_equal(dealt, targets)
    assert np.array_equal(dealt, permuted_rows(targets, 0))


def test_users_may_have_a_projector_of_their_own():
    planted = world()
    train, valid = planted.events(1_000, 0), planted.events(300, 1)
    config = SHORT.model_copy(update={"user_alignment_weight": 1.0, "user_projector": "own"})
    made = align(
        train,
        valid,
        60,
        planted.embeddings,
        np.arange(120),
        config,
        profiles=profiles_of(planted, train),
    )
    weights = [each.tensors()["output.weight"] for each in (made.projector, made.user_projector)]
    assert not np.allclose(*weights)


def test_user_alignment_without_profiles_is_one_clear_error():
    planted = world()
    config = SHORT.model_copy(update={"user_alignment_weight": 1.0})
    with pytest.raises(JobError, match="no user profiles are given"):
        align(
            planted.events(100, 0),
            planted.events(50, 1),
            60,
            planted.embeddings,
            np.arange(120),
            config,
        )


# -- semantics ------------------------------------------------------------------------------------


def test_trainable_semantics_move_only_in_the_rows_of_the_batch_and_keep_their_length():
    alignment = dual(None, semantics="trainable", aligned_items=3)
    before = alignment.semantics.weights.clone()
    drawn = alignment.begin()
    factors = units(len(drawn.items), 4).requires_grad_()
    of_items, _ = alignment.losses(drawn, torch.zeros(0, 4), factors)
    alignment.step(drawn, torch.autograd.grad(of_items, drawn.leaves))
    after = alignment.semantics.weights
    moved = (after != before).any(dim=1).nonzero().ravel().tolist()
    assert moved == sorted(drawn.items.tolist())
    torch.testing.assert_close(after.norm(dim=1), torch.ones(9))
    # Adam's first step is the learning rate in each of 5 dimensions, a tenth of that of factors.
    assert (after - before)[moved].abs().max() < 0.1 * 0.01 * 1.5
    assert 0 < alignment.drift() < 0.01


def test_frozen_semantics_have_no_drift_and_trainable_ones_report_theirs():
    planted = world()
    train, valid = planted.events(1_000, 0), planted.events(300, 1)
    given = planted.embeddings.copy()
    made = {}
    for semantics in ("frozen", "trainable"):
        config = SHORT.model_copy(update={"semantics": semantics})
        made[semantics] = align(train, valid, 60, planted.embeddings, np.arange(120), config)
    assert made["frozen"].drift is None
    assert made["frozen"].semantics is None
    moved = np.linalg.norm(made["trainable"].semantics - given) / np.linalg.norm(given)
    assert made["trainable"].drift == pytest.approx(moved, rel=1e-4)
    assert 0 < made["trainable"].drift < 0.2
    assert np.array_equal(planted.embeddings, given)  # the caller's array is left alone
