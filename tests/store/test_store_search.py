"""Search against answers worked out by hand, and every index against the exact reference."""

from __future__ import annotations

import numpy as np
import pytest
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store import index as indexes
from embedding_store.errors import BadInput, IdNotFound
from embedding_store.ranking import Ranking

METRICS = ("cosine", "inner_product", "l2")


def store_with(tmp_path, ids, vectors, metric, *, indexed=True, key="item_id", **columns):
    """The only table of a new store."""
    store = EmbeddingStore(tmp_path / "store")
    version = store.publish(
        {"table": TableSpec(vector_rows(ids, vectors, key, **columns), key, "vector", metric)},
        run_key="run",
        day="2026-03-01",
        indexes=[IndexSpec("table", metric)] if indexed else [],
    )
    return store.open(version)["table"]


def found_by(table, *arguments, **named):
    """[(query, rank, id, score)]"""
    return [tuple(row.values()) for row in table.search(*arguments, **named).to_pylist()]


# ids are given out of order: row and id must not be confused
AXES = {7: (1, 0, 0), 3: (0, 2, 0), 5: (0, 0, 4)}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # of (3, 2, 1): products 3, 4, 4; lengths 1, 2, 4 and sqrt(14) for the query
        ("inner_product", [(3, 4.0), (5, 4.0), (7, 3.0)]),
        ("cosine", [(7, 3 / 14**0.5), (3, 2 / 14**0.5), (5, 1 / 14**0.5)]),
        ("l2", [(7, -9.0), (3, -10.0), (5, -22.0)]),
    ],
)
@pytest.mark.parametrize("indexed", [True, False])
def test_axis_vectors_come_in_the_order_worked_out_by_hand(tmp_path, metric, expected, indexed):
    table = store_with(tmp_path, list(AXES), list(AXES.values()), metric, indexed=indexed)
    found = found_by(table, np.array([[3, 2, 1]]), k=3)
    assert [(query, rank) for query, rank, _, _ in found] == [(0, 1), (0, 2), (0, 3)]
    assert [one for _, _, one, _ in found] == [one for one, _ in expected]
    scores = [score for *_, score in found]
    assert scores == pytest.approx([score for _, score in expected])


@pytest.mark.parametrize("metric", METRICS)
def test_equal_vectors_tie_and_ties_break_by_id_also_at_the_last_place(tmp_path, metric):
    # 30 rows of each of 5 directions; k = 7 cuts through the 30 that are equally close
    vectors = np.repeat(np.eye(5), 30, axis=0)
    ids = np.random.default_rng(3).permutation(150)
    table = store_with(tmp_path, ids, vectors, metric)
    expected = sorted(ids[60:90].tolist())[:7]
    for exact in (True, False):
        found = found_by(table, np.array([0, 0, 1, 0, 0]), k=7, exact=exact)
        assert [one for _, _, one, _ in found] == expected
        assert len({score for *_, score in found}) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_a_flat_index_gives_the_exact_answer_to_the_last_bit(tmp_path, metric):
    random = np.random.default_rng(4)
    vectors = random.normal(size=(2_000, 24)).round(1)  # rounding makes near-ties and ties
    table = store_with(tmp_path, np.arange(2_000) * 3, vectors, metric)
    queries = random.normal(size=(50, 24)).round(1)
    assert table.search(queries, 10).equals(table.search(queries, 10, exact=True))
    assert table._read is not None  # the index was used


@pytest.mark.parametrize("metric", METRICS)
def test_an_inverted_index_finds_nine_in_ten_of_the_exact_neighbours(tmp_path, metric, monkeypatch):
    monkeypatch.setattr(indexes, "FLAT_ROWS", 3_000)
    random = np.random.default_rng(5)
    centres = random.normal(size=(40, 16))
    vectors = centres[random.integers(40, size=4_000)] + 0.3 * random.normal(size=(4_000, 16))
    table = store_with(tmp_path, np.arange(4_000), vectors, metric)
    queries = vectors[:100]
    exact, found = table.search(queries, 10, exact=True), table.search(queries, 10)
    assert found.schema.metadata[b"embedding_store.searched"] == b"IVF128,SQ8"
    same = set(zip(*exact.select(["query", "id"]).to_pydict().values(), strict=True)) & set(
        zip(*found.select(["query", "id"]).to_pydict().values(), strict=True)
    )
    assert len(same) >= 900
    # what it finds, it scores as the reference does
    scores = {(row["query"], row["id"]): row["score"] for row in exact.to_pylist()}
    for row in found.to_pylist():
        assert scores.get((row["query"], row["id"]), row["score"]) == row["score"]


