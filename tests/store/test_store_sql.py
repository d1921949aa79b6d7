"""SQL over a version that can leave it by no door, and views of versions in a warehouse."""

from __future__ import annotations

import csv
import gc
import io
import json
import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from store_workload import promote, publish, vector_rows

from embedding_store import EmbeddingStore, TableSpec, cli
from embedding_store.errors import BadInput, Corrupted, VersionNotFound


@pytest.fixture
def store(tmp_path):
    """Two versions, the first in production."""
    root = tmp_path / "store"
    publish(root)
    publish(root, "second", "2026-03-02", 2)
    promote(root, 1)
    return EmbeddingStore(root)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory):
    """A store that no test changes, beside a file that no SELECT may read."""
    folder = tmp_path_factory.mktemp("lasting")
    (folder / "secret.csv").write_text("word\nopensesame\n")
    publish(folder / "store")
    return folder


def files_of(folder):
    """Every file, with the time of its last change; leases come and go."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and "leases" not in path.parts
    }


def filled_in(select, folder):
    part = next(folder.rglob("items.part-0000.parquet"))
    return select.format(file=folder / "secret.csv", part=part, folder=folder)


# -- the closed door -----------------------------------------------------------------------------


def test_a_select_reads_the_tables_of_the_version_and_says_which_it_was(store):
    found = store.open(2).sql("select title, item_id * 2 as twice from items order by 1 desc")
    assert found.to_pylist() == [
        {"title": "c", "twice": 60},
        {"title": "b", "twice": 40},
        {"title": "a", "twice": 20},
    ]
    assert found.schema.metadata[b"embedding_store.version"] == b"2"
    joined = "select count(*) as n from items join item_semantics using (item_id) where title >= ?"
    assert store.open(1).sql(joined, ["b"]).to_pylist() == [{"n": 2}]
    named = "select n from range(3) r(n) where n = $n"
    assert store.open(1).sql(named, {"n": 2})["n"].to_pylist() == [2]


def test_vectors_have_a_length_in_sql_so_that_array_functions_take_them(store):
    version = store.open(1)
    found = version.sql(
        """
        with one as (select vector as other from item_semantics where item_id = 50)
        select item_id, array_cosine_similarity(vector, other) as score
        from item_semantics, one where item_id != 50 order by score desc, item_id limit 5
        """
    )
    expected = version["item_semantics"].search(ids=[50], k=5)
    assert found["item_id"].to_pylist() == expected["id"].to_pylist()
    assert found["score"].to_pylist() == pytest.approx(expected["score"].to_pylist(), abs=1e-6)
    kinds = version.sql("describe item_semantics").to_pylist()
    assert {row["column_name"]: row["column_type"] for row in kinds}["vector"] == "FLOAT[8]"


@pytest.mark.parametrize(
    "select",
    [
        "select * from items",
        "from items select title",
        "show tables",
        "summarize items",
        "values (1), (2)",
        "with recursive t(n) as (select 1 union all select n + 1 from t where n < 5) from t",
        "select unnest([1, 2]) as x",
        "select title from items union select 'd'",
        "select * from ITEMS, Item_Semantics limit 1",
        "select * from main.items",
        "select * from items -- a comment",
        "select 1;",
    ],
)
def test_what_only_reads_the_tables_is_answered(lasting, select):
    assert EmbeddingStore(lasting / "store").open(1).sql(select).num_rows


DOORS = {
    "a file": [
        "select * from read_csv('{file}')",
        "select * from read_csv_auto('{file}')",
        "select * from read_parquet('{part}')",
        "select * from parquet_scan('{part}')",
        "select * from parquet_metadata('{part}')",
        "select * from parquet_schema('{part}')",
        "select * from parquet_file_metadata('{part}')",
        "select * from read_text('{file}')",
        "select * from read_blob('{file}')",
        "select * from read_json('{file}')",
        "select * from sniff_csv('{file}')",
        "select * from glob('{folder}/*')",
        "select * from '{file}'",
        "select * from '{part}'",
        'select * from "{file}"',
        "from query('select * from read_text(''{file}'')')",
        "from query_table('{file}')",
        "select (select content from read_text('{file}'))",
        "select * from items where exists (from read_text('{file}'))",
        "with x as (from read_text('{file}')) select * from x",
        "select * from items, lateral (select * from read_text('{file}'))",
        "pivot read_text('{file}') on filename",
        "describe select * from read_text('{file}')",
        "summarize from read_csv('{file}')",
        "explain analyze select * from read_text('{file}')",
        "select * from read_csv('https://example.org/x.csv')",
        "import database '{folder}'",
    ],
    "a setting": [
        "set threads = 1",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "set variable x = 1",
        "reset threads",
        "pragma threads = 1",
        "pragma database_list",
        "call pragma_version()",
        "select current_setting('temp_directory')",
        "select * from duckdb_settings()",
        "select * from duckdb_secrets()",
        "select * from duckdb_databases()",
        "select * from duckdb_views",
        "select * from pragma_database_list",
        "select * from information_schema.tables",
        "select * from pg_catalog.pg_settings",
        "select * from sqlite_master",
        "with duckdb_settings as (select 1) select * from duckdb_settings",
        "select getenv('HOME')",
        "select getvariable('x')",
        "show databases",
        "show all tables",
        "use main",
    ],
    "a write": [
        "copy items to '{folder}/out.csv'",
        "copy (select 1) to '{folder}/out.parquet'",
        "export database '{folder}/out'",
        "attach '{folder}/out.db'",
        "create table x as select 1",
        "create temp table x as select 1",
        "create view x as select 1",
        "create macro x() as 1",
        "create secret s (type s3)",
        "insert into items values (1, 'x')",
        "update items set title = 'x'",
        "delete from items",
        "drop view items",
        "alter view items rename to x",
        "install httpfs",
        "load httpfs",
        "checkpoint",
        "select * from checkpoint()",
        "prepare p as select 1",
        "begin",
        "vacuum",
        "select write_log('x')",
        "select 1; drop view items",
        "select 1; select 2",
    ],
    "nothing": [
        "",
        ";",
        "-- nothing",
        "selec 1",
        "select * from users",
        "select * from other.items",
    ],
}


@pytest.mark.parametrize("doors", DOORS)
def test_a_select_reaches_no_file_no_setting_and_no_write(lasting, doors):
    version, before = EmbeddingStore(lasting / "store").open(1), files_of(lasting)
    for select in DOORS[doors]:
        with pytest.raises(BadInput) as refused:
            version.sql(filled_in(select, lasting))
        assert "opensesame" not in str(refused.value), select
    assert version.sql("select count(*) as n from items").to_pylist() == [{"n": 3}]
    assert files_of(lasting) == before


@pytest.mark.parametrize("doors", DOORS)
def test_behind_the_first_door_there_is_a_second(lasting, doors, monkeypatch):
    # were the syntax tree not looked at, DuckDB would still open no file and keep its settings
    version, before = EmbeddingStore(lasting / "store").open(1), files_of(lasting)
    monkeypatch.setattr(version._closed, "_check", lambda query: None)
    for select in DOORS[doors]:
        try:
            answer = str(version.sql(filled_in(select, lasting)).to_pylist())
        except BadInput:
            continue
        assert doors != "a file", select
        assert "opensesame" not in answer
    assert files_of(lasting) == before
    if doors == "a setting":
        found = version.sql("select current_setting('enable_external_access') as a")
        assert found["a"].to_pylist() == [False]


def test_no_variable_of_the_caller_is_a_table(lasting):
    users = pa.table({"user_id": [1]})
    with pytest.raises(BadInput, match="no table 'users'; there is: item_semantics, items"):
        EmbeddingStore(lasting / "store").open(1).sql("select * from users")
    assert users.num_rows == 1


def test_the_command_prints_what_the_version_answers(store, monkeypatch, capsys):
    monkeypatch.setenv("TIDEMARK_STORE", store.root)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["sql", *arguments])
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    select = "select item_id, title, vector from items join item_semantics using (item_id) limit 1"
    code, out, _ = run(select, "--at", "2", "--format", "json")
    vector = store.open(2)["item_semantics"].vectors_of([10])[0]
    assert code == 0
    assert json.loads(out) == {
        "version": 2,
        "rows": [{"item_id": 10, "title": "a", "vector": [float(str(one)) for one in vector]}],
    }
    _, out, _ = run(select, "--format", "csv")
    row = next(csv.DictReader(io.StringIO(out)))
    assert list(row) == ["item_id", "title", *(f"vector_{n}" for n in range(8)), "version"]
    assert row["version"] == "1"
    plain = (
        "select date '2026-03-01' as day, 1.5::decimal(4, 2) as price, 'nan'::float as x, null y"
    )
    _, out, _ = run(plain, "--format", "json")
    assert json.loads(out)["rows"] == [{"day": "2026-03-01", "price": "1.50", "x": None, "y": None}]
    assert run("select 1 as a, 2 as a")[0] == 1
    code, out, err = run("select * from read_text('/etc/hostname')")
    assert (code, out) == (1, "")
    assert "looks outside the version's tables" in err
    assert run("select 1", "--at", "9")[0] == 3


# -- views ---------------------------------------------------------------------------------------


def test_versions_and_aliases_have_views_that_join_with_the_warehouse(store):
    warehouse = duckdb.connect(":memory:")
    warehouse.execute("create table sales as select 30 as item_id, 7 as n")
    attached = store.attach(warehouse)
    assert attached.views == {
        "item_semantics_v1": 1,
        "items_v1": 1,
        "item_semantics_v2": 2,
        "items_v2": 2,
        "item_semantics_production": 1,
        "items_production": 1,
    }
    joined = "select title, n from sales join items_production using (item_id)"
    assert warehouse.sql(joined).fetchall() == [("c", 7)]
    closest = """
        select b.item_id from item_semantics_v2 a, item_semantics_v2 b
        where a.item_id = 50 and b.item_id != 50
        order by array_cosine_similarity(a.vector, b.vector) desc limit 3
    """
    expected = store.open(2)["item_semantics"].search(ids=[50], k=3)["id"].to_pylist()
    assert [one for (one,) in warehouse.sql(closest).fetchall()] == expected
    listed = warehouse.sql(
        "select version, day::varchar, aliases, run_key from versions"
    ).fetchall()
    assert listed == [
        (1, "2026-03-01", ["production"], "first"),
        (2, "2026-03-02", [], "second"),
    ]
    # nothing was written to the warehouse: the views are this connection's own
    assert warehouse.cursor().sql("show tables").fetchall() == [("sales",)]


def test_a_schema_and_a_prefix_are_taken_and_the_views_stay_in_the_database(store, tmp_path):
    with duckdb.connect(str(tmp_path / "warehouse.db")) as warehouse:
        attached = store.attach(warehouse, ["production"], schema='night "1"', prefix="cf_")
        assert attached.views == {
            "cf_item_semantics_v1": 1,
            "cf_items_v1": 1,
            "cf_item_semantics_production": 1,
            "cf_items_production": 1,
        }
        assert attached.versions == "cf_versions"
        store.attach(warehouse, [1, 2], schema='night "1"', prefix="cf_")  # again is no conflict
    with duckdb.connect(str(tmp_path / "warehouse.db"), read_only=True) as again:
        found = again.sql('select title from "night ""1""".cf_items_production order by 1')
        assert found.fetchall() == [("a",), ("b",), ("c",)]
        store.attach(again, [2])  # temporary views need no write
        assert again.sql("select count(*) from items_v2").fetchall() == [(3,)]


