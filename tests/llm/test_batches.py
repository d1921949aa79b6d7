"""Token-budget batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.llm.batches import token_budget_batches


def test_long_rows_come_first_and_fill_the_budget() -> None:
    batches = [rows.tolist() for rows in token_budget_batches([2, 9, 3, 2, 4], 8)]
    assert batches == [[1], [4, 2], [0, 3]]  # 9 > 8 alone; 2 x 4; 2 x 2


def test_nothing_makes_no_batch() -> None:
    assert list(token_budget_batches([], 8)) == []


@given(st.lists(st.integers(1, 70), max_size=60), st.integers(1, 200))
def test_each_row_is_in_one_batch_and_no_batch_breaks_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = list(token_budget_batches(lengths, budget))
    together = np.concatenate(batches) if batches else np.array([], int)
    assert sorted(together.tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget
