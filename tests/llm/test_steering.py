"""Attention steering: what a bias does to attention, exactly, on Llama- and Qwen2-shaped models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BloomConfig, BloomForCausalLM, MambaConfig, MambaForCausalLM

from jobs.llm.answers import AnswerTokens, answer_logits
from jobs.llm.sequences import PackedSequence, collate, visible
from jobs.llm.steered_attention import attention_weights, steered_flex_attention, steered_sdpa
from jobs.llm.steering import (
    BLOCK,
    Bias,
    FixedBias,
    FreeBias,
    Schedule,
    SignedBias,
    Steering,
    SteeringError,
    borders,
    scheduled_bias,
    soft_kinds,
    steerable,
    steering,
)
from tests.tiny_backbone import HEADS, LAYERS, tiny_model

ARCHITECTURES = ("llama", "qwen2")
N_TOKENS, N = 300, 11
SOFT = {3: 0, 4: 1, 7: 2}  # place: kind
ANSWERS = AnswerTokens(5, 6, with_space=False)


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    model = tiny_model(N_TOKENS, seed=3, architecture=request.param)
    model.requires_grad_(False)
    return model


def prompt(seed: int = 0, n: int = N) -> torch.Tensor:
    return torch.randint(7, N_TOKENS, (1, n), generator=torch.Generator().manual_seed(seed))


def kinds_at(soft: dict[int, int], n: int = N, shift: int = 0) -> torch.Tensor:
    kinds = torch.full((1, n), -1)
    for place, kind in soft.items():
        kinds[0, place + shift] = kind
    return kinds


def fixed(*values: float) -> FixedBias:
    return FixedBias(torch.tensor(values))


def logits(model: Any, ids: torch.Tensor, steer: Steering | None = None, **named: Any) -> Any:
    with steerable(model):
        return model(input_ids=ids, steering=steer, use_cache=False, **named).logits


def weights(model: Any, ids: torch.Tensor, steer: Steering | None) -> list[torch.Tensor]:
    """(heads, q, k) of each layer, from the eager path."""
    model.set_attn_implementation("eager")
    with steerable(model):
        out = model(input_ids=ids, steering=steer, output_attentions=True, use_cache=False)
    return [each[0] for each in out.attentions]


# -- schedules -----------------------------------------------------------------------------------


def test_the_parts_are_those_of_the_paper() -> None:
    assert {n: borders(n) for n in (2, 3, 4, 24, 28, 30)} == {
        2: (1, 1),
        3: (1, 2),
        4: (1, 3),
        24: (7, 19),
        28: (8, 22),
        30: (9, 24),
    }
    assert borders(1) == (0, 0)


def test_each_schedule_has_the_values_worked_out_by_hand() -> None:
    def values(schedule: Schedule) -> list[float]:
        return scheduled_bias(schedule, 10, suppress=2, enhance=1).tolist()

    middle = [0.0] * 5
    assert values(Schedule.NONE) == [0.0] * 10
    assert values(Schedule.SUPPRESS_ENHANCE) == [-2, -2, -2, *middle, 0.5, 1]
    assert values(Schedule.REVERSED) == [1, 0.5, *middle, -2, -2, -2]
    assert values(Schedule.SUPPRESS) == [-2, -2, -2, *middle, 0, 0]
    assert values(Schedule.ENHANCE) == [0, 0, 0, *middle, 0.5, 1]
    assert values(Schedule.UNIFORM) == [1] * 10
    chance = [scheduled_bias(Schedule.RANDOM_SIGN, 10, 2, 1, seed) for seed in range(20)]
    sizes = torch.tensor([2, 2, 2, *middle, 0.5, 1])
    assert all(torch.equal(each.abs(), sizes) for each in chance)
    assert len({tuple(each.tolist()) for each in chance}) > 5
    assert torch.equal(chance[0], scheduled_bias(Schedule.RANDOM_SIGN, 10, 2, 1, 0))


def test_an_infinite_suppression_leaves_the_other_layers_at_zero() -> None:
    bias = scheduled_bias(Schedule.SUPPRESS_ENHANCE, 10, suppress=math.inf)
    assert bias.tolist() == [BLOCK, BLOCK, BLOCK, 0, 0, 0, 0, 0, 0.5, 1]


# -- (i) zero bias -------------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_zero_bias_is_plain_attention(model: Any, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    ids = prompt()
    plain = model(input_ids=ids, use_cache=False).logits
    kinds = kinds_at(SOFT)
    assert torch.equal(logits(model, ids), plain)  # no steering at all
    assert torch.equal(logits(model, ids, steering(fixed(0, 0), kinds)), plain)  # idle layers
    added = logits(model, ids, Steering(torch.zeros(LAYERS, 1, 1), kinds))  # zeros really added
    torch.testing.assert_close(added, plain, atol=1e-5, rtol=0)
    nowhere = logits(model, ids, steering(fixed(3, 3), kinds_at({})))
    torch.testing.assert_close(nowhere, plain, atol=1e-5, rtol=0)


def test_the_model_is_what_it_was_afterwards(model: Any) -> None:
    ids, before = prompt(), model.config._attn_implementation
    plain = model(input_ids=ids, use_cache=False).logits
    assert not torch.equal(logits(model, ids, steering(fixed(2, 2), kinds_at(SOFT))), plain)
    assert model.config._attn_implementation == before
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, plain)


# -- (ii) the odds -------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("b", [-3.0, -0.5, 0.7, 2.0])
def test_the_odds_of_soft_tokens_grow_by_the_exponential_of_the_bias(
    model: Any, layer: int, b: float
) -> None:
    ids, kinds = prompt(), kinds_at(SOFT)
    values = [0.0] * LAYERS
    values[layer] = b  # what comes before the layer is unchanged, so its own weights follow exactly
    before = weights(model, ids, None)[layer]
    after = weights(model, ids, steering(fixed(*values), kinds))[layer]
    soft = kinds[0] >= 0
    others = [q for q in range(N) if q not in SOFT and q > min(SOFT)]
    m = before[:, others][:, :, soft].sum(dim=-1)
    expected = m * math.exp(b) / (1 - m + m * math.exp(b))
    found = after[:, others][:, :, soft].sum(dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for q in SOFT:  # of a soft token's own row all keys but itself are biased
        away = [place for place in SOFT if place < q]
        m = before[:, q, away].sum(dim=-1)
        expected = m * math.exp(b) / (1 - m + m * math.exp(b))
        torch.testing.assert_close(after[:, q, away].sum(dim=-1), expected, atol=1e-5, rtol=0)


def test_sdpa_and_flex_attention_compute_what_the_eager_path_does(model: Any) -> None:
    ids = prompt()
    bias = FreeBias(torch.tensor([-1.0, 1.5]), HEADS)
    torch.nn.init.normal_(bias.values, generator=torch.Generator().manual_seed(1))
    queries = torch.ones_like(ids, dtype=torch.bool)
    queries[0, 2:5] = False
    steer = steering(bias, kinds_at(SOFT), queries)
    found = []
    for implementation in ("eager", "sdpa", "flex_attention"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():  # on a CPU FlexAttention has no backward
            found.append(logits(model, ids, steer))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=0)


def test_a_bias_by_head_and_kind_reaches_that_head_and_kind_alone(model: Any) -> None:
    ids, kinds = prompt(), kinds_at(SOFT)
    bias = FreeBias(torch.zeros(LAYERS), HEADS)
    with torch.no_grad():
        bias.values[0, 2, 1] = 1.0
    before, after = weights(model, ids, None)[0], weights(model, ids, steering(bias, kinds))[0]
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    m = before[2, N - 1, 4]
    expected = m * math.e / (1 - m + m * math.e)
    torch.testing.assert_close(after[2, N - 1, 4], expected, atol=1e-6, rtol=0)


def test_only_the_queries_asked_for_are_steered(model: Any) -> None:
    ids, kinds = prompt(), kinds_at(SOFT)
    last = torch.zeros_like(ids, dtype=torch.bool)
    last[0, -1] = True
    plain = logits(model, ids)
    steered = logits(model, ids, steering(fixed(2, 2), kinds, last))
    torch.testing.assert_close(steered[:, :-1], plain[:, :-1], atol=1e-5, rtol=0)
    assert (steered[:, -1] - plain[:, -1]).abs().max() > 1e-3


# -- (iii) full suppression ----------------------------------------------------------------------


@pytest.mark.parametrize("b", [BLOCK, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
def test_full_suppression_is_removing_the_keys(model: Any, b: float, implementation: str) -> None:
    ids = prompt()
    allowed = torch.ones(N, N, dtype=torch.bool).tril()
    for place in SOFT:
        allowed[place + 1 :, place] = False
    model.set_attn_implementation("sdpa")
    removed = model(input_ids=ids, attention_mask=allowed[None, None], use_cache=False).logits
    model.set_attn_implementation(implementation)
    steered = logits(model, ids, steering(fixed(b, b), kinds_at(SOFT)))
    torch.testing.assert_close(steered, removed, atol=1e-5, rtol=0)
    assert (logits(model, ids) - removed).abs().max() > 1e-3


# -- (iv), (v) padding ---------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(model: Any, side: str, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    ids, bias = prompt(), fixed(-2, 1)
    alone = logits(model, ids, steering(bias, kinds_at(SOFT)))
    pad = 6
    shift = pad if side == "left" else 0
    padded = torch.zeros(2, N + pad, dtype=torch.long)
    mask = torch.zeros_like(padded)
    padded[0, shift : shift + N], mask[0, shift : shift + N] = ids[0], 1
    padded[1], mask[1] = prompt(9, N + pad)[0], 1  # a longer batch mate
    kinds = torch.cat([kinds_at(SOFT, N + pad, shift), kinds_at({2: 0}, N + pad)])
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    together = logits(
        model, padded, steering(bias, kinds), attention_mask=mask, position_ids=positions
    )
    torch.testing.assert_close(together[:1, shift : shift + N], alone, atol=1e-5, rtol=0)
    assert together.isfinite().all()


# -- gradient ------------------------------------------------------------------------------------


def learned() -> list[Bias]:
    start = scheduled_bias(Schedule.SUPPRESS_ENHANCE, LAYERS)
    return [SignedBias(start), FreeBias(start, HEADS)]


def parameter_of(bias: Bias) -> torch.nn.Parameter:
    return next(iter(bias.parameters()))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_gradient_of_a_learned_bias_is_that_of_finite_differences(
    model: Any, which: int, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    model.double()  # but for the norms, which compute in float32
    ids, kinds, bias = prompt(), kinds_at(SOFT), learned()[which].double()
    parameter = parameter_of(bias)

    def score() -> torch.Tensor:
        return logits(model, ids, steering(bias, kinds))[0, -1, 5]

    score().backward()
    assert parameter.grad is not None
    step, flat = 1e-2, parameter.data.view(-1)
    with torch.no_grad():
        for number in range(0, len(flat), 5):
            middle = float(flat[number])
            ends = []
            for sign in (1, -1):
                flat[number] = middle + sign * step
                ends.append(float(score()))
            flat[number] = middle
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(parameter.grad.view(-1)[number]) == pytest.approx(
                slope, rel=1e-2, abs=5e-5
            )


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_gradient_is_the_same_through_checkpointed_layers(
    model: Any, implementation: str
) -> None:
    model.set_attn_implementation(implementation)
    gradients = []
    for is_checkpointed in (False, True):
        if is_checkpointed:
            checkpoint_layers(model)
        model.train()
        bias = learned()[0]
        with steerable(model):  # the backward pass too: it computes the layers once more
            steer = steering(bias, kinds_at(SOFT))
            model(input_ids=prompt(), steering=steer).logits[0, -1, 5].backward()
        gradients.append(parameter_of(bias).grad)
    assert gradients[0].abs().min() > 0
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-7, rtol=0)


def checkpoint_layers(model: Any) -> None:
    """Under the name that the installed transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has no backward on a CPU")
