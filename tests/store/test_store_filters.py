"""Searching some of the rows, and items for users: against answers worked out by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from store_workload import vector_rows

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store import index as indexes
from embedding_store.errors import BadInput, IdNotFound

# products with (1, 1): 3, 5, 4, 0, 1; with the biases: 3, 4, 6, 9, 1
ITEMS = {
    "a": ((1, 2), 0.0, "Alien", 1979),
    "b": ((2, 3), -1.0, "Brazil", 1985),
    "c": ((4, 0), 2.0, "Casablanca", 1942),
    "d": ((0, 0), 9.0, "Dune", 2021),
    "e": ((0, 1), 0.0, None, 1999),
}


@pytest.fixture
def version(tmp_path):
    return published(tmp_path)


def published(tmp_path, *, indexed=True):
    ids = list(ITEMS)
    factors, biases, titles, years = zip(*ITEMS.values(), strict=True)
    store = EmbeddingStore(tmp_path / "store")
    tables = {
        "item_factors": TableSpec(
            vector_rows(ids, factors, bias=pa.array(biases, pa.float32())),
            "item_id",
            "vector",
            "inner_product",
        ),
        "items": TableSpec(
            pa.table({"item_id": ids[:4], "title": titles[:4], "year": years[:4]}), "item_id"
        ),
        "user_factors": TableSpec(
            vector_rows([20, 10, 30], [(1, 1), (1, 0), (-1, 0)], "user_id", bias=[0.5, 0.25, 0.0]),
            "user_id",
            "vector",
        ),
        "order": pa.table({"user_id": [10], "n": [1]}).replace_schema_metadata(
            {"embedding_store.key": "user_id"}
        ),
    }
    index = [IndexSpec("item_factors", "inner_product", bias="bias")] if indexed else []
    number = store.publish(
        tables, run_key="run", day="2026-03-01", indexes=index, attributes={"global_bias": 0.125}
    )
    return store.open(number)


def pairs(found):
    return list(zip(found["id"].to_pylist(), found["score"].to_pylist(), strict=True))


ONES = np.array([1, 1])


def test_only_the_ids_given_are_found(version):
    found = version["item_factors"].search(ONES, 3, within=["e", "a", "d", "a"])
    assert pairs(found) == [("a", 3.0), ("e", 1.0), ("d", 0.0)]
    assert pairs(version["item_factors"].search(ONES, 3, within=[])) == []
    with pytest.raises(IdNotFound, match="'z'"):
        version["item_factors"].search(ONES, 3, within=["a", "z"])


def test_only_rows_that_meet_the_condition_are_found(version):
    items = version["item_factors"]
    assert pairs(items.search(ONES, 2, where="year > 1950")) == [("b", 5.0), ("a", 3.0)]
    # "e" is in no table of titles: nothing is known of it, so no condition on a title holds
    assert pairs(items.search(ONES, 9, where="title not like 'A%'")) == [
        ("b", 5.0),
        ("c", 4.0),
        ("d", 0.0),
    ]
    assert pairs(items.search(ONES, 9, where="bias > 1 and items.year < 2000")) == [("c", 4.0)]
    assert pairs(items.search(ONES, 9, where="item_id in ('e', 'b')")) == [("b", 5.0), ("e", 1.0)]
    assert pairs(items.search(ONES, 9, where="false -- nothing")) == []
    assert pairs(items.search(ids=["a"], k=9, where="vector[1] = 0")) == [("e", 2.0), ("d", 0.0)]


def test_values_of_a_condition_are_parameters(version):
    items = version["item_factors"]
    assert pairs(items.search(ONES, 9, where="title = ?", params=["Dune"])) == [("d", 0.0)]
    assert pairs(items.search(ONES, 9, where="title = ?", params=["' or true or '"])) == []
    found = items.search(
        ONES, 9, where="year between $low and $high", params={"low": 1980, "high": 1990}
    )
    assert pairs(found) == [("b", 5.0)]
    with pytest.raises(BadInput, match="give it as where="):
        items.search(ONES, 9, params=[1])


def test_ids_and_a_condition_must_both_hold(version):
    found = version["item_factors"].search(ONES, 9, within=["a", "b"], where="year < 1980")
    assert pairs(found) == [("a", 3.0)]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("year >", "syntax error"),
        ("wheels > 3", "wheels"),
        ("true) union all (select 'a'", "not one condition"),
        ("exists (select * from read_csv('/etc/passwd'))", "looks outside"),
        ("item_id in (select x from '/etc/passwd')", "no table '/etc/passwd'"),
        ("true; drop table items", "syntax error|only SELECT|one SELECT"),
        ("exists (select 1 from user_factors) and getenv('HOME') = 'x'", "looks outside"),
    ],
)
def test_what_is_no_condition_is_refused_in_words(version, where, message):
    with pytest.raises(BadInput, match=message):
        version["item_factors"].search(ONES, 3, where=where)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("kind", ["flat", "ivf-sq8", "hnsw"])
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_a_filter_gives_the_exact_answer_over_the_rows_it_leaves(
    tmp_path, monkeypatch, metric, kind, share
):
    monkeypatch.setattr(indexes, "FLAT_ROWS", 500)  # fewer rows are scanned, more go to the index
    random = np.random.default_rng(3)
    vectors = random.normal(size=(2_000, 12)).astype("f4")
    store = EmbeddingStore(tmp_path / "store")
    more = {"ivf-sq8": {"nprobe": 64, "lists": 64}, "hnsw": {"ef_search": 400}}.get(kind, {})
    store.publish(
        {"table": TableSpec(vector_rows(range(2_000), vectors), "item_id", "vector")},
        run_key="run",
        day="2026-03-01",
        indexes=[IndexSpec("table", metric, kind, **more)],
    )
    table = store.open(1)["table"]
    chosen = np.sort(random.choice(2_000, int(2_000 * share), replace=False))
    found = table.search(vectors[:40], 10, within=chosen)
    expected = table.search(vectors[:40], 10, within=chosen, exact=True)
    by = found.schema.metadata[b"embedding_store.searched"].decode()
    assert (by == "exact") == (share < 0.1)
    assert set(found["id"].to_pylist()) <= set(chosen.tolist())
    same = expected.join(found, ["query", "id"], join_type="inner").num_rows
    assert same == 400 if kind == "flat" else same >= 390
    # the exact answer, once more without any of the store's arithmetic
    x, q = vectors[chosen].astype("f8"), vectors[0].astype("f8")
    scores = {
        "inner_product": x @ q,
        "cosine": x @ q / np.linalg.norm(x, axis=1),
        "l2": -((x - q) ** 2).sum(axis=1),
    }[metric]
    assert expected["id"].to_pylist()[:10] == chosen[np.argsort(-scores)[:10]].tolist()


# -- bias, users, exclusions ---------------------------------------------------------------------


def test_a_bias_is_added_to_the_product(version):
    items = version["item_factors"]
    with_bias = [("d", 9.0), ("c", 6.0), ("b", 4.0), ("a", 3.0), ("e", 1.0)]
    assert pairs(items.search(ONES, 9, bias="bias")) == with_bias
    assert pairs(items.search(ONES, 9)) == [
        ("b", 5.0),
        ("c", 4.0),
        ("a", 3.0),
        ("e", 1.0),
        ("d", 0.0),
    ]
    assert pairs(items.search(ONES, 2, bias="bias", where="year < 2000")) == with_bias[1:3]
    with pytest.raises(BadInput, match="no column 'popularity'"):
        items.search(ONES, 1, bias="popularity")


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8", "hnsw"])
def test_an_index_built_with_a_bias_answers_where_the_bias_belongs_to_the_score(tmp_path, kind):
    random = np.random.default_rng(4)
    vectors = random.normal(size=(1_500, 8)).astype("f4")
    bias = random.normal(size=1_500).astype("f4")
    store = EmbeddingStore(tmp_path / "store")
    more = {"ivf-sq8": {"nprobe": 64, "lists": 64}, "hnsw": {"ef_search": 500}}.get(kind, {})
    store.publish(
        {"t": TableSpec(vector_rows(range(1_500), vectors, bias=bias), "item_id", "vector")},
        run_key="run",
        day="2026-03-01",
        indexes=[IndexSpec("t", "inner_product", kind, bias="bias", **more)],
    )
    table = store.open(1)["t"]
    entry = table._manifest.index_of("t")
    assert entry.dim == (10 if kind == "ivf-sq8" else 9)
    assert {"t.ids.arrow", "t.vec.arrow", "t.part-0000.parquet"} == set(entry.built_from)
    queries = random.normal(size=(30, 8)).astype("f4")
    for asked, added, by in ((None, 0, "exact"), ("bias", bias.astype("f8"), entry.factory)):
        found = table.search(queries, 5, bias=asked)
        assert found.schema.metadata[b"embedding_store.searched"].decode() == by
        scores = queries.astype("f8") @ vectors.astype("f8").T + added
        expected = np.argsort(-scores, axis=1)[:, :5]
        same = found["id"].to_numpy().reshape(30, 5) == expected
        assert same.all() if "HNSW" not in by else same.mean() > 0.9
        order = np.sort(scores, axis=1)[:, ::-1][:, :5]
        assert found["score"].to_numpy().reshape(30, 5)[same] == pytest.approx(order[same])


def test_a_bias_that_no_score_can_take_is_refused_before_anything_is_written(tmp_path):
    rows = vector_rows([1, 2], np.eye(2), bias=[1.0, None], name=["x", "y"])
    for column, message in (("bias", "nulls"), ("name", "string cannot"), ("size", "no column")):
        with pytest.raises(BadInput, match=message):
            EmbeddingStore(tmp_path / "store").publish(
                {"t": TableSpec(rows, "item_id", "vector")},
                run_key="run",
                day="2026-03-01",
                indexes=[IndexSpec("t", "inner_product", bias=column)],
            )
    assert not (tmp_path / "store").exists()


def test_a_bias_is_added_to_no_other_metric(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    rows = vector_rows([1, 2], np.eye(2), bias=[1.0, 2.0])
    tables = {"t": TableSpec(rows, "item_id", "vector", "cosine")}
    store.publish(tables, run_key="run", day="2026-03-01")
    with pytest.raises(BadInput, match="inner products alone; the metric is cosine"):
        store.open(1)["t"].search(np.ones(2), 1, bias="bias")


@pytest.mark.parametrize("indexed", [True, False])
def test_users_get_the_items_with_the_highest_logit(tmp_path, indexed):
    found = published(tmp_path, indexed=indexed).recommend([10, 20], 2)
    # user 10 is (1, 0): products 1 2 4 0 0, with the biases 1 1 6 9 0; it has 0.25, all have 0.125
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        (10, 1, "d", 9.375),
        (10, 2, "c", 6.375),
        (20, 1, "d", 9.625),
        (20, 2, "c", 6.625),
    ]
    assert found.schema.metadata[b"embedding_store.version"] == b"1"


def test_without_a_bias_users_get_the_items_with_the_largest_product(version):
    assert pairs(version.recommend([20], 2, bias=None)) == [("b", 5.0), ("c", 4.0)]


@pytest.mark.parametrize("form", ["table", "mapping"])
def test_what_a_user_has_is_left_out_for_that_user_alone(version, form):
    # ids that the version does not know do no harm
    seen = {20: ["d", "a", "zz"], 10: ["c"], 99: ["b"]}
    exclude = seen
    if form == "table":
        rows = [(user, item) for user, items in seen.items() for item in items]
        users, items = zip(*rows, strict=True)
        exclude = pa.table({"user_id": users, "item_id": items, "rating": [1.0] * len(rows)})
    found = version.recommend([20, 10, 20, 30], 2, exclude=exclude)
    by_query = [tuple(row.values())[:3] for row in found.to_pylist()]
    assert by_query == [
        (20, 1, "c"),
        (20, 2, "b"),
        (10, 1, "d"),
        (10, 2, "a"),
        (20, 1, "c"),
        (20, 2, "b"),
        (30, 1, "d"),
        (30, 2, "e"),
    ]
    assert pairs(version.recommend([20], 9, exclude={20: ["d"]}, where="year > 1980")) == [
        ("b", 4.625)
    ]
    assert version.recommend([30], 9, exclude={30: list("abcde")}).num_rows == 0


def test_a_recommendation_that_has_no_answer_is_refused_in_words(version):
    with pytest.raises(IdNotFound, match="user_factors: id is not in the table: 5"):
        version.recommend([5])
    with pytest.raises(BadInput, match="exclude has no column item_id"):
        version.recommend([10], exclude=pa.table({"user_id": [10]}))
    with pytest.raises(BadInput, match="item_factors: ids are string"):
        version.recommend([10], exclude={10: [1]})
    with pytest.raises(BadInput, match="k is 0"):
        version.recommend([10], 0)
