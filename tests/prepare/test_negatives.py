"""Sampled negatives: by popularity, of what had been seen, never a positive, always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.prepare.splitting.negatives import Negatives, Popularity, sampled
from jobs.prepare.splitting.shuffle import COLUMNS, Columns

LATE = 1_000


def rows_of(*events: tuple[int, int, int]) -> Columns:
    """Positive rows of user, item and time, in order."""
    values = np.array(events, np.int64).reshape(-1, 3).T
    rows: Columns = {name: np.zeros(len(events), kind) for name, kind in COLUMNS.items()}
    rows |= {"user_id": values[0], "item_id": values[1], "rated_at": values[2]}
    rows["label"] = np.ones(len(events), np.int8)
    rows["history_end"] = np.arange(len(events), dtype=np.int32)
    return rows


@pytest.fixture
def catalogue(tmp_path: Path):
    """`catalogue({item: (first_at, count)}, per_positive, ...)` gives how to sample."""

    def save(
        items: dict[int, tuple[int, int]], per_positive: int = 1, seed: int = 0, power: float = 1.0
    ) -> Negatives:
        ordered = sorted(items, key=lambda item: (items[item][0], item))
        numbers = np.array(ordered, np.int64)
        popularity = Popularity.of(
            items=numbers,
            words=numbers.view(np.uint64),
            first_at=np.array([items[item][0] for item in ordered], np.int64),
            counts=np.array([items[item][1] for item in ordered], np.int64),
            power=power,
        )
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        popularity.save(path)
        return Negatives(per_positive, seed, path, None)

    return save


def negatives_of(rows: Columns, how: Negatives) -> list[tuple[int, int, int]]:
    made, _ = sampled(rows, how)
    chosen = made["label"] == 0
    return [
        (int(u), int(i), int(t))
        for u, i, t in zip(
            *(made[name][chosen] for name in ("user_id", "item_id", "rated_at")), strict=True
        )
    ]


def test_each_positive_is_followed_by_its_negatives_with_its_time_and_history(catalogue) -> None:
    how = catalogue(dict.fromkeys(range(10), (0, 1)), per_positive=2)
    made, n_missing = sampled(rows_of((1, 3, 50), (1, 4, 60)), how)
    assert n_missing == 0
    assert made["label"].tolist() == [1, 0, 0, 1, 0, 0]
    assert made["rated_at"].tolist() == [50, 50, 50, 60, 60, 60]
    assert made["history_end"].tolist() == [0, 0, 0, 1, 1, 1]
    assert made["item_id"][[0, 3]].tolist() == [3, 4]
    assert len(set(made["item_id"][:3].tolist())) == 3


def test_what_the_user_liked_at_any_time_is_no_negative(catalogue) -> None:
    how = catalogue(dict.fromkeys(range(6), (0, 1)))
    events = [(1, item, 10 * item) for item in range(5)]
    assert [item for _, item, _ in negatives_of(rows_of(*events), how)] == [5] * 5


def test_an_item_first_seen_after_the_row_is_no_negative_and_one_of_its_moment_is(
    catalogue,
) -> None:
    how = catalogue({1: (0, 1), 2: (70, 1), 3: (71, 1_000_000)})
    assert negatives_of(rows_of((9, 1, 70)), how) == [(9, 2, 70)]


def test_a_user_who_liked_all_there_was_gets_none_and_that_is_counted(catalogue) -> None:
    how = catalogue({1: (0, 1), 2: (0, 1), 3: (LATE, 1)}, per_positive=2)
    made, n_missing = sampled(rows_of((1, 1, 5), (1, 2, 6), (2, 1, 5)), how)
    assert made["label"].tolist() == [1, 1, 1, 0]
    assert made["item_id"].tolist() == [1, 2, 1, 2]
    assert n_missing == 5


def test_items_are_drawn_in_proportion_to_the_power_of_their_counts(catalogue) -> None:
    how = catalogue({0: (0, 1), 1: (0, 1), 2: (0, 16), 3: (0, 81)}, power=0.5)
    events = [(user, 0, user) for user in range(20_000)]
    drawn = np.bincount([item for _, item, _ in negatives_of(rows_of(*events), how)])
    shares = np.array([1, 4, 9]) / 14
    error = 4 * np.sqrt(shares * (1 - shares) / len(events))
    assert np.all(np.abs(drawn[1:] / len(events) - shares) < error)


def test_power_zero_is_uniform(catalogue) -> None:
    how = catalogue({0: (0, 5), 1: (0, 1), 2: (0, 1_000)}, power=0.0)
    drawn = [item for _, item, _ in negatives_of(rows_of(*((u, 0, 1) for u in range(4_000))), how)]
    assert abs(drawn.count(1) - 2_000) < 4 * np.sqrt(1_000)


def test_who_liked_nearly_all_that_is_popular_is_drawn_for_without_trial(catalogue) -> None:
    """One of 50 items is left, and it is a millionth of the weight."""
    how = catalogue({item: (0, 1_000_000 if item else 1) for item in range(50)}, per_positive=2)
    made, n_missing = sampled(rows_of(*((1, item, 3) for item in range(1, 50))), how)
    assert set(made["item_id"][made["label"] == 0].tolist()) == {0}
    assert n_missing == 49


def test_what_is_left_is_drawn_by_its_weights_too(catalogue) -> None:
    """Three of 63 items are left, and they are a thousandth of the weight."""
    weights = {0: 1, 1: 2, 2: 3}
    how = catalogue({item: (0, weights.get(item, 100)) for item in range(63)})
    events = [(user, item, user) for user in range(300) for item in range(3, 63)]
    drawn = np.bincount([item for _, item, _ in negatives_of(rows_of(*events), how)])
    shares = np.array([1, 2, 3]) / 6
    assert np.all(np.abs(drawn / drawn.sum() - shares) < 4 * np.sqrt(0.25 / drawn.sum()))


def test_a_draw_depends_on_seed_user_item_and_time_and_on_no_neighbour(catalogue) -> None:
    items = {item: (0, 1 + item) for item in range(200)}
    how = catalogue(items)
    events = [(user, user % 7, 100 + user) for user in range(300)]
    all_at_once = negatives_of(rows_of(*events), how)
    one_by_one = [negatives_of(rows_of(event), how)[0] for event in events]
    assert all_at_once == one_by_one
    assert negatives_of(rows_of(*events), catalogue(items, seed=1)) != all_at_once
    for changed in ((2, 1, 100), (1, 2, 100), (1, 1, 101)):
        others = [negatives_of(rows_of(e), how)[0][1] for e in ((1, 1, 100), changed)]
        assert others[0] != others[1]  # one chance in 200 each, and the seed is fixed


def test_no_rows_have_no_negatives(catalogue) -> None:
    made, n_missing = sampled(rows_of(), catalogue({1: (0, 1)}))
    assert len(made["label"]) == n_missing == 0
