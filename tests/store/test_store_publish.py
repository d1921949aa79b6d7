"""What publish takes and refuses, and what promote does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from store_workload import facts, promote, publish, vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store import tables as tables_module
from embedding_store.errors import (
    AliasMoved,
    BadInput,
    DayGoesBackwards,
    Fenced,
    StoreNotFound,
    TableNotFound,
    VersionNotFound,
)
from embedding_store.manifest import seal

GOOD = vector_rows([1, 2], [(1, 0), (0, 1)])


def attempt(root, table=None, name="table", **changes):
    """Publish one table, apart from `changes` in a way that works."""
    spec = TableSpec(GOOD if table is None else table, "item_id", "vector", "cosine")
    wanted = {"run_key": "run", "day": "2026-03-01", "tables": {name: spec}, **changes}
    return EmbeddingStore(root).publish(wanted.pop("tables"), **wanted)


def test_the_same_run_key_gives_the_same_version_and_writes_nothing(tmp_path):
    root = tmp_path / "store"
    assert publish(root) == 1
    before = sorted(root.rglob("*"))
    assert publish(root, day="2026-03-09", seed=5) == 1
    assert sorted(root.rglob("*")) == before
    assert publish(root, "another") == 2


def test_equal_input_gives_files_of_equal_bytes_whatever_the_order_of_its_rows(tmp_path):
    shuffled = GOOD.take([1, 0])
    for name, table in (("one", GOOD), ("two", shuffled)):
        attempt(tmp_path / name, table, indexes=[IndexSpec("table")])
    assert facts(tmp_path / "one")["files"] == facts(tmp_path / "two")["files"]


def test_a_decision_whose_process_died_is_carried_out_by_the_retry_in_the_next_free_slot(tmp_path):
    root = tmp_path / "store"
    publish(root, "first")
    (root / "versions" / f"{1:020d}.json").unlink()  # as if it had died before the slot
    assert publish(root, "second") == 1
    assert publish(root, "first") == 2
    assert publish(root, "second") == 1
    assert facts(root)["problems"] == []


def test_a_run_that_maintenance_gave_up_starts_again_under_its_next_generation(tmp_path):
    root = tmp_path / "store"
    publish(root, "other")
    abort = {"decision": "ABORT", "run_key": "run", "generation": 1, "by": "gc"}
    (root / "intents" / "run.json").write_bytes(seal(abort))
    assert publish(root, "run") == 2
    assert publish(root, "run") == 2
    assert (root / "intents" / "run.2.json").is_file()
    assert facts(root)["problems"] == []


def test_an_attempt_that_was_given_up_while_it_wrote_is_fenced(tmp_path, monkeypatch):
    root = tmp_path / "store"
    store = EmbeddingStore(root)

    def given_up_meanwhile(attempt, publication):
        (root / "intents").mkdir()
        abort = {"decision": "ABORT", "run_key": "run", "generation": 1, "by": "gc"}
        (root / "intents" / "run.json").write_bytes(seal(abort))
        return {}

    monkeypatch.setattr(store, "_write", given_up_meanwhile)
    with pytest.raises(Fenced):
        store.publish({"t": TableSpec(GOOD, "item_id", "vector")}, run_key="run", day="2026-03-01")
    assert store.versions() == []


def test_a_large_table_is_kept_in_parts_and_read_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tables_module, "_PART_ROWS", 3)
    write = tables_module.write
    monkeypatch.setattr(tables_module, "write", lambda table, creating: write(table, creating, 3))
    attempt(tmp_path / "store", vector_rows(range(8), np.eye(8)))
    table = EmbeddingStore(tmp_path / "store").open(1)["table"]
    assert table.entry.parts == [f"table.part-000{n}.parquet" for n in range(3)]
    assert table.table()["item_id"].to_pylist() == list(range(8))
    assert (table.vectors_of([7, 0]) == np.eye(8)[[7, 0]]).all()


def test_a_table_read_from_one_version_can_be_published_again_as_it_is(tmp_path):
    attempt(tmp_path / "one")
    read = EmbeddingStore(tmp_path / "one").open(1)["table"].table()
    version = EmbeddingStore(tmp_path / "two").publish(
        {"table": read}, run_key="again", day="2026-03-01"
    )
    again = EmbeddingStore(tmp_path / "two").open(version)["table"]
    assert again.metric == "cosine"
    assert again.table().equals(read)


def test_metadata_and_further_columns_come_back(tmp_path):
    table = GOOD.append_column("bias", pa.array([0.5, None], pa.float32()))
    table = table.replace_schema_metadata({b"n_tokens": b"4", b"\xff": b"\x00"})
    attempt(tmp_path / "store", table)
    read = EmbeddingStore(tmp_path / "store").open(1)["table"].table()
    assert read["bias"].to_pylist() == [0.5, None]
    assert read.schema.metadata[b"n_tokens"] == b"4"
    assert read.schema.metadata[b"\xff"] == b"\x00"


# -- refusals ------------------------------------------------------------------------------------

NAN, INFINITE = float("nan"), float("inf")
NAMES = ["", "..", "../up", "a/b", "a\0b", "A", "1a", "a b", "ä", "表", "a" * 300, "a.b", None, 7]


def with_vectors(kind):
    return pa.table({"item_id": [1], "vector": pa.array([[1.0, 2.0]], kind)})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (vector_rows([1, 2], [(1, NAN), (0, 1)]), r"NaN or infinity in the vector of id 1"),
        (vector_rows([2, 1], [(1, 0), (0, INFINITE)]), r"vector of id 1"),
        (vector_rows([1, 2], [(1, 0), (0, 0)]), r"vector of id 2 is zero; cosine"),
        (vector_rows([1, 2], [(1, 0), (1e30, 0)]), r"id 2 is 1.0e\+30 long"),
        (vector_rows([5, 1, 5], [(1, 0)] * 3), r"1 ids occur more than once, for instance 5"),
        (vector_rows(pa.array([1, None]), [(1, 0)] * 2), r"1 ids are null"),
        (vector_rows(pa.array([1.0, 2.0]), [(1, 0)] * 2), r"int64 or string, not double"),
        (vector_rows(pa.array([1], pa.int32()), [(1, 0)]), r"not int32; cast"),
        (GOOD.slice(0, 0), r"has no rows"),
        (GOOD.drop_columns("vector"), r"no column 'vector'"),
        (GOOD.rename_columns(["id", "vector"]), r"no column 'item_id'"),
        (GOOD.append_column("vector", GOOD["vector"]), r"columns occur more than once: vector"),
        (with_vectors(pa.list_(pa.float32())), r"fixed-size lists of float32, not list"),
        (with_vectors(pa.list_(pa.float64(), 2)), r"fixed-size lists of float32"),
        (
            pa.table({"item_id": [1], "vector": pa.array([[]], pa.list_(pa.float32(), 0))}),
            r"no dim",
        ),
        (
            pa.table({"item_id": [1], "vector": pa.array([None], pa.list_(pa.float32(), 2))}),
            r"null",
        ),
        (
            pa.table({"item_id": [1], "vector": pa.array([[1, None]], pa.list_(pa.float32(), 2))}),
            r"null",
        ),
    ],
)
def test_a_table_that_would_answer_wrongly_is_refused_and_nothing_is_written(
    tmp_path, table, message
):
    with pytest.raises(BadInput, match=message):
        attempt(tmp_path / "store", table)
    assert list(tmp_path.iterdir()) == []


ALLOWED = {"run_key": ("A", "1a"), "file": ("A", "1a", "a.b")}


@pytest.mark.parametrize(
    ("what", "name"),
    [
        (what, name)
        for what in ("table", "run_key", "file")
        for name in NAMES
        if name not in ALLOWED.get(what, ())
    ],
)
def test_names_that_a_path_or_sql_cannot_hold_are_refused_and_nothing_is_written(
    tmp_path, what, name
):
    changes = {
        "table": {"tables": {name: TableSpec(GOOD, "item_id", "vector")}},
        "run_key": {"run_key": name},
        "file": {"files": {name: __file__}},
    }[what]
    with pytest.raises(BadInput, match="does not match"):
        attempt(tmp_path / "store", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*NAMES, "42"])
def test_an_alias_that_a_path_cannot_hold_or_that_is_a_number_is_refused(tmp_path, name):
    attempt(tmp_path / "store")
    with pytest.raises(BadInput, match="does not match"):
        EmbeddingStore(tmp_path / "store").promote(1, name, reason="r", actor="a")
    assert not (tmp_path / "store" / "refs").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": {}}, "no table to publish"),
        ({"tables": {"t": GOOD}}, "which column is the key"),
        ({"tables": {"t": [1]}}, "neither a TableSpec"),
        ({"day": "yesterday"}, "write it as YYYY-MM-DD"),
        ({"indexes": [IndexSpec("other")]}, "indexes are of"),
        ({"indexes": [IndexSpec("table"), IndexSpec("table")]}, "at most one"),
        ({"indexes": [IndexSpec("table", "l2")]}, "metric is cosine in the table's spec and l2"),
        ({"tables": {"t": TableSpec(GOOD, "item_id", "vector", "dot")}}, "metric 'dot' is none of"),
        ({"tables": {"t": TableSpec(GOOD, "item_id", None, "l2")}}, "needs a vector column"),
        ({"files": {"table.faiss": __file__}}, "belongs to table 'table'"),
        ({"files": {"Table.x": __file__}}, "belongs to table 'table'"),
        ({"files": {"run.json": __file__}}, "belongs to another file"),
        ({"files": {"a": "/does/not/exist"}}, "there is no file"),
        ({"attributes": {"bias": NAN}}, r"attributes\.bias: nan"),
        ({"attributes": {"a": [{"b": np.float32(1)}]}}, r"attributes\.a\[0\]\.b"),
        ({"attributes": {1: 2}}, "key 1 is not a string"),
        ({"space": {"backbone": "\ud800"}}, "not valid Unicode"),
        ({"inputs": [{"name": "events"}]}, "inputs"),
    ],
)
def test_other_input_that_cannot_be_kept_is_refused_and_nothing_is_written(
    tmp_path, changes, message
):
    with pytest.raises(BadInput, match=message):
        attempt(tmp_path / "store", **changes)
    assert list(tmp_path.iterdir()) == []


def test_names_in_other_scripts_are_welcome_where_they_are_content(tmp_path):
    table = vector_rows(["ä", "表", "🜚", "a\0b", "../up"], np.eye(5))
    attempt(tmp_path / "store", table, attributes={"名": "ß"}, space={"backbone": "模型"})
    opened = EmbeddingStore(tmp_path / "store").open(1)
    assert opened.attributes == {"名": "ß"}
    assert (opened["table"].vectors_of(["🜚", "../up"]) == np.eye(5)[[2, 4]]).all()


# -- aliases -------------------------------------------------------------------------------------


@pytest.fixture
def two_days(tmp_path):
    root = tmp_path / "store"
    publish(root, "monday", "2026-03-02")
    publish(root, "tuesday", "2026-03-03")
    return EmbeddingStore(root)


def move(store, version, **named):
    return store.promote(version, "production", reason="a test", actor="tester", **named)


def test_an_alias_remembers_every_move_with_its_reason_and_actor(two_days):
    move(two_days, 1)
    two_days.promote(2, "production", reason="gates passed", actor="nightly")
    assert [(one.version, one.reason, one.actor) for one in two_days.alias_log("production")] == [
        (1, "a test", "tester"),
        (2, "gates passed", "nightly"),
    ]
    assert two_days.aliases() == {"production": 2}
    assert two_days.open("production").version == 2


def test_promoting_what_is_promoted_adds_no_entry(two_days):
    assert move(two_days, 2).sequence == 1
    assert move(two_days, 2).sequence == 1
    assert move(two_days, 2, expected_prev=1).sequence == 1  # a retry whose answer was lost
    assert len(two_days.alias_log("production")) == 1


def test_an_alias_does_not_go_back_to_an_earlier_day(two_days):
    move(two_days, 2)
    with pytest.raises(DayGoesBackwards, match="version 1 is of 2026-03-02, but 'production'"):
        move(two_days, 1)
    assert two_days.aliases() == {"production": 2}


def test_a_promotion_that_expects_another_state_is_refused(two_days):
    with pytest.raises(AliasMoved, match="names nothing, the caller expected 1"):
        move(two_days, 2, expected_prev=1)
    move(two_days, 1, expected_prev=0)
    with pytest.raises(AliasMoved, match="names version 1, the caller expected 0"):
        move(two_days, 2, expected_prev=0)
    assert move(two_days, 2, expected_prev=1).sequence == 2


@pytest.mark.parametrize("empty", ["", "  ", None])
def test_a_promotion_without_a_reason_or_an_actor_is_refused(two_days, empty):
    with pytest.raises(BadInput, match="reason"):
        two_days.promote(1, "production", reason=empty, actor="a")
    with pytest.raises(BadInput, match="actor"):
        two_days.promote(1, "production", reason="r", actor=empty)


def test_what_is_not_there_is_answered_with_what_is(two_days, tmp_path):
    promote(two_days.root, 2)
    with pytest.raises(VersionNotFound, match=r"no version 3 in .*; there are 1 to 2"):
        two_days.open(3)
    with pytest.raises(VersionNotFound, match="no version 3"):
        move(two_days, 3)
    with pytest.raises(VersionNotFound, match=r"no alias 'prod' in .*; there is: production"):
        two_days.open("prod")
    with pytest.raises(TableNotFound, match="no table 'users'; there is: item_semantics, items"):
        two_days.open("2")["users"]
    with pytest.raises(StoreNotFound, match="the first publish makes one"):
        EmbeddingStore(tmp_path / "nowhere").versions()
    with pytest.raises(StoreNotFound, match="the first publish makes one"):
        promote(tmp_path / "nowhere", 1)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("ref", ["../x", "", "-1", "1.0", "²", True, None, 1.0, -1, 0, 10**30])
def test_a_reference_that_names_nothing_is_refused(two_days, ref):
    with pytest.raises((BadInput, VersionNotFound)):
        two_days.open(ref)


def test_the_list_of_versions_says_what_each_holds(two_days):
    move(two_days, 2)
    first, second = two_days.versions()
    assert (first.version, first.day, first.run_key) == (1, "2026-03-02", "monday")
    assert first.rows == {"item_semantics": 40, "items": 3}
    assert (first.aliases, second.aliases) == ((), ("production",))


@pytest.mark.parametrize("ids", [range(600), [f"n{number:03d}" for number in range(600)]])
def test_rows_give_the_same_bytes_however_they_are_ordered_cut_and_joined(tmp_path, ids):
    vectors = np.random.default_rng(3).normal(size=(600, 4)).astype("f4")
    whole = vector_rows(list(ids), vectors, title=[f"t{number % 7}" for number in range(600)])
    around = pa.concat_tables([whole.slice(500), whole, whole.slice(0, 9)]).combine_chunks()
    forms = {
        "whole": whole,
        "shuffled": whole.take(np.random.default_rng(4).permutation(600)),
        "cut": around.slice(100, 600),
        "joined": pa.concat_tables([whole.slice(0, 77), whole.slice(77)]),
    }
    hashes = set()
    for name, rows in forms.items():
        store = EmbeddingStore(tmp_path / name)
        store.publish({"t": TableSpec(rows, "item_id", "vector")}, run_key="r", day="2026-03-01")
        files = store.open(1).manifest.files
        hashes.add(tuple((file.name, file.sha256) for file in files))
    assert len(hashes) == 1
