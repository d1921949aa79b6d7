"""Policies of `sql/`: every query is tested, and its header says what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.query import SQL

QUERIES = sorted(path.relative_to(SQL).with_suffix("").as_posix() for path in SQL.rglob("*.sql"))
TESTS = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize("name", [name for name in QUERIES if name.startswith("prepare/")])
def test_every_query_has_a_test(name: str) -> None:
    assert f'"{name}"' in TESTS or f'"{name.removeprefix("prepare/")}"' in TESTS


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_says_what_it_means_and_what_a_row_is(name: str) -> None:
    text = (SQL / f"{name}.sql").read_text(encoding="utf-8")
    header = text[: min(text.index("\nselect"), text.find("\nwith") % len(text))]
    assert header.startswith("-- ")
    assert "-- Grain: one row per " in header


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_is_one_select_in_a_fixed_order(name: str) -> None:
    text = (SQL / f"{name}.sql").read_text(encoding="utf-8")
    is_ordered = text.rstrip().splitlines()[-1].startswith("order by ")
    # Rows that stream to a step that orders them must not be sorted twice; the header says so.
    assert is_ordered != ("\n-- In no order: " in text)
    assert ";" not in text.replace("'", "").split("\nselect", 1)[1]
