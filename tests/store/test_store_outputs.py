"""What the store returns, as other libraries hold it, and soft tokens projected on read."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file
from store_workload import vector_rows

from embedding_store import EmbeddingStore, TableSpec, open_version
from embedding_store.errors import BadInput, IdNotFound, Incompatible, NotFound
from embedding_store.outputs import to_pandas, to_polars, version_of
from embedding_store.soft_tokens import project


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


# -- soft tokens ---------------------------------------------------------------------------------


def projector(d_cf, n_hidden, d_llm, seed=0):
    random = np.random.default_rng(seed)
    shapes = {
        "hidden.weight": (n_hidden, d_cf),
        "hidden.bias": (n_hidden,),
        "output.weight": (d_llm, n_hidden),
        "output.bias": (d_llm,),
    }
    return {
        name: (random.normal(size=shape) / shape[-1] ** 0.5).astype("f4")
        for name, shape in shapes.items()
    }


def with_tokens(tmp_path, weights, *, materialised, factors, scale=0.25, recipe=None):
    """A version with item factors, perhaps their tokens as torch makes them, and the projector."""
    torch = pytest.importorskip("torch")
    save_file({**weights, "global_bias": np.zeros(1, "f4")}, tmp_path / "p.safetensors")
    tensors = {name: torch.tensor(one) for name, one in weights.items()}
    hidden = torch.nn.functional.gelu(
        torch.tensor(factors) @ tensors["hidden.weight"].T + tensors["hidden.bias"]
    )
    made = (hidden @ tensors["output.weight"].T + tensors["output.bias"]).numpy()
    tokens = (made.astype("f8") * scale).astype("f4")
    ids = [f"i{n:04d}" for n in range(len(factors))]
    tables = {"item_factors": TableSpec(vector_rows(ids, factors), "item_id", "vector")}
    said = {"factors": "item_factors", "projector": "p.safetensors", "scale": scale, "n_tokens": 2}
    if materialised:
        tables["item_tokens"] = TableSpec(vector_rows(ids, tokens), "item_id", "vector")
        said["tokens"] = "item_tokens"
    root = tmp_path / f"store-{materialised}"
    EmbeddingStore(root).publish(
        tables,
        run_key="run",
        day="2026-03-01",
        files={"p.safetensors": tmp_path / "p.safetensors"},
        attributes={"soft_tokens": {"item": said if recipe is None else recipe}},
    )
    return open_version(root, 1), tokens


def test_a_projection_is_the_one_worked_out_by_hand():
    weights = {
        "hidden.weight": np.array([[1, 0], [0, 2]], "f4"),
        "hidden.bias": np.array([0, 1], "f4"),
        "output.weight": np.array([[1, 0], [0, 1], [1, 1]], "f4"),
        "output.bias": np.array([0, 10, 0], "f4"),
    }
    # gelu(1) = 0.8413447, gelu(0) = 0, gelu(-1) = -0.1586553, gelu(3) = 2.9959503
    found = project(np.array([[1, -0.5], [-1, 1]], "f4"), weights, 2.0)
    expected = [[1.6826895, 20.0, 1.6826895], [-0.3173105, 25.9919006, 5.6745901]]
    assert found == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3)])
def test_tokens_projected_on_read_are_those_that_torch_materialised(tmp_path, dtype, tolerance):
    factors = 3 * np.random.default_rng(1).normal(size=(300, 16)).astype("f4")
    version, tokens = with_tokens(
        tmp_path, projector(16, 64, 48), materialised=True, factors=factors
    )
    ids = ["i0007", "i0299", "i0007", "i0000"]
    expected = tokens[[7, 299, 7, 0]].reshape(4, 2, 24)
    for source in ("projected", "materialised", "auto"):
        found = version.soft_tokens("item", ids, dtype=dtype, source=source)
        assert (found.shape, found.dtype) == ((4, 2, 24), np.dtype(dtype))
        assert np.abs(found.astype("f4") - expected).max() <= tolerance
    exact = version.soft_tokens("item", ids)
    assert (exact == expected).all()  # the table is taken where there is one


def test_tokens_that_are_not_materialised_are_projected(tmp_path):
    factors = np.random.default_rng(2).normal(size=(20, 8)).astype("f4")
    version, tokens = with_tokens(
        tmp_path, projector(8, 32, 10), materialised=False, factors=factors
    )
    found = version.soft_tokens("item", version["item_factors"].ids)
    assert found.reshape(20, 10) == pytest.approx(tokens, abs=1e-5)
    with pytest.raises(NotFound, match="no table of item tokens"):
        version.soft_tokens("item", ["i0001"], source="materialised")
    with pytest.raises(NotFound, match="says nothing of soft tokens of 'user'; there is: item"):
        version.soft_tokens("user", [1])
    with pytest.raises(IdNotFound, match="'zz'"):
        version.soft_tokens("item", ["zz"])
    with pytest.raises(BadInput, match="float32 or float16"):
        version.soft_tokens("item", ["i0001"], dtype="int8")
    with pytest.raises(BadInput, match="source='both'"):
        version.soft_tokens("item", ["i0001"], source="both")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"hidden.weight": np.zeros((4, 8), "f4")}, "it has no hidden.bias, output.weight"),
        (projector(6, 4, 4), "the projector takes 6 dimensions, the factors have 8"),
    ],
)
def test_a_file_that_is_not_the_projector_of_these_factors_is_refused(tmp_path, weights, message):
    save_file(weights, tmp_path / "p.safetensors")
    said = {"factors": "f", "projector": "p.safetensors", "scale": 1.0, "n_tokens": 1}
    EmbeddingStore(tmp_path / "store").publish(
        {"f": TableSpec(vector_rows([1], np.ones((1, 8))), "item_id", "vector")},
        run_key="run",
        day="2026-03-01",
        files={"p.safetensors": tmp_path / "p.safetensors"},
        attributes={"soft_tokens": {"item": said}},
    )
    with pytest.raises(Incompatible, match=message):
        open_version(tmp_path / "store", 1).soft_tokens("item", [1])


def test_soft_tokens_need_neither_torch_nor_an_index_library(tmp_path):
    factors = np.ones((2, 8), "f4")
    with_tokens(tmp_path, projector(8, 4, 4), materialised=False, factors=factors)
    code = f"""
import sys
from embedding_store.lookup import open_version
version = open_version({str(tmp_path / "store-False")!r}, 1)
assert version.soft_tokens("item", ["i0001"]).shape == (1, 2, 2)
loaded = [name for name in ("torch", "faiss", "duckdb", "polars") if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
