import numpy as np
import pytest

from jobs.collab.agreement import mean_cosine, neighbour_overlap


def test_a_rotated_and_stretched_space_has_the_same_neighbours():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(80, 6)).astype(np.float32)
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0].astype(np.float32)
    assert neighbour_overlap(vectors, 3 * vectors @ rotation, np.arange(80)) == 1


def test_unrelated_spaces_share_what_chance_gives():
    random = np.random.default_rng(1)
    left, right = random.normal(size=(2, 300, 20)).astype(np.float32)
    assert neighbour_overlap(left, right, np.arange(300)) == pytest.approx(10 / 299, abs=0.02)


def test_overlap_of_four_items_on_a_circle_by_hand():
    # Nearest by angle, left: 0-1, 1-0, 2-3, 3-2; right: 0-1, 1-0, 2-1, 3-0.
    left = np.deg2rad([0, 10, 90, 100])
    right = np.deg2rad([0, 30, 80, -60])
    spaces = [np.stack([np.cos(a), np.sin(a)], axis=1).astype(np.float32) for a in (left, right)]
    assert neighbour_overlap(*spaces, np.arange(4), n_neighbours=1) == 0.5
    assert neighbour_overlap(*spaces, np.array([2, 3]), n_neighbours=1) == 0


def test_nothing_to_compare_is_none():
    one = np.ones((1, 2), dtype=np.float32)
    assert neighbour_overlap(one, one, np.arange(1)) is None
    three = np.eye(3, dtype=np.float32)
    assert neighbour_overlap(three, three, np.arange(0)) is None


def test_the_mean_cosine_ignores_length_and_counts_a_zero_row_as_zero():
    projected = np.array([[5, 0], [0, -2], [0, 0], [1, 1]], dtype=np.float32)
    targets = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)
    assert mean_cosine(projected, targets) == pytest.approx((1 - 1 + 0 + 0.5**0.5) / 4)