def test_a_score_depends_on_nothing_but_the_query_and_the_row():
    random = np.random.default_rng(7)
    vectors = random.normal(size=(1_000, 33)).astype(np.float32)
    vectors[::7] = vectors[3]
    query = random.normal(size=33).astype(np.float32)
    ranking = Ranking(vectors, "inner_product")
    together = ranking.scores(np.arange(1_000), query)
    alone = [ranking.scores(np.array([row]), query)[0] for row in range(1_000)]
    assert together.tolist() == alone
    assert len(set(together[::7])) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_the_reference_agrees_with_a_sort_of_all_scores_in_float64(metric):
    random = np.random.default_rng(8)
    vectors = (random.normal(size=(500, 12)) * 10.0 ** random.integers(-3, 4, (500, 1))).astype(
        "f4"
    )
    queries = random.normal(size=(20, 12)).astype("f4")
    ranking = Ranking(vectors, metric)
    for query, found in zip(queries, ranking.nearest(queries, 9).rows, strict=True):
        x, q = vectors.astype("f8"), query.astype("f8")
        scores = {
            "inner_product": x @ q,
            "cosine": x @ q / np.linalg.norm(x, axis=1) / np.linalg.norm(q),
            "l2": -(np.linalg.norm(x - q, axis=1) ** 2),
        }[metric].astype("f4")
        assert found.tolist() == np.lexsort((np.arange(500), -scores))[:9].tolist()


def test_an_id_is_not_its_own_neighbour_and_names_its_query(tmp_path):
    table = store_with(tmp_path, ["a", "b", "c"], [(1, 0), (1, 0.1), (0, 1)], "cosine")
    found = found_by(table, ids=["c", "a"], k=2)
    assert [row[:3] for row in found] == [
        ("c", 1, "b"),
        ("c", 2, "a"),
        ("a", 1, "b"),
        ("a", 2, "c"),
    ]


def test_fewer_rows_than_k_give_all_rows_and_a_single_row_gives_itself(tmp_path):
    table = store_with(tmp_path, [9], [(1, 2)], "l2")
    assert found_by(table, np.array([1, 2]), k=10) == [(0, 1, 9, 0.0)]
    assert found_by(table, ids=[9], k=10) == []


def test_no_queries_give_no_rows_of_the_same_columns(tmp_path):
    table = store_with(tmp_path, [1, 2], [(1, 2), (2, 1)], "l2")
    nothing = table.search(np.empty((0, 2)), 3)
    assert nothing.num_rows == 0
    assert nothing.schema.equals(table.search(np.array([[1, 2]]), 3).schema)


def test_every_result_names_the_version_it_came_from(tmp_path):
    table = store_with(tmp_path, [1, 2], [(1, 2), (2, 1)], "l2")
    for result in (table.search(np.array([1, 2]), 1), table.table()):
        assert result.schema.metadata[b"embedding_store.version"] == b"1"
        assert result.schema.metadata[b"embedding_store.table"] == b"table"


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        ([[1, 2, 3]], 1, r"shape \(1, 3\); table of version 1 has 2"),
        ([[1, float("nan")]], 1, "NaN"),
        ([[1, float("inf")]], 1, "infinity"),
        ([[1, 1e30]], 1, "too large"),
        ([[0, 0]], 1, "query 0 is zero"),
        ([["a", "b"]], 1, "not a matrix of numbers"),
        ([[1, 2]], 0, "k is 0"),
        ([[1, 2]], 1.5, "k is 1.5"),
        (None, 1, "either queries or ids"),
    ],
)
def test_a_query_that_has_no_answer_is_refused_in_words(tmp_path, queries, k, message):
    table = store_with(tmp_path, [1, 2], [(1, 2), (2, 1)], "cosine")
    with pytest.raises(BadInput, match=message):
        table.search(queries, k)


def test_neighbours_of_an_unknown_id_are_refused_by_its_name(tmp_path):
    table = store_with(tmp_path, [1, 2], [(1, 2), (2, 1)], "cosine")
    with pytest.raises(IdNotFound, match="table: id is not in the table: 5"):
        table.search(ids=[1, 5])
