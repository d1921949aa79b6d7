"""Diff, why, rebuild and export: known differences are told, whole, and nothing else."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow as pa
import pytest
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec, cli
from embedding_store.compare import changed_columns, id_changes, lineage, space_diff, table_diffs
from embedding_store.errors import IdNotFound, TableNotFound
from embedding_store.export import export
from embedding_store.rebuild import rebuild_check

VECTORS = np.array([(1.0, 0), (0, 1), (3, 4), (0, -1)])
INPUTS = [{"name": "events", "day": "2026-03-01", "sha256": "a" * 64, "n_rows": 9}]


def publish(root, key, ids, vectors, titles, day="2026-03-01", space="one", **more):
    tables = {
        "vectors": TableSpec(vector_rows(ids, vectors), "item_id", "vector"),
        "items": TableSpec(pa.table({"item_id": ids, "title": titles}), "item_id"),
        **more,
    }
    return EmbeddingStore(root).publish(
        tables, run_key=key, day=day, space={"model": space, "dim": 2}, inputs=INPUTS
    )


@pytest.fixture
def store(tmp_path):
    """1: ids 1 to 4. 2: 1 is gone, 5 is new, the vector of 3 and the title of 4 changed."""
    root = tmp_path / "store"
    publish(root, "a", [1, 2, 3, 4], VECTORS, ["a", "b", "c", None])
    changed = np.array([(0.0, 1), (4, 3), (0, -1), (5, 12)])
    publish(root, "b", [2, 3, 4, 5], changed, ["b", "c", "d", "e"], "2026-03-02", "two")
    return EmbeddingStore(root)


@pytest.fixture
def run(store, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, "--store", store.root])
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return call


def test_a_diff_counts_ids_rows_and_columns(store):
    items, vectors = table_diffs(store.open(1), store.open(2))
    assert (vectors.rows_a, vectors.rows_b) == (4, 4)
    assert (vectors.added, vectors.removed, vectors.changed) == (1, 1, 1)
    assert (items.added, items.removed, items.changed) == (1, 1, 1)
    assert (vectors.columns, items.columns) == ("vector", "title")
    assert vectors.mean_norm_a == pytest.approx((1 + 1 + 5 + 1) / 4)
    assert vectors.mean_norm_b == pytest.approx((1 + 5 + 1 + 13) / 4)
    assert vectors.residual is None  # another space: no rotation leads there
    assert items.mean_norm_a is None


def test_two_equal_versions_differ_in_nothing(store, tmp_path):
    publish(store.root, "c", [1, 2, 3, 4], VECTORS, ["a", "b", "c", None])
    for table in table_diffs(store.open(1), store.open(3)):
        assert (table.added, table.removed, table.changed, table.columns) == (0, 0, 0, "")
    assert space_diff(store.open(1).space, store.open(3).space) == []


def test_a_turned_table_is_all_changed_and_nothing_is_left_after_the_rotation(store):
    publish(store.root, "c", [1, 2, 3, 4], VECTORS @ [(0, 1), (-1, 0)], ["a", "b", "c", None])
    _, vectors = table_diffs(store.open(1), store.open(3))
    assert (vectors.changed, vectors.overlap) == (4, 1.0)
    assert vectors.residual == pytest.approx(0, abs=1e-7)


def test_a_table_of_one_version_alone_is_told(store):
    extra = {"users": TableSpec(vector_rows([7], [(1, 0)], "user_id"), "user_id", "vector")}
    publish(store.root, "c", [1], VECTORS[:1], ["a"], **extra)
    users = list(table_diffs(store.open(1), store.open(3)))[1]
    assert (users.table, users.rows_a, users.rows_b, users.added) == ("users", None, 1, None)


def test_the_ids_that_differ_are_listed_with_what_happened_to_them(store):
    assert id_changes(store.open(1)["vectors"], store.open(2)["vectors"]) == [
        {"id": 1, "change": "removed"},
        {"id": 3, "change": "changed"},
        {"id": 5, "change": "added"},
    ]


def test_ids_of_another_kind_share_nothing(store):
    publish(store.root, "c", ["1", "2"], VECTORS[:2], ["a", "b"])
    items, _ = table_diffs(store.open(1), store.open(3))
    assert (items.added, items.removed, items.changed) == (2, 4, 0)
    assert changed_columns(store.open(1)["items"], store.open(3)["items"]) == {}


def test_nulls_lists_and_other_types_are_compared_as_values(tmp_path):
    root = tmp_path / "store"
    columns = [
        {"flag": [None, True, None], "tags": [["x"], None, []], "n": [1, 2, 3]},
        {"flag": [None, None, False], "tags": [["x"], [], []], "n": [1.0, 2.0, 3.0]},
    ]
    for number, more in enumerate(columns):
        rows = TableSpec(pa.table({"item_id": [1, 2, 3], **more}), "item_id")
        EmbeddingStore(root).publish({"t": rows}, run_key=f"r{number}", day="2026-03-01")
    one, other = (EmbeddingStore(root).open(number)["t"] for number in (1, 2))
    assert {name: found.tolist() for name, found in changed_columns(one, other).items()} == {
        "flag": [False, True, True],
        "tags": [False, True, False],
        "n": [True, True, True],  # another type
    }


def test_diff_on_the_command_line_has_the_spaces_too(run):
    code, out, _ = run("diff", "1", "2", "--format", "json")
    said = json.loads(out)
    assert (code, said["a"], said["b"]) == (0, 1, 2)
    assert [row["table"] for row in said["rows"]] == ["items", "vectors"]
    assert said["space"] == [{"what": "model", "a": "one", "b": "two"}]
    _, out, _ = run("diff", "1", "2")
    assert "spaces differ" in out
    _, out, _ = run("diff", "1", "2", "--table", "items", "--format", "csv")
    assert out.splitlines() == ["id,change,a,b", "1,removed,1,2", "4,changed,1,2", "5,added,1,2"]
    assert run("diff", "1", "2", "--table", "users")[0] == 3


# -- one row -------------------------------------------------------------------------------------


def test_a_row_is_followed_back_to_where_each_column_last_changed(store):
    publish(store.root, "c", [2, 3, 5], [(0, 1), (4, 3), (5, 12)], ["b", "new", "e"], "2026-03-03")
    found = lineage(store, 3, "items", 3)
    assert (found.first_version, found.complete) == (1, True)
    assert found.since == {"title": (3, "2026-03-03")}
    assert lineage(store, 3, "vectors", 3).since == {"vector": (2, "2026-03-02")}
    assert lineage(store, 3, "vectors", 2).since == {"vector": (1, "2026-03-01")}
    newest = lineage(store, 3, "vectors", 5)
    assert (newest.first_version, newest.since) == (2, {"vector": (2, "2026-03-02")})


def test_a_row_that_was_away_for_a_version_began_when_it_came_back(store):
    publish(store.root, "c", [1, 9], VECTORS[:2], ["a", "z"], "2026-03-03")
    found = lineage(store, 3, "vectors", 1)
    assert (found.first_version, found.since) == (3, {"vector": (3, "2026-03-03")})


def test_a_row_far_down_a_large_table_is_found_in_its_row_group(tmp_path):
    root, n = tmp_path / "store", 20_000
    vectors = np.arange(2.0 * n).reshape(n, 2)
    for key in ("a", "b"):
        publish(root, key, range(n), vectors, ["x"] * n)
        vectors = vectors.copy()
        vectors[17_000] += 1
    store = EmbeddingStore(root)
    assert lineage(store, 2, "vectors", 16_999).since == {"vector": (1, "2026-03-01")}
    assert lineage(store, 2, "vectors", 17_000).since == {"vector": (2, "2026-03-01")}


def test_what_is_not_there_has_no_lineage(store):
    with pytest.raises(IdNotFound):
        lineage(store, 2, "vectors", 1)
    with pytest.raises(TableNotFound):
        lineage(store, 2, "users", 1)


def test_why_names_version_run_inputs_and_columns(run):
    code, out, _ = run("why", "vectors", "3", "--at", "2", "--format", "json")
    said = json.loads(out)
    assert (code, said["version"], said["run_key"], said["first_version"]) == (0, 2, "b", 1)
    assert said["columns"] == [
        {"column": "vector", "unchanged_since": 2, "day": "2026-03-02"},
    ]
    assert said["inputs"] == INPUTS
    _, out, _ = run("why", "vectors", "3", "--at", "2")
    assert "aaaa" in out
    _, out, _ = run("why", "items", "2", "--at", "2", "--format", "csv")
    assert out.splitlines()[1] == "title,1,2026-03-01,2"
    assert run("why", "vectors", "77", "--at", "2")[0] == 3
    assert run("why", "vectors", "x", "--at", "2")[0] == 1


# -- rebuild -------------------------------------------------------------------------------------

SPECS = [
    IndexSpec("vectors", "cosine"),
    IndexSpec("vectors", "inner_product", "ivf-sq8", lists=4, nprobe=2, bias="bias"),
    IndexSpec("vectors", "l2", "hnsw", links=4, ef_construction=20, ef_search=10),
]


@pytest.mark.parametrize("spec", SPECS, ids=["flat", "ivf", "hnsw"])
def test_every_derived_file_is_made_again_to_the_same_bytes(tmp_path, spec):
    random = np.random.default_rng(0)
    rows = vector_rows(range(300), random.normal(size=(300, 8)))
    rows = rows.append_column("bias", pa.array(random.normal(size=300), pa.float32()))
    rows = rows.append_column("title", pa.array([f"t{n}" for n in range(300)]))
    store = EmbeddingStore(tmp_path / "store")
    tables = {
        "vectors": TableSpec(rows.replace_schema_metadata({b"space": b"{}"}), "item_id", "vector")
    }
    store.publish(tables, run_key="r", day="2026-03-01", indexes=[spec])
    version = store.open(1)
    found = rebuild_check(version)
    assert {one.file for one in found} == {
        f"vectors.{suffix}" for suffix in ("ids.arrow", "vec.arrow", "faiss")
    }
    assert all(one.is_equal for one in found)


def test_rebuild_ends_with_4_and_says_which_file_does_not_follow_from_the_data(run, monkeypatch):
    assert run("rebuild", "1", "--check")[0] == 0
    monkeypatch.setattr("embedding_store.rebuild.sha256_of", lambda path: "0" * 64)
    code, out, _ = run("rebuild", "1", "--check", "--format", "json")
    assert code == 4
    assert {row["equal"] for row in json.loads(out)["rows"]} == {False}


def test_rebuild_does_nothing_but_check(run):
    code, _, err = run("rebuild", "1")
    assert code == 1
    assert "give --check" in err


# -- export --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "package"), [("lance", "pylance"), ("delta", "deltalake")])
def test_export_without_its_library_names_the_extra(
    store, run, monkeypatch, tmp_path, format, package
):
    monkeypatch.setitem(sys.modules, {"delta": "deltalake"}.get(format, format), None)
    code, _, err = run("export", "1", "--format", format, "--to", str(tmp_path / "out"))
    assert code == 1
    assert f"needs the package {package}: pip install 'tidemark[{format}]'" in err
    assert not (tmp_path / "out").exists()


def test_lance_has_every_row_and_vector(store, tmp_path):
    lance = pytest.importorskip("lance", reason="the extra `lance` is not installed")
    path = export(store.open(2), "lance", tmp_path / "out", ["vectors"])["vectors"]
    rows = lance.dataset(str(path)).to_table()
    assert rows.to_pylist() == store.open(2)["vectors"].table().to_pylist()


def test_delta_has_every_row_and_vector(store, tmp_path):
    delta = pytest.importorskip("deltalake", reason="the extra `delta` is not installed")
    path = export(store.open(2), "delta", tmp_path / "out")["vectors"]
    rows = pa.table(delta.DeltaTable(str(path)).to_pyarrow_table()).sort_by("item_id")
    assert rows.to_pylist() == store.open(2)["vectors"].table().to_pylist()


# -- aliases -------------------------------------------------------------------------------------


def test_rollback_and_previous_on_the_command_line(store, run):
    for version in (1, 2):
        store.promote(version, "production", reason="night", actor="tester")
    code, out, _ = run("rollback", "production", "--reason", "odd", "--format", "json")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert (row["version"], row["from"], row["move"]) == (1, 2, 3)
    assert run("rollback", "production")[0] == 2  # no reason
    assert run("rollback", "staging", "--reason", "odd")[0] == 3
    _, out, _ = run("previous", "--day", "2026-03-02", "--format", "json")
    assert json.loads(out)["rows"] == [{"day": "2026-03-02", "version": 1}]
    _, out, _ = run("previous", "--day", "2026-03-01", "--format", "json")
    assert json.loads(out)["rows"][0]["version"] is None
