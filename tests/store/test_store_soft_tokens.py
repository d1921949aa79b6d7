"""Soft tokens from a version: materialised or projected on read, of histories, of nobody known."""

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
from embedding_store.soft_tokens import project

D_LLM = 24
IDS = [f"i{n:04d}" for n in range(300)]


def weights(d_in, n_hidden, n_out, seed=0):
    """An MLP's, or with n_hidden=None a linear mapper's."""
    random = np.random.default_rng(seed)
    shapes = {"output.weight": (n_out, n_hidden or d_in), "output.bias": (n_out,)}
    if n_hidden:
        shapes |= {"hidden.weight": (n_hidden, d_in), "hidden.bias": (n_hidden,)}
    return {
        name: (random.normal(size=shape) / shape[-1] ** 0.5).astype("f4")
        for name, shape in shapes.items()
    }


def as_torch_makes_them(inputs, tensors, scale):
    """(n, n_tokens * d_llm) as training has them: all of it in float32 tensors."""
    torch = pytest.importorskip("torch")
    of = {name: torch.tensor(one) for name, one in tensors.items()}
    hidden = torch.tensor(inputs)
    if "hidden.weight" in of:
        hidden = torch.nn.functional.gelu(hidden @ of["hidden.weight"].T + of["hidden.bias"])
    made = hidden @ of["output.weight"].T + of["output.bias"]
    return (torch.tensor(scale, dtype=torch.float32) * made).numpy()


