"""Splits and histories at warehouse size, beside polars, DuckDB's windows and the machine's limit.

    python benchmarks/prepare_splits.py /tmp/events --rows 20_000_000
    python benchmarks/prepare_splits.py /tmp/events --rows 100_000_000 --alone
    python benchmarks/prepare_splits.py /tmp/events --heavy

Reads events as Parquet in time order (made by benchmarks/prepare_events.py if they are not there)
and writes both tables as Parquet, each contender in a process of its own with two threads, in the
order A B B A. Equal content is checked first. `tidemark` is what the job does, contract checks and
sha256 included. `polars` is one lazy query on the streaming engine: a sort, then running sums of
the whole column from which each user's start is taken off, no window; faster than `over`, and than
in-memory. `limit` reads the columns, sorts one key column and writes the finished tables. With
--definition the job runs once beside the definition in sql/prepare, with its windows, and DuckDB's
external sort alone; with --alone only the job and its checks run; with --heavy one user has all the
events. Writes benchmarks/results/prepare-*.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import side_by_side
from prepare_events import write_events

DAY = date(2024, 12, 31)
HELD_OUT_DAYS = 10
MEMORY = "1GiB"
OUTPUTS = ("splits", "histories")
EVENT_COLUMNS = ["user_id", "item_id", "rating", "rated_at", "source_row"]


def files_of(folder: Path) -> list[Path]:
    """The events."""
    return sorted(folder.glob("*.parquet"))


# -- contenders, each alone in its process ---------------------------------------------------------


def tidemark(events: Path, output: Path) -> dict[str, Any]:
    """The job from the events on, through `Run`: staged, checked, hashed."""
    from jobs.datasets import HISTORIES, SPLITS
    from jobs.home import Home
    from jobs.job import Run
    from jobs.prepare.arrivals.ahead import ahead
    from jobs.prepare.engine import open_engine
    from jobs.prepare.splits import SplitsConfig, Work, split_tables
    from jobs.prepare.splitting.protocols import PROTOCOLS, Terms

    config, home = SplitsConfig(), Home(output / "home")
    terms = Terms(DAY, 4.0, HELD_OUT_DAYS, HELD_OUT_DAYS)
    with side_by_side.Clock() as clock, Run("splits", DAY, config, home) as run:
        with open_engine(config) as engine:
            made = split_tables(
                {"events": files_of(events)},
                PROTOCOLS["rolling"],
                terms,
                None,
                Work(engine, run.workspace()),
            )
        run.write_stream(SPLITS, made.splits_schema, ahead(made.splits()))
        run.write_stream(HISTORIES, made.histories_schema, ahead(made.histories()))
    for dataset in (SPLITS, HISTORIES):
        home.output(dataset, DAY).replace(output / f"{dataset.name}.parquet")
    return vars(clock)


def polars(events: Path, output: Path) -> dict[str, Any]:
    """The fastest of the formulations tried; see the head of this file."""
    import polars as pl

    midnight = datetime(DAY.year, DAY.month, DAY.day)
    test = midnight - timedelta(days=HELD_OUT_DAYS)
    valid = test - timedelta(days=HELD_OUT_DAYS)
    codes = {"test": 0, "train": 1, "valid": 2}
    code = (
        pl.when(pl.col("rated_at") >= test)
        .then(pl.lit(0, pl.Int8))
        .when(pl.col("rated_at") >= valid)
        .then(pl.lit(2, pl.Int8))
        .otherwise(pl.lit(1, pl.Int8))
    )

    def changes(name: str) -> Any:
        return (pl.col(name) != pl.col(name).shift()).fill_null(True)

    def since(start: str) -> Any:
        return pl.when(start).then("before").forward_fill()

    with side_by_side.Clock() as clock:
        rows = (
            pl.scan_parquet(files_of(events))
            .filter(pl.col("rated_at") < midnight)
            .select(
                "user_id",
                "item_id",
                (pl.col("rating") >= 4).cast(pl.Int8).alias("label"),
                "rated_at",
                "source_row",
                code.alias("code"),
            )
        )
        items = rows.filter(pl.col("code") == 1).select("item_id").unique()
        train_items = items.collect(engine="streaming")["item_id"].implode()
        ordered = (
            rows.sort("user_id", "rated_at", "source_row")
            .with_columns(
                (pl.col("label").cast(pl.Int32).cum_sum() - pl.col("label")).alias("before"),
                changes("user_id").alias("is_user"),
                (changes("user_id") | changes("rated_at")).alias("is_moment"),
            )
            .with_columns(
                (since("is_moment") - since("is_user")).alias("history_end"),
                # Time order: a user's first row is train, or the user has no train row.
                pl.when("is_user").then(pl.col("code") == 1).forward_fill().alias("has_train"),
            )
        )

        def part(name: str) -> Any:
            is_warm = pl.col("has_train") & pl.col("item_id").is_in(train_items)
            return ordered.filter(pl.col("code") == codes[name]).select(
                pl.lit(name).alias("split"),
                pl.int_range(pl.len(), dtype=pl.Int32).alias("row"),
                "user_id",
                "item_id",
                "label",
                "rated_at",
                "history_end",
                (pl.lit(True) if name == "train" else is_warm).alias("is_warm"),
            )

        positives = pl.col("item_id").filter(pl.col("label") == 1).alias("item_ids")
        made = {
            "splits": pl.concat([part(name) for name in codes]),
            "histories": ordered.group_by("user_id", maintain_order=True).agg(positives),
        }
        sinks = [
            frame.sink_parquet(
                output / f"{name}.parquet", compression="zstd", compression_level=1, lazy=True
            )
            for name, frame in made.items()
        ]
        pl.collect_all(sinks, engine="streaming")
    return vars(clock)


def sql(events: Path, output: Path) -> dict[str, Any]:
    """The definition: windows and list aggregates in DuckDB."""
    from jobs.query import Limits, connect, sql_text

    limits = Limits(memory="8GiB", threads=2)
    parameters = {
        "day": DAY,
        "positive_rating": 4.0,
        "valid_days": HELD_OUT_DAYS,
        "test_days": HELD_OUT_DAYS,
        "since": datetime(1, 1, 1),
        "until": datetime(9999, 12, 31),
    }
    with side_by_side.Clock() as clock:
        labelled = output / "labelled.parquet"
        with connect({"events": files_of(events)}, limits) as connection:
            query = connection.sql(sql_text("prepare/labelled_rolling"), params=parameters)
            _write(query.to_arrow_reader(500_000), labelled)
        with connect({"labelled": labelled}, limits) as connection:
            for name, given in (("splits", {"is_strict": True}), ("histories", None)):
                query = connection.sql(sql_text(f"prepare/{name}"), params=given)
                _write(query.to_arrow_reader(500_000), output / f"{name}.parquet")
    return vars(clock)


def sort(events: Path, _: Path) -> dict[str, Any]:
    """Rows by user and time out of DuckDB's external sort, and nothing done with them."""
    from jobs.query import connect

    with side_by_side.Clock() as clock, connect({"events": files_of(events)}) as connection:
        query = connection.sql(
            "select user_id, item_id, (rating >= 4)::tinyint as label, rated_at from events "
            "order by user_id, rated_at, source_row"
        )
        for _ in query.to_arrow_reader(500_000):
            pass
    return vars(clock)


