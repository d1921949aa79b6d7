"""A night small enough to know: a planted matrix factorisation, published, scored, reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedding_store import EmbeddingStore, TableSpec
from embedding_store.lookup import open_version
from embedding_store.review import Review
from jobs.check import check
from jobs.datasets import (
    ARRIVALS,
    CTR_SCORES,
    DOMAINS,
    EVENT_TOTALS,
    HISTORIES,
    ITEMS,
    QUARANTINED_EVENTS,
    SPLITS,
    Dataset,
)
from jobs.home import Home
from jobs.job import Config, Outcome, Run, execute, mark_checked
from jobs.report import report as report_job
from jobs.score import candidates, ctr_scores
from tests.one_domain import one_domain

N_USERS, N_ITEMS, DIM = 24, 16, 3
GLOBAL_BIAS = 0.25
COLD_USER, COLD_ITEM = N_USERS - 1, N_ITEMS - 1  # the version does not hold them
EVIL = '<script>alert("1")</script><img src="x" onerror="alert(2)">'
_FIRST = np.datetime64("2026-01-01T12:00:00", "us")
_PERIODS = {"train": (0, 30), "valid": (30, 40), "test": (40, 50)}


@dataclass(frozen=True)
class Truth:
    """The planted model: (N_USERS, DIM), (N_ITEMS, DIM) factors and biases; cold rows are zero."""

    user_factors: np.ndarray
    item_factors: np.ndarray
    user_biases: np.ndarray
    item_biases: np.ndarray

    def logits(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """One row at a time, in plain Python floats."""
        return np.array(
            [
                GLOBAL_BIAS
                + self.user_biases[u]
                + self.item_biases[i]
                + sum(float(a) * float(b) for a, b in zip(*self._factors(u, i), strict=True))
                for u, i in zip(users, items, strict=True)
            ]
        )

    def _factors(self, u: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.user_factors[u], self.item_factors[i]


def planted(seed: int = 0) -> Truth:
    random = np.random.default_rng(seed)
    sizes = ((N_USERS, DIM), (N_ITEMS, DIM), (N_USERS,), (N_ITEMS,))
    arrays = [random.normal(0, 1.2, size).astype(np.float32) for size in sizes]
    for place, cold in enumerate((COLD_USER, COLD_ITEM, COLD_USER, COLD_ITEM)):
        arrays[place][cold] = 0
    return Truth(*arrays)


def ids(prefix: str, numbers: np.ndarray, *, as_text: bool) -> pa.Array:
    """Ids that sort as their numbers do, as the source would have them."""
    if as_text:
        return pa.array([f"{prefix}-{n:03d}" for n in numbers])
    return pa.array(10 * np.asarray(numbers) + 5, pa.int64())


def splits(truth: Truth, without: tuple[str, ...], *, as_text: bool) -> pa.Table:
    random = np.random.default_rng(1)
    parts = []
    for split, (first, last) in _PERIODS.items():
        n = 0 if split in without else 20 * (last - first)
        # Cold ids appear after training alone, so that they are cold to the controls too.
        spare = 1 if split == "train" else 0
        users = random.integers(0, N_USERS - spare, n)
        items = random.integers(0, N_ITEMS - spare, n)
        chance = 1 / (1 + np.exp(-truth.logits(users, items)))
        seconds = np.sort(random.integers(first * 86_400, last * 86_400, n))
        parts.append(
            pa.table(
                {
                    "split": pa.array([split] * n, pa.string()),
                    "row": pa.array(range(n), pa.int32()),
                    "user_id": ids("u", users, as_text=as_text),
                    "item_id": ids("i", items, as_text=as_text),
                    "label": pa.array((random.random(n) < chance).astype(np.int8)),
                    "rated_at": pa.array(_FIRST + seconds.astype("timedelta64[s]")),
                    "history_end": pa.array([0] * n, pa.int32()),
                    "is_warm": pa.array((users != COLD_USER) & (items != COLD_ITEM)),
                }
            ).cast(_schema(as_text=as_text))
        )
    return pa.concat_tables(parts)


def _schema(*, as_text: bool) -> pa.Schema:
    key = pa.string() if as_text else pa.int64()
    types = (
        pa.string(),
        pa.int32(),
        key,
        key,
        pa.int8(),
        pa.timestamp("us"),
        pa.int32(),
        pa.bool_(),
    )
    return pa.schema(list(zip(SPLITS.columns, types, strict=True)))


def _commit(home: Home, day: date, name: str, tables: list[tuple[Dataset, pa.Table]]) -> None:
    def job(config: Config, run: Run) -> None:
        for dataset, table in tables:
            run.write(dataset, table)

    execute(name, Config(), day, home, job, force=True)
    for dataset, _ in tables:
        mark_checked(home, dataset, day)


def _ingested(rows: pa.Table, titles: pa.Table) -> list[tuple[Dataset, pa.Table]]:
    n = rows.num_rows
    quarantined = {
        "kind": ["event", "event", "event"],
        "source_file": ["late.csv", "late.csv", "day.csv"],
        "line": pa.array([7, 3, 4], pa.int64()),
        "reason": ["out of range", "out of range", "too few fields"],
        "column": pa.array(["rating", "rating", None], pa.string()),
        "value": pa.array(["9", "9", None], pa.string()),
        "raw": [EVIL, "1,2,9", "1,2"],
        "known_day": pa.array([None] * 3, pa.date32()),
        "source_row": pa.array([7, 3, 4], pa.int64()),
    }
    counts = {
        "n_rows_in": n + 3,
        "n_events": n,
        "n_quarantined": 3,
        "n_late": 0,
        "n_users": pc.count_distinct(rows["user_id"]).as_py(),
        "n_items": pc.count_distinct(rows["item_id"]).as_py(),
        "n_catalogue": titles.num_rows,
    }
    times = pc.min_max(rows["rated_at"])
    totals = {
        "as_of": pa.array([rows["rated_at"][0].as_py()]).cast(pa.date32()),
        **{name: pa.array([count], pa.int64()) for name, count in counts.items()},
        "first_event": pa.array([times["min"].as_py()], pa.timestamp("us")),
        "last_event": pa.array([times["max"].as_py()], pa.timestamp("us")),
    }
    return [
        (DOMAINS, one_domain(split_protocol="days")),
        (ARRIVALS, _arrivals(n)),
        (ITEMS, titles),
        (QUARANTINED_EVENTS, pa.table(quarantined)),
        (EVENT_TOTALS, pa.table(totals)),
    ]


def _arrivals(n: int) -> pa.Table:
    """Rows that no clock dates, and those of two days."""
    counts = {"n_rows": [n - 4, 3, 4], "n_events": [n - 4, 2, 2], "n_quarantined": [0, 1, 2]}
    nothing = {name: [0, 0, 0] for name in ("n_late", "n_corrections", "n_released")}
    days = [date(1970, 1, 1), date(2026, 3, 1), date(2026, 3, 2)]
    columns = {name: pa.array(values, pa.int64()) for name, values in (counts | nothing).items()}
    return pa.table({"known_day": days, **columns}).select(list(ARRIVALS.columns or ()))


def _factor_table(key: str, names: pa.Array, factors: np.ndarray, biases: np.ndarray) -> TableSpec:
    n = len(names)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(factors[:n].ravel()), DIM)
    rows = {
        key: names,
        "factor": vectors,
        "bias": pa.array(biases[:n]),
        "n_events": pa.array([1] * n, pa.int32()),
    }
    return TableSpec(pa.table(rows), key=key, vector="factor")


def publish(
    home: Home,
    day: date,
    truth: Truth,
    *,
    as_text: bool,
    run_key: str = "one",
    files: dict[str, Path] | None = None,
    review: Review | None = None,
) -> int:
    """The planted model as a version of the store; its last user and item are unknown to it."""
    users = ids("u", np.arange(COLD_USER), as_text=as_text)
    items = ids("i", np.arange(COLD_ITEM), as_text=as_text)
    everything = ids("i", np.arange(N_ITEMS), as_text=as_text)
    angles = np.arange(N_ITEMS) * 0.1  # neighbours in number are neighbours in angle
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    semantics = {
        "item_id": everything,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 2),
    }
    return EmbeddingStore(home.store).publish(
        {
            "user_factors": _factor_table("user_id", users, truth.user_factors, truth.user_biases),
            "item_factors": _factor_table("item_id", items, truth.item_factors, truth.item_biases),
            "item_semantics": TableSpec(pa.table(semantics), key="item_id", vector="vector"),
        },
        run_key=run_key,
        day=day,
        space={"backbone": "planted", "dim": 2},
        files=files,
        attributes={"global_bias": GLOBAL_BIAS},
        review=(lambda _: review) if review else None,
    )


def prepare(
    home: Home,
    day: date,
    *,
    as_text: bool = False,
    without: tuple[str, ...] = (),
    title: Callable[[int], str] = "Film {}".format,
    run_key: str = "one",
    review: Review | None = None,
    fitted: Truth | None = None,
) -> tuple[Truth, int]:
    """Everything up to and with publish; returns the truth and the version.

    `fitted` is published instead of the truth that the labels are drawn from.
    """
    truth = planted()
    rows = splits(truth, without, as_text=as_text)
    catalogue = pa.table(
        {
            "item_id": ids("i", np.arange(N_ITEMS), as_text=as_text),
            "title": [title(n) for n in range(N_ITEMS)],
            "first_row": pa.array(range(N_ITEMS), pa.int64()),
        }
    )
    _commit(home, day, "ingest", _ingested(rows, catalogue))
    users = pc.unique(rows["user_id"])
    item_lists = pa.array([[]] * len(users), pa.list_(rows.schema.field("item_id").type))
    histories = pa.table({"user_id": users, "item_ids": item_lists})
    _commit(home, day, "splits", [(SPLITS, rows), (HISTORIES, histories)])
    model = truth if fitted is None else fitted
    return truth, publish(home, day, model, as_text=as_text, run_key=run_key, review=review)


def blurred(truth: Truth, seed: int, noise: float) -> Truth:
    """The truth with noise on its factors: a worse model of the same labels."""
    random = np.random.default_rng(seed)
    arrays = (truth.user_factors, truth.item_factors, truth.user_biases, truth.item_biases)
    return Truth(*(a + random.normal(0, noise, a.shape).astype(np.float32) for a in arrays))


def score(home: Home, day: date, version: int) -> None:
    """Candidates, their scores, and the checks of both."""
    chosen = candidates.CandidatesConfig(version=version)
    execute("candidates", chosen, day, home, candidates.job)
    check("candidates", day, home)
    execute("score", ctr_scores.ScoreConfig(version=version), day, home, ctr_scores.job)
    check("score", day, home)


def add_models(home: Home, day: date, version: int) -> None:
    """Beside the factors a poor LLM, and the blend of both; and two candidates without a label."""
    config = ctr_scores.ScoreConfig(version=version)
    result = {"version": version, "version_sha256": _sha256(home, version)}

    def job(_: Config, run: Run) -> None:
        rows = pq.read_table(home.output(CTR_SCORES, day), partitioning=None)
        own = rows["logit"].to_numpy()
        noise = np.random.default_rng(5).normal(0, 2, len(own)).astype(np.float32)
        tables = [rows, _by("llm", rows, noise), _by("fused", rows, 0.9 * own + 0.1 * noise)]
        for model in ("mf", "llm", "fused"):
            tables.append(_unlabelled(rows.slice(0, 2), model))
        run.write(CTR_SCORES, pa.concat_tables(tables))
        run.result = result

    execute("score", config, day, home, job, force=True)
    mark_checked(home, CTR_SCORES, day)


def _sha256(home: Home, version: int) -> str:
    return open_version(home.store, version).manifest_sha256


def _by(model: str, rows: pa.Table, logits: np.ndarray) -> pa.Table:
    said = {
        "model": pa.array([model] * len(logits)),
        "logit": pa.array(logits.astype(np.float32)),
        "probability": pa.array((1 / (1 + np.exp(-logits))).astype(np.float32)),
    }
    columns = {name: said.get(name, rows[name]) for name in rows.schema.names}
    return pa.table(columns)


def _unlabelled(rows: pa.Table, model: str) -> pa.Table:
    said = {
        "split": pa.array(["top_k"] * rows.num_rows),
        "row": pa.array(range(rows.num_rows), pa.int32()),
        "label": pa.nulls(rows.num_rows, pa.int8()),
        "model": pa.array([model] * rows.num_rows),
    }
    return pa.table({name: said.get(name, rows[name]) for name in rows.schema.names})


def report(
    home: Home, day: date, version: int, *, force: bool = False, **settings: object
) -> Outcome:
    """The report alone, on what was scored."""
    config = report_job.ReportConfig.model_validate(
        {"version": version, "n_resamples": 100, **settings}
    )
    return execute(
        "report",
        config,
        day,
        home,
        report_job.job,
        sources=report_job.sources,
        intact=report_job.intact,
        force=force,
    )


def scored_and_reported(home: Home, day: date, version: int, **settings: object) -> Outcome:
    """Candidates, scores, their checks, and the report."""
    score(home, day, version)
    return report(home, day, version, **settings)
