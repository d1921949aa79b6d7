"""Numbers that stay: a planted permutation is undone, and drift is what it says."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.codebook.codebook import CodebookConfig, fit_codebook
from jobs.codebook.matching import UNKNOWN, drift, matched_numbers


def test_a_shuffled_numbering_is_undone() -> None:
    rng = np.random.default_rng(0)
    previous = rng.integers(0, 8, 300)
    shuffle = rng.permutation(8)
    numbers = matched_numbers(shuffle[previous], previous, 8)
    assert (numbers[shuffle[previous]] == previous).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 5)), max_size=30))
def test_no_other_numbering_leaves_more_items_alone(pairs: list[tuple[int, int]]) -> None:
    codes = np.array([new for new, _ in pairs], np.int64)
    previous = np.array([old for _, old in pairs], np.int64)
    numbers = matched_numbers(codes, previous, 4)
    assert sorted(numbers.tolist()) == [0, 1, 2, 3]
    stay = (numbers[codes] == previous).sum()
    assert stay == max((np.array(p)[codes] == previous).sum() for p in permutations(range(4)))


def test_without_items_in_common_the_numbers_stay_as_they_came() -> None:
    codes = np.array([2, 0, 1])
    assert matched_numbers(codes, np.full(3, UNKNOWN), 3).tolist() == [0, 1, 2]


def test_drift_counts_the_items_that_both_nights_hold() -> None:
    previous = np.array([0, 0, 1, 1, UNKNOWN])
    unmatched = np.array([1, 1, 0, 1, 0])
    matched = 1 - unmatched
    moved = drift(matched, unmatched, previous)
    assert moved.changed == pytest.approx(0.25)
    assert moved.changed_unmatched == pytest.approx(0.75)
    assert moved.n_items == 4
    assert drift(matched, unmatched, np.full(5, UNKNOWN)).n_items == 0


def points(n: int = 240) -> np.ndarray:
    found = np.random.default_rng(1).normal(size=(n, 6))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_a_renumbered_codebook_is_the_same_codebook() -> None:
    config = CodebookConfig(n_bits=3, n_dims=6)
    own = fit_codebook(points(), config)
    numbers = np.random.default_rng(2).permutation(8)
    book = fit_codebook(points(), config, previous=numbers[own.codes])
    assert (book.codes == numbers[own.codes]).all()
    assert [moved.changed for moved in book.drift] == [0, 0, 0]
    assert book.mse == own.mse
    places = np.arange(240)
    for level in range(3):
        moved, first = book.codes[places, level], own.codes[places, level]
        assert (book.centroids[level][moved] == own.centroids[level][first]).all()
        assert (book.lifted[level][moved] == own.lifted[level][first]).all()


def test_a_codebook_of_other_sizes_takes_what_numbers_it_can() -> None:
    config = CodebookConfig(n_bits=2, n_dims=6)
    previous = fit_codebook(points(), CodebookConfig(n_bits=3, n_dims=6, n_levels=2)).codes
    book = fit_codebook(points(), config, previous=previous)
    assert len(book.drift) == 2
    assert book.codes.max() == 3
