"""Reading by id without a search engine."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from store_workload import publish, vector_rows

import embedding_store
from embedding_store import EmbeddingStore, TableSpec, open_version
from embedding_store.errors import BadInput, FileNotInVersion, IdNotFound, Incompatible
from embedding_store.lookup import find_rows

# pandas is missing here because pyarrow itself imports it wherever it is installed
FORBIDDEN = ("faiss", "duckdb", "torch", "polars", "dask", "airflow", "typer", "rich")


def opened(tmp_path, ids, vectors):
    EmbeddingStore(tmp_path / "store").publish(
        {
            "table": TableSpec(vector_rows(ids, vectors), "item_id", "vector"),
            "plain": TableSpec(
                pa.table({"item_id": ids, "title": [f"t{i}" for i in ids]}), "item_id"
            ),
        },
        run_key="run",
        day="2026-03-01",
    )
    return open_version(tmp_path / "store", 1)


@pytest.mark.parametrize("ids", [[30, 10, 20], [-5, 2**62, 0], ["c", "a", "b"], ["", "ü", "z"]])
def test_vectors_come_in_the_order_asked_whatever_order_they_were_given_in(tmp_path, ids):
    table = opened(tmp_path, ids, np.eye(3) + 2)["table"]
    asked = [ids[2], ids[0], ids[2], ids[1]]
    expected = (np.eye(3, dtype=np.float32) + 2)[[2, 0, 2, 1]]
    for form in (asked, tuple(asked), pa.array(asked), pa.chunked_array([asked]), np.array(asked)):
        found = table.vectors_of(form)
        assert found.dtype == np.float32
        assert (found == expected).all()
    assert table.vectors_of([]).shape == (0, 3)
    assert table.ids.to_pylist() == sorted(ids)


def test_what_is_returned_is_a_copy_and_the_version_cannot_be_changed_through_it(tmp_path):
    table = opened(tmp_path, [1, 2], np.eye(2))["table"]
    table.vectors_of([1])[:] = 9
    assert (table.vectors_of([1]) == [[1, 0]]).all()
    with pytest.raises(ValueError, match="read-only"):
        table.vectors[:] = 9


@pytest.mark.parametrize(
    ("ids", "missing", "message"),
    [
        ([10, 20, 30], [11], "id is not in the table: 11"),
        ([10, 20, 30], [5, 31, 2**40], f"3 ids are not in the table: 5, 31, {2**40}"),
        (["a", "b", "c"], ["A", "aa"], "2 ids are not in the table: 'A', 'aa'"),
        ([10, 20, 30], list(range(1, 9)), "8 ids are not in the table: 1, 2, 3, 4, 5 and 3 more"),
    ],
)
def test_ids_that_are_not_there_are_named_first_few_and_count(tmp_path, ids, missing, message):
    table = opened(tmp_path, ids, np.eye(3))["table"]
    with pytest.raises(IdNotFound, match=message) as refused:
        table.vectors_of([ids[0], *missing])
    assert refused.value.missing == missing


@pytest.mark.parametrize(
    ("ids", "asked"),
    [
        ([1, 2], ["1"]),
        ([1, 2], [1.0]),
        ([1, 2], [True]),
        ([1, 2], [None]),
        ([1, 2], "1"),
        ([1, 2], [2**70]),
        ([1, 2], [1, "a"]),
        ([1, 2], np.array([2**63], np.uint64)),
        (["a", "b"], [1]),
        (["a", "b"], "a"),
        (["a", "b"], [None]),
    ],
)
def test_ids_of_another_type_are_refused_and_never_coerced(tmp_path, ids, asked):
    table = opened(tmp_path, ids, np.eye(2))["table"]
    with pytest.raises(BadInput, match="table: ids are "):
        table.vectors_of(asked)


@pytest.mark.parametrize("n_wanted", [3, 3_000])
def test_text_ids_are_found_alike_by_bisection_and_by_hashing(n_wanted):
    random = np.random.default_rng(9)
    pool = ["".join(map(chr, row)) for row in random.integers(33, 0x2FFF, size=(4_000, 3))]
    ids = pa.array(sorted(set(pool[:2_000])))
    wanted = pool[-n_wanted // 2 :] + pool[: n_wanted // 2]
    place = {one: row for row, one in enumerate(ids.to_pylist())}
    assert find_rows(ids, pa.array(wanted)).tolist() == [place.get(one, -1) for one in wanted]


def test_a_plain_table_has_rows_and_no_vectors(tmp_path):
    plain = opened(tmp_path, [2, 1], np.eye(2))["plain"]
    assert plain.table(["title"])["title"].to_pylist() == ["t1", "t2"]
    with pytest.raises(BadInput, match="plain is a plain table, without vectors"):
        plain.vectors_of([1])
    with pytest.raises(BadInput, match="no column 'name'; there is: item_id, title"):
        plain.table(["name"])


def test_an_extra_file_is_found_by_its_name_and_nothing_else_is(tmp_path):
    publish(tmp_path / "store")
    version = open_version(tmp_path / "store", 1)
    assert version.file("projectors.safetensors").read_bytes() == bytes(range(256)) * 2
    for name in ("RUN.json", "items.ids.arrow", "../STORE.json"):
        with pytest.raises(FileNotInVersion, match=r"there is: projectors\.safetensors"):
            version.file(name)


def test_a_version_in_another_space_than_expected_is_refused_with_both_sides_named(tmp_path):
    publish(tmp_path / "store")
    open_version(tmp_path / "store", 1, expect={"space_id": "planted", "dim": 8})
    with pytest.raises(Incompatible, match="space_id is 'planted', expected 'other'"):
        open_version(tmp_path / "store", 1, expect={"space_id": "other"})
    with pytest.raises(Incompatible, match="backbone is nothing, expected 'x'"):
        EmbeddingStore(tmp_path / "store").open(1, expect={"backbone": "x"})


def test_looking_up_needs_neither_an_index_library_nor_a_warehouse_engine(tmp_path):
    publish(tmp_path / "store")
    code = f"""
import sys
import numpy
from embedding_store.lookup import open_version
version = open_version({str(tmp_path / "store")!r}, "1")
assert version["item_semantics"].vectors_of(numpy.array([10, 0])).shape == (2, 8)
loaded = [name for name in {FORBIDDEN!r} if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_package_gives_its_public_names_and_no_others():
    assert embedding_store.EmbeddingStore is EmbeddingStore
    for name in embedding_store.__all__:
        assert getattr(embedding_store, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = embedding_store.Nothing
