"""Which rows of a night are judged apart: warm and cold, head and tail, light and heavy users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.report.evaluate import Mask, occurrences, slice_masks
from jobs.report.night_figures import Slice

HEAD_SHARE = 0.2  # of the items that training knows

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Cuts:
    """How often is often, counted in training rows.

    Attributes:
        head: an item with so many rows is among the fifth that was rated most.
        medium: the least rows of a user who is not light.
        heavy: the least rows of a user who is heavy.
    """

    head: int
    medium: int
    heavy: int

    @classmethod
    def of(cls, train_users: NDArray[np.generic], train_items: NDArray[np.generic]) -> Cuts:
        """Cuts of a training split; users fall into three groups of about one size."""
        users, items = (
            np.unique(keys, return_counts=True)[1] for keys in (train_users, train_items)
        )
        if len(users) == 0:
            return cls(1, 1, 1)
        by_rows = np.sort(items)[::-1]
        head = int(by_rows[max(int(np.ceil(HEAD_SHARE * len(by_rows))) - 1, 0)])
        medium, heavy = (int(np.ceil(cut)) for cut in np.percentile(users, (100 / 3, 200 / 3)))
        return cls(head, medium, max(heavy, medium + 1))


def slices(cuts: Cuts) -> list[Slice]:
    """Every slice of `masks`, in the order of the page."""
    said = (
        ("all", "All", "every row"),
        ("warm", "Warm", "user and item both occur in training"),
        ("cold", "Cold", "user or item does not occur in training"),
        ("cold_user", "Cold user", "the user does not occur in training"),
        ("cold_item", "Cold item", "the item does not occur in training"),
        ("warm_3", "Warm, 3+ times", "both occur in training three times or more"),
        (
            "head",
            "Head",
            f"items in the most rated fifth: {_rows(cuts.head)} of training or more",
        ),
        ("tail", "Tail", "all other items, cold ones too"),
        ("light", "Light users", f"1 to {_rows(max(cuts.medium - 1, 1))} of training"),
        (
            "medium",
            "Medium users",
            f"{cuts.medium} to {_rows(cuts.heavy - 1)} of training",
        ),
        ("heavy", "Heavy users", f"{_rows(cuts.heavy)} of training or more"),
    )
    return [Slice(name=name, title=title, says=says) for name, title, says in said]


def _rows(n: int) -> str:
    return f"{n:,} row" if n == 1 else f"{n:,} rows"


def masks(
    train_users: NDArray[np.generic],
    train_items: NDArray[np.generic],
    users: NDArray[np.generic],
    items: NDArray[np.generic],
    cuts: Cuts,
) -> dict[str, Mask]:
    """Masks of the rows (users, items), one for each of `slices`.

    Head and tail hold every row once; so do light, medium, heavy and cold users together.
    """
    of_user, of_item = occurrences(train_users, users), occurrences(train_items, items)
    return slice_masks(of_user, of_item) | {
        "head": of_item >= cuts.head,
        "tail": of_item < cuts.head,
        "light": (of_user > 0) & (of_user < cuts.medium),
        "medium": (of_user >= cuts.medium) & (of_user < cuts.heavy),
        "heavy": of_user >= cuts.heavy,
    }
