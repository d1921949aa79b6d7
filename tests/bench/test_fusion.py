"""Late fusion: known weights are found again, seeds pair by number, and what is missing is said."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from jobs.bench.entries import Entry, FusionEntry
from jobs.bench.evidence import BenchRows
from jobs.bench.fusion import fitted_blend, fused
from jobs.bench.runs import SeedRun, SystemRuns
from jobs.errors import JobError
from jobs.report.metrics import auc
from tests.bench.conftest import made_of, random_events

ENTRY = FusionEntry(name="both", system="fusion", of=("first", "second"))


@pytest.fixture(scope="module")
def rows() -> BenchRows:
    return made_of(random_events(20, seed=3))


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two logits of very different size, and labels of `1 + 2 first - 0.03 second`."""
    random = np.random.default_rng(seed)
    parts = np.stack([random.normal(size=n), 50 * random.normal(size=n) + 7])
    logits = 1 + 2 * parts[0] - 0.03 * parts[1]
    return parts, (random.random(n) < 1 / (1 + np.exp(-logits))).astype(np.float32)


def test_the_weights_that_made_the_labels_are_found() -> None:
    parts, labels = drawn(200_000)
    blend = fitted_blend(list(parts), labels)
    assert blend.weights == pytest.approx((2.0, -0.03), rel=0.03)
    assert blend.intercept == pytest.approx(1.0, rel=0.03)
    wanted = blend.intercept + blend.weights[0] * parts[0] + blend.weights[1] * parts[1]
    np.testing.assert_allclose(blend.logits(list(parts)), wanted)


def test_at_the_fitted_weights_no_part_knows_more_of_the_residuals() -> None:
    parts, labels = drawn(500)
    residuals = labels - 1 / (1 + np.exp(-fitted_blend(list(parts), labels).logits(list(parts))))
    assert abs(residuals.sum()) < 1e-6
    assert np.abs(parts @ residuals / parts.std(axis=1)).max() < 0.01  # the ridge, and no more


def test_a_part_that_says_one_thing_gets_no_weight_and_twins_share() -> None:
    parts, labels = drawn(2_000)
    blend = fitted_blend([parts[0], np.full(2_000, 3.0), parts[0]], labels)
    assert blend.weights[1] == pytest.approx(0, abs=1e-12)
    assert blend.weights[0] == pytest.approx(blend.weights[2])


def test_labels_that_part_cleanly_give_finite_weights() -> None:
    logits = np.linspace(-1, 1, 100)
    labels = (logits > 0).astype(np.float32)
    blend = fitted_blend([logits], labels)
    assert np.isfinite(blend.weights).all()
    assert auc(labels, blend.logits([logits])) == 1


def test_one_class_is_refused() -> None:
    with pytest.raises(JobError, match="valid has 3 rows of one class"):
        fitted_blend([np.arange(3.0)], np.ones(3, np.float32))


# -- a row of the bench ----------------------------------------------------------------------------


def part(
    name: str, rows: BenchRows, seeds: Mapping[int, int], frozen: bool = False, **missing: str
) -> SystemRuns:
    """A system whose logits are noise, drawn by the number that a seed is mapped to."""
    runs = []
    for seed, number in seeds.items():
        random = np.random.default_rng(number)
        scores = {split: random.normal(size=len(rows.of(split))) for split in ("valid", "test")}
        runs.append(SeedRun(seed, scores, None, -scores["test"] if frozen else None))
    entry = Entry(name=name, system="item_mean")
    return SystemRuns(entry, name.title(), {}, tuple(runs), missing.get("error"),
                      missing.get("not_measured"))  # fmt: skip


def test_seeds_pair_by_number_and_a_single_one_joins_all(rows: BenchRows) -> None:
    first, second = part("first", rows, {0: 5, 2: 6, 3: 7}), part("second", rows, {3: 8, 2: 9})
    found = fused(ENTRY, [first, second], rows)
    assert (found.error, found.title) == (None, "First + Second")
    assert [run.seed for run in found.runs] == [2, 3]
    labels = rows.of("valid").labels
    own = [first.runs[1].scores, second.runs[1].scores]
    blend = fitted_blend([scores["valid"] for scores in own], labels)
    wanted = blend.logits([scores["test"] for scores in own])
    np.testing.assert_array_equal(found.runs[0].scores["test"], wanted)
    assert found.settings["weights"][0] == list(blend.weights)
    alone = fused(ENTRY, [first, part("second", rows, {9: 4})], rows)
    assert [run.seed for run in alone.runs] == [0, 2, 3]


def test_a_blend_is_frozen_where_all_its_parts_are(rows: BenchRows) -> None:
    frozen = [part(name, rows, {0: k}, frozen=True) for k, name in enumerate(ENTRY.of)]
    run = fused(ENTRY, frozen, rows).runs[0]
    assert run.frozen is not None
    half = fused(ENTRY, [frozen[0], part("second", rows, {0: 1})], rows)
    assert half.runs[0].frozen is None


def test_what_a_blend_lacks_is_said(rows: BenchRows) -> None:
    good = part("first", rows, {0: 1, 1: 2})
    failed = fused(ENTRY, [good, part("second", rows, {}, error="diverged")], rows)
    assert failed.error == "its part second failed"
    strangers = fused(ENTRY, [good, part("second", rows, {4: 1, 5: 2})], rows)
    assert strangers.error == "its parts have no seed in common (first: [0, 1]; second: [4, 5])"
    lost = fused(ENTRY, [good, part("second", rows, {}, not_measured="no GPU")], rows)
    assert (lost.error, lost.not_measured) == (None, "Second is not measured")
    untuned = SystemRuns(good.entry, "X", {}, (SeedRun(0, {"test": np.zeros(3)}, None),), None)
    assert fused(ENTRY, [good, untuned], rows).error == "its part first has no scores of valid"
