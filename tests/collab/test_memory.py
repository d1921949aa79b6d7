import numpy as np
import pytest

from jobs.collab.align import AlignConfig
from jobs.collab.memory import Sizes, estimate, fit_bytes, given_bytes, peak_bytes
from jobs.job import Run
from tests.collab.test_align import a_night
from tests.conftest import DAY

PLAIN = AlignConfig(alignment_weight=0)


def test_what_is_given_is_counted_by_its_arrays():
    assert given_bytes(Sizes(1, 10, 100, 20, 6)) == 120 * 20 + 10 * (6 * 4 + 8)


def test_a_row_costs_its_start_three_arrays_and_two_copies_of_the_best():
    few, more = (fit_bytes(Sizes(n, 0, 0, 0, 6), PLAIN) for n in (1_000_000, 1_000_001))
    assert more - few == 6 * 65 * 4 + 16


def test_embeddings_that_learn_cost_five_tables_of_their_own():
    frozen, learning = (AlignConfig(semantics=which) for which in ("frozen", "trainable"))
    sizes = Sizes(2_000_000, 10_000, 1_000_000, 0, 576)
    more = peak_bytes(sizes, learning) - peak_bytes(sizes, frozen)
    assert more == 5 * 10_000 * 576 * 4


def test_many_events_and_few_rows_are_bound_by_the_first_biases():
    sizes = Sizes(10, 10, 10_000_000, 0, 6)
    assert fit_bytes(sizes, PLAIN) == pytest.approx(320e6, rel=0.01)


def test_memory_grows_with_every_size():
    sizes = np.array([1_000_000, 200_000, 20_000_000, 2_000_000, 576])
    peak = peak_bytes(Sizes(*sizes.tolist()), PLAIN)
    for k in range(len(sizes)):
        larger = sizes.copy()
        larger[k] *= 2
        assert peak_bytes(Sizes(*larger.tolist()), PLAIN) > peak


def test_a_dry_run_counts_the_tables_of_the_night(home):
    planted = a_night(home)
    found = estimate(AlignConfig(), Run("align", DAY, AlignConfig(), home))
    assert found["items"] == len(planted.topics)
    assert found["steps_an_epoch"] == found["aligned_steps_an_epoch"] == 20
    assert 400 < found["peak_memory_mb"] < 600
