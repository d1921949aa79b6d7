"""The streaming split against its definition in SQL, on both engines, for ids of both kinds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.check import violations
from jobs.datasets import HISTORIES, SPLITS, Dataset
from jobs.home import Home
from jobs.job import Run
from jobs.prepare import splits
from jobs.prepare.engine import Engine, EngineConfig, open_engine
from jobs.prepare.splits import Sampling, Work, split_tables
from jobs.prepare.splitting import shuffle
from jobs.prepare.splitting.protocols import PROTOCOLS, Terms
from jobs.query import Rows, query

DAY = date(2026, 3, 2)
TERMS = Terms(DAY, 4.0, 10, 10)
ALWAYS = {"since": datetime(1, 1, 1), "until": datetime(9999, 12, 31)}

Made = dict[str, pa.Table]


def events(n_rows: int, *, seed: int = 0, n_users: int = 40, n_items: int = 60) -> pa.Table:
    """Random events of 60 days before DAY, many of one second; unique by key, in no order."""
    rng = np.random.default_rng(seed)
    first = np.datetime64(DAY - timedelta(days=60), "us")
    seconds = rng.integers(60 * 24, size=n_rows) * 3_600
    table = pa.table(
        {
            "user_id": rng.integers(n_users, size=n_rows) * 5 - 40,
            "item_id": rng.integers(n_items, size=n_rows) + 100,
            "rated_at": first + (seconds * 1_000_000).astype("timedelta64[us]"),
        }
    )
    keys = table.group_by(["user_id", "item_id", "rated_at"], use_threads=False).aggregate([])
    n = keys.num_rows
    return (
        keys.append_column("rating", pa.array(rng.integers(1, 6, size=n).astype(np.float32)))
        .append_column("ingested_at", keys["rated_at"])
        .append_column("source_row", pa.array(rng.permutation(n)))
        .take(rng.permutation(n))
    )


def named(table: pa.Table) -> pa.Table:
    """The same with names for ids, in the same order as the numbers."""
    for place, name in enumerate(("user_id", "item_id")):
        names = [f"{name[0]}é{number + 1_000:05d}" for number in table[name].to_pylist()]
        table = table.set_column(place, name, pa.array(names))
    return table


def implicit(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("rating")
    return table.set_column(place, "rating", pa.array(np.full(table.num_rows, 4, np.float32)))


def domain(protocol: str, **values: Any) -> pa.Table:
    """What the checks read of DOMAINS."""
    row = {
        "split_protocol": protocol,
        "positive_rating": 4.0,
        "feedback": "rating",
        "negatives_per_positive": 0,
        **values,
    }
    return pa.Table.from_pylist([row])


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Made]:
    """`made(events, protocol, ...)`: both tables as the job writes them."""

    def make(
        table: pa.Table,
        protocol: str = "rolling",
        *,
        sampling: Sampling | None = None,
        engine: Engine | None = None,
        tables: Mapping[str, Rows] | None = None,
    ) -> Made:
        home = Home(tmp_path / f"home-{len(list(tmp_path.iterdir()))}")
        path = tmp_path / f"events-{len(list(tmp_path.iterdir()))}.parquet"
        pq.write_table(table, path)
        given = {"events": path, **(tables or {})}
        with Run("splits", DAY, EngineConfig(), home) as run:
            folder = run.workspace()
            if engine is None:
                with open_engine(EngineConfig()) as own:
                    done = split_tables(
                        given, PROTOCOLS[protocol], TERMS, sampling, Work(own, folder)
                    )
            else:
                done = split_tables(
                    given, PROTOCOLS[protocol], TERMS, sampling, Work(engine, folder)
                )
            run.write_stream(SPLITS, done.splits_schema, done.splits())
            run.write_stream(HISTORIES, done.histories_schema, done.histories())
        return {d.name: pq.read_table(home.output(d, DAY), partitioning=None) for d in OUTPUTS}

    return make


OUTPUTS: tuple[Dataset, ...] = (SPLITS, HISTORIES)


def defined(table: pa.Table, protocol: str, tables: Mapping[str, Rows] | None = None) -> Made:
    """Both tables by their definitions in SQL."""
    chosen = PROTOCOLS[protocol]
    parameters = chosen.parameters(TERMS) | (ALWAYS if chosen.is_divisible else {})
    labelled = query(chosen.query, {"events": table, **(tables or {})}, **parameters)
    given = {"labelled": labelled}
    return {
        "splits": query("prepare/splits", given, is_strict=chosen.is_strict),
        "histories": query("prepare/histories", given),
    }


def found(tables: Made, table: pa.Table, of: pa.Table) -> list[str]:
    """Violations of both checks."""
    given = {**tables, "events": table, "domains": of}
    return [v for d in OUTPUTS for v in violations(d, given)["violation"].to_pylist()]


@pytest.mark.parametrize("n_rows", [1, 30, 3_000])
def test_the_rolling_split_is_what_its_definition_says(
    made: Callable[..., Made], n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "SLICE_ROWS", 500)
    monkeypatch.setattr(shuffle, "SAMPLE_EVERY", 10)
    table = events(n_rows)
    assert made(table) == defined(table, "rolling")


def test_the_amazon_book_split_is_what_its_definition_says(made: Callable[..., Made]) -> None:
    table = events(6_000, n_users=30, n_items=40)
    earlier = pc.subtract(table["rated_at"], pa.scalar(timedelta(days=2_982)))
    table = table.set_column(2, "rated_at", earlier)
    result = made(table, "published-amazon-book")
    assert set(result["splits"]["split"].to_pylist()) > {"train"}
    assert result == defined(table, "published-amazon-book")
    assert found(result, table, domain("published-amazon-book")) == []


def test_the_published_movielens_split_is_what_its_definition_says(
    made: Callable[..., Made],
) -> None:
    table = events(2_000)
    earlier = pc.subtract(table["rated_at"], pa.scalar(timedelta(days=8_700)))
    table = table.set_column(2, "rated_at", earlier)
    ids = table["item_id"].unique()
    first_rows = pa.array(np.random.default_rng(1).permutation(len(ids)))
    tables = {"items": pa.table({"item_id": ids, "first_row": first_rows})}
    result = made(table, "published-ml-1m", tables=tables)
    assert result["splits"].num_rows
    assert result == defined(table, "published-ml-1m", tables)


def test_names_for_ids_give_the_same_rows(made: Callable[..., Made]) -> None:
    table = events(2_000)
    numbers, names = made(table), made(named(table))
    for column in ("split", "row", "label", "rated_at", "history_end", "is_warm"):
        assert names["splits"][column] == numbers["splits"][column]
    assert names["splits"].schema.field("user_id").type == pa.string()
    assert names == defined(named(table), "rolling")


def test_each_users_last_two_positives_are_left_out(made: Callable[..., Made]) -> None:
    table = events(3_000, n_users=300)
    result = made(table, "leave-one-out")
    by_user: dict[int, list[dict[str, Any]]] = {}
    order = [(name, "ascending") for name in ("user_id", "rated_at", "source_row")]
    for row in table.sort_by(order).to_pylist():
        by_user.setdefault(row["user_id"], []).append(row)
    expected = {}
    for user, rows in by_user.items():
        positives = [n for n, row in enumerate(rows) if row["rating"] >= 4]
        valid, test = positives[-2:] if len(positives) > 2 else (len(rows), len(rows))
        for n, row in enumerate(rows):
            split = "test" if n >= test else "valid" if n >= valid else "train"
            key = (user, row["item_id"], row["rated_at"])
            seen = sum(1 for p in positives if rows[p]["rated_at"] < row["rated_at"])
            expected[key] = (split, seen)
    assert {
        (r["user_id"], r["item_id"], r["rated_at"]): (r["split"], r["history_end"])
        for r in result["splits"].to_pylist()
    } == expected
    assert found(result, table, domain("leave-one-out")) == []


@pytest.mark.parametrize("protocol", ["rolling", "leave-one-out"])
def test_sampled_negatives_pass_the_checks_and_nothing_else_moves(
    made: Callable[..., Made], protocol: str
) -> None:
    table = implicit(events(2_000))
    plain = made(table, protocol)
    result = made(table, protocol, sampling=Sampling(2, 0.75, 0))
    of = domain(protocol, feedback="implicit", negatives_per_positive=2)
    assert found(result, table, of) == []
    positives = result["splits"].filter(pc.equal(result["splits"]["label"], 1))
    columns = ["split", "user_id", "item_id", "rated_at", "history_end"]
    assert positives.select(columns) == plain["splits"].select(columns)
    assert result["histories"] == plain["histories"]
    assert result["splits"].num_rows > 2.9 * table.num_rows


def test_a_names_negatives_do_not_depend_on_who_else_has_a_name(made: Callable[..., Made]) -> None:
    """An item with an event of its own at the end shifts all later numbers, and no draw."""
    table = named(implicit(events(800)))
    late = table.slice(0, 1).to_pylist()[0] | {
        "user_id": "a",
        "item_id": "a",
        "rated_at": datetime(2026, 3, 1, 23, 59, 59),
        "source_row": 10_000,
    }
    more = pa.concat_tables([table, pa.Table.from_pylist([late], schema=table.schema)])
    sampling = Sampling(1, 0.0, 0)
    rows = [made(each, sampling=sampling)["splits"] for each in (table, more)]
    others = rows[1].filter(pc.not_equal(rows[1]["user_id"], "a"))
    columns = ["split", "user_id", "item_id", "rated_at"]
    assert others.select(columns) == rows[0].select(columns)


@pytest.mark.parametrize(
    ("where", "values", "violation"),
    [
        ("first negative", {"item_id": "a positive"}, "is a positive of the user"),
        ("first negative", {"item_id": -1}, "was not seen by then"),
        ("first negative", {"rated_at": "later"}, "does not follow its positive"),
        ("first positive", {"label": 0}, "does not follow its positive"),
    ],
)
def test_a_wrong_negative_is_found(
    made: Callable[..., Made], where: str, values: dict[str, Any], violation: str
) -> None:
    table = implicit(events(300))
    result = made(table, sampling=Sampling(1, 0.75, 0))
    rows = result["splits"].to_pylist()
    label = 0 if where == "first negative" else 1
    row = next(row for row in rows if row["label"] == label)
    liked = next(r["item_id"] for r in rows if r["label"] and r["user_id"] == row["user_id"])
    said = {"a positive": liked, "later": row["rated_at"] + timedelta(microseconds=1)}
    row.update({name: said.get(value, value) for name, value in values.items()})
    result["splits"] = pa.Table.from_pylist(rows, schema=result["splits"].schema)
    of = domain("rolling", feedback="implicit", negatives_per_positive=1)
    assert any(violation in message for message in found(result, table, of))


def test_more_negatives_than_asked_for_are_found(made: Callable[..., Made]) -> None:
    table = implicit(events(300))
    result = made(table, sampling=Sampling(2, 0.75, 0))
    of = domain("rolling", feedback="implicit", negatives_per_positive=1)
    assert "more sampled negatives than asked for" in found(result, table, of)


def test_dask_writes_the_same_tables_and_so_it_does_when_a_worker_is_killed(
    made: Callable[..., Made], tmp_path: Path
) -> None:
    """One cluster for all: it takes a second to start. The kill comes last."""
    numbers, names = events(4_000), named(implicit(events(1_500)))
    sampling = Sampling(1, 0.75, 3)
    expected = made(numbers), made(names, sampling=sampling), made(numbers, "leave-one-out")
    with open_engine(EngineConfig(engine="dask")) as engine:
        assert expected == (
            made(numbers, engine=engine),
            made(names, sampling=sampling, engine=engine),
            made(numbers, "leave-one-out", engine=engine),
        )
        pids = sorted(set(engine.map(_pid_of, range(40))))
        killer = Thread(target=_kill_in_the_middle, args=(pids[0], tmp_path))
        killer.start()
        assert made(numbers, engine=engine) == expected[0]
        killer.join()
        assert pids[0] not in set(engine.map(_pid_of, range(40)))


def _pid_of(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def _kill_in_the_middle(pid: int, below: Path) -> None:
    """As soon as the first slice is there, and long before the last range."""
    deadline = time.monotonic() + 60
    while not list(below.rglob("scan-*.arrow")) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
