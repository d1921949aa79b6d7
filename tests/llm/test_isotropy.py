"""All-but-the-top on matrices whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jobs.llm.isotropy
from jobs.errors import JobError
from jobs.llm.isotropy import all_but_the_top, mean_cosine


def cross(*lengths: float) -> np.ndarray:
    """+-length on each axis in turn: mean zero, the axes are the principal components."""
    axes = np.diag(lengths)
    return np.vstack([axes, -axes]).astype(np.float32)


def test_centring_alone_takes_the_shared_offset_away() -> None:
    raw = cross(3, 2, 1) + np.float32(100)
    expected = cross(1, 1, 1)
    np.testing.assert_allclose(all_but_the_top(raw, 0), expected, atol=1e-6)


def test_the_longest_axis_goes_first() -> None:
    vectors = all_but_the_top(cross(3, 2, 1) + np.float32(5), 1)
    np.testing.assert_allclose(vectors, cross(0, 1, 1), atol=1e-6)


def test_what_lay_in_the_removed_directions_alone_becomes_zero_not_noise() -> None:
    vectors = all_but_the_top(cross(3, 2, 1) + np.float32(5), 2)
    assert np.array_equal(vectors[[0, 1, 3, 4]], np.zeros((4, 3), np.float32))
    np.testing.assert_allclose(vectors[[2, 5]], [[0, 0, 1], [0, 0, -1]], atol=1e-6)


def test_the_removed_directions_are_gone_and_rows_have_unit_length() -> None:
    generator = np.random.default_rng(0)
    raw = (generator.normal(size=(200, 16)) * np.linspace(9, 1, 16) + 50).astype(np.float32)
    vectors = all_but_the_top(raw, 3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    centred = raw.astype(np.float64) - raw.mean(axis=0, dtype=np.float64)
    top = np.linalg.svd(centred, full_matrices=False)[2][:3]  # another route to the components
    assert np.abs(vectors @ top.T).max() < 1e-5


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    whole, cosine = all_but_the_top(raw, 2), mean_cosine(raw)
    monkeypatch.setattr(jobs.llm.isotropy, "_CHUNK", 7)
    np.testing.assert_allclose(all_but_the_top(raw, 2), whole, atol=1e-6)
    assert mean_cosine(raw) == pytest.approx(cosine)


def test_equal_rows_are_an_error_because_they_say_nothing() -> None:
    with pytest.raises(JobError, match="all 4 raw vectors are the same"):
        all_but_the_top(np.ones((4, 3), np.float32), 1)
    with pytest.raises(JobError, match="all 1 raw vectors"):
        all_but_the_top(np.ones((1, 3), np.float32), 0)


def test_too_few_items_for_the_components_is_an_error_with_the_way_out() -> None:
    raw = np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)
    with pytest.raises(JobError, match=r"vary in 2 directions.*--n-components 1"):
        all_but_the_top(raw, 2)
    assert np.isfinite(all_but_the_top(raw, 1)).all()


def test_mean_cosine_by_hand() -> None:
    # Pairs of e1, e1, e2: cosines 1, 0, 0.
    assert mean_cosine(np.array([[2.0, 0], [5, 0], [0, 3]])) == pytest.approx(1 / 3)
    assert mean_cosine(np.array([[1.0, 0], [-4, 0]])) == pytest.approx(-1)
    assert mean_cosine(np.array([[1.0, 0]])) == 0
    assert mean_cosine(np.array([[1.0, 0], [0, 0]])) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40))
def test_mean_cosine_equals_the_mean_over_all_pairs(seed: int, n_rows: int) -> None:
    x = np.random.default_rng(seed).normal(size=(n_rows, 5)) + 1
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = (units @ units.T)[~np.eye(n_rows, dtype=bool)]
    assert mean_cosine(x) == pytest.approx(pairs.mean(), abs=1e-12)
