"""From tables to dense numbers."""

from __future__ import annotations

import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.bench.evidence import BenchRows, bench_rows, cut_before
from jobs.collab.systems import Requests
from jobs.datasets import HISTORIES, ITEMS, SPLITS
from jobs.errors import NotAvailable
from jobs.home import Home
from tests.bench.conftest import DAY_US
from tests.conftest import DAY


@pytest.fixture(scope="module")
def rows(prepared: Home) -> BenchRows:
    return bench_rows(prepared, DAY)


def test_numbers_are_places_among_the_sorted_ids_and_the_catalogue_is_whole(
    rows: BenchRows, prepared: Home
) -> None:
    splits = pq.read_table(prepared.output(SPLITS, DAY)).to_pylist()
    items = sorted(pq.read_table(prepared.output(ITEMS, DAY))["item_id"].to_pylist())
    users = sorted({row["user_id"] for row in splits})
    assert rows.item_ids.to_pylist() == items
    assert rows.user_ids.to_pylist() == users
    assert rows.catalogue.n_items == len(items) > len({row["item_id"] for row in splits})
    for split in ("train", "valid", "test"):
        wanted = sorted((r for r in splits if r["split"] == split), key=lambda r: r["row"])
        found = rows.of(split)
        assert [users[u] for u in found.requests.users] == [r["user_id"] for r in wanted]
        assert [items[i] for i in found.requests.items] == [r["item_id"] for r in wanted]
        assert found.labels.tolist() == [r["label"] for r in wanted]


def test_a_history_is_the_tables_list_with_the_time_of_each_positive(
    rows: BenchRows, prepared: Home
) -> None:
    splits = pq.read_table(prepared.output(SPLITS, DAY)).to_pylist()
    for row in pq.read_table(prepared.output(HISTORIES, DAY)).to_pylist():
        user = rows.user_ids.index(row["user_id"]).as_py()
        own = slice(rows.histories.starts[user], rows.histories.starts[user + 1])
        items = [rows.item_ids[i].as_py() for i in rows.histories.items[own]]
        assert items == row["item_ids"]
        liked = [r for r in splits if r["user_id"] == row["user_id"] and r["label"]]
        when = {(r["item_id"], np.datetime64(r["rated_at"], "us").astype(int)) for r in liked}
        assert set(zip(items, rows.histories.times[own], strict=True)) == when


def test_no_label_is_among_what_a_system_is_asked(rows: BenchRows) -> None:
    assert {field.name for field in fields(Requests)} == {
        "users",
        "items",
        "times",
        "history_ends",
    }
    assert rows.of("test").requests.history_ends.max() < len(rows.histories.items)


def test_a_moment_itself_is_cut_off_with_what_follows_it(by_hand: BenchRows) -> None:
    first_of_day_1 = int(by_hand.rows.requests.times[2])
    cut = cut_before(by_hand.histories, first_of_day_1)
    assert cut.items.tolist() == [0]
    assert cut.starts.tolist() == [0, 1, 1, 1]
    assert (cut_before(by_hand.histories, 9 * DAY_US).items == by_hand.histories.items).all()


def test_a_home_without_embeddings_says_which_job_has_not_run(
    prepared: Home, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(prepared.root, home.root)
    shutil.rmtree(home.run("distil", DAY))
    with pytest.raises(NotAvailable, match=r"item_semantics of 2026-03-02 .* job 'distil'"):
        bench_rows(home, DAY)


def test_other_tables_have_another_fingerprint(
    rows: BenchRows, prepared: Home, tmp_path: Path
) -> None:
    from tests.in_process import run_job

    home = Home(tmp_path / "home")
    shutil.copytree(prepared.root, home.root)
    run_job("splits", home, valid_days=9)
    assert bench_rows(home, DAY).fingerprint != rows.fingerprint
    assert bench_rows(prepared, DAY).fingerprint == rows.fingerprint
