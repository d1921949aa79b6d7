from hypothesis import given
from hypothesis import strategies as st

from jobs.collab.pace import aligned_steps


def test_few_steps_all_align():
    assert aligned_steps(34, 20, 31, 2.0) == [True] * 34


def test_many_steps_align_for_so_many_passes_and_no_more():
    assert sum(aligned_steps(1_000, 20, 31, 2.0)) == 62


def test_a_small_catalogue_aligns_in_the_least_number_of_steps():
    assert sum(aligned_steps(1_000, 20, 1, 2.0)) == 20


def test_the_steps_that_align_are_evenly_spread():
    assert aligned_steps(6, 1, 2, 1.0) == [False, False, True, False, False, True]


@given(st.integers(1, 500), st.integers(1, 50), st.integers(1, 100), st.floats(0.01, 5))
def test_gaps_between_steps_that_align_differ_by_one_at_most(n, least, a_pass, passes):
    aligned = aligned_steps(n, least, a_pass, passes)
    places = [k for k, aligns in enumerate(aligned) if aligns]
    assert places
    gaps = {b - a for a, b in zip([-1, *places], places, strict=False)}
    assert max(gaps) - min(gaps) <= 1
