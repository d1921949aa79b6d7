"""`tidemark init`: what is guessed of sources of every form, why, and what is left to a person."""

from __future__ import annotations

import gzip
import subprocess
import sys
from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import SourceError
from jobs.prepare.first_look.column_roles import (
    is_whole_number_id,
    label_sides,
    name_score,
    time_form,
)
from jobs.prepare.first_look.first_mapping_file import refuse_built_in, write_first_mapping
from jobs.prepare.first_look.source_draft import Guess
from jobs.prepare.first_look.source_look import Column, tables_at
from jobs.prepare.sources.mapping import Mapping, json_schema, load_mapping

ONLINE_RETAIL = Path("../shared/data/online-retail")

GAMES = """\
app_id,helpful,date,is_recommended,hours,user_id
g1,0,2022-03-01,true,10.5,u1
g2,3,2022-03-05,false,0.2,u1
g1,1,2022-06-09,true,99.0,u2
"""
TITLES = 'app_id,title\ng1,"Portal, again"\ng2,Half Life\n'


def init(source: Path, **chosen: str) -> tuple[Mapping, dict[str, Guess], str]:
    """Write a mapping beside the source; the mapping read back, its guesses, its text."""
    to = (source if source.is_dir() else source.parent) / "tidemark.yaml"
    guesses = write_first_mapping(source, to, chosen=chosen, names=())
    return load_mapping(to), {guess.what: guess for guess in guesses}, to.read_text()


def column(*texts: str | None, kind: str = "text") -> Column:
    return Column("c", kind, texts)


@pytest.fixture
def games(tmp_path: Path) -> Path:
    folder = tmp_path / "games"
    folder.mkdir()
    (folder / "recommendations.csv").write_text(GAMES)
    (folder / "games.csv").write_text(TITLES)
    return folder


# -- whole sources ---------------------------------------------------------------------------------


def test_game_recommendations_become_labels_with_string_ids_and_days(games: Path) -> None:
    mapping, guesses, text = init(games)
    assert mapping.domain == "games"
    assert mapping.item_noun == "Game"
    assert mapping.events.columns.model_dump(exclude_none=True) == {
        "user_id": "user_id",
        "item_id": "app_id",
        "at": "date",
        "label": "is_recommended",
    }
    assert (mapping.events.user_id.type, mapping.events.item_id.type) == ("string", "string")
    assert mapping.events.at.form == "date"
    assert mapping.feedback.model_dump() == {
        "kind": "label",
        "positive": ("true",),
        "negative": ("false",),
    }
    assert mapping.items.model_dump()["files"] == ("games.csv",)
    assert guesses["feedback"].look == "66.7% of the rows seen are positive"
    assert text.startswith("# yaml-language-server: $schema=tidemark.schema.json\n")


@pytest.mark.skipif(not ONLINE_RETAIL.is_dir(), reason="needs ../shared/data/online-retail")
def test_online_retail_is_implicit_with_cancellations_and_missing_users(tmp_path: Path) -> None:
    to = tmp_path / "tidemark.yaml"
    guesses = write_first_mapping(ONLINE_RETAIL, to, chosen={}, names=())
    mapping = load_mapping(to)
    assert mapping.events.files == ("online_retail_*.parquet",)
    assert mapping.feedback.kind == "implicit"
    assert mapping.model_dump()["items"] == {"from_": "events", "title": "title"}
    assert [rule.reason for rule in mapping.reject] == ["cancellation", "negative quantity"]
    assert mapping.quarantine.expected["missing user"] > 0.25
    looks = {guess.what: guess.look for guess in guesses}
    assert "nothing says the zone" in (looks["at"] or "")
    assert mapping.root is not None
    assert (to.parent / mapping.root).resolve() == ONLINE_RETAIL.resolve()


def test_the_sample_is_known_by_its_delivery_days(sample: Path, tmp_path: Path) -> None:
    to = tmp_path / "sample.yaml"
    guesses = write_first_mapping(sample, to, chosen={}, names=())
    mapping = load_mapping(to)
    assert mapping.events.files == ("ratings/{day}.csv",)
    assert mapping.feedback.model_dump() == {
        "kind": "rating",
        "minimum": 1,
        "maximum": 5,
        "positive_from": 4,
    }
    assert mapping.items.model_dump()["files"] == ("items/{day}.csv",)
    assert mapping.split.valid_days == 10
    assert "a file is known from the midnight that ends it" in str(guesses)


def test_a_duckdb_table_with_an_arrival_column(tmp_path: Path) -> None:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "create schema web; create table web.clicks as select 'u' || i as customer_id, "
            "'p' || i % 7 as product_id, timestamp '2026-01-01' + interval (i) hour as event_time, "
            "timestamp '2026-01-02' + interval (i) hour as loaded_at from range(100) t(i)"
        )
        connection.execute(
            "create table products as select 'p' || i as product_id, "
            "'Product number ' || i as product_name from range(7) t(i)"
        )
    mapping, guesses, _ = init(path)
    assert (mapping.events.format, mapping.events.table) == ("duckdb", "web.clicks")
    assert mapping.events.ingested_at is not None
    assert mapping.events.ingested_at.column == "loaded_at"
    assert mapping.items.model_dump()["table"] == "products"
    assert guesses["items"].value == "shop.duckdb, table products: product_id, product_name"


