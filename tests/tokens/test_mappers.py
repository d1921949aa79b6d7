"""Mappers to soft tokens: what they compute, how they start, and their way into a file and back."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from jobs.errors import JobError
from jobs.tokens.mappers import (
    LinearMapper,
    MapperFacts,
    MlpMapper,
    QFormerMapper,
    empty_mapper,
    mapper_of,
    random_mapper,
)
from jobs.tokens.projector import Projector

D_IN, N_TOKENS, D_LLM = 10, 3, 12
KINDS = ("mlp", "linear", "qformer")


def _facts(kind) -> MapperFacts:
    return MapperFacts(
        mapper=kind, d_in=D_IN, n_tokens=N_TOKENS, d_llm=D_LLM, n_hidden=7, d_query=8, n_heads=2
    )


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _inputs(n: int = 20, d_in: int = D_IN) -> torch.Tensor:
    return torch.randn(n, d_in, generator=_generator(2))


@pytest.fixture(params=KINDS)
def mapper(request):
    return random_mapper(_facts(request.param), _generator())


def test_a_linear_mapper_lays_its_tokens_one_after_the_other():
    mapper = LinearMapper(2, 2, 3)
    with torch.no_grad():
        mapper.output.weight.copy_(torch.arange(12.0).reshape(6, 2))
        mapper.output.bias.zero_()
        mapper.scale.fill_(10.0)
    tokens = mapper(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    expected = [[[0, 20, 40], [60, 80, 100]], [[10, 30, 50], [70, 90, 110]]]
    assert tokens.tolist() == expected


def test_an_mlp_is_linear_then_exact_gelu_then_linear_times_the_scale():
    mapper = random_mapper(_facts("mlp"), _generator())
    assert isinstance(mapper, MlpMapper)
    with torch.no_grad():
        mapper.scale.fill_(2.0)
    x = _inputs().double().numpy()
    named = {name: value.astype(np.float64) for name, value in mapper.named_tensors("u").items()}
    a = x @ named["u.hidden.weight"].T + named["u.hidden.bias"]
    erf = torch.erf(torch.tensor(a) / 2**0.5).numpy()
    expected = 2 * (a * (1 + erf) / 2 @ named["u.output.weight"].T + named["u.output.bias"])
    got = mapper(_inputs()).detach().numpy().reshape(20, -1)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_every_mapper_gives_each_row_its_tokens_whatever_the_batch(mapper):
    together = mapper(_inputs())
    assert together.shape == (20, N_TOKENS, D_LLM)
    alone = torch.cat([mapper(row[None]) for row in _inputs()])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_norms_match_after_match_norm_and_keep_the_directions(mapper):
    before = mapper(_inputs())
    scale = mapper.match_norm(_inputs(), 1.7)
    after = mapper(_inputs())
    assert after.norm(dim=2).mean().item() == pytest.approx(1.7, rel=1e-5)
    torch.testing.assert_close(after, before * scale)


def test_inputs_that_map_to_nothing_or_to_nan_are_refused():
    mapper = LinearMapper(2, 1, 3)
    with pytest.raises(JobError, match="row 1 of 2 maps to NaN"):
        mapper.match_norm(torch.tensor([[1.0, 1.0], [float("nan"), 1.0]]), 1.0)
    with torch.no_grad():
        mapper.output.weight.zero_()
        mapper.output.bias.zero_()
    with pytest.raises(JobError, match="no length"):
        mapper.match_norm(torch.ones(2, 2), 1.0)
    with pytest.raises(JobError, match="0 mapped inputs"):
        mapper.match_norm(torch.ones(0, 2), 1.0)


def test_a_mapper_comes_back_from_its_tensors_bit_for_bit(mapper):
    mapper.match_norm(_inputs(), 3.0)
    written = mapper.named_tensors("user") | {"user.unknown": np.zeros(N_TOKENS * D_LLM)}
    facts = {**mapper.facts.record(), "source": "factor"}
    again = mapper_of(facts, written, "user")
    assert torch.equal(again(_inputs()), mapper(_inputs()))
    assert again.facts.record() == mapper.facts.record()
    assert all(value.dtype == np.float32 for value in mapper.named_tensors("user").values())


def test_the_names_are_those_of_token_weights():
    names = {
        kind: set(random_mapper(_facts(kind), _generator()).named_tensors("w")) for kind in KINDS
    }
    linear = {"w.scale", "w.output.weight", "w.output.bias"}
    assert names["linear"] == linear
    assert names["mlp"] == linear | {"w.hidden.weight", "w.hidden.bias"}
    assert all(name.startswith("w.qformer.") for name in names["qformer"] - {"w.scale"})


def test_named_tensors_do_not_change_when_the_mapper_learns_on(mapper):
    written = mapper.named_tensors("user")
    before = {name: value.copy() for name, value in written.items()}
    with torch.no_grad():
        for weights in mapper.parameters():
            weights += 1
    assert all(np.array_equal(written[name], before[name]) for name in written)


def test_a_missing_and_a_misshapen_tensor_are_named():
    mapper = random_mapper(_facts("mlp"), _generator())
    facts, tensors = mapper.facts.record(), mapper.named_tensors("item")
    with pytest.raises(JobError, match=r"no tensor item\.scale"):
        mapper_of(facts, {n: t for n, t in tensors.items() if n != "item.scale"}, "item")
    tensors["item.hidden.weight"] = tensors["item.hidden.weight"][:, :4]
    with pytest.raises(JobError, match=r"item\.hidden\.weight .* \(7, 4\).* \(7, 10\)"):
        mapper_of(facts, tensors, "item")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"mapper": "transformer", "n_tokens": 1, "d_in": 3}, "'transformer', of mlp, linear"),
        ({"mapper": "mlp", "n_tokens": 1}, "missing: d_in"),
        ({"mapper": "linear", "n_tokens": 3, "d_in": 0}, "greater than 0"),
    ],
)
def test_facts_that_describe_no_mapper_are_refused(facts, said):
    tensors = random_mapper(_facts("linear"), _generator()).named_tensors("user")
    with pytest.raises(JobError, match=said):
        mapper_of(facts, tensors, "user")


def test_heads_must_divide_the_width_of_a_query():
    with pytest.raises(JobError, match="d_query 8 is no multiple of n_heads 3"):
        QFormerMapper(4, 1, 4, d_query=8, n_heads=3)


@pytest.mark.parametrize("kind", KINDS)
def test_random_mappers_are_those_of_their_seed_and_leave_torchs_own_state_alone(kind):
    state = torch.random.get_rng_state()
    first = random_mapper(_facts(kind), _generator(5)).named_tensors("x")
    again = random_mapper(_facts(kind), _generator(5)).named_tensors("x")
    other = random_mapper(_facts(kind), _generator(6)).named_tensors("x")
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_random_weights_have_the_deviation_of_their_fan_in():
    facts = MapperFacts(mapper="mlp", d_in=400, n_tokens=1, d_llm=300, n_hidden=200)
    mapper = random_mapper(facts, _generator())
    assert isinstance(mapper, MlpMapper)
    assert mapper.hidden.weight.std().item() == pytest.approx(1 / 20, rel=0.02)
    assert mapper.hidden.bias.abs().max() == 0
    assert mapper.scale == 1


def test_the_first_token_starts_as_the_aligned_projection_whatever_the_extra_inputs():
    projector = Projector.random(6, 7, D_LLM, _generator())
    mapper = MlpMapper.from_projector(projector, 4, N_TOKENS, generator=_generator(3))
    tokens = mapper(_inputs())
    expected = projector(_inputs()[:, :6])
    torch.testing.assert_close(tokens[:, 0], expected)
    others = functional.cosine_similarity(tokens[:, 1:], expected[:, None], dim=2)
    assert others.min() > 0.9
    assert others.max() < 0.9999


def test_standardised_factors_still_start_as_the_aligned_projection():
    projector = Projector.random(6, 7, D_LLM, _generator())
    factors = _inputs()[:, :6] * 3 + 1
    mean, deviation = factors.mean(dim=0), factors.std(dim=0)
    inputs = torch.cat([(factors - mean) / deviation, torch.ones(20, 2)], dim=1)
    mapper = MlpMapper.from_projector(projector, 2, mean=mean, deviation=deviation)
    torch.testing.assert_close(mapper(inputs)[:, 0], projector(factors), atol=1e-5, rtol=1e-5)


def test_the_copied_projector_stays_as_it_was():
    projector = Projector.random(6, 7, D_LLM, _generator())
    before = {name: value.clone() for name, value in projector.state_dict().items()}
    mapper = MlpMapper.from_projector(projector)
    mapper(_inputs()[:, :6]).sum().backward()
    with torch.no_grad():
        for weights in mapper.parameters():
            weights += 1
    assert all(torch.equal(before[name], value) for name, value in projector.state_dict().items())


def test_more_tokens_than_one_need_a_generator():
    with pytest.raises(ValueError, match="generator"):
        MlpMapper.from_projector(Projector.random(6, 7, D_LLM, _generator()), 0, 2)


def test_a_qformer_tells_the_chunks_of_its_input_apart():
    mapper = random_mapper(_facts("qformer"), _generator())
    with torch.no_grad():
        mapper.qformer.whole.weight.zero_()  # what is left of the input is its chunks
    x = torch.zeros(2, D_IN)
    x[0, 0] = x[1, 3] = 1.0  # the same place of two chunks
    tokens = mapper(x)
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_with_finite_differences(kind):
    facts = MapperFacts(
        mapper=kind, d_in=5, n_tokens=2, d_llm=3, n_hidden=4, d_query=4, n_heads=2, n_layers=1
    )
    mapper = random_mapper(facts, _generator()).double()
    x = _inputs(2, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(mapper, (x,))
    mapper(x).square().sum().backward()
    assert all(weights.grad is not None for weights in mapper.parameters())
    assert mapper.scale.grad is not None
    assert mapper.scale.grad.item() == pytest.approx(2 * mapper(x).square().sum().item())


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_same_tokens(kind):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    mapper = random_mapper(_facts(kind), _generator())
    expected = mapper(_inputs())
    moved = empty_mapper(mapper.facts)
    moved.load_state_dict(mapper.state_dict())
    torch.testing.assert_close(moved.cuda()(_inputs().cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)