def test_flex_attention_has_the_gradient_of_sdpa_on_a_gpu(model: Any) -> None:
    gradients = []
    for implementation in ("sdpa", "flex_attention"):
        model.cuda().set_attn_implementation(implementation)
        bias = learned()[1].cuda()
        steer = steering(bias, kinds_at(SOFT).cuda())
        logits(model, prompt().cuda(), steer)[0, -1, 5].backward()
        gradients.append(parameter_of(bias).grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # peft's own
def test_a_model_wrapped_by_peft_is_steered_like_the_bare_one(model: Any) -> None:
    ids, bias = prompt(), learned()[1]
    kinds = kinds_at(SOFT)
    bare = logits(model, ids, steering(bias, kinds)).detach()
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    steered = logits(wrapped, ids, steering(bias, kinds))
    torch.testing.assert_close(steered, bare, atol=1e-6, rtol=0)
    steered[0, -1, 5].backward()
    assert parameter_of(bias).grad is not None
    lora = [p.grad for name, p in wrapped.named_parameters() if "lora_B" in name]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in lora)


# -- learned biases ------------------------------------------------------------------------------


def test_learned_biases_start_at_the_schedule_and_the_signed_one_keeps_its_sign() -> None:
    start = scheduled_bias(Schedule.SUPPRESS_ENHANCE, 10)
    signed, free = SignedBias(start), FreeBias(start, HEADS)
    torch.testing.assert_close(signed().flatten(), start)
    assert float(signed.penalty().detach()) == pytest.approx(0, abs=1e-9)
    assert free().shape == (10, HEADS, 3)
    assert float(free.penalty().detach()) == pytest.approx(float(start.square().sum()) * HEADS * 3)
    for push in (-100.0, 100.0):
        with torch.no_grad():
            signed.raw.fill_(push)
        values = signed().detach().flatten()
        assert torch.equal(values.sign()[start == 0], start[start == 0])
        assert bool((values * start >= 0).all())
        assert float(values.abs().max()) <= 4