def test_a_file_without_a_header_is_read_with_the_names_given(tmp_path: Path) -> None:
    (tmp_path / "r.dat").write_text(
        "1::10::5::993945600\n2::10::3::993945601\n1::20::1::993945602\n"
    )
    to = tmp_path / "tidemark.yaml"
    names = ["user_id", "item_id", "rating", "timestamp"]
    write_first_mapping(tmp_path, to, chosen={}, names=names)
    form = load_mapping(to).events.csv_form
    assert (form.delimiter, form.header, form.columns) == ("::", False, tuple(names))


def test_a_packed_csv_is_looked_into(games: Path) -> None:
    (games / "recommendations.csv.gz").write_bytes(gzip.compress(GAMES.encode()))
    (games / "recommendations.csv").unlink()
    mapping, _, _ = init(games)
    assert mapping.events.files == ("recommendations.csv.gz",)


def test_days_in_names_that_events_outrun_are_no_delivery_days(tmp_path: Path) -> None:
    rows = "user_id,item_id,ts\nu1,i1,2026-01-05 10:00:00\nu2,i1,2026-03-05 10:00:00\n"
    for day in ("2026-01-01", "2026-02-01"):
        (tmp_path / f"events-{day}.csv").write_text(rows)
    mapping, guesses, _ = init(tmp_path)
    assert mapping.events.files == ("events-*.csv",)
    assert "events of 2026-03-05 come after 2026-02-01" in guesses["events.files"].why


def test_the_table_of_most_files_holds_the_events(sample: Path) -> None:
    """`truth/events.parquet` has users, items and times too."""
    _, tables = tables_at(sample)
    assert {"ratings/{day}.csv", "truth/events.parquet"} <= {table.pattern for table in tables}


def test_a_quantity_of_zero_or_less_and_rare_letters_are_proposed_as_rules(tmp_path: Path) -> None:
    lines = [f"{n},i{n},3,2026-01-{1 + n % 28:02d},{n}" for n in range(50)]
    header = "InvoiceNo,StockCode,Quantity,InvoiceDate,CustomerID"
    (tmp_path / "sales.csv").write_text("\n".join([header, *lines, "C7,i7,-3,2026-02-01,7", ""]))
    mapping, _, _ = init(tmp_path)
    assert [rule.model_dump(exclude_none=True) for rule in mapping.reject] == [
        {"column": "InvoiceNo", "starts_with": "C", "reason": "cancellation"},
        {"column": "Quantity", "at_most": 0, "reason": "negative quantity"},
    ]
    assert mapping.events.columns.user_id == "CustomerID"


def test_ids_that_pandas_wrote_with_a_point_are_to_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "user_id,item_id,ts\n7.0,1,2026-01-01\n,2,2026-01-02\n8.0,1,2026-01-02\n"
    )
    mapping, guesses, _ = init(tmp_path)
    assert mapping.events.user_id.type == "string"
    assert "whole numbers written as 7.0" in (guesses["user_id"].look or "")


# -- what ends in one line -------------------------------------------------------------------------


def refused(source: Path, **chosen: str) -> str:
    with pytest.raises(SourceError) as error:
        init(source, **chosen)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_mapping_that_is_there_is_never_overwritten(games: Path) -> None:
    (games / "tidemark.toml").write_text("mine")
    said = refused(games)
    assert "tidemark.toml: there is a mapping already, and it is not overwritten" in said
    assert sorted(path.name for path in games.iterdir()) == [
        "games.csv",
        "recommendations.csv",
        "tidemark.toml",
    ]


def test_a_schema_that_is_there_stays(games: Path) -> None:
    (games / "tidemark.schema.json").write_text("mine")
    init(games)
    assert (games / "tidemark.schema.json").read_text() == "mine"


def test_a_source_without_a_user_says_which_columns_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,item_id,ts\nx,1,2026-01-01\ny,2,2026-01-02\n")
    said = refused(tmp_path)
    assert "no column of a.csv looks like user_id; it has who, item_id, ts" in said
    assert said.endswith("--column user_id=NAME")
    assert init(tmp_path, user_id="who")[0].events.columns.user_id == "who"