def limit(events: Path, output: Path) -> dict[str, Any]:
    """Read the events' columns, sort one of them, write the tables as they are."""
    import numpy as np

    tables = {name: pq.read_table(output / f"{name}.parquet") for name in OUTPUTS}
    with side_by_side.Clock() as clock:
        read = pq.read_table(files_of(events), columns=EVENT_COLUMNS)
        np.sort(read["user_id"].to_numpy())
        for name, table in tables.items():
            _write(table.to_reader(65_536), output / f"{name}-limit.parquet")
    return vars(clock)


def _write(reader: pa.RecordBatchReader, path: Path) -> None:
    with pq.ParquetWriter(
        path, reader.schema, compression="zstd", use_dictionary=["split"], write_page_checksum=True
    ) as writer:
        for batch in reader:
            writer.write_batch(batch, row_group_size=65_536)


def checks(events: Path, output: Path) -> dict[str, Any]:
    """The two queries of sql/checks that follow the job."""
    from jobs.check import violations
    from jobs.datasets import HISTORIES, SPLITS

    domain = {"split_protocol": "rolling", "positive_rating": 4.0, "feedback": "rating"}
    given = {name: output / f"{name}.parquet" for name in OUTPUTS}
    domains = pa.Table.from_pylist([{**domain, "negatives_per_positive": 0}])
    with side_by_side.Clock() as clock:
        for dataset in (SPLITS, HISTORIES):
            found = violations(dataset, {"domains": domains, "events": files_of(events), **given})
            assert found.num_rows == 0, found.slice(0, 5).to_pylist()
    return vars(clock)


CONTENDERS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "tidemark": tidemark,
    "polars": polars,
    "sql": sql,
    "sort": sort,
    "limit": limit,
    "checks": checks,
}


