from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from jobs.report.drift import code_drift, distance, score_drift, stability_index


def test_a_distribution_against_itself_has_not_drifted() -> None:
    values = np.random.default_rng(0).random(500)
    drift = score_drift(values, values)
    assert drift is not None
    assert (drift.psi, drift.ks) == (0, 0)
    assert sum(b.tonight for b in drift.bins) == pytest.approx(1, abs=1e-5)


def test_the_index_of_two_halves_is_that_of_the_formula() -> None:
    # All of tonight's rows lie in the upper five tenths, so each of these has twice its share.
    before = (np.arange(1000) + 0.5) / 1000
    tonight = np.repeat(before[500:], 2)
    n, empty = 1000 + 0.5 * 10, 0.5
    shares = np.array([empty / n] * 5 + [200.5 / n] * 5)
    was = np.full(10, 100.5 / n)
    expected = ((shares - was) * np.log(shares / was)).sum()
    assert stability_index(tonight, before) == pytest.approx(expected)


def test_two_samples_of_one_distribution_give_about_what_chance_gives() -> None:
    found = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        drift = score_drift(random.random(300), random.random(400))
        assert drift is not None
        found.append((drift.psi, drift.ks < drift.ks_by_chance))
    psi, under = zip(*found, strict=True)
    assert np.mean(psi) == pytest.approx(drift.psi_by_chance, rel=0.15)
    assert 0.9 < np.mean(under) <= 1


@pytest.mark.parametrize("digits", [1, 6])
def test_the_distance_is_that_of_kolmogorov_and_smirnov_ties_and_all(digits: int) -> None:
    random = np.random.default_rng(1)
    a, b = (np.round(random.beta(2, s, 200), digits) for s in (2, 3))
    assert distance(a, b) == pytest.approx(ks_2samp(a, b).statistic)


def test_a_night_without_scores_has_no_drift() -> None:
    assert score_drift(np.zeros(0), np.ones(3)) is None
    assert score_drift(np.ones(3), np.zeros(0)) is None


def test_a_single_score_all_over_is_compared_too() -> None:
    drift = score_drift(np.full(50, 0.5), np.full(60, 0.5))
    assert drift is not None
    assert drift.psi == pytest.approx(0, abs=1e-3)


def test_codes_are_read_level_by_level_from_the_codebooks_figures() -> None:
    figures = {"drift_level_1": 0.5, "n_codes": 32.0, "drift_level_0": 0.25}
    figures["drift_unmatched_level_0"] = 0.9
    assert [(c.level, c.share) for c in code_drift(figures)] == [(0, 0.25), (1, 0.5)]