def test_one_version_makes_its_own_views(store):
    con = duckdb.connect(":memory:")
    attached = store.open("production").attach(con, prefix="x_")
    assert attached.views == {"x_item_semantics_v1": 1, "x_items_v1": 1}
    assert con.sql("describe x_item_semantics_v1").fetchall()[1][:2] == ("vector", "FLOAT[8]")


def test_a_view_hides_nothing_that_the_warehouse_has(store):
    warehouse = duckdb.connect(":memory:")
    warehouse.execute("create table Versions as select 1 as n")
    with pytest.raises(BadInput, match=r"has main\.Versions already; give another prefix="):
        store.attach(warehouse)
    assert warehouse.sql("show tables").fetchall() == [("Versions",)]
    store.attach(warehouse, prefix="store_")
    assert warehouse.sql("select n from versions").fetchall() == [(1,)]
    with pytest.raises(BadInput, match="prefix 'a-' does not match"):
        store.attach(warehouse, prefix="a-")


def test_one_name_never_means_two_versions(store):
    store.promote(1, "v2", reason="a bad name", actor="tester")
    with pytest.raises(BadInput, match="item_semantics_v2 would show item_semantics of version"):
        store.attach(duckdb.connect(":memory:"))
    store.attach(duckdb.connect(":memory:"), [1, "v2"])  # here it means one