def published(folder, tables, tensors, recipes):
    """A version with some tables, one file of weights, and what is said of the soft tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "token_weights.safetensors")
    root = folder / "store"
    EmbeddingStore(root).publish(
        tables,
        run_key="run",
        day="2026-03-01",
        files={"token_weights.safetensors": folder / "token_weights.safetensors"},
        attributes={"soft_tokens": recipes},
    )
    return open_version(root, 1)


def recipe(**other):
    said = {
        "inputs": "item_token_inputs",
        "weights": "token_weights.safetensors",
        "prefix": "item.",
        "mapper": "mlp",
        "scale": 0.25,
        "n_tokens": 2,
    }
    return {name: value for name, value in (said | other).items() if value is not None}


def items(folder, *, materialised, n_hidden=64, d_in=16, n=300, **other):
    """Two tokens for each item, of D_LLM numbers; and what torch makes of them."""
    tensors = weights(d_in, n_hidden, 2 * D_LLM)
    inputs = 3 * np.random.default_rng(1).normal(size=(n, d_in)).astype("f4")
    tokens = as_torch_makes_them(inputs, tensors, 0.25)
    unknown = np.arange(2 * D_LLM, dtype="f4")
    tables = {"item_token_inputs": TableSpec(vector_rows(IDS[:n], inputs), "item_id", "vector")}
    said = recipe(mapper="mlp" if n_hidden else "linear", **other)
    if materialised:
        tables["item_tokens"] = TableSpec(vector_rows(IDS[:n], tokens), "item_id", "vector")
        said["tokens"] = "item_tokens"
    named = {f"item.{name}": tensor for name, tensor in tensors.items()}
    version = published(folder, tables, {**named, "item.unknown": unknown}, {"item": said})
    return version, tokens.reshape(n, 2, D_LLM), unknown.reshape(2, D_LLM)


# -- projecting ----------------------------------------------------------------------------------


def test_a_projection_is_the_one_worked_out_by_hand():
    by_hand = {
        "hidden.weight": np.array([[1, 0], [0, 2]], "f4"),
        "hidden.bias": np.array([0, 1], "f4"),
        "output.weight": np.array([[1, 0], [0, 1], [1, 1]], "f4"),
        "output.bias": np.array([0, 10, 0], "f4"),
    }
    # gelu(1) = 0.8413447, gelu(0) = 0, gelu(-1) = -0.1586553, gelu(3) = 2.9959503
    found = project(np.array([[1, -0.5], [-1, 1]], "f4"), by_hand, 2.0)
    expected = [[1.6826895, 20.0, 1.6826895], [-0.3173105, 25.9919006, 5.6745901]]
    assert found == pytest.approx(np.array(expected), abs=1e-6)


def test_without_hidden_weights_a_projection_is_linear():
    by_hand = {
        "output.weight": np.array([[1, 2], [0, -1]], "f4"),
        "output.bias": np.array([0.5, 0], "f4"),
    }
    found = project(np.array([[3, 1]], "f4"), by_hand, 2.0)
    assert found.tolist() == [[11.0, -2.0]]


@pytest.mark.parametrize("n_hidden", [64, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3)])
def test_tokens_projected_on_read_are_those_that_torch_materialised(
    tmp_path, n_hidden, dtype, tolerance
):
    version, tokens, _ = items(tmp_path, materialised=True, n_hidden=n_hidden)
    ids = ["i0007", "i0299", "i0007", "i0000"]
    expected = tokens[[7, 299, 7, 0]]
    for source in ("projected", "materialised", "auto"):
        found = version.soft_tokens("item", ids, dtype=dtype, source=source)
        assert (found.shape, found.dtype) == ((4, 2, D_LLM), np.dtype(dtype))
        assert np.abs(found.astype("f4") - expected).max() <= tolerance
    exact = version.soft_tokens("item", ids)
    assert (exact == expected).all()  # the table is taken where there is one


def test_tokens_that_are_not_materialised_are_projected(tmp_path):
    version, tokens, _ = items(tmp_path, materialised=False)
    found = version.soft_tokens("item", version["item_token_inputs"].ids)
    assert found == pytest.approx(tokens, abs=1e-5)
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
    with pytest.raises(BadInput, match="absent='zero'"):
        version.soft_tokens("item", ["i0001"], absent="zero")


# -- of whom nothing is known --------------------------------------------------------------------


@pytest.mark.parametrize("materialised", [True, False])
def test_ids_that_are_not_there_get_the_unknown_token_as_it_is(tmp_path, materialised):
    version, tokens, unknown = items(tmp_path, materialised=materialised)
    found = version.soft_tokens("item", ["zz", "i0007", "", "i0000"], absent="unknown")
    assert found[[1, 3]] == pytest.approx(tokens[[7, 0]], abs=1e-5)
    assert (found[[0, 2]] == unknown).all()  # not scaled
    nobody = version.soft_tokens("item", ["zz"], absent="unknown")
    assert (nobody[0] == unknown).all()
    assert version.soft_tokens("item", [], absent="unknown").shape == (0, 2, D_LLM)


def test_a_version_without_unknown_tokens_says_so(tmp_path):
    tensors = {f"item.{name}": one for name, one in weights(4, 8, 6).items()}
    inputs = {
        "item_token_inputs": TableSpec(vector_rows([1], np.ones((1, 4))), "item_id", "vector")
    }
    version = published(tmp_path, inputs, tensors, {"item": recipe()})
    with pytest.raises(NotFound, match="no item tokens for ids of which nothing is known"):
        version.soft_tokens("item", [2], absent="unknown")


# -- of a history --------------------------------------------------------------------------------

ADDED = {10: [1.0, 0.0], 20: [0.0, 2.0], 30: [4.0, 4.0]}  # by each item, to a user's input


def of_histories(folder, **other):
    """Users whose one token is (2 x, 2 y, 1) of their input (x, y)."""
    lists = pa.array(list(ADDED.values()), pa.list_(pa.float32(), 2))
    rows = vector_rows(list(ADDED), [[9.0]] * 3).append_column("history", lists)
    tensors = {
        "user.output.weight": np.array([[1, 0], [0, 1], [0, 0]], "f4"),
        "user.output.bias": np.array([0, 0, 0.5], "f4"),
        "user.unknown": np.array([7, 8, 9], "f4"),
    }
    said = recipe(prefix="user.", mapper="linear", scale=2.0, n_tokens=1, inputs="users")
    said |= {"histories": {"table": "item_token_inputs", "column": "history"}, **other}
    tables = {
        "item_token_inputs": TableSpec(rows, "item_id", "vector"),
        "users": TableSpec(vector_rows([1], [[5.0, 6.0]], key="user_id"), "user_id", "vector"),
    }
    recipes = {"user": {name: value for name, value in said.items() if value is not None}}
    return published(folder, tables, tensors, recipes)


def test_a_user_who_is_known_by_his_history_is_the_mean_of_what_its_items_add(tmp_path):
    version = of_histories(tmp_path)
    found = version.soft_tokens_of_histories([[10, 20], [30], [20, 99, 20, 10]])
    assert found.shape == (3, 1, 3)
    means = [[0.5, 1.0], [4.0, 4.0], [1 / 3, 4 / 3]]  # an item that nobody knows adds nothing
    expected = [[2 * x, 2 * y, 1.0] for x, y in means]
    assert found[:, 0] == pytest.approx(np.array(expected), abs=1e-6)
    assert version.soft_tokens("user", [1]).tolist() == [[[10.0, 12.0, 1.0]]]


def test_a_history_without_a_known_item_is_that_of_nobody(tmp_path):
    version = of_histories(tmp_path)
    found = version.soft_tokens_of_histories([[], [99], [10]], dtype="float16")
    assert found.tolist() == [[[7.0, 8.0, 9.0]], [[7.0, 8.0, 9.0]], [[2.0, 0.0, 1.0]]]
    assert version.soft_tokens_of_histories([[], []]).tolist() == [[[7.0, 8.0, 9.0]]] * 2
    assert version.soft_tokens_of_histories([]).shape == (0, 1, 3)


def test_histories_may_be_lists_arrays_or_an_arrow_column(tmp_path):
    version = of_histories(tmp_path)
    expected = version.soft_tokens_of_histories([[10, 20], [], [30]])
    column = pa.chunked_array([pa.array([[10, 20], None]), pa.array([[30]])])
    for given in (
        column,
        pa.array([[99], [10, 20], [], [30]]).slice(1),
        [np.array([10, 20]), np.array([], "i8"), np.array([30])],
        [pa.array([10, 20]), pa.array([], pa.int64()), pa.array([30])],
    ):
        assert (version.soft_tokens_of_histories(given) == expected).all()


def test_a_history_does_not_depend_on_the_others_it_is_asked_with(tmp_path):
    version = of_histories(tmp_path)
    alone = version.soft_tokens_of_histories([[20, 30, 10]])
    together = version.soft_tokens_of_histories([[10], [20, 30, 10], [30, 30]])
    assert (together[1] == alone[0]).all()


@pytest.mark.parametrize("given", [[10, 20], ["abc"], pa.array([10, 20]), [["10"]]])
def test_what_is_no_list_of_the_items_ids_is_refused(tmp_path, given):
    with pytest.raises(BadInput):
        of_histories(tmp_path).soft_tokens_of_histories(given)


def test_kinds_that_no_history_makes_say_so(tmp_path):
    version = of_histories(tmp_path, histories=None)
    with pytest.raises(NotFound, match="does not say how a history makes user tokens"):
        version.soft_tokens_of_histories([[10]])


def test_users_who_are_known_by_histories_alone_have_no_rows(tmp_path):
    version = of_histories(tmp_path, inputs=None)
    with pytest.raises(NotFound, match="known by their histories alone"):
        version.soft_tokens("user", [1])
    assert version.soft_tokens_of_histories([[10]]).tolist() == [[[2.0, 0.0, 1.0]]]


def test_a_column_of_other_vectors_is_read_by_row(tmp_path):
    table = of_histories(tmp_path)["item_token_inputs"]
    assert table.matrix("history").tolist() == list(ADDED.values())
    assert table.matrix("vector").tolist() == [[9.0]] * 3
    assert table.places_of([20, 99, 10]).tolist() == [1, -1, 0]
    with pytest.raises(BadInput, match="not vectors"):
        table.matrix("item_id")
    with pytest.raises(BadInput, match="no column 'nothing'"):
        table.matrix("nothing")


# -- what cannot be read -------------------------------------------------------------------------


def test_a_mapper_that_readers_do_not_apply_is_read_from_its_table_alone(tmp_path):
    version, tokens, _ = items(tmp_path / "with", materialised=True, n=5)
    said = {"item": {**version.attributes["soft_tokens"]["item"], "mapper": "qformer"}}
    tables = {name: TableSpec(version[name].table(), "item_id", "vector") for name in version}
    named = {"item.unknown": np.ones(48, "f4")}
    version = published(tmp_path / "other", tables, named, said)
    assert (version.soft_tokens("item", IDS[:5]) == tokens).all()
    with pytest.raises(Incompatible, match=r"made by a qformer, .* read the table item_tokens"):
        version.soft_tokens("item", IDS[:5], source="projected")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"item.hidden.weight": np.zeros((4, 8), "f4")},
            "it has no item.hidden.bias, item.output.weight",
        ),
        (
            {f"item.{name}": one for name, one in weights(6, 4, 4).items()},
            "the projector takes 6 dimensions, the inputs have 8",
        ),
    ],
)
def test_weights_that_are_not_those_of_the_inputs_are_refused(tmp_path, tensors, message):
    inputs = {
        "item_token_inputs": TableSpec(vector_rows([1], np.ones((1, 8))), "item_id", "vector")
    }
    version = published(tmp_path, inputs, tensors, {"item": recipe(n_tokens=1)})
    with pytest.raises(Incompatible, match=message):
        version.soft_tokens("item", [1])


def test_soft_tokens_need_neither_torch_nor_an_index_library(tmp_path):
    of_histories(tmp_path)
    code = f"""
