"""Spaces that differ are refused, and the message has both sides."""

from __future__ import annotations

import numpy as np
import pytest
from store_workload import promote, vector_rows

from embedding_store import EmbeddingStore, TableSpec, open_version
from embedding_store.errors import BadInput, Incompatible

SPACE = {
    "space_id": "night",
    "fingerprint": "weights-1",
    "adapter": None,
    "tokenizer_sha256": "tokens-1",
    "template": "Movie: {title}",
    "pooling": "last",
    "projectors_sha256": "projectors-1",
    "dim": 2,
}
OTHER = {
    "space_id": "another night",
    "fingerprint": "weights-2",
    "adapter": "lora-7",
    "tokenizer_sha256": "tokens-2",
    "template": "{title}",
    "pooling": "mean",
    "projectors_sha256": "projectors-2",
    "dim": 3,
}
ROWS = vector_rows([10, 20], [(1, 0), (0, 1)])


def publish(root, key, space):
    tables = {
        name: TableSpec(ROWS, "item_id", "vector", "cosine") for name in ("items", "semantics")
    }
    return EmbeddingStore(root).publish(
        tables | {"titles": TableSpec(ROWS.drop_columns("vector"), "item_id")},
        run_key=key,
        day="2026-03-01",
        space=space,
    )


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "store"
    publish(root, "first", SPACE)
    promote(root, 1)
    return root


def test_a_reader_made_for_the_space_opens_it(root):
    expected = SPACE | {"items.dim": 2, "items.metric": "cosine", "titles.dim": None}
    for ref in (1, "production"):
        assert open_version(root, ref, expect=expected).version == 1
        assert EmbeddingStore(root).open(ref, expect=expected).version == 1


@pytest.mark.parametrize("fact", SPACE)
def test_any_other_fingerprint_is_refused_with_both_sides(root, fact):
    for opened in (EmbeddingStore(root).open, lambda ref, **e: open_version(root, ref, **e)):
        with pytest.raises(Incompatible) as refused:
            opened("production", expect={**SPACE, fact: OTHER[fact]})
        assert f"{fact} is {SPACE[fact]!r}, expected {OTHER[fact]!r}" in str(refused.value)


def test_all_differences_are_named_at_once(root):
    with pytest.raises(Incompatible) as refused:
        open_version(root, 1, expect=OTHER)
    assert all(f"{fact} is" in str(refused.value) for fact in SPACE)


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ({"revision": "main"}, "revision is nothing, expected 'main'"),
        ({"revision": None}, "revision is nothing, expected None"),
        ({"items.dim": 3}, "items.dim is 2, expected 3"),
        ({"items.metric": "l2"}, "items.metric is 'cosine', expected 'l2'"),
        ({"items.key_type": "string"}, "items.key_type is 'int64', expected 'string'"),
        ({"users.dim": 2}, "users.dim is nothing, expected 2"),
        ({"items.rows": 2}, "items.rows is nothing, expected 2"),
    ],
)
def test_silence_and_other_tables_are_refused_too(root, expect, message):
    with pytest.raises(Incompatible, match=message):
        open_version(root, 1, expect=expect)


def test_a_table_is_searched_with_another_of_its_own_version(root):
    version = EmbeddingStore(root).open(1)
    found = version["items"].search(version["semantics"], k=1)
    assert found["query"].to_pylist() == found["id"].to_pylist() == [10, 20]


@pytest.mark.parametrize("space", [SPACE, SPACE | {"fingerprint": "weights-2"}])
def test_vectors_of_another_version_are_refused_even_if_their_facts_agree(root, space):
    publish(root, "second", space)
    first, second = (EmbeddingStore(root).open(n) for n in (1, 2))
    with pytest.raises(Incompatible) as refused:
        second["items"].search(first["items"], k=1)
    said = str(refused.value)
    assert "vectors of version 1 do not lie in the space of version 2" in said
    assert "map_to(2)" in said
    if space != SPACE:
        assert "fingerprint is 'weights-1' there and 'weights-2' here" in said


def test_queries_of_another_dimension_or_without_vectors_are_refused(root):
    version = EmbeddingStore(root).open(1)
    with pytest.raises(BadInput, match=r"shape \(1, 3\)"):
        version["items"].search(np.ones(3))
    with pytest.raises(BadInput, match="plain table"):
        version["items"].search(version["titles"])
