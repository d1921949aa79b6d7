"""Features of rows: the job's query beside the same sums written in polars.

    python benchmarks/prepare_features.py --rows 20_000_000 --memory 2GiB

Rows are labelled synthetic events, 20 to 200 a user, items by a power law, 400 days. Both sides
read the same Parquet, sum over (item, day) and (user, day), and write Parquet in the order of the
rows; outputs are compared first, on a tenth of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from side_by_side import Clock, machine, middle, peak_mb, run_alone, write

from jobs.query import Limits, connect, sql_text

K, DAYS, ROUNDS = 5.0, 30, 3
N_DAYS, TRAIN_UNTIL = 400, 380
_BATCH = 65_536


def write_splits(path: Path, n_rows: int) -> None:
    """Rows as `splits` has them, as far as features read them."""
    rng = np.random.default_rng(0)
    counts = rng.integers(20, 201, size=n_rows // 110 + 1)
    users = np.repeat(np.arange(len(counts)), counts)
    items = np.minimum((rng.pareto(0.9, len(users)) * 30).astype(np.int64), 199_999)
    first, span = rng.integers(0, 280, len(counts)), rng.integers(1, 120, len(counts))
    seconds = ((first[users] + rng.random(len(users)) * span[users]) * 86_400).astype(np.int64)
    order = np.lexsort((seconds, users))
    users, items, seconds = users[order], items[order], seconds[order]
    labels = (rng.random(len(users)) < 0.6).astype(np.int8)
    is_train = seconds < TRAIN_UNTIL * 86_400
    schema = pa.schema(
        [
            ("split", pa.string()),
            ("row", pa.int32()),
            ("user_id", pa.int64()),
            ("item_id", pa.int64()),
            ("label", pa.int8()),
            ("rated_at", pa.timestamp("us")),
        ]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for split in ("test", "train"):
            places = np.flatnonzero(is_train == (split == "train"))
            for start in range(0, len(places), _BATCH):
                chosen = places[start : start + _BATCH]
                columns = {
                    "split": [split] * len(chosen),
                    "row": np.arange(start, start + len(chosen), dtype=np.int32),
                    "user_id": users[chosen],
                    "item_id": items[chosen],
                    "label": labels[chosen],
                    "rated_at": np.datetime64("2024-01-01", "us") + seconds[chosen] * 1_000_000,
                }
                writer.write_table(pa.table(columns, schema=schema))


def tidemark(splits: Path, target: Path, memory: str) -> None:
    """The query of the job, in the form in which the job runs it."""
    parameters = {"smoothing": K, "popularity_days": DAYS, "sampled_negatives": False}
    with (
        tempfile.TemporaryDirectory() as spill,
        connect({"splits": splits}, Limits(memory, 1, Path(spill))) as connection,
    ):
        asked = connection.sql(sql_text("prepare/row_features"), params=parameters)
        reader = asked.to_arrow_reader(_BATCH)
        with pq.ParquetWriter(target, reader.schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch)


def in_polars(splits: Path, target: Path, _: str) -> None:
    """The same sums, as a polars user would write them."""
    os.environ["POLARS_MAX_THREADS"] = "1"  # it is read once, as polars is imported
    import polars as pl

    rows = pl.scan_parquet(splits).with_columns(
        pl.col("rated_at").dt.date().alias("day"), (pl.col("split") == "train").alias("is_train")
    )
    end = rows.filter("is_train").select(pl.col("day").max().dt.offset_by("1d")).collect().item()
    rows = rows.with_columns(
        pl.when("is_train")
        .then("day")
        .otherwise(pl.min_horizontal("day", pl.lit(end)))
        .alias("as_of")
    )

    def before(keys: list[str]) -> pl.LazyFrame:
        sums = (
            rows.group_by(*keys, "as_of")
            .agg(
                pl.col("is_train").sum().cast(pl.Int64).alias("n"),
                (pl.col("is_train") & (pl.col("label") == 1)).sum().cast(pl.Int64).alias("p"),
            )
            .sort(*keys, "as_of")
            .with_columns(pl.when(pl.col("n") > 0).then("as_of").alias("seen"))
        )
        window = pl.col("n").rolling_sum_by("as_of", f"{DAYS}d", closed="left")
        columns = {
            "n": pl.col("n").cum_sum() - pl.col("n"),
            "p": pl.col("p").cum_sum() - pl.col("p"),
            "lately": window.fill_null(0),
            "first": pl.col("seen").cum_min().shift(1).forward_fill(),
            "last": pl.col("seen").forward_fill().shift(1),
        }
        over = {
            n: (e.over(keys) if keys else e).alias("_".join([*keys, n])) for n, e in columns.items()
        }
        return sums.select(*keys, "as_of", *over.values())

    days = before([]).with_columns((pl.col("p") / pl.col("n")).fill_nan(0.5).alias("mean"))
    joined = (
        rows.join(days.select("as_of", "mean", "lately"), on="as_of")
        .join(before(["item_id"]), on=["item_id", "as_of"])
        .join(before(["user_id"]), on=["user_id", "as_of"])
    )

    def mean(key: str) -> pl.Expr:
        return ((pl.col(f"{key}_p") + K * pl.col("mean")) / (pl.col(f"{key}_n") + K)).cast(
            pl.Float32
        )

    def since(name: str) -> pl.Expr:
        return (pl.col("as_of") - pl.col(name)).dt.total_days().cast(pl.Int32)

    joined.select(
        "split",
        "row",
        "as_of",
        pl.col("mean").cast(pl.Float32).alias("global_mean"),
        mean("item_id").alias("item_mean"),
        pl.col("item_id_n").cast(pl.Int32).alias("item_count"),
        since("item_id_first").alias("item_age_days"),
        since("item_id_last").alias("item_recency_days"),
        (pl.col("item_id_lately") / pl.max_horizontal("lately", 1))
        .cast(pl.Float32)
        .alias("item_popularity"),
        mean("user_id").alias("user_mean"),
        pl.col("user_id_n").cast(pl.Int32).alias("user_count"),
        since("user_id_last").alias("user_recency_days"),
    ).sort("split", "row").sink_parquet(target)


CONTENDERS = {"tidemark": tidemark, "polars": in_polars}


def refuse_other_answers(folder: Path) -> None:
    """Both sides agree, to the last bits of a float."""
    splits = folder / "small.parquet"
    answers = []
    for name, make in CONTENDERS.items():
        make(splits, folder / f"small-{name}.parquet", "1GiB")
        answers.append(pq.read_table(folder / f"small-{name}.parquet"))
    ours, theirs = answers
    assert ours.num_rows == theirs.num_rows
    for name in ours.column_names:
        one, two = (table[name].to_pandas().to_numpy() for table in (ours, theirs))
        if name in ("split", "as_of"):
            assert (one == two).all(), name
        else:
            np.testing.assert_allclose(
                one.astype(float), two.astype(float), rtol=1e-5, err_msg=name
            )


def main() -> None:
    """Command line; with --alone, one contender in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--memory", default="2GiB", help="limit of DuckDB")
    parser.add_argument("--alone", nargs=2, metavar=("CONTENDER", "SPLITS"))
    given = parser.parse_args()
    if given.alone:
        name, splits = given.alone[0], Path(given.alone[1])
        with Clock() as clock:
            CONTENDERS[name](splits, splits.with_name(f"{name}.parquet"), given.memory)
        said = {"cpu_s": clock.cpu_s, "wall_s": clock.wall_s, "peak_mb": peak_mb()}
        print(json.dumps({key: round(value, 2) for key, value in said.items()}))
        return
    with tempfile.TemporaryDirectory(prefix="tidemark-features-") as name:
        folder = Path(name)
        write_splits(folder / "small.parquet", given.rows // 10)
        refuse_other_answers(folder)
        write_splits(folder / "splits.parquet", given.rows)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
        for turn in range(ROUNDS):
            for contender in list(CONTENDERS)[:: 1 if turn % 2 == 0 else -1]:
                words = ["--alone", contender, str(folder / "splits.parquet")]
                words += ["--memory", given.memory]
                rounds[contender].append(run_alone(__file__, words))
    write(
        "prepare-features.json",
        {
            **machine("duckdb", "polars", "pyarrow", "numpy"),
            "rows": given.rows,
            "memory_limit": given.memory,
            "rounds": ROUNDS,
            "figures": {name: middle(each) for name, each in rounds.items()},
        },
    )


if __name__ == "__main__":
    sys.exit(main())
