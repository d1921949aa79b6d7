"""What the store returns, as other libraries hold it."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest
from store_workload import vector_rows

from embedding_store import EmbeddingStore, TableSpec
from embedding_store.errors import BadInput, IdNotFound, Incompatible
from embedding_store.outputs import to_pandas, to_polars, version_of


@pytest.fixture
def version(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    store.publish(
        {
            "table": TableSpec(
                vector_rows([3, 1, 2], np.eye(3), title=["c", "a", "b"]), "item_id", "vector"
            ),
            "named": TableSpec(vector_rows(["x", "y"], np.eye(2)), "item_id", "vector"),
            "plain": TableSpec(pa.table({"item_id": [2, 1], "version": [20, 10]}), "item_id"),
        },
        run_key="run",
        day="2026-03-01",
    )
    return store.open(1)


def test_arrow_rows_come_in_the_order_asked_with_ids_and_version(version):
    rows = version["table"].to_arrow([2, 3])
    assert rows.to_pylist() == [
        {"item_id": 2, "vector": [0.0, 0.0, 1.0]},
        {"item_id": 3, "vector": [1.0, 0.0, 0.0]},
    ]
    assert version_of(rows) == 1
    assert version["table"].to_arrow().column_names == ["item_id", "vector"]
    titles = version["table"].to_arrow([3, 1], ["title"])
    assert titles.to_pylist() == [{"item_id": 3, "title": "c"}, {"item_id": 1, "title": "a"}]
    assert version["plain"].to_arrow([2]).to_pylist() == [{"item_id": 2, "version": 20}]
    with pytest.raises(IdNotFound):
        version["table"].to_arrow([9])
    with pytest.raises(BadInput, match="no column 'size'"):
        version["table"].to_arrow([1], ["size"])


def test_pandas_frames_have_ids_and_the_version_in_attrs(version):
    pytest.importorskip("pandas")
    frame = version["table"].to_pandas([2, 3])
    assert frame["item_id"].tolist() == [2, 3]
    assert frame["vector"][0].tolist() == [0.0, 0.0, 1.0]
    assert frame.attrs == {"version": 1, "table": "table"}
    found = to_pandas(version["table"].search(np.ones(3), 2))
    assert found["id"].tolist() == [1, 2]
    assert found.attrs["version"] == 1
    assert to_pandas(version.sql("select 1 as a")).attrs == {"version": 1}


def test_polars_frames_have_ids_and_the_version_in_a_column(version):
    polars = pytest.importorskip("polars")
    frame = version["named"].to_polars(["y", "x"])
    assert frame.rows() == [("y", [0.0, 1.0], 1), ("x", [1.0, 0.0], 1)]
    assert frame.schema["vector"] == polars.Array(polars.Float32, 2)
    assert to_polars(version["table"].search(ids=[1], k=1))["version"].to_list() == [1]
    with pytest.raises(BadInput, match="column 'version' of its own"):
        version["plain"].to_polars()


def test_tensors_have_ids_and_version_and_are_copies(version):
    torch = pytest.importorskip("torch")
    tensors = version["table"].to_torch([2, 3])
    assert tensors.version == 1
    assert torch.equal(tensors.ids, torch.tensor([2, 3]))
    assert torch.equal(tensors.vectors, torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    tensors.vectors.zero_()
    everything = version["table"].to_torch()
    everything.vectors.zero_()
    assert (version["table"].vectors_of([3]) == [[1, 0, 0]]).all()
    assert version["named"].to_torch().ids == ["x", "y"]
    with pytest.raises(BadInput, match="plain table"):
        version["plain"].to_torch()


@pytest.mark.parametrize("library", ["pandas", "polars", "torch"])
def test_a_library_that_is_not_there_is_named_with_the_way_out(version, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    with pytest.raises(Incompatible, match=f"{library} is not installed here; install it, or take"):
        getattr(version["table"], f"to_{library}")()


def test_a_table_that_does_not_say_its_version_is_not_passed_on(version):
    with pytest.raises(BadInput, match="does not say which version"):
        to_polars(pa.table({"a": [1]}))
    with pytest.raises(BadInput, match="does not say which version"):
        version_of(version["table"].to_arrow().replace_schema_metadata(None))
