import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.collab.factors import Ratings
from jobs.collab.fused import pull
from jobs.collab.infonce import InfoNceConfig
from jobs.collab.mf import MfConfig, fit
from jobs.collab.sides import DualAlignment, Targets
from jobs.errors import JobError

pytest.importorskip("numba", reason="the compiled path is optional: pip install numba")

CPU = torch.device("cpu")
NOTHING = Ratings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


def events(seed, n, n_users, n_items):
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.6).astype(np.float32)
    return Ratings(random.integers(0, n_users, n), random.integers(0, n_items, n), labels)


def units(seed, n, d):
    rows = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def alignment(n_users, n_items, d, config):
    items, users = Targets(units(1, n_items, 6)), Targets(units(2, n_users, 6))
    return DualAlignment(items, users, d, config, 5e-3, 0, CPU)


def fitted(train, n_users, n_items, align, compiled, **sizes):
    config = MfConfig(epochs_without_valid=3, compiled=compiled, **sizes)
    side = None if align is None else alignment(n_users, n_items, config.n_factors, align)
    return fit(train, NOTHING, n_users, n_items, config, side)


def expect_close(left, right):
    assert left.is_fused
    assert not right.is_fused
    assert left.best.loss == pytest.approx(right.best.loss, abs=1e-5)
    assert left.best.alignment_loss == pytest.approx(right.best.alignment_loss, abs=1e-4)
    assert left.best.user_alignment_loss == pytest.approx(right.best.user_alignment_loss, abs=1e-4)
    for name in ("user_factors", "user_biases", "item_factors", "item_biases"):
        ours, reference = getattr(left.factors, name), getattr(right.factors, name)
        np.testing.assert_allclose(ours, reference, atol=2e-3)
        assert np.abs(ours - reference).mean() < 2e-5


BOTH_SIDES = InfoNceConfig(
    alignment_weight=1.0, user_alignment_weight=0.5, n_hidden=8, aligned_items=4, aligned_users=3
)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    n=st.integers(1, 200),
    n_users=st.integers(1, 30),
    n_items=st.integers(2, 30),
    n_factors=st.integers(1, 20),
    batch_size=st.integers(1, 64),
    align=st.sampled_from([None, BOTH_SIDES]),
)
def test_compiled_steps_give_the_factors_of_the_reference(
    seed, n, n_users, n_items, n_factors, batch_size, align
):
    train = events(seed, n, n_users, n_items)
    sizes = {"n_factors": n_factors, "batch_size": batch_size, "min_steps": 2, "l2_taste": 1.0}
    # Small steps, as Adam's first one has the sign of a gradient that may be nothing but rounding.
    sizes["learning_rate"] = 1e-3
    fused, reference = (
        fitted(train, n_users, n_items, align, which, **sizes) for which in ("auto", "never")
    )
    expect_close(fused, reference)


@pytest.mark.parametrize("align", [None, BOTH_SIDES])
def test_compiled_steps_give_the_same_bits_each_time(align):
    train = events(0, 500, 20, 30)
    one, other = (fitted(train, 20, 30, align, "auto", n_factors=8) for _ in range(2))
    np.testing.assert_array_equal(one.factors.user_factors, other.factors.user_factors)
    np.testing.assert_array_equal(one.factors.item_biases, other.factors.item_biases)


def test_steps_that_do_not_align_are_those_of_the_reference_too():
    train, sparse = events(3, 400, 20, 30), BOTH_SIDES.model_copy(update={"alignment_passes": 0.5})
    sizes = {"n_factors": 8, "batch_size": 16, "min_steps": 2, "learning_rate": 1e-3}
    fused, reference = (
        fitted(train, 20, 30, sparse, which, **sizes) for which in ("auto", "never")
    )
    expect_close(fused, reference)


def test_without_biases_and_with_the_dense_optimizer_the_reference_runs():
    train = events(0, 50, 5, 5)
    assert not fitted(train, 5, 5, None, "auto", biases=False).is_fused
    assert not fitted(train, 5, 5, None, "auto", optimizer="dense").is_fused


def test_a_row_that_nothing_touches_keeps_its_first_factor():
    train = Ratings(np.zeros(4, np.int64), np.zeros(4, np.int64), np.ones(4, np.float32))
    few, many = (
        fit(train, NOTHING, 2, 2, MfConfig(epochs_without_valid=n)).factors for n in (1, 5)
    )
    np.testing.assert_array_equal(few.user_factors[1], many.user_factors[1])
    np.testing.assert_array_equal(few.item_factors[1], many.item_factors[1])
    assert not np.array_equal(few.user_factors[0], many.user_factors[0])


def test_a_function_that_no_folder_can_keep_is_compiled_all_the_same():
    from jobs.collab.compiled import compiled

    names = {}
    exec("def double(x):\n    return 2 * x", names)  # of no file, hence without a place to keep it
    assert compiled(names["double"])(21) == 42


def test_weights_that_diverge_are_told_by_compiled_steps_too():
    train = events(0, 200, 5, 5)
    with pytest.raises(JobError, match="--learning-rate"):
        fitted(train, 5, 5, None, "auto", learning_rate=1e30)


def test_nobody_to_align_is_a_plain_step():
    config = InfoNceConfig(alignment_weight=0, user_alignment_weight=1, n_hidden=4)
    items, nobody = Targets(units(1, 9, 6)), Targets(np.zeros((6, 6), np.float32))
    side = DualAlignment(items, nobody, 4, config, 5e-3, 0, CPU)
    found = pull(side, torch.zeros(6, 4), torch.zeros(9, 4))
    assert (found.of_items, found.of_users) == (0, 0)
