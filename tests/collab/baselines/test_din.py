"""DIN and Dice against their equations, written out in numpy."""

import numpy as np
import pytest
import torch

from jobs.collab.baselines.din import Dice, Din, DinNetwork
from jobs.collab.baselines.windows import Batch
from jobs.collab.factors import UNKNOWN

N_USERS, N_ITEMS, D = 3, 9, 4
WINDOWS = torch.tensor([[0, 1, 2], [UNKNOWN, 5, 5], [UNKNOWN, UNKNOWN, UNKNOWN]])


def network(**settings) -> DinNetwork:
    """In double precision, with every weight away from its start, scoring."""
    config = Din(n_factors=3 * D + 1, n_unit=(6, 5), n_head=(7, 3), **settings)
    made = DinNetwork(N_USERS, N_ITEMS, config).double()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in made.parameters():
            weights.copy_(torch.randn(weights.shape, generator=random, dtype=weights.dtype) / 2)
        for module in made.modules():
            if isinstance(module, Dice):
                module.mean.uniform_(-1, 1, generator=random)
                module.variance.uniform_(0.5, 2, generator=random)
        for table in made.id_tables():
            table.weight[0] = 0
    return made.eval()


def rows(windows: torch.Tensor, *items: int) -> Batch:
    n = len(items)
    return Batch(torch.arange(n), torch.tensor(items), windows, torch.arange(n))


def layers_by_hand(layers: torch.nn.Sequential, x: np.ndarray) -> np.ndarray:
    for layer in layers:
        if isinstance(layer, Dice):
            alpha, mean, variance = (
                each.detach().numpy() for each in (layer.alpha, layer.mean, layer.variance)
            )
            p = 1 / (1 + np.exp(-(x - mean) / np.sqrt(variance + 1e-8)))
            x = p * x + (1 - p) * alpha * x
        elif isinstance(layer, torch.nn.Linear):
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    return x


def test_dice_in_training_is_its_equation_on_the_batch():
    dice = Dice(2).double().train()
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0], [5.0, 1.0]], dtype=torch.float64)
    with torch.no_grad():
        dice.alpha.copy_(torch.tensor([0.5, -1.0]))
        found = dice(x).numpy()
    values = x.numpy()
    p = 1 / (1 + np.exp(-(values - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + 1e-8)))
    np.testing.assert_allclose(found, values * (p + (1 - p) * np.array([0.5, -1.0])), atol=1e-12)


def test_dice_keeps_running_statistics_and_scores_with_them():
    dice = Dice(1).double().train()
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)  # mean 2, variance 1
    dice(x)
    assert dice.mean.item() == pytest.approx(0.9 * 0 + 0.1 * 2)
    assert dice.variance.item() == pytest.approx(0.9 * 1 + 0.1 * 1)
    found = dice.eval()(x[1:]).item()
    assert found == pytest.approx(3 / (1 + np.exp(-(3 - 0.2))))


def test_dice_of_one_row_or_of_none_is_finite_in_training():
    dice = Dice(2).train()
    assert dice(torch.tensor([[2.0, -4.0]])).tolist() == [[1.0, -2.0]]  # p = 1/2
    assert dice(torch.zeros(0, 2)).shape == (0, 2)
    assert dice.mean.isfinite().all()


def test_the_pooled_history_is_a_weighted_sum_without_a_softmax():
    made = network()
    items = torch.tensor([3, 0, 7])
    with torch.no_grad():
        found = made.pooled(made.items(items), WINDOWS).numpy()
    targets = made.items.weight.detach().numpy()[items.numpy() + 1]
    table = made.positives.weight.detach().numpy()
    for row, window in enumerate(WINDOWS.tolist()):
        pooled, q = np.zeros(D), targets[row]
        for item in window:
            if item != UNKNOWN:
                h = table[item + 1]
                pooled += layers_by_hand(made.unit, np.concatenate([q, h, q - h, q * h])) * h
        np.testing.assert_allclose(found[row], pooled, atol=1e-12)


def test_the_score_is_the_head_of_item_history_and_user():
    made, batch = network(), rows(WINDOWS, 3, 0, 7)
    with torch.no_grad():
        found = made(batch).numpy()
        parts = made.items(batch.items), made.pooled(made.items(batch.items), WINDOWS)
        whole = torch.cat([*parts, made.users(batch.users)], dim=1).numpy()
    np.testing.assert_allclose(found, layers_by_hand(made.head, whole)[:, 0], atol=1e-12)


def test_longer_padding_changes_no_score():
    made = network()
    longer = torch.nn.functional.pad(WINDOWS, (4, 0), value=UNKNOWN)
    with torch.no_grad():
        found, padded = (made(rows(windows, 3, 0, 7)) for windows in (WINDOWS, longer))
    torch.testing.assert_close(found, padded, rtol=0, atol=1e-12)


def test_padding_is_not_in_the_statistics_of_a_batch():
    apart = []
    for windows in (WINDOWS, torch.nn.functional.pad(WINDOWS, (4, 0), value=UNKNOWN)):
        made = network(dropout=0.0).train()
        apart.append(made(rows(windows, 3, 0, 7)).detach())
    torch.testing.assert_close(apart[0], apart[1], rtol=0, atol=1e-12)


def test_the_order_of_a_history_does_not_matter():
    made = network()
    with torch.no_grad():
        found = made(rows(WINDOWS, 3, 0, 7))
        turned = made(rows(WINDOWS.flip(dims=[1]), 3, 0, 7))
    torch.testing.assert_close(found, turned, rtol=0, atol=1e-12)


def test_the_same_positive_twice_weighs_twice():
    made = network()
    item = made.items(torch.tensor([4, 4]))
    with torch.no_grad():
        once, twice = made.pooled(item, torch.tensor([[UNKNOWN, 2], [2, 2]]))
    torch.testing.assert_close(twice, 2 * once)


def test_an_empty_history_pools_to_zero():
    made = network()
    with torch.no_grad():
        found = made.pooled(made.items(torch.tensor([4])), torch.full((1, 3), UNKNOWN))
    assert found.tolist() == [[0.0] * D]


def test_a_score_does_not_depend_on_the_rows_beside_it():
    made = network()
    with torch.no_grad():
        together = made(rows(WINDOWS, 3, 0, 7))
        for row in range(3):
            alone = made(
                Batch(
                    *(part[row : row + 1] for part in rows(WINDOWS, 3, 0, 7)[:3]),
                    torch.zeros(1, dtype=torch.long),
                )
            )
            torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(training):
    made = network(dropout=0.0).train(training)
    names, weights = zip(*made.named_parameters(), strict=True)

    def logits(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(made, given, (rows(WINDOWS, 3, 0, 7),))

    assert torch.autograd.gradcheck(logits, weights)
