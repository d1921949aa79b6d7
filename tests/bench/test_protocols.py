"""What a fit may know and what it scores, worked out by hand; and that labels do not leak."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from jobs.bench.evidence import BenchRows
from jobs.bench.protocols import Night, Protocol, as_of_midnight, first_occasion, nights, occasion
from jobs.collab.baselines.registry import system_of
from jobs.collab.factors import Floats
from tests.bench.conftest import DAY_US, made_of, random_events, with_labels

DAY_3, DAY_5 = date(1970, 1, 4), date(1970, 1, 6)


def test_every_day_with_test_rows_is_a_night_and_others_are_not(by_hand: BenchRows) -> None:
    assert nights(by_hand) == [Night(DAY_3, (DAY_3,)), Night(DAY_5, (DAY_5,))]


def test_a_fit_of_every_third_day_scores_the_days_until_the_next(by_hand: BenchRows) -> None:
    assert nights(by_hand, refit_every_days=3) == [Night(DAY_3, (DAY_3, DAY_5))]
    assert nights(by_hand, refit_every_days=2) == nights(by_hand)


def test_the_paper_protocol_fits_train_and_scores_valid_and_test(by_hand: BenchRows) -> None:
    asked = first_occasion(by_hand, Protocol.PAPER)
    assert asked.evidence.train.requests.items.tolist() == [0, 1, 2, 0]
    assert asked.evidence.valid.labels.tolist() == [1]
    assert [each.places.tolist() for each in asked.scorings] == [[4], [5, 6, 7, 8, 9]]
    assert asked.scorings[1].requests.history_ends.tolist() == [2, 0, 2, 3, 0]


def test_as_of_midnight_a_row_sees_the_days_before_its_own(by_hand: BenchRows) -> None:
    frozen = as_of_midnight(by_hand)
    assert frozen.rows.requests.history_ends.tolist() == [0, 0, 1, 0, 1, 2, 0, 2, 3, 0]


def test_a_night_knows_everything_before_its_midnight_and_nothing_after(
    by_hand: BenchRows,
) -> None:
    first, second = (occasion(as_of_midnight(by_hand), night) for night in nights(by_hand))
    assert len(first.evidence.train) == 5
    assert len(second.evidence.train) == 8  # the test rows of day 3 are evidence on day 5
    assert len(first.evidence.valid) == 0
    (asked,) = second.scorings
    assert asked.places.tolist() == [8, 9]
    assert asked.requests.history_ends.tolist() == [3, 0]
    assert asked.histories.times.max() < 5 * DAY_US


def test_the_days_after_a_fit_have_histories_of_their_own_midnights(by_hand: BenchRows) -> None:
    (night,) = nights(by_hand, refit_every_days=3)
    asked = occasion(as_of_midnight(by_hand), night)
    assert len(asked.evidence.train) == 5
    assert [each.requests.history_ends.tolist() for each in asked.scorings] == [[2, 0, 2], [3, 0]]


def test_every_test_row_is_scored_exactly_once() -> None:
    rows = made_of(random_events(20, seed=1))
    for every in (1, 3):
        scored = [
            place
            for night in nights(rows, every)
            for each in occasion(rows, night).scorings
            for place in each.places
        ]
        assert sorted(scored) == rows.places("test").tolist()


def nightly_scores(rows: BenchRows, system: str, settings: dict[str, object]) -> Floats:
    """Scores of all test rows in their order."""
    rows = as_of_midnight(rows)
    scores = np.full(len(rows.rows), np.nan, np.float32)
    for night in nights(rows):
        asked = occasion(rows, night)
        fitted = system_of(system, settings).fit(asked.evidence, 0, 2)
        for each in asked.scorings:
            scores[each.places] = fitted.score(each.requests, each.histories)
    return scores[rows.places("test")]


@pytest.mark.parametrize(
    ("system", "settings"),
    [("item_user_mean", {}), ("mf_biases", {"n_factors": 4}), ("aligned_mf", {"n_factors": 4})],
)
def test_labels_of_a_day_do_not_move_its_scores_and_do_move_the_next_days(
    system: str, settings: dict[str, object]
) -> None:
    rows = made_of(random_events(10, seed=2))
    day = rows.rows.requests.times // DAY_US
    first, last = (nights(rows)[place].fitted for place in (0, -1))
    labels = rows.rows.labels.copy()
    flipped = day == (first - date(1970, 1, 1)).days
    labels[flipped] = 1 - labels[flipped]
    before = nightly_scores(rows, system, settings)
    after = nightly_scores(with_labels(rows, labels), system, settings)
    test_days = day[rows.places("test")]
    is_first = test_days == (first - date(1970, 1, 1)).days
    assert (before[is_first] == after[is_first]).all()
    assert (before[~is_first] != after[~is_first]).any()
    assert first != last


def test_the_future_does_not_move_the_score_of_a_day() -> None:
    whole = made_of(random_events(10, seed=3))
    events = random_events(10, seed=3)
    cut = made_of(events[events[:, 0] <= 8])
    n = len(cut.places("test"))
    settings = {"n_factors": 4}
    both = [nightly_scores(rows, "mf_biases", settings)[:n] for rows in (whole, cut)]
    assert (both[0] == both[1]).all()
