from __future__ import annotations

import numpy as np
import pytest

from jobs.report.controls import System
from jobs.report.evaluate import ScoredRows
from jobs.report.lift import lift_tenths, positives_of_tenths


def rows(labels: np.ndarray, scores: np.ndarray) -> ScoredRows:
    n = len(labels)
    return ScoredRows(
        split="test",
        users=np.arange(n),
        labels=labels,
        days=np.full(n, np.datetime64("2026-03-01")),
        slices={},
        systems=(System("mf", "MF", scores, scores),),
    )


def test_a_perfect_order_has_its_positives_in_the_first_tenths() -> None:
    labels = np.array([1] * 30 + [0] * 70)
    found = lift_tenths(rows(labels, -np.arange(100.0)), rows(labels, -np.arange(100.0)).systems)
    assert [tenth.lift for tenth in found] == pytest.approx([10 / 3] * 3 + [0] * 7, abs=1e-6)
    assert [tenth.captured for tenth in found[:4]] == pytest.approx([1 / 3, 2 / 3, 1, 1], abs=1e-6)
    assert [tenth.positive_share for tenth in found[:4]] == [1, 1, 1, 0]


def test_rows_that_tie_share_their_positives_in_whatever_order_they_stand() -> None:
    labels = np.array([1] * 30 + [0] * 70)
    alike = positives_of_tenths(labels, np.full(100, 0.5))
    assert alike == pytest.approx([3.0] * 10)
    assert positives_of_tenths(labels[::-1], np.full(100, 0.5)) == pytest.approx(alike)


def test_a_row_on_the_border_of_two_tenths_belongs_to_both_in_parts() -> None:
    # 15 rows: a tenth holds a row and a half. The second row is half in the first tenth.
    labels = np.array([0, 1] + [0] * 13)
    found = positives_of_tenths(labels, -np.arange(15.0))
    assert found == pytest.approx([0.5, 0.5] + [0] * 8)


def test_ten_rows_and_one_positive_are_the_least_that_has_a_lift() -> None:
    labels = np.array([1] + [0] * 9)
    few, none = rows(labels[:9], labels[:9] * 1.0), rows(labels[1:], labels[1:] * 1.0)
    assert lift_tenths(few, few.systems) == lift_tenths(none, none.systems) == []
    enough = rows(labels, labels * 1.0)
    assert lift_tenths(enough, enough.systems)[0].lift == 10