def test_a_learned_bias_cannot_start_outside_its_range() -> None:
    with pytest.raises(SteeringError, match="lies within 4, not at 9"):
        SignedBias(torch.tensor([9.0, 0.0]))
    with pytest.raises(SteeringError, match="finite"):
        FreeBias(torch.tensor([BLOCK, 0.0]), HEADS)


# -- packed sequences ----------------------------------------------------------------------------


def packed(seed: int, soft_at: list[int]) -> PackedSequence:
    """Prefix of 4, a shown event of 3, a leaf of 3 whose last token is read."""
    import numpy as np

    ids = prompt(seed, 10)[0].numpy().astype(np.int32)
    return PackedSequence(
        input_ids=ids,
        position_ids=np.arange(10, dtype=np.int32),
        event=np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2], np.int32),
        is_shown=np.array([True] * 7 + [False] * 3),
        answer_at=np.array([9], np.int32),
        answer_row=np.array([seed], np.int64),
        soft_at=np.array(soft_at, np.int32),
        soft_kind=np.zeros(len(soft_at), np.int8),
        soft_nth=np.zeros(len(soft_at), np.int8),
        soft_of=np.zeros(len(soft_at), np.int64),
        soft_end=np.zeros(len(soft_at), np.int32),
    )


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_steering_works_on_packed_masks(model: Any, implementation: str) -> None:
    model.set_attn_implementation(implementation)
    batch = collate([packed(1, [2, 5]), packed(2, [8])])
    kinds = soft_kinds(
        tuple(batch.input_ids.shape), batch.soft_sequence, batch.soft_at, batch.soft_kind
    )
    assert kinds.ge(0).nonzero().tolist() == [[0, 2], [0, 5], [1, 8]]
    allowed = visible(batch).clone()
    for sequence, place in ((0, 2), (0, 5), (1, 8)):
        allowed[sequence, 0, place + 1 :, place] = False
    model.set_attn_implementation("sdpa")
    states = model.get_decoder()(
        input_ids=batch.input_ids, attention_mask=allowed, position_ids=batch.position_ids
    ).last_hidden_state[:, 9]
    head = model.get_output_embeddings().weight
    expected = states @ (head[ANSWERS.yes] - head[ANSWERS.no])
    model.set_attn_implementation(implementation)
    with steerable(model):
        blocked = steering(fixed(BLOCK, BLOCK), kinds)
        found = answer_logits(model, batch, ANSWERS, steering=blocked)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_gradient_flows_from_packed_answers_to_the_bias_and_the_soft_tokens(model: Any) -> None:
    batch = collate([packed(1, [2, 5]), packed(2, [8])])
    kinds = soft_kinds(
        tuple(batch.input_ids.shape), batch.soft_sequence, batch.soft_at, batch.soft_kind
    )
    bias, soft = learned()[0], torch.randn(3, model.config.hidden_size, requires_grad=True)
    with steerable(model):
        steer = steering(bias, kinds)
        answer_logits(model, batch, ANSWERS, soft=soft, steering=steer).sum().backward()
    assert parameter_of(bias).grad.abs().min() > 0
    assert soft.grad is not None
    assert soft.grad.abs().sum(dim=1).min() > 0


