import math

import numpy as np
import pytest
import torch

from jobs.collab.infonce import InfoNceConfig, info_nce, twins
from jobs.collab.sides import ItemSide, Targets

UNITS = torch.eye(3)


def item_side(n_items: int, aligned_items: int, groups: np.ndarray | None = None) -> ItemSide:
    targets = np.eye(n_items, dtype=np.float32)
    config = InfoNceConfig(aligned_items=aligned_items)
    return ItemSide(Targets(targets, groups), config, seed=0, device=torch.device("cpu"))


def test_three_vectors_have_the_loss_that_was_worked_out_by_hand():
    # Rows 0 and 1 point at each other's target, row 2 at its own. At temperature 0.5 a cosine
    # of 1 is a similarity of 2, so with z = e^2 + 2 the rows cost ln z, ln z and ln z - 2.
    projected = torch.tensor([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    expected = math.log(math.e**2 + 2) - 2 / 3
    assert info_nce(projected, UNITS, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_both_directions_count_alike():
    random = torch.Generator().manual_seed(1)
    left, right = (
        torch.nn.functional.normalize(torch.randn(6, 4, generator=random), dim=1) for _ in range(2)
    )
    assert info_nce(left, right, 0.2).item() == pytest.approx(info_nce(right, left, 0.2).item())


def test_one_direction_alone_would_give_another_number():
    # Both rows point at target 0. Forth: ln(1 + e^-1) and ln(1 + e). Back: ln 2 twice.
    projected = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    forth = (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    expected = (forth + math.log(2)) / 2
    assert info_nce(projected, torch.eye(2), 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_items_with_the_same_text_are_no_negatives_of_each_other():
    # Rows 0 and 1 share a text and a target: with the twin masked, each has row 2 alone as its
    # negative, at cosine 0, and so costs ln(1 + e^-1); row 2 has two negatives: ln(1 + 2 e^-1).
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = info_nce(targets, targets, 1.0, twins(torch.tensor([7, 7, 8])))
    expected = (2 * math.log(1 + math.exp(-1)) + math.log(1 + 2 * math.exp(-1))) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_one_item_has_no_negatives_and_costs_nothing():
    assert info_nce(torch.ones(1, 3), UNITS[:1], 0.2).item() == 0


def test_a_pass_draws_every_item_of_the_catalogue_once():
    passes = item_side(10, aligned_items=4).passes
    batches = [passes.draw() for _ in range(6)]
    for one_pass in (batches[:3], batches[3:]):
        assert sorted(torch.cat(one_pass).tolist()) == list(range(10))


def test_the_loss_knows_the_twins_of_its_catalogue():
    groups = np.array([0, 0, 1])
    with_twins, without = item_side(3, 3, groups), item_side(3, 3)
    projected = torch.randn(3, 3, generator=torch.Generator().manual_seed(2))
    items = torch.tensor([2, 0, 1])
    losses = [side.loss(items, projected, torch.eye(3)[items]) for side in (with_twins, without)]
    assert losses[0] < losses[1]
