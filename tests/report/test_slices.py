from __future__ import annotations

import numpy as np

from jobs.report.slices import Cuts, masks, slices

# Five users with 1, 2, 3, 4, 5 rows; ten items, of which two have four rows each and one three.
TRAIN_USERS = np.repeat(np.arange(5), np.arange(1, 6))
TRAIN_ITEMS = np.array([0] * 4 + [1] * 4 + [2] * 3 + [3, 4, 5, 6])
COLD = 99


def test_cuts_are_the_fifth_most_rated_items_and_thirds_of_the_users() -> None:
    cuts = Cuts.of(TRAIN_USERS, TRAIN_ITEMS)
    assert cuts == Cuts(head=4, medium=3, heavy=4)
    assert Cuts.of(TRAIN_USERS[:0], TRAIN_ITEMS[:0]) == Cuts(1, 1, 1)


def test_head_and_tail_hold_every_row_once_and_so_do_users_by_activity() -> None:
    users = np.array([0, 1, 2, 3, 4, COLD])
    items = np.array([0, 1, 2, 6, COLD, 0])
    found = masks(TRAIN_USERS, TRAIN_ITEMS, users, items, Cuts.of(TRAIN_USERS, TRAIN_ITEMS))
    assert found["head"].tolist() == [True, True, False, False, False, True]
    assert (found["head"] != found["tail"]).all()
    by_activity = sum(found[name].astype(int) for name in ("light", "medium", "heavy", "cold_user"))
    assert by_activity.tolist() == [1] * 6
    assert found["light"].tolist() == [True, True, False, False, False, False]
    assert found["heavy"].tolist() == [False, False, False, True, True, False]


def test_users_who_are_all_alike_fall_into_one_group() -> None:
    cuts = Cuts.of(np.repeat(np.arange(4), 3), np.arange(12))
    assert cuts.medium < cuts.heavy
    found = masks(np.repeat(np.arange(4), 3), np.arange(12), np.arange(4), np.arange(4), cuts)
    assert found["medium"].all()


def test_every_mask_has_a_title_and_words() -> None:
    cuts = Cuts.of(TRAIN_USERS, TRAIN_ITEMS)
    found = masks(TRAIN_USERS, TRAIN_ITEMS, TRAIN_USERS, TRAIN_ITEMS, cuts)
    named = slices(cuts)
    assert [each.name for each in named] == list(found)
    assert "4 rows of training or more" in next(s.says for s in named if s.name == "head")
    assert next(s.says for s in named if s.name == "light") == "1 to 2 rows of training"
