"""SASRec against its equations, written out in numpy."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from jobs.collab.baselines.sasrec import Block, SasRec, SasRecNetwork
from jobs.collab.baselines.windows import Batch
from jobs.collab.factors import UNKNOWN

N_ITEMS, D, LENGTH = 9, 4, 5
WINDOWS = torch.tensor(
    [[0, 1, 2, 3, 4], [UNKNOWN, UNKNOWN, 5, 1, 5], [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 8]]
)


def network(**settings) -> SasRecNetwork:
    """In double precision, with every weight away from its start, scoring."""
    config = SasRec(n_factors=D, n_positives=LENGTH, **settings)
    made = SasRecNetwork(0, N_ITEMS, config).double()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in made.parameters():
            weights.copy_(torch.randn(weights.shape, generator=random, dtype=weights.dtype) / 2)
        made.items.weight[0] = 0
    return made.eval()


def rows(windows: torch.Tensor, *items: int) -> Batch:
    n = len(items)
    return Batch(torch.zeros(n, dtype=torch.long), torch.tensor(items), windows, torch.arange(n))


def weights_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: weights.detach().numpy() for name, weights in module.named_parameters()}


def norm(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-8)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def block_by_hand(
    x: np.ndarray, is_real: np.ndarray, block: Block, n_heads: int, masked: bool
) -> np.ndarray:
    """One window, place by place: (length, d) -> (length, d)."""
    w, size = weights_of(block), D // n_heads
    query = norm(x, w, "query_norm")
    q, k, v = linear(query, w, "query"), linear(x, w, "key"), linear(x, w, "value")
    out = np.zeros_like(x)
    for place in np.flatnonzero(is_real):
        keys = [j for j in range(place + 1) if is_real[j] or not masked]
        attended = np.zeros(D)
        for head in range(n_heads):
            part = slice(head * size, (head + 1) * size)
            chance = np.exp(k[keys][:, part] @ q[place, part] / np.sqrt(size))
            attended[part] = chance / chance.sum() @ v[keys][:, part]
        h = norm(query[place] + linear(attended, w, "output"), w, "norm")
        out[place] = h + linear(np.maximum(linear(h, w, "inner"), 0), w, "outer")
    return out


def states_by_hand(
    made: SasRecNetwork, windows: np.ndarray, n_heads: int, masked: bool
) -> np.ndarray:
    w, states = weights_of(made), []
    for window in windows:
        is_real = window >= 0
        x = w["items.weight"][window + 1] * np.sqrt(D) + w["positions"]
        x = np.where(is_real[:, None], x, 0)
        for block in made.blocks:
            x = block_by_hand(x, is_real, block, n_heads, masked)
        states.append(norm(x[-1], w, "norm"))
    return np.array(states)


@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("masked", [True, False])
def test_a_block_attends_backwards_with_a_norm_on_the_query_alone(n_heads, masked):
    made = network(n_heads=n_heads, masks_padding=masked)
    is_real = (WINDOWS >= 0).unsqueeze(-1)
    x = torch.randn(3, LENGTH, D, generator=torch.Generator().manual_seed(0)).double() * is_real
    with torch.no_grad():
        found = made.blocks[0](x, is_real, LENGTH).numpy()
    for window in range(3):
        by_hand = block_by_hand(
            x[window].numpy(), is_real[window, :, 0].numpy(), made.blocks[0], n_heads, masked
        )
        np.testing.assert_allclose(found[window], by_hand, atol=1e-12)


@pytest.mark.parametrize("n_blocks", [1, 2, 3])
@pytest.mark.parametrize("masked", [True, False])
def test_the_state_is_that_of_the_newest_place_after_all_blocks(n_blocks, masked):
    made = network(n_blocks=n_blocks, masks_padding=masked)
    with torch.no_grad():
        found = made.states(WINDOWS).numpy()
    by_hand = states_by_hand(made, WINDOWS.numpy(), 1, masked)
    np.testing.assert_allclose(found, by_hand, atol=1e-12)


def test_the_score_is_the_product_of_state_and_item():
    made = network()
    with torch.no_grad():
        found = made(rows(WINDOWS, 3, 0, 7)).numpy()
    items = made.items.weight.detach().numpy()[[4, 1, 8]]
    by_hand = (states_by_hand(made, WINDOWS.numpy(), 1, True) * items).sum(axis=1)
    np.testing.assert_allclose(found, by_hand, atol=1e-12)


def test_longer_padding_changes_no_state():
    made = network()
    short = WINDOWS[1:, 2:]
    with torch.no_grad():
        torch.testing.assert_close(made.states(short), made.states(WINDOWS[1:]), rtol=0, atol=1e-12)


def test_as_published_empty_places_take_attention():
    made = network(masks_padding=False)
    with torch.no_grad():
        apart = made.states(WINDOWS[1:, 2:]) - made.states(WINDOWS[1:])
    assert apart.abs().max() > 1e-3


def test_an_empty_history_has_the_state_that_the_last_norm_has_learned():
    for masked in (True, False):
        made = network(masks_padding=masked)
        with torch.no_grad():
            state = made.states(torch.full((1, LENGTH), UNKNOWN))[0]
        torch.testing.assert_close(state, made.norm.bias.detach())


def test_the_order_of_a_history_matters():
    made = network()
    with torch.no_grad():
        found = made.states(torch.tensor([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4]]))
    assert (found[0] - found[1]).abs().max() > 1e-5


def test_a_state_does_not_depend_on_the_windows_beside_it():
    made = network()
    with torch.no_grad():
        together = made.states(WINDOWS)
        for window in range(len(WINDOWS)):
            alone = made.states(WINDOWS[window : window + 1])
            torch.testing.assert_close(alone[0], together[window], rtol=0, atol=1e-12)


def test_gradients_are_those_of_finite_differences():
    made = network()
    names, weights = zip(*made.named_parameters(), strict=True)

    def logits(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(made, given, (rows(WINDOWS, 3, 0, 7),))

    assert torch.autograd.gradcheck(logits, weights)


def test_heads_that_do_not_divide_the_embedding_are_refused():
    with pytest.raises(ValidationError, match=r"n_heads \(3\) does not divide n_factors"):
        SasRec(n_factors=64, n_heads=3)
