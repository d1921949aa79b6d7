"""Strange names, sizes and values at every entry point: a clear error, and nothing written."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from store_workload import promote, vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec, object_blobs, open_version
from embedding_store.cli import main as cli
from embedding_store.errors import BadInput, IdNotFound, NotFound, StoreError

NAN, INFINITE = float("nan"), float("inf")
ROWS = vector_rows([10, 20, 30], [(1, 0), (0, 1), (0.6, 0.8)])
STRANGE = {
    "empty": "",
    "dots": "..",
    "parent": "../up",
    "absolute": "/etc/passwd",
    "slash": "a/b",
    "backslash": "a\\b",
    "NUL": "a\0b",
    "newline": "a\nb",
    "space": "a b",
    "hidden": ".a",
    "quote": 'a"b',
    "SQL": "a; drop table b",
    "umlaut": "ä",
    "Chinese": "表",
    "emoji": "🜚",
    "full width": "\uff41",  # looks like an a
    "long": "a" * 5_000,
    "not a string": 7,
    "nothing": None,
    "lone surrogate": "\ud800",
}
NOT_TYPED = {"not a string", "nothing", "lone surrogate"}
strange = pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE.keys())


@pytest.fixture(scope="module", params=["folder", "bucket"])
def root(request, tmp_path_factory):
    """A store with one version of a table, of one whose ids are text, and of a plain one."""
    with made(tmp_path_factory.mktemp("refusals"), request.param) as root:
        yield root


@pytest.fixture(scope="module")
def folder_root(tmp_path_factory):
    """The same, for what need not be seen on both."""
    with made(tmp_path_factory.mktemp("refusals"), "folder") as root:
        yield root


@contextmanager
def made(folder, kind):
    root = str(folder / "store") if kind == "folder" else f"memory://{folder.name}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EMBEDDING_STORE_CACHE", str(folder / "cache"))
        publish_first(root)
        yield root
    object_blobs._memories.pop(root, None)


def publish_first(root):
    words = vector_rows(["a", "../up", "表"], np.eye(3)[:, :2] + 0.5, key="word")
    store = EmbeddingStore(root)
    store.publish(
        {
            "items": TableSpec(ROWS, "item_id", "vector", "cosine"),
            "words": TableSpec(words, "word", "vector", "cosine"),
            "titles": TableSpec(ROWS.drop_columns("vector"), "item_id"),
        },
        run_key="first",
        day="2026-03-01",
        indexes=[IndexSpec("items")],
    )
    store.promote(1, "production", reason="a test", actor="tester")


def listing(root):
    """Every object below a root with its size; the leases of readers are theirs to write."""
    if root.startswith("memory://"):
        memory = object_blobs._memories[root]
        found = [(one["path"], one["size"]) for batch in memory.list() for one in batch]
    else:
        files = (path for path in Path(root).rglob("*") if path.is_file())
        found = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in files]
    return sorted(one for one in found if not one[0].startswith("leases/"))


@pytest.fixture
def unchanged(root):
    """The test may leave no trace."""
    before = listing(root)
    yield root
    assert listing(root) == before


def publish(root, **changes):
    wanted = {
        "tables": {"items": TableSpec(ROWS, "item_id", "vector", "cosine")},
        "run_key": "second",
        "day": "2026-03-02",
    } | changes
    return EmbeddingStore(root).publish(wanted.pop("tables"), **wanted)


# -- names -----------------------------------------------------------------------------------------


@strange
@pytest.mark.parametrize("what", ["table", "run_key", "file", "key", "vector"])
def test_publish_refuses_strange_names(unchanged, what, name):
    spec = TableSpec(ROWS, "item_id", "vector", "cosine")
    changes = {
        "table": {"tables": {name: spec}},
        "run_key": {"run_key": name},
        "file": {"files": {name: __file__}},
        "key": {"tables": {"items": TableSpec(ROWS, name, "vector")}},
        "vector": {"tables": {"items": TableSpec(ROWS, "item_id", "" if name is None else name)}},
    }
    with pytest.raises(BadInput) as refused:
        publish(unchanged, **changes[what])
    assert len(str(refused.value)) < 7_000


@strange
def test_promote_refuses_strange_aliases(unchanged, name):
    with pytest.raises(BadInput, match="does not match"):
        promote(unchanged, 1, name)


@strange
def test_open_refuses_strange_references(unchanged, name):
    for opened in (EmbeddingStore(unchanged).open, lambda ref: open_version(unchanged, ref)):
        with pytest.raises((BadInput, NotFound)):
            opened(name)
    assert EmbeddingStore(unchanged).aliases() == {"production": 1}


@strange
def test_tables_files_and_columns_of_strange_names_are_not_found(root, name):
    version = EmbeddingStore(root).open(1)
    before = listing(root)
    with pytest.raises(NotFound, match="there is: items, titles, words"):
        _ = version[name]
    with pytest.raises(NotFound, match="there is: none"):
        version.file(name)
    with pytest.raises(BadInput, match="no column"):
        version["items"].table([name])
    assert listing(root) == before


@pytest.mark.parametrize("kind", sorted(STRANGE.keys() - NOT_TYPED))
def test_the_command_line_refuses_strange_names_without_a_traceback(folder_root, kind, capsys):
    name, before = STRANGE[kind], listing(folder_root)
    store = ["--store", folder_root]
    for arguments in (
        ["promote", "1", name, "--reason", "r"],
        ["get", "items", "10", "--at", name],
        ["get", name, "10"],
        ["get", "items", name],
        ["search", "items", "--id", name],
        ["show", name],
        ["verify", name],
    ):
        with pytest.raises(SystemExit) as done:
            cli([*arguments, *store])
        assert done.value.code in (1, 2, 3), arguments
        assert "Traceback" not in capsys.readouterr().err
    assert listing(folder_root) == before


def test_ids_may_hold_any_text_since_they_are_content(root):
    words = EmbeddingStore(root).open(1)["words"]
    assert words.vectors_of(["../up"]).tolist() == [[0.5, 1.5]]
    assert words.search(ids=["表"], k=1)["query"].to_pylist() == ["表"]
    for name in ("..", "a\0b", "ä", "a" * 5_000):
        with pytest.raises(IdNotFound) as refused:
            words.vectors_of([name])
        assert refused.value.missing == [name]


# -- sizes and values ------------------------------------------------------------------------------


def lists(values, kind):
    return pa.table({"item_id": [1], "vector": pa.array(values, kind)})


WRONG = {
    "zero rows": (ROWS.slice(0, 0), "has no rows"),
    "NaN": (vector_rows([1], [(NAN, 0)]), "NaN or infinity in the vector of id 1"),
    "infinite": (vector_rows([1, 2], [(1, 0), (0, -INFINITE)]), "vector of id 2"),
    "overflow": (vector_rows([1], [(1e38, 1e38)]), "too long"),
    "zero vector": (vector_rows([1], [(0, 0)]), "is zero; cosine"),
    "double id": (vector_rows([7, 8, 7], np.ones((3, 2))), "occur more than once, for instance 7"),
    "null id": (vector_rows(pa.array([1, None]), np.ones((2, 2))), "1 ids are null"),
    "float id": (vector_rows([1.0], [(1, 0)]), "int64 or string, not double"),
    "ragged": (lists([[1.0]], pa.list_(pa.float32())), "fixed-size lists of float32"),
    "half": (lists([[1.0]], pa.list_(pa.float16(), 1)), "fixed-size lists of float32"),
    "no dimension": (lists([[]], pa.list_(pa.float32(), 0)), "no dimension"),
    "null vector": (lists([None], pa.list_(pa.float32(), 2)), "nulls"),
    "null value": (lists([[1.0, None]], pa.list_(pa.float32(), 2)), "nulls"),
}


@pytest.mark.parametrize(("rows", "message"), WRONG.values(), ids=WRONG.keys())
def test_publish_refuses_rows_that_would_answer_wrongly(unchanged, rows, message):
    good = TableSpec(ROWS, "item_id", "vector", "cosine")
    bad = TableSpec(rows, "item_id", "vector", "cosine")
    with pytest.raises(BadInput, match=message):
        publish(unchanged, tables={"good": good, "bad": bad})


def test_one_row_is_enough(tmp_path):
    root = tmp_path / "store"
    one = TableSpec(vector_rows([5], [(0, 2)]), "item_id", "vector", "cosine")
    version = publish(root, tables={"items": one}, indexes=[IndexSpec("items")])
    items = EmbeddingStore(root).open(version)["items"]
    found = items.search(np.array([0, 1]), k=5)
    assert (found["id"].to_pylist(), found["score"].to_pylist()) == ([5], [1.0])
    assert items.search(ids=[5], k=5).num_rows == 0  # it is not its own neighbour
    assert EmbeddingStore(root).verify() == []


QUERIES = {
    "NaN": (np.array([NAN, 0]), "NaN, infinity"),
    "infinite": (np.array([[INFINITE, 0]]), "NaN, infinity"),
    "overflow": (np.array([1e300, 0]), None),
    "zero": (np.zeros(2), "is zero; cosine"),
    "one dimension too many": (np.ones(3), r"shape \(1, 3\)"),
    "three axes": (np.ones((1, 1, 2)), "shape"),
    "text": (["a", "b"], "not a matrix"),
    "ragged": ([[1], [1, 2]], "not a matrix"),
    "nothing": (None, "either queries or ids"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(("queries", "message"), QUERIES.values(), ids=QUERIES.keys())
def test_search_refuses_queries_that_have_no_answer(root, queries, message):
    items = EmbeddingStore(root).open(1)["items"]
    before = listing(root)
    for is_exact in (True, False):
        with pytest.raises(BadInput, match=message):
            items.search(queries, exact=is_exact)
    assert listing(root) == before


@pytest.mark.parametrize("ids", [["a"], [1.5], [None], "10", [2**70], [[10]], 10])
def test_ids_of_another_type_are_refused(root, ids):
    items = EmbeddingStore(root).open(1)["items"]
    for call in (items.vectors_of, lambda wanted: items.search(ids=wanted)):
        with pytest.raises((BadInput, IdNotFound)):
            call(ids)


def test_search_takes_an_id_twice_and_names_those_that_are_missing(root):
    items = EmbeddingStore(root).open(1)["items"]
    assert items.search(ids=[10, 10], k=1)["query"].to_pylist() == [10, 10]
    with pytest.raises(IdNotFound, match="11, 12"):
        items.search(ids=[10, 11, 12])
    assert items.search(ids=[], k=1).num_rows == 0


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", True, None])
def test_a_number_of_neighbours_that_is_none_is_refused(root, k):
    with pytest.raises(BadInput, match="k is"):
        EmbeddingStore(root).open(1)["items"].search(np.ones(2), k)


@pytest.mark.parametrize("version", [0, -1, 2, 10**30, "1", 1.0, True, None])
def test_promote_refuses_what_is_no_version(unchanged, version):
    with pytest.raises(StoreError):
        promote(unchanged, version, "canary")


@pytest.mark.parametrize("level", ["", "FULL", "some", None, 1])
def test_open_refuses_an_unknown_level(unchanged, level):
    for opened in (EmbeddingStore(unchanged).open, lambda r, **k: open_version(unchanged, r, **k)):
        with pytest.raises(BadInput, match="is none of full, cached, footer, off"):
            opened(1, verify=level, lease=False)


def test_a_root_that_is_a_file_or_no_path_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", "", "a\0b"):
        with pytest.raises((StoreError, NotADirectoryError)):
            EmbeddingStore(root).versions()