import sys
from embedding_store.lookup import open_version
version = open_version({str(tmp_path / "store")!r}, 1)
assert version.soft_tokens("user", [1]).shape == (1, 1, 3)
assert version.soft_tokens_of_histories([[10]]).shape == (1, 1, 3)
loaded = [name for name in ("torch", "faiss", "duckdb", "polars") if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# -- versions of before --------------------------------------------------------------------------


@pytest.mark.parametrize("materialised", [True, False])
def test_versions_that_name_factors_and_a_projector_are_read(tmp_path, materialised):
    tensors = weights(8, 32, 10)
    factors = np.random.default_rng(2).normal(size=(20, 8)).astype("f4")
    tokens = as_torch_makes_them(factors, tensors, 0.25)
    tables = {"item_factors": TableSpec(vector_rows(IDS[:20], factors), "item_id", "vector")}
    said = {
        "factors": "item_factors",
        "projector": "token_weights.safetensors",
        "scale": 0.25,
        "n_tokens": 2,
    }
    if materialised:
        tables["item_tokens"] = TableSpec(vector_rows(IDS[:20], tokens), "item_id", "vector")
        said["tokens"] = "item_tokens"
    named = {**tensors, "global_bias": np.zeros(1, "f4")}
    version = published(tmp_path, tables, named, {"item": said})
    for source in ("auto", "projected"):
        found = version.soft_tokens("item", IDS[:20], source=source)
        assert found == pytest.approx(tokens.reshape(20, 2, 5), abs=1e-5)
    with pytest.raises(NotFound, match="no item tokens for ids of which nothing is known"):
        version.soft_tokens("item", ["zz"], absent="unknown")
    with pytest.raises(NotFound, match="does not say how a history makes"):
        version.soft_tokens_of_histories([IDS[:2]], kind="item")