def test_a_column_that_was_named_and_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("who,item_id,ts\nx,1,2026-01-01\ny,2,2026-01-02\n")
    assert "no column of a.csv looks like user_id" in refused(tmp_path, user_id="wo")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"PAR1 and then nothing", "a.parquet: cannot be read as Parquet"),
        ("a.duckdb", b"01234567DUCK" + bytes(100), "a.duckdb: cannot be opened as DuckDB"),
        ("a.csv", b"", "no Parquet, CSV or DuckDB file with rows was found (1 files looked at)"),
        ("a.csv", b"no delimiter here\n", "no Parquet, CSV or DuckDB file with rows was found"),
        ("a.bin", bytes(range(256)), "no Parquet, CSV or DuckDB file with rows was found"),
    ],
)
def test_a_source_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "none").endswith("none: no such file or folder")


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "no Parquet, CSV or DuckDB file with rows was found (0 files" in refused(tmp_path)


def test_the_command_says_its_guesses_and_its_refusals(games: Path) -> None:
    command = [sys.executable, "-m", "jobs.cli", "init", str(games)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "To settle:" in done.stdout
    assert "is_recommended" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "it is not overwritten" in again.stderr
    wrong = subprocess.run([*command, "--column", "usr=x"], capture_output=True, text=True)
    assert "--column usr=x: expected ROLE=NAME with one of user_id" in wrong.stderr


def test_a_form_that_is_read_as_it_is_needs_no_mapping(sample: Path) -> None:
    with pytest.raises(SourceError, match="read as it is, as domain 'sample'"):
        refuse_built_in(sample)


def test_the_schema_of_the_docs_is_that_of_the_model() -> None:
    """After a change of the model: write the text of `json_schema()` there."""
    assert Path("docs/mapping.schema.json").read_text() == json_schema()


# -- single columns --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "form", "has_zone"),
    [
        (("2026-01-31",), "date", True),
        (("2026-01-31 10:00",), "iso", False),
        (("2026-01-31T10:00:00Z", "2026-01-31T10:00:00+01:00"), "iso", True),
        (("978300760",), "seconds", True),
        (("978300760123",), "milliseconds", True),
        (("978300760123456",), "microseconds", True),
        (("31/12/2026 09:30",), "%d/%m/%Y %H:%M", False),
        (("12/31/2026 09:30:01",), "%m/%d/%Y %H:%M:%S", False),
        (("31.12.2026",), "%d.%m.%Y", False),
        (("Sep 5, 2014",), "%b %d, %Y", False),
    ],
)
def test_the_form_of_a_time(texts: tuple[str, ...], form: str, has_zone: bool) -> None:
    found = time_form(column(*texts))
    assert found is not None
    assert (found.form, found.has_zone) == (form, has_zone)


def test_a_date_that_could_be_read_both_ways_is_to_be_looked_at() -> None:
    found = time_form(column("01/02/2026", "03/04/2026"))
    assert found is not None
    assert found.look == "day and month could be the other way round: %m/%d/%Y"
    settled = time_form(column("01/02/2026", "31/04/2026", "30/04/2026"))
    assert settled is None  # the 31st of April: too few values are dates


@pytest.mark.parametrize("texts", [("1", "2", "3"), ("abc",), ("",), ("99",), ("2026-13-01 1",)])
def test_what_is_no_time(texts: tuple[str, ...]) -> None:
    assert time_form(column(*texts)) is None


@pytest.mark.parametrize(
    ("texts", "is_whole"),
    [(("1", "-7"), True), (("007",), False), (("1", "A2"), False), (("1.0",), False), ((), False)],
)
def test_ids_are_numbers_only_if_they_read_back_the_same(
    texts: tuple[str, ...], is_whole: bool
) -> None:
    assert is_whole_number_id(column(*texts)) is is_whole


def test_names_are_known_in_every_spelling() -> None:
    assert name_score("user_id", "CustomerID") == name_score("user_id", "customer id") > 0
    assert name_score("user_id", "raw_user_id") > name_score("user_id", "country") == 0


@pytest.mark.parametrize(
    ("texts", "sides"),
    [
        (("True", "False"), (["True"], ["False"], True)),
        (("1", "-1"), (["1"], ["-1"], True)),
        (("Y", "N", "N"), (["Y"], ["N"], True)),
        (("good", "bad"), (["good"], ["bad"], False)),
    ],
)
def test_the_sides_of_a_label(
    texts: tuple[str, ...], sides: tuple[list[str], list[str], bool]
) -> None:
    assert label_sides(column(*texts)) == sides


def test_a_parquet_columns_own_types_are_kept(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user_id": pa.array([1, 2, None]),
            "item_id": pa.array(["a", "b", "c"]).dictionary_encode(),
            "ts": pa.array([datetime(2026, 1, 1)] * 3, pa.timestamp("us", "UTC")),
            "day": pa.array([date(2026, 1, 1)] * 3),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    _, (found,) = tables_at(tmp_path)
    assert [(c.kind, c.zone) for c in found.columns] == [
        ("integer", None),
        ("text", None),
        ("timestamp", "UTC"),
        ("date", None),
    ]
    assert found.columns[0].missing_share == pytest.approx(1 / 3)
