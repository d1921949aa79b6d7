"""Every kind of index under every metric, against answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store import index as indexes
from embedding_store.errors import BadInput
from embedding_store.ranking import Ranking

METRICS = ("cosine", "inner_product", "l2")
KINDS = {"flat": "Flat", "ivf-sq8": "IVF8,SQ8", "hnsw": "HNSW4,SQ8"}
PARAMETERS = {
    "flat": {},
    "ivf-sq8": {"lists": 8, "nprobe": 8},
    "hnsw": {"links": 4, "ef_search": 100},
}


def published(tmp_path, ids, vectors, metric, kind="auto", name="store", **more):
    """The only table of a new store, with an index."""
    columns = more.pop("columns", {})
    store = EmbeddingStore(tmp_path / name)
    version = store.publish(
        {"table": TableSpec(vector_rows(ids, vectors, **columns), "item_id", "vector")},
        run_key="run",
        day="2026-03-01",
        indexes=[IndexSpec("table", metric, kind, **more)],
    )
    return store.open(version)["table"]


def found_by(table, *arguments, **named):
    """[(id, score)] of the first query, and what found them."""
    found = table.search(*arguments, **named)
    rows = found.filter(np.asarray(found["query"]) == found["query"][0].as_py())
    pairs = list(zip(rows["id"].to_pylist(), rows["score"].to_pylist(), strict=True))
    return pairs, found.schema.metadata[b"embedding_store.searched"].decode()


def far_away(n):
    """Rows that every metric puts behind the axes: opposite, and 50 to 60 long."""
    random = np.random.default_rng(1)
    return -(5 + random.random(size=(n, 3))) * 6


# ids are given out of order: row and id must not be confused
AXES = {7: (1, 0, 0), 3: (0, 2, 0), 5: (0, 0, 4), 9: (0, 2, 0)}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # of (3, 2, 1): products 3, 4, 4, 4; lengths 1, 2, 4, 2 and sqrt(14) for the query
        ("inner_product", [(3, 4.0), (5, 4.0), (9, 4.0), (7, 3.0)]),
        (
            "cosine",
            [(7, 3 / 14**0.5), (3, 2 / 14**0.5), (9, 2 / 14**0.5), (5, 1 / 14**0.5)],
        ),
        ("l2", [(7, -9.0), (3, -10.0), (9, -10.0), (5, -22.0)]),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_axis_vectors_come_in_the_order_worked_out_by_hand(tmp_path, kind, metric, expected):
    ids = [*AXES, *range(100, 160)]
    vectors = np.concatenate([np.array(list(AXES.values())), far_away(60)])
    table = published(tmp_path, ids, vectors, metric, kind, **PARAMETERS[kind])
    found, by = found_by(table, np.array([[3, 2, 1]]), k=4)
    assert by == KINDS[kind]  # the index was used
    assert [one for one, _ in found] == [one for one, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected])
    assert table.search(np.array([[3, 2, 1]]), 4, exact=True).equals(
        table.search(np.array([[3, 2, 1]]), 4)
    )
    neighbours, _ = found_by(table, ids=[3], k=1)
    assert neighbours[0][0] == 9


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["ivf-sq8", "hnsw"])
def test_an_approximate_index_finds_nine_in_ten_and_scores_as_the_reference(tmp_path, kind, metric):
    random = np.random.default_rng(5)
    centres = random.normal(size=(40, 16))
    vectors = centres[random.integers(40, size=4_000)] + 0.3 * random.normal(size=(4_000, 16))
    table = published(tmp_path, np.arange(4_000), vectors, metric, kind)
    exact, found = table.search(vectors[:100], 10, exact=True), table.search(vectors[:100], 10)
    keys = [
        set(zip(*one.select(["query", "id"]).to_pydict().values(), strict=True))
        for one in (exact, found)
    ]
    assert len(keys[0] & keys[1]) >= 900
    scores = {(row["query"], row["id"]): row["score"] for row in exact.to_pylist()}
    for row in found.to_pylist():
        assert scores.get((row["query"], row["id"]), row["score"]) == row["score"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_is_built_to_the_same_bytes_twice(tmp_path, kind, metric):
    vectors = np.random.default_rng(6).normal(size=(2_000, 16)).astype(np.float32)
    for name in ("one", "two"):
        indexes.build(vectors, IndexSpec("table", metric, kind), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_asked_for_by_name_is_built_for_any_number_of_rows(tmp_path, kind):
    for n_rows in (1, 2, 3, 50):
        vectors = np.eye(50)[:n_rows] + 1
        table = published(tmp_path, range(n_rows), vectors, "l2", kind, name=f"store-{n_rows}")
        assert table.search(ids=[0], k=60).num_rows == n_rows - 1
        assert found_by(table, vectors[-1], k=1)[0] == [(n_rows - 1, 0.0)]


def test_a_kind_is_chosen_by_the_number_of_rows_and_its_parameters_are_recorded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(indexes, "FLAT_ROWS", 1_000)
    vectors = np.random.default_rng(7).normal(size=(1_000, 8)).astype(np.float32)
    assert indexes.build(vectors[:999], IndexSpec("t"), tmp_path / "a") == ("Flat", {})
    factory, params = indexes.build(vectors, IndexSpec("t"), tmp_path / "b")
    assert (factory, params["nprobe"]) == ("IVF64,SQ8", 8)
    spec = IndexSpec("t", kind="ivf-sq8", lists=16, nprobe=99)
    factory, params = indexes.build(vectors, spec, tmp_path / "c")
    assert (factory, params["nprobe"]) == ("IVF16,SQ8", 16)
    factory, params = indexes.build(vectors, IndexSpec("t", kind="hnsw"), tmp_path / "d")
    assert factory == "HNSW32,SQ8"
    assert params == {"ef_construction": 80, "ef_search": 64}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "annoy"}, "kind 'annoy' is none of auto, flat, ivf-sq8, hnsw"),
        ({"kind": "flat", "nprobe": 3}, "'flat' has no nprobe; it takes no parameters"),
        ({"nprobe": 3}, "'auto' has no nprobe"),
        ({"kind": "hnsw", "lists": 3}, "takes links, ef_construction, ef_search"),
        ({"kind": "ivf-sq8", "lists": 0}, "lists is 0, not a number from 1"),
        ({"kind": "hnsw", "links": 1}, "links is 1, not a number from 2"),
        ({"kind": "hnsw", "ef_search": 2.5}, "ef_search is 2.5"),
        ({"bias": "bias", "metric": "l2"}, "a bias is added to inner_product alone"),
    ],
)
def test_an_index_that_cannot_be_built_is_refused_in_words(more, message):
    with pytest.raises(BadInput, match=message):
        IndexSpec("table", **more)


def test_more_effort_finds_more(tmp_path):
    random = np.random.default_rng(8)
    vectors, queries = random.normal(size=(3_000, 24)), random.normal(size=(50, 24))
    spec = {"lists": 64, "nprobe": 1}
    table = published(tmp_path, range(3_000), vectors, "cosine", "ivf-sq8", **spec)
    exact = table.search(queries, 10, exact=True)

    def n_found(**more):
        found = table.search(queries, 10, **more)
        same = exact.join(found, ["query", "id"], join_type="inner")
        return same.num_rows

    assert n_found() < n_found(effort=8) < n_found(effort=64)
    assert n_found(effort=64) >= 498
    with pytest.raises(BadInput, match="effort is 0"):
        table.search(queries, 10, effort=0)


def test_scores_are_the_same_to_the_last_bit_alone_and_in_any_batch():
    random = np.random.default_rng(9)
    vectors = random.normal(size=(2_000, 37)).astype(np.float32)
    queries = random.normal(size=(200, 37)).astype(np.float32)
    rows = random.integers(2_000, size=(200, 23))
    for metric in METRICS:
        ranking = Ranking(vectors, metric)
        together = ranking.pair_scores(rows, queries)
        ranking.nearest(queries[:1], 1)  # from here on it knows the lengths of all rows
        again = ranking.pair_scores(rows, queries)
        alone = [
            [ranking.scores(rows[q, c : c + 1], queries[q])[0] for c in range(23)]
            for q in range(200)
        ]
        assert together.tolist() == again.tolist() == alone
