"""A query's connection: the tables given, nothing else, within its limits."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.query import Limits, View, connect


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two Parquet files in a folder whose name needs quoting."""
    folder = tmp_path / "it's a folder; drop"
    folder.mkdir()
    paths = [folder / "a.parquet", folder / "b.parquet"]
    for number, path in enumerate(paths):
        pq.write_table(pa.table({"n": [10 * number + n for n in range(3)]}), path)
    return paths


def test_files_are_read_where_they_lie(files: list[Path]) -> None:
    with connect({"one": files[0], "pair": files}) as connection:
        assert connection.sql("select n from one order by n").fetchall() == [(0,), (1,), (2,)]
        assert connection.sql("select sum(n) from pair").fetchall() == [(36,)]


def test_a_file_that_was_not_given_cannot_be_read(files: list[Path]) -> None:
    with connect({"one": files[0]}) as connection, pytest.raises(duckdb.PermissionException):
        connection.read_parquet(str(files[1])).fetchall()


def test_a_view_is_a_query_over_the_tables_before_it() -> None:
    texts = {
        "items": pa.table({"item_id": [2, 1], "title": ["Alien", "Heat"]}),
        "domains": pa.table({"item_noun": ["Movie"]}),
        "item_texts": View("prepare/item_texts"),
    }
    with connect(texts) as connection:
        rows = connection.sql("select text from item_texts").fetchall()
    assert rows == [("Movie: Heat",), ("Movie: Alien",)]


def test_python_variables_are_no_tables(files: list[Path]) -> None:
    stray = pa.table({"n": [1]})
    assert stray.num_rows
    with connect({"one": files[0]}) as connection, pytest.raises(duckdb.CatalogException):
        connection.sql("select n from stray")


def test_a_sort_past_the_memory_limit_spills_and_leaves_nothing_behind(tmp_path: Path) -> None:
    n_rows = 2_000_000
    path, spill = tmp_path / "numbers.parquet", tmp_path / "spill"
    numbers = np.random.default_rng(0).permutation(n_rows)
    pq.write_table(pa.table({"n": numbers, "twice": 2 * numbers, "square": numbers**2}), path)
    limits = Limits(memory="40MB", threads=1, spill=spill)
    with connect({"numbers": path}, limits) as connection:
        reader = connection.sql("select * from numbers order by n").to_arrow_reader(100_000)
        first = reader.read_next_batch()
        assert first["n"].to_pylist()[:3] == [0, 1, 2]
        assert any(p.stat().st_size for p in spill.rglob("*") if p.is_file())
        assert first.num_rows + sum(batch.num_rows for batch in reader) == n_rows
    assert not list(spill.iterdir())


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIDEMARK_MEMORY_LIMIT", "3GiB")
    monkeypatch.setenv("TIDEMARK_THREADS", "1")
    monkeypatch.setenv("TIDEMARK_SPILL", str(tmp_path))
    assert Limits.from_environment() == Limits("3GiB", 1, tmp_path)
    with connect({}) as connection:
        said = connection.sql(
            "select current_setting('memory_limit'), current_setting('threads')"
        ).fetchall()
    assert said == [("3.0 GiB", 1)]