# -- what cannot be steered ----------------------------------------------------------------------


def small(kind: str) -> Any:
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2))
    return BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=16, n_layer=2, n_head=2))


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_a_model_without_access_to_each_layer_says_so(kind: str) -> None:
    model = small(kind)
    with (
        pytest.raises(SteeringError, match=r"(?i)cannot be steered|takes no bias"),
        steerable(model),
    ):
        pass


def test_an_attention_that_takes_no_bias_is_named(model: Any) -> None:
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(SteeringError, match=r"flash_attention_2.*sdpa, eager"), steerable(model):
        pass


def test_the_functions_agree_on_one_layer_with_the_written_out_formula() -> None:
    class Layer(torch.nn.Module):
        layer_idx, num_key_value_groups, is_causal = 0, 1, True

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 4, 8) for _ in range(3))
    steer = Steering(torch.tensor([[[1.0]]]), torch.tensor([[-1, 0, -1, -1]]))
    mask = torch.full((4, 4), -torch.inf).triu(1)
    mask[2:, 1] += 1.0
    expected = (attention_weights(q, k, mask) @ v).transpose(1, 2)
    for function in (steered_sdpa, steered_flex_attention):
        given = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
        block: Any = given
        if function is steered_flex_attention:
            from torch.nn.attention.flex_attention import create_block_mask

            block = create_block_mask(lambda b, h, i, j: j <= i, 1, 1, 4, 4, device="cpu")
        found, _ = function(Layer(), q, k, v, block, steering=steer)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
