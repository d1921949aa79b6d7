"""The residual quantiser: against planted codes, and against k-means written out in numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.codebook.audit import code_entropy, top_members
from jobs.codebook.codebook import CodebookConfig, fit_codebook
from jobs.codebook.quantiser import (
    alive,
    bits_for,
    encode,
    nearest,
    principal_space,
    settled,
    train,
    train_on,
)
from jobs.errors import JobError


def planted(n: int = 1_200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 16) that are a sum of one of 4 far and one of 4 near offsets, and which two."""
    rng = np.random.default_rng(seed)
    far = 10 * np.eye(16)[:4]
    near = np.eye(16)[4:8]
    which = np.tile(np.argwhere(np.ones((4, 4))), (n // 16, 1))  # each pair equally often
    noise = rng.normal(0, 0.01, (n, 16))
    return (far[which[:, 0]] + near[which[:, 1]] + noise).astype(np.float32), which


def residual_k_means(points: np.ndarray, n_levels: int, n_codes: int, seed: int) -> list[float]:
    """Mean squared error after each level of k-means++ and 25 rounds on what is left."""
    rng, rest, errors = np.random.default_rng(seed), points.astype(np.float64), []
    for _ in range(n_levels):
        centroids = rest[rng.integers(len(rest))][None]
        for _ in range(n_codes - 1):
            away = np.square(rest[:, None] - centroids[None]).sum(axis=2).min(axis=1)
            at = rng.choice(len(rest), p=away / away.sum())
            centroids = np.vstack([centroids, rest[at]])
        for _ in range(25):
            codes = np.square(rest[:, None] - centroids[None]).sum(axis=2).argmin(axis=1)
            centroids = np.stack(
                [
                    rest[codes == k].mean(axis=0) if (codes == k).any() else centroids[k]
                    for k in range(n_codes)
                ]
            )
        codes = np.square(rest[:, None] - centroids[None]).sum(axis=2).argmin(axis=1)
        rest = rest - centroids[codes]
        errors.append(float(np.square(rest).sum(axis=1).mean()))
    return errors


def same_groups(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two numberings cut the rows into the same groups."""
    return len({*zip(a.tolist(), b.tolist(), strict=True)}) == len(set(a)) == len(set(b))


def test_planted_codes_are_found_level_by_level() -> None:
    points, which = planted()
    found = encode(points, train(points, 2, 2, seed=0))
    assert same_groups(found.codes[:, 0], which[:, 0])
    assert same_groups(found.codes[:, 1], which[:, 1])
    assert found.mse[1] == pytest.approx(16 * 0.01**2, rel=0.1)


def test_the_error_is_that_of_k_means_written_out() -> None:
    points = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32)
    ours = encode(points, train(points, 3, 3, seed=0)).mse
    theirs = np.mean([residual_k_means(points, 3, 8, seed) for seed in range(3)], axis=0)
    assert ours == pytest.approx(theirs, rel=0.05)


def test_the_error_falls_with_every_level() -> None:
    points = np.random.default_rng(2).normal(size=(500, 8)).astype(np.float32)
    mse = encode(points, train(points, 4, 3, seed=0)).mse
    assert all(after < before for before, after in pairwise(mse))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    points = np.random.default_rng(3).normal(size=(400, 8)).astype(np.float32)
    first, again, other = (train(points, 2, 3, seed) for seed in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()


def test_a_code_is_the_nearest_centroid_and_the_lowest_of_equals() -> None:
    centroids = np.array([[1, 0], [-1, 0], [1, 0]], np.float32)
    codes, distances = nearest(np.array([[0.9, 0], [0, 0], [-5, 0]], np.float32), centroids)
    assert codes.tolist() == [0, 0, 1]
    assert distances == pytest.approx([0.01, 1, 16])


def test_a_dead_code_moves_to_where_the_error_is_largest() -> None:
    points = np.array([[0, 0], [1, 0], [10, 0]], np.float32)
    centroids = np.array([[0.5, 0], [99, 99], [-99, 0]], np.float32)
    mended, found = alive(points, centroids)
    codes, distances = nearest(points, mended)
    assert (codes == found).all()
    assert sorted(codes.tolist()) == [0, 1, 2]
    assert sorted(distances.tolist()) == [0, 0, 0.25]  # the centroid that was in use stays


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 3))
def test_no_code_is_dead_where_there_are_more_different_items_than_codes(
    n: int, n_bits: int, seed: int
) -> None:
    points = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    bits = bits_for(n, n_bits, 2)
    found = encode(points, train(points, 3, bits, seed))
    for level in range(3):
        assert set(found.codes[:, level].tolist()) == set(range(2**bits))


def test_codes_that_cannot_live_stay_where_they_are() -> None:
    points = np.zeros((5, 2), np.float32)
    centroids = np.array([[0, 0], [3, 4]], np.float32)
    assert (settled(points, centroids) == centroids).all()


def test_from_codes_that_are_settled_nothing_moves() -> None:
    points = np.random.default_rng(6).normal(size=(400, 8)).astype(np.float32)
    centroids = train(points, 3, 3, seed=0)
    codes = encode(points, centroids).codes
    again = train_on(points, codes, 8)
    np.testing.assert_allclose(again, centroids, atol=1e-6)
    assert (encode(points, again).codes == codes).all()


def test_k_means_goes_on_from_the_codes_that_are_known() -> None:
    """A tenth of the points had no codes, and one code no points: it gets some."""
    points, which = planted()
    codes = which[:, :1] + 4 * (np.arange(len(points)) % 2)[:, None]  # 8 codes, two a cluster
    codes[codes == 7] = 3
    codes[::10] = -1
    found = encode(points, train_on(points, codes, 8))
    assert set(found.codes[:, 0].tolist()) == set(range(8))
    kept = (codes[:, 0] >= 0) & (which[:, 0] < 3)
    assert set(found.codes[kept & (which[:, 0] == 0), 0].tolist()) <= {0, 4, 7}


@pytest.mark.parametrize(
    ("n_distinct", "bits"), [(1, 0), (7, 0), (8, 1), (127, 4), (128, 5), (10**6, 5)]
)
def test_few_items_get_few_codes(n_distinct: int, bits: int) -> None:
    assert bits_for(n_distinct, 5, 4) == bits


def test_the_principal_space_holds_the_variance_and_has_signs_of_its_own() -> None:
    rng = np.random.default_rng(4)
    points = (rng.normal(size=(300, 3)) * [5, 1, 0.1] + [7, 0, 0]).astype(np.float32)
    space = principal_space(points, 2)
    assert space.components.shape == (2, 3)
    assert np.abs(space.components[0]).argmax() == 0
    assert space.components[0, 0] > 0
    assert space.explained == pytest.approx(1 - 0.01 / 26, abs=1e-3)
    flipped = principal_space(-points, 2)
    np.testing.assert_allclose(flipped.components, space.components, atol=1e-5)
    np.testing.assert_allclose(space.project(points).mean(axis=0), 0, atol=1e-3)


def test_the_principal_space_has_no_more_directions_than_things_vary_in() -> None:
    points = np.outer([1, 2, 3], [3, 4, 0]).astype(np.float32)
    assert principal_space(points, 5).components == pytest.approx(np.array([[0.6, 0.8, 0]]))
    assert principal_space(np.ones((4, 3), np.float32), 5).components.shape == (1, 3)


def test_entropy_is_in_bits() -> None:
    assert code_entropy(np.array([5, 5, 5, 5, 0])) == pytest.approx(2)
    assert code_entropy(np.array([9, 0])) == 0
    assert code_entropy(np.array([0, 0])) == 0


def test_the_items_shown_are_the_nearest_of_a_code_nearest_first() -> None:
    codes = np.array([[0], [0], [2], [0]])
    distances = np.array([[0.3], [0.1], [0.0], [0.2]], np.float32)
    assert top_members(codes, distances, 3, 2) == [[[1, 3], [], [2]]]


# -- a codebook, degenerate ones too ---------------------------------------------------------------


def unit(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def test_items_outside_the_fit_get_codes_and_do_not_move_it() -> None:
    points = unit(np.random.default_rng(5).normal(size=(90, 6)))
    fitted_on = np.arange(80)
    config = CodebookConfig(n_dims=6, n_bits=3)
    book = fit_codebook(points, config, fitted_on)
    other = points.copy()
    other[80:] = points[80:][::-1]
    again = fit_codebook(other, config, fitted_on)
    assert (again.centroids == book.centroids).all()
    assert (again.codes[80:] == book.codes[80:][::-1]).all()
    assert book.codes.shape == (90, 3)


def test_one_item_has_code_zero_on_every_level() -> None:
    book = fit_codebook(unit(np.array([[3.0, 4.0]])), CodebookConfig())
    assert book.codes.tolist() == [[0, 0, 0]]
    assert book.n_codes == 1
    assert book.mse == [0, 0, 0]
    assert book.lifted[0, 0] == pytest.approx([0.6, 0.8])


def test_items_of_one_text_share_their_codes() -> None:
    book = fit_codebook(unit(np.tile([[1.0, 2.0, 2.0]], (50, 1))), CodebookConfig())
    assert book.codes.tolist() == [[0, 0, 0]] * 50
    assert book.mse == pytest.approx([0, 0, 0], abs=1e-12)


def test_no_items_is_one_clear_error() -> None:
    with pytest.raises(JobError, match="item_semantics has no rows"):
        fit_codebook(np.zeros((0, 4), np.float32), CodebookConfig())
