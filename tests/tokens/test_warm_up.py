"""Contrastive losses and warm-up of mappers, on targets whose answers are known."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from jobs.errors import JobError
from jobs.tokens.alignment import (
    ContrastConfig,
    alignment_loss,
    contrastive_loss,
    cross_head_loss,
    token_cosine,
)
from jobs.tokens.mappers import MapperFacts, random_mapper
from jobs.tokens.targets import permuted
from jobs.tokens.warm_up import Retrieval, WarmUpConfig, warm_up

D_IN, D_LLM = 6, 10
UNIT = ContrastConfig(temperature=1.0)
FAST = WarmUpConfig(learning_rate=1e-2, batch_size=64)


def axes(*rows):
    """Tokens (b, n_tokens, 4) that point along the axes named."""
    return torch.eye(4)[torch.tensor(rows)]


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(n=200, n_tokens=2, seed=0):
    """Inputs, and unit targets that a linear map of them reaches."""
    inputs = torch.randn(n, D_IN, generator=random(seed))
    maps = torch.randn(D_IN, n_tokens, D_LLM, generator=random(seed + 1))
    return inputs, functional.normalize(torch.einsum("nd,dtl->ntl", inputs, maps), dim=2)


def mapper(kind="linear", n_tokens=2, seed=3):
    facts = MapperFacts(
        mapper=kind, d_in=D_IN, n_tokens=n_tokens, d_llm=D_LLM, n_hidden=32, d_query=16, n_heads=2
    )
    return random_mapper(facts, random(seed))


# -- the loss ------------------------------------------------------------------------------------


def test_the_loss_of_orthogonal_pairs_is_that_worked_out_by_hand():
    tokens = axes([0], [1], [2])
    # Each row has its own score 1 and two of 0: log(e + 2) - 1, both ways alike.
    expected = math.log(math.e + 2) - 1
    assert contrastive_loss(tokens, tokens, UNIT).item() == pytest.approx(expected)
    assert contrastive_loss(5 * tokens, tokens, UNIT).item() == pytest.approx(expected)


def test_the_loss_is_the_mean_over_the_tokens():
    good = axes([0], [1], [2])
    bad = axes([1], [2], [0])
    both = torch.cat([good, bad], dim=1)
    parts = [contrastive_loss(each, good, UNIT).item() for each in (good, bad)]
    together = contrastive_loss(both, torch.cat([good, good], dim=1), UNIT).item()
    assert together == pytest.approx(sum(parts) / 2)


def test_rows_with_nearly_the_same_target_are_no_negatives_of_each_other():
    targets = axes([0], [0], [1])
    targets[1] = functional.normalize(torch.tensor([[1.0, 0.0, 0.2, 0.0]]), dim=1)  # cosine .98
    tokens = axes([0], [0], [1])
    rows = targets[:, 0]
    scores = rows.clone() @ torch.eye(4)
    # Of rows 0 and 1 only row 2 is a negative; of row 2 both are.
    own = torch.tensor([1.0, scores[1, 0].item(), 1.0])
    forward = [math.log(math.exp(own[i]) + 1) - own[i] for i in (0, 1)]
    forward.append(math.log(math.e + 2) - 1)
    assert contrastive_loss(tokens, targets, UNIT).item() == pytest.approx(np.mean(forward))
    alone = UNIT.model_copy(update={"same_target_cosine": 0.99})
    assert contrastive_loss(tokens, targets, alone) > contrastive_loss(tokens, targets, UNIT)


def test_rows_without_a_target_take_no_part_and_learn_nothing():
    tokens = torch.randn(5, 2, 4, generator=random()).requires_grad_()
    targets = functional.normalize(torch.randn(5, 2, 4, generator=random(1)), dim=2)
    targets[3] = 0
    targets[4, 1] = 0
    loss = contrastive_loss(tokens, targets, UNIT)
    first = contrastive_loss(tokens[[0, 1, 2, 4], :1], targets[[0, 1, 2, 4], :1], UNIT)
    second = contrastive_loss(tokens[:3, 1:], targets[:3, 1:], UNIT)
    assert loss.item() == pytest.approx((first + second).item() / 2)
    loss.backward()
    assert tokens.grad[3].abs().max() == 0
    assert tokens.grad[4, 1].abs().max() == 0
    assert tokens.grad[4, 0].abs().max() > 0


def test_an_id_that_is_twice_in_a_batch_is_not_its_own_negative():
    one = axes([0], [1])
    twice = axes([0], [1], [0], [1])
    assert contrastive_loss(twice, twice, UNIT).item() == pytest.approx(
        math.log(math.e + 2) - 1  # the two rows of the other id, and no row of its own
    )
    assert contrastive_loss(one, one, UNIT).item() == pytest.approx(math.log(math.e + 1) - 1)


def test_the_alignment_loss_is_the_sum_of_both_sides_and_none_leaves_a_side_out():
    users, items = axes([0, 1], [1, 2], [2, 3]), axes([0], [1])
    both = alignment_loss(users, users, items, items, UNIT).item()
    of_users = alignment_loss(users, users, None, None, UNIT).item()
    of_items = alignment_loss(None, None, items, items, UNIT).item()
    assert both == pytest.approx(of_users + of_items)
    assert of_items == pytest.approx(math.log(math.e + 1) - 1)
    assert alignment_loss(None, None, None, None) == 0


def test_a_batch_without_any_target_loses_nothing_and_can_still_be_differentiated():
    tokens = torch.ones(3, 2, 4, requires_grad=True)
    loss = alignment_loss(tokens, torch.zeros(3, 2, 4), tokens[:0], torch.zeros(0, 2, 4))
    loss.backward()
    assert loss == 0
    assert tokens.grad.abs().max() == 0


def test_the_cross_head_term_is_low_where_each_token_has_its_own_target():
    targets = axes([0, 1, 2], [1, 2, 3])
    right = cross_head_loss(targets, targets, UNIT).item()
    assert right == pytest.approx(math.log(math.e + 2) - 1)
    collapsed = cross_head_loss(axes([0, 0, 0], [1, 1, 1]), targets, UNIT).item()
    assert collapsed == pytest.approx((3 * math.log(math.e + 2) - 1) / 3)
    same = axes([0, 0, 0], [1, 1, 1])
    assert cross_head_loss(same, same, UNIT) == 0  # nothing to tell apart
    with_term = UNIT.model_copy(update={"cross_head_weight": 2.0})
    expected = contrastive_loss(targets, targets, UNIT).item() + 2 * right
    assert contrastive_loss(targets, targets, with_term).item() == pytest.approx(expected)


def test_gradients_of_the_losses_agree_with_finite_differences():
    tokens = torch.randn(4, 2, 3, dtype=torch.float64, generator=random()).requires_grad_()
    targets = functional.normalize(torch.randn(4, 2, 3, generator=random(1)), dim=2).double()
    targets[2, 1] = 0
    config = ContrastConfig(temperature=0.5, cross_head_weight=0.7)
    assert torch.autograd.gradcheck(lambda x: cross_head_loss(x, targets, config), (tokens,))
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, targets, config), (tokens,))


def test_tokens_of_half_precision_are_compared_in_float32():
    tokens = torch.randn(4, 2, 3, generator=random()).bfloat16()
    targets = functional.normalize(torch.randn(4, 2, 3, generator=random(1)), dim=2)
    loss = contrastive_loss(tokens, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(contrastive_loss(tokens.float(), targets).item())


def test_the_cosine_of_tokens_is_one_where_they_are_one_and_zero_where_they_are_orthogonal():
    assert token_cosine(axes([0, 1, 2], [3, 2, 1])) == pytest.approx(0.0)
    assert token_cosine(3 * axes([0, 0, 0], [1, 1, 1])) == pytest.approx(1.0)
    assert token_cosine(axes([0, 0, 1])) == pytest.approx(1 / 3)
    assert token_cosine(axes([0])) == 0
    assert token_cosine(torch.zeros(0, 3, 4)) == 0


# -- retrieval -----------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """Tokens that are given: the mapper whose input is its output."""

    def mapped(self, inputs):
        return inputs.view(len(inputs), -1, 4)


def retrieval(tokens, targets, n_held_out, **config):
    shuffled = torch.arange(len(targets))
    return Retrieval(tokens.flatten(1), targets, shuffled, n_held_out, WarmUpConfig(**config))


def test_the_rank_is_that_of_the_own_target_among_all_candidates():
    targets = axes([0], [1], [2], [3])
    tokens = torch.tensor([[[0.1, 0.5, 0.9, 0.0]], [[0.1, 0.5, 0.9, 0.0]]])
    quiz = retrieval(tokens, targets, 2)
    # Axis 0 is third and axis 1 second: (1/3 + 1/2) / 2.
    assert quiz.of(Fixed())[0] == pytest.approx(5 / 12)
    assert quiz.chance == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_equal_targets_are_one_candidate_and_near_ones_no_rivals():
    near = functional.normalize(torch.tensor([1.0, 0.1, 0.0, 0.0]), dim=0)
    targets = torch.stack([torch.eye(4)[0], near, *torch.eye(4)[[1, 1, 1, 2]]])[:, None]
    tokens = torch.tensor([[[0.5, 0.9, 0.1, 0.0]]])
    quiz = retrieval(tokens, targets, 1)
    assert quiz.of(Fixed())[0] == pytest.approx(1 / 2)
    assert quiz.chance == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_a_token_that_is_not_a_number_is_last():
    targets = axes([0], [1], [2], [3])
    quiz = retrieval(torch.full((1, 1, 4), torch.nan), targets, 1)
    assert quiz.of(Fixed())[0] == pytest.approx(1 / 4)


def test_no_more_candidates_are_looked_at_than_the_config_says():
    targets = axes([0], [1], [2], [3])
    quiz = retrieval(targets.flip(0), targets, 3, n_candidates=2)
    assert quiz.chance == pytest.approx((1 + 1 / 2) / 2)


# -- warm-up -------------------------------------------------------------------------------------


def test_planted_targets_of_unseen_ids_are_found_again():
    inputs, targets = planted()
    warmed = warm_up(mapper(), inputs, targets, FAST, seed=0)
    assert warmed.curve[0].mrr < 0.1
    assert warmed.best.mrr > 0.95
    assert (warmed.n_learned, warmed.n_held_out) == (180, 20)


@pytest.mark.parametrize("kind", ["mlp", "qformer"])
def test_mappers_of_other_kinds_find_them_too(kind):
    inputs, targets = planted()
    config = FAST.model_copy(update={"max_epochs": 15, "learning_rate": 3e-3})
    warmed = warm_up(mapper(kind), inputs, targets, config, seed=0)
    assert warmed.best.mrr > 5 * warmed.chance


def test_permuted_targets_are_found_no_better_than_by_chance():
    inputs, targets = planted(n=600)
    dealt = torch.from_numpy(permuted(targets.numpy(), seed=4))
    config = FAST.model_copy(update={"max_epochs": 8})
    warmed = warm_up(mapper(), inputs, dealt, config, seed=0)
    assert warmed.chance == pytest.approx(sum(1 / k for k in range(1, 601)) / 600, rel=0.05)
    assert warmed.best.mrr < 3 * warmed.chance
    assert warm_up(mapper(), inputs, targets, config, seed=0).best.mrr > 20 * warmed.chance


def test_the_mapper_holds_the_weights_of_the_best_epoch_and_its_scale_as_it_was():
    inputs, targets = planted(n=60)
    config = FAST.model_copy(update={"learning_rate": 0.3, "patience": 3})
    learned = mapper()
    with torch.no_grad():
        learned.scale.fill_(7.0)
    warmed = warm_up(learned, inputs, targets, config, seed=1)
    assert warmed.curve[-1].number == warmed.best.number + 3
    assert warmed.best.mrr == max(epoch.mrr for epoch in warmed.curve)
    assert learned.scale == 7.0
    again = mapper()
    short = config.model_copy(update={"max_epochs": warmed.best.number})
    warm_up(again, inputs, targets, short, seed=1)
    assert torch.equal(again.output.weight, learned.output.weight)


def test_one_seed_gives_the_same_bits_and_another_does_not():
    inputs, targets = planted(n=60)
    config = FAST.model_copy(update={"max_epochs": 3})
    made = {}
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        made[name] = mapper("mlp")
        warm_up(made[name], inputs, targets, config, seed)
    first, again, other = (m.named_tensors("user") for m in made.values())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["user.output.weight"], other["user.output.weight"])


def test_ids_without_a_target_change_nothing():
    inputs, targets = planted(n=60)
    config = FAST.model_copy(update={"max_epochs": 2})
    first, second = mapper(), mapper()
    warm_up(first, inputs, targets, config, seed=2)
    more_inputs = torch.cat([inputs, torch.full((7, D_IN), 99.0)])
    more_targets = torch.cat([targets, torch.zeros(7, 2, D_LLM)])
    warm_up(second, more_inputs, more_targets, config, seed=2)
    assert torch.equal(first.output.weight, second.output.weight)


def test_the_inputs_stay_as_they_are():
    inputs, targets = planted(n=60)
    inputs.requires_grad_()
    before = inputs.detach().clone()
    warm_up(mapper(), inputs, targets, FAST.model_copy(update={"max_epochs": 1}), seed=2)
    assert inputs.grad is None
    assert torch.equal(inputs, before)


def test_no_epochs_leave_the_mapper_alone_and_still_measure_it():
    inputs, targets = planted(n=60)
    learned = mapper()
    before = learned.output.weight.detach().clone()
    warmed = warm_up(learned, inputs, targets, WarmUpConfig(max_epochs=0), seed=0)
    assert torch.equal(learned.output.weight, before)
    assert warmed.figures("user")["user_warm_up_n_epochs"] == 0
    assert set(warmed.figures("user")) == {
        f"user_warm_up_{name}"
        for name in ("mrr_before", "mrr", "mrr_chance", "best_epoch", "n_epochs", "token_cosine")
    }


def test_too_few_targets_and_a_loss_that_is_no_number_are_refused():
    inputs, targets = planted(n=60)
    few = targets.clone()
    few[2:] = 0
    with pytest.raises(JobError, match="2 of 60 ids have a target to align to, 3 are needed"):
        warm_up(mapper(), inputs, few, FAST, seed=0)
    few[2] = targets[2]
    smallest = warm_up(mapper(), inputs, few, WarmUpConfig(max_epochs=1), 0)
    assert (smallest.n_learned, smallest.n_held_out) == (2, 1)
    inputs[:50] = torch.nan
    with pytest.raises(JobError, match="loss is nan in epoch 1"):
        warm_up(mapper(), inputs, targets, FAST, seed=0)


@pytest.mark.gpu
def test_a_gpu_warms_up_as_the_cpu_does_within_tolerance():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    inputs, targets = planted()
    on_cpu = warm_up(mapper(), inputs, targets, FAST, seed=0)
    on_gpu = warm_up(mapper().cuda(), inputs, targets, FAST, seed=0)
    assert on_gpu.best.mrr == pytest.approx(on_cpu.best.mrr, abs=0.05)
    assert on_gpu.chance == pytest.approx(on_cpu.chance)