def _expect_equal(one: Path, other: Path) -> None:
    """Both tables hold the same rows in the same order; column by column, for memory."""
    for table in (f"{name}.parquet" for name in OUTPUTS):
        for name in pq.read_schema(one / table).names:
            is_equal = _column(one / table, name).equals(_column(other / table, name))
            assert is_equal, f"{table} differs in {name}"


def _column(path: Path, name: str) -> pa.ChunkedArray:
    column = pq.read_table(path, columns=[name])[name]
    wanted = {"split": pa.string(), "item_ids": pa.list_(pa.int64())}.get(name, column.type)
    return column.cast(wanted)


# -- rounds ----------------------------------------------------------------------------------------


def run(name: str, events: Path, output: Path) -> dict[str, Any]:
    """One contender, once."""
    output.mkdir(parents=True, exist_ok=True)
    arguments = ["one", name, str(events), str(output)]
    figures = side_by_side.run_alone(__file__, arguments, threads=2)
    print(f"{name}: {figures}", file=sys.stderr, flush=True)
    return figures


def compare(events: Path, scratch: Path, n_rounds: int) -> dict[str, Any]:
    """All contenders, the two that matter in turns."""
    folders = {name: scratch / name for name in ("tidemark", "polars")}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in ("tidemark", "polars", "limit")}
    for n in range(n_rounds):
        for name in ("tidemark", "polars", "polars", "tidemark"):
            rounds[name].append(run(name, events, folders[name]))
            if n == 0 and len(rounds["polars"]) == 1:
                _expect_equal(*folders.values())
        rounds["limit"].append(run("limit", events, folders["tidemark"]))
    return {
        "equal": "splits and histories of tidemark and polars",
        "rounds": {name: side_by_side.middle(each) for name, each in rounds.items()},
        "once": {"checks": run("checks", events, folders["tidemark"])},
    }


def definition(events: Path, scratch: Path) -> dict[str, Any]:
    """The job against its definition in SQL, and DuckDB's sort alone, once each."""
    folders = {name: scratch / name for name in ("tidemark", "sql", "sort")}
    once = {name: run(name, events, folder) for name, folder in folders.items()}
    _expect_equal(folders["tidemark"], folders["sql"])
    return {"equal": "splits and histories of tidemark and sql", "once": once}


def alone(events: Path, scratch: Path) -> dict[str, Any]:
    """The job and its checks, once."""
    return {name: run(name, events, scratch / "tidemark") for name in ("tidemark", "checks")}


def heavy(scratch: Path) -> dict[str, Any]:
    """One user with more and more events, none of anybody else; least of five."""
    found = {}
    for n_events in (25_000, 50_000, 100_000, 1_000_000):
        events = scratch / f"heavy-{n_events}"
        if not events.exists():
            write_events(events, 0, heavy=n_events)
        runs = [run("tidemark", events, scratch / "tidemark") for _ in range(5)]
        found[f"{n_events:,} events"] = {
            key: min(one[key] for one in runs) for key in ("cpu_s", "wall_s", "peak_mb")
        }
    return found


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["one"]:
        name, events, output = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
        found = CONTENDERS[name](events, output)
        figures = {k: round(v, 3) for k, v in found.items() if not k.startswith("_")}
        print(json.dumps({**figures, "peak_mb": round(side_by_side.peak_mb())}))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("events", type=Path, help="folder of the events")
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--alone", action="store_true", help="only the job and its checks, once")
    parser.add_argument("--definition", action="store_true", help="beside the SQL, once")
    parser.add_argument("--heavy", action="store_true", help="one user with many events")
    parser.add_argument("--rounds", type=int, default=3, help="of A B B A")
    given = parser.parse_args()
    os.environ |= {
        "POLARS_MAX_THREADS": "2",
        "TIDEMARK_THREADS": "2",
        "TIDEMARK_MEMORY_LIMIT": MEMORY,
    }
    scratch = given.events.parent / f"{given.events.name}-scratch"
    if not given.heavy and not given.events.exists():
        write_events(given.events, given.rows)
    size = f"{given.rows // 1_000_000}m"
    if given.heavy:
        name, found = "prepare-heavy-user.json", heavy(scratch)
    elif given.alone:
        name, found = f"prepare-splits-{size}.json", alone(given.events, scratch)
    elif given.definition:
        name, found = f"prepare-splits-definition-{size}.json", definition(given.events, scratch)
    else:
        name = f"prepare-splits-{size}.json"
        found = compare(given.events, scratch, given.rounds)
    facts = side_by_side.machine("duckdb", "numpy", "polars", "pyarrow")
    limits = {"threads": 2, "duckdb_memory_limit": MEMORY}
    side_by_side.write(name, {**facts, **limits, **found})
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
