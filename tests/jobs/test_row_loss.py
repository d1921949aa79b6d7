"""A table that has lost half of its rows against the nights before is not marked as checked."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pytest

from jobs.check import check
from jobs.datasets import DOMAINS, ITEM_TEXTS, ITEMS
from jobs.errors import ContractError
from jobs.home import Home
from jobs.job import Config, Run, execute, is_checked, mark_checked
from tests.one_domain import one_domain

LAST = date(2026, 3, 2)


def texts_of(home: Home, day: date, n_items: int) -> None:
    """A night with `n_items` items and their texts, both sound."""
    ids = pa.array(range(1, n_items + 1), pa.int64())
    titles = [f"Film {n}" for n in range(n_items)]
    items = pa.table({"item_id": ids, "title": titles, "first_row": ids})
    texts = pa.table({"item_id": ids, "title": titles, "text": [f"Movie: {t}" for t in titles]})

    def ingest(config: Config, run: Run) -> None:
        run.write(ITEMS, items)
        run.write(DOMAINS, one_domain())

    execute("ingest", Config(), day, home, ingest)
    for dataset in (ITEMS, DOMAINS):
        mark_checked(home, dataset, day)
    execute("item_texts", Config(), day, home, lambda config, run: run.write(ITEM_TEXTS, texts))


@pytest.mark.parametrize(
    ("counts", "n_tonight", "is_refused"),
    [
        ([10, 10, 10], 4, True),
        ([10, 10, 10], 5, False),
        ([10, 10], 1, False),  # two nights are too few to say what is usual
        ([10, 10, 10], 30, False),  # it may grow
        ([99, 4, 4, 4, 4, 4, 4, 4], 3, False),  # the last seven count
    ],
)
def test_a_table_may_not_lose_half_of_its_rows(
    home: Home, counts: list[int], n_tonight: int, is_refused: bool
) -> None:
    for n_days, n_items in enumerate(reversed(counts), start=1):
        texts_of(home, LAST - timedelta(days=n_days), n_items)
    texts_of(home, LAST, n_tonight)
    if is_refused:
        with pytest.raises(ContractError, match=f"{n_tonight} rows; the median of the 3 nights"):
            check("item_texts", LAST, home)
    else:
        check("item_texts", LAST, home)
    assert is_checked(home, ITEM_TEXTS, LAST) is not is_refused


def test_nights_of_long_ago_do_not_count(home: Home) -> None:
    for n_days in (15, 16, 17):
        texts_of(home, LAST - timedelta(days=n_days), 10)
    texts_of(home, LAST, 1)
    assert check("item_texts", LAST, home) == ["item_texts"]