def test_views_are_made_only_of_what_was_verified(store, tmp_path):
    damaged = sorted(tmp_path.rglob("items.part-0000.parquet"))[-1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    con = duckdb.connect(":memory:")
    with pytest.raises(Corrupted, match=r"items\.part-0000\.parquet"):
        store.attach(con)
    assert con.sql("show tables").fetchall() == []
    with pytest.raises(VersionNotFound):
        store.attach(con, [9])


@pytest.mark.parametrize("folder", ["it's", 'a "b"', "day=2026-03-01", "x[1]", "*?", "Ünï"])
def test_a_store_in_a_folder_of_any_name_is_read(tmp_path, folder):
    root = tmp_path / folder / "store"
    root.parent.mkdir()
    publish(root)
    (tmp_path / "x1").mkdir()
    shutil.copytree(root, tmp_path / "x1" / "store")  # what a pattern would find instead
    con = duckdb.connect(":memory:")
    store = EmbeddingStore(root)
    store.attach(con)
    assert con.sql("select * from items_v1").columns == ["item_id", "title"]
    assert con.sql("select count(*) from items_v1").fetchall() == [(3,)]
    assert store.open(1).sql("select count(*) as n from items")["n"].to_pylist() == [3]
    assert store.open(1).sql("select * from items").column_names == ["item_id", "title"]


def test_versions_are_held_as_long_as_a_connection_shows_them(store, tmp_path):
    con = duckdb.connect(":memory:")
    store.attach(con, [2])
    gc.collect()
    leases = tmp_path / "store" / "leases" / f"{2:020d}"
    assert list(leases.iterdir())
    del con
    gc.collect()
    assert not list(leases.iterdir())


def test_tables_named_like_words_of_sql_and_odd_columns_are_read(tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    rows = vector_rows([1, 2], np.eye(2), **{'a "b"': ["x", "y"], "select": [1, 2]})
    half = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2, 3, 4]), 2)
    rows = rows.append_column("double's", half)
    store.publish({"order": TableSpec(rows, "item_id", "vector")}, run_key="r", day="2026-03-01")
    con = duckdb.connect(":memory:")
    store.attach(con)
    kinds = {name: kind for name, kind, *_ in con.sql("describe order_v1").fetchall()}
    assert (kinds["vector"], kinds["double's"]) == ("FLOAT[2]", "DOUBLE[2]")
    version = store.open(1)
    assert version.sql('select "a ""b""" as x from "order"')["x"].to_pylist() == ["x", "y"]
    found = version["order"].search(np.ones(2), 2, where='"select" = 2 and "a ""b""" = \'y\'')
    assert found["id"].to_pylist() == [2]
