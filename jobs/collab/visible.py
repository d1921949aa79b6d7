"""The positives that a row may see, and the taste of a user of whom nothing else is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.collab.factors import Floats, Ints

_ROWS_AT_ONCE = 2_048  # histories that are laid out side by side


@dataclass(frozen=True)
class Visible:
    """For each of n rows a stretch of one long list of positives, each user's oldest first.

    Attributes:
        items: (n_positives,) item rows of everybody's positives; may reach past what any row sees.
        starts: (n,) where the stretch of a row begins.
        ends: (n,) one past its last place; equal to the start where a row sees nothing.
    """

    items: Ints
    starts: Ints
    ends: Ints

    def __len__(self) -> int:
        return len(self.starts)

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Visible:
        """Some of the rows, by place or by mask."""
        return Visible(self.items, self.starts[places], self.ends[places])

    def latest(self, n: int) -> Visible:
        """The same rows, each seeing its newest `n` positives at most."""
        return Visible(self.items, np.maximum(self.starts, self.ends - n), self.ends)


@dataclass(frozen=True)
class HistoryTaste:
    """The factor of a user who has a history and no row of the user table.

    factor = sum of `of_items` over the visible positives / (their number + `pseudo_counts`):
    a mean that a short history draws to zero, where only the items' biases speak.

    Attributes:
        of_items: (n_items, d) what a positive of the item says.
        pseudo_counts: events that everybody has of the common taste, which is zero here.
        length: newest positives that count.
    """

    of_items: Floats
    pseudo_counts: float
    length: int

    def tensors(self) -> dict[str, Floats]:
        """All it is, by name; see `HistoryTaste.of`."""
        return {
            "history.items": self.of_items,
            "history.pseudo_counts": np.array([self.pseudo_counts], dtype=np.float32),
            "history.length": np.array([self.length], dtype=np.float32),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Floats]) -> HistoryTaste | None:
        """What `tensors` gave; None where there is nothing of it."""
        if "history.items" not in tensors:
            return None
        pseudo_counts, length = (tensors[f"history.{name}"] for name in ("pseudo_counts", "length"))
        return cls(tensors["history.items"], float(pseudo_counts[0]), int(length[0]))

    def factors(self, visible: Visible) -> Floats:
        """(n, d); a row's does not depend on the other rows."""
        visible = visible.latest(self.length)
        made = np.zeros((len(visible), self.of_items.shape[1]), dtype=np.float32)
        for start in range(0, len(visible), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            made[rows] = self._means(visible.starts[rows], visible.ends[rows], visible.items)
        return made

    def _means(self, starts: Ints, ends: Ints, items: Ints) -> NDArray[np.float64]:
        """Newest first, one place of all the rows after the other: the same sum in any company."""
        sums = np.zeros((len(starts), self.of_items.shape[1]))
        for back in range(1, int((ends - starts).max(initial=0)) + 1):
            rows = np.flatnonzero(ends - back >= starts)
            sums[rows] += self.of_items[items[ends[rows] - back]]
        return sums / np.maximum(ends - starts + self.pseudo_counts, 1e-9)[:, None]
