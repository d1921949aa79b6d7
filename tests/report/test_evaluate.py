from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pytest

from jobs.report.controls import System
from jobs.report.data_quality import quarantined_by_reason, split_sizes
from jobs.report.evaluate import (
    Resampling,
    ScoredRows,
    auc_over_time,
    occurrences,
    score_histogram,
    slice_masks,
    strongest,
)
from jobs.report.figures import Comparison, Estimate, Quality
from jobs.report.neighbours import nearest, neighbourhoods
from jobs.report.verdicts import against_control

CONTROL = System("item_mean", "Item mean", np.zeros(0), np.zeros(0))


def estimate(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def judged(difference: Estimate | None):
    names = {"split": "test", "slice": "all", "system": "mf"}
    comparison = Comparison(**names, against="item_mean", auc=difference, uauc=None)
    values = [
        Quality(
            **{**names, "system": name},
            n_rows=9,
            n_users=3,
            n_users_counted=3,
            positive_share=0.5,
            auc=estimate(value, 0.6, 0.8),
            uauc=None,
            ndcg=None,
            log_loss=None,
            ece=None,
        )
        for name, value in (("mf", 0.7), ("item_mean", 0.69))
    ]
    return against_control("Version 7", CONTROL, comparison, values)


@pytest.mark.parametrize(
    ("low", "high", "outcome", "claim"),
    [
        (
            0.001,
            0.02,
            "better",
            "Version 7 is better than the strongest trivial control on test, item mean",
        ),
        (-0.01, 0.02, "same", "Version 7 cannot be told apart from"),
        (-0.02, -0.001, "worse", "Version 7 is worse than"),
        (None, None, "unknown", "fewer than 10 users"),
    ],
)
def test_the_verdict_is_where_the_paired_interval_lies(low, high, outcome, claim):
    verdict = judged(estimate(0.01, low, high))
    assert verdict.outcome.value == outcome
    assert claim in verdict.sentence


def test_without_figures_there_is_no_verdict():
    assert judged(None).outcome.value == "unknown"
    assert against_control("Version 7", None, None, []).outcome.value == "unknown"


def test_the_sentence_gives_both_figures_the_difference_and_its_interval():
    sentence = judged(estimate(0.01, -0.005, 0.025)).sentence
    assert "AUC 0.700 against 0.690, a difference of +0.010" in sentence
    assert "(95 % interval \u22120.005 to +0.025)" in sentence


def test_occurrences_count_training_rows_of_known_and_unknown_keys():
    train = np.array(["b", "a", "b"])
    assert occurrences(train, np.array(["a", "b", "z", "0"])).tolist() == [1, 2, 0, 0]
    assert occurrences(train[:0], np.array(["a"])).tolist() == [0]


def test_slices_follow_what_training_knows_of_user_and_item():
    masks = slice_masks(np.array([0, 1, 3, 5]), np.array([4, 0, 2, 3]))
    assert {name: mask.astype(int).tolist() for name, mask in masks.items()} == {
        "all": [1, 1, 1, 1],
        "warm": [0, 0, 1, 1],
        "cold": [1, 1, 0, 0],
        "cold_user": [1, 0, 0, 0],
        "cold_item": [0, 1, 0, 0],
        "warm_3": [0, 0, 0, 1],
    }


def rows(n_days: int, per_day: int = 4) -> ScoredRows:
    random = np.random.default_rng(0)
    n = n_days * per_day
    labels = np.tile([0, 1], n // 2)
    good, bad = labels + random.normal(0, 0.5, n), random.normal(0, 1, n)
    chance = np.full(n, 0.5)
    return ScoredRows(
        split="test",
        users=np.arange(n) % 12,
        labels=labels,
        days=np.datetime64("2026-01-30") + np.repeat(np.arange(n_days), per_day),
        slices={"all": np.ones(n, dtype=bool)},
        systems=(
            System("mf", "Aligned MF", good, np.clip(good / 4 + 0.4, 0, 1)),
            System("bad", "Bad", bad, chance),
            System("good", "Good", good, chance),
        ),
    )


def test_the_strongest_control_is_the_one_with_the_highest_auc():
    assert [system.name for system in strongest(rows(10))] == ["good", "bad"]


def test_a_split_of_60_days_is_drawn_by_day_and_a_longer_one_by_week():
    control, resampling = rows(1).systems[1], Resampling(20, 0)
    by_day = auc_over_time(rows(60), None, resampling)
    assert [(p.start, p.n_days, p.n_rows) for p in by_day[:3]] == [
        (date(2026, 1, 30), 1, 4),
        (date(2026, 1, 31), 1, 4),
        (date(2026, 2, 1), 1, 4),
    ]
    assert len(by_day) == 60
    assert by_day[0].control_auc is None
    longer = rows(61)
    by_week = auc_over_time(longer, longer.systems[1], resampling)
    assert [p.start for p in by_week[:2]] == [date(2026, 1, 30), date(2026, 2, 6)]
    assert [p.n_rows for p in by_week] == [28] * 8 + [20]
    assert control.name == "bad"


def test_histogram_shares_sum_to_one_for_each_label():
    bins = score_histogram(rows(10))
    assert sum(b.positives for b in bins) == pytest.approx(1, abs=1e-5)
    assert sum(b.negatives for b in bins) == pytest.approx(1, abs=1e-5)
    assert (bins[0].low, bins[-1].high) == (0, 1)


def test_nearest_is_by_angle_and_ties_by_place():
    vectors = np.array([[1, 0], [9, 0], [0, 2], [2, 2], [0, 0]], np.float32)
    assert [place for place, _ in nearest(vectors, 0, 4)] == [1, 3, 2, 4]
    assert [cosine for _, cosine in nearest(vectors, 0, 4)] == pytest.approx([1, 0.7071068, 0, 0])


def test_an_item_that_is_already_shown_as_a_neighbour_is_not_looked_at_again():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    found = neighbourhoods(
        np.array(["a", "b", "c", "d"]),
        vectors,
        {"a": "A", "b": "B", "c": "C"},
        {"a": 9, "b": 8, "c": 7},
        n_probes=2,
        n_neighbours=1,
    )
    said = [(n.title, n.n_train_rows, [m.title for m in n.neighbours]) for n in found]
    assert said == [("A", 9, ["B"]), ("C", 7, ["d"])]  # d has no title: its id stands in


def test_reasons_are_listed_by_frequency_with_their_first_row_cut_short():
    table = pa.table(
        {
            "source_file": ["/in/b.csv", "/in/a.csv", "/in/a.csv"],
            "line": [1, 9, 2],
            "raw": ["x", "y" * 500, "z"],
            "reason": ["late", "broken", "late"],
        }
    )
    late, broken = quarantined_by_reason(table)
    assert (late.reason, late.n_rows, late.example, late.example_at) == (
        "late",
        2,
        "z",
        "a.csv, line 2",
    )
    assert len(broken.example) == 120
    assert quarantined_by_reason(table.slice(0, 0)) == []


def test_an_empty_split_has_a_size_of_zero_and_no_days():
    table = pa.table(
        {
            "split": ["train"],
            "user_id": [1],
            "item_id": [2],
            "rated_at": pa.array([datetime(2026, 1, 5, 23, 59)], pa.timestamp("us")),
        }
    )
    train, valid, test = split_sizes(table)
    assert (train.n_rows, train.first_day, train.last_day) == (
        1,
        date(2026, 1, 5),
        date(2026, 1, 5),
    )
    assert (valid.n_rows, valid.n_users, valid.first_day) == (0, 0, None)
    assert test.split == "test"
