"""A night's tables to its figures: everything that metrics.json says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.datasets import CTR_SCORES, SPLITS
from jobs.errors import NotAvailable
from jobs.report.controls import System, controls
from jobs.report.data_quality import data_quality
from jobs.report.evaluate import (
    SLICES,
    Resampling,
    ScoredRows,
    auc_over_time,
    calibration_bins,
    comparisons,
    judge,
    occurrences,
    qualities,
    score_histogram,
    slice_masks,
    strongest,
)
from jobs.report.figures import Neighbourhood, NightMetrics, SystemName, Verdict
from jobs.report.neighbours import neighbourhoods

JUDGED = ("valid", "test")
MODEL_TITLES = {"mf": "Aligned MF"}  # a model that is not here goes by its own name


@dataclass(frozen=True)
class NightTables:
    """What the report reads: the night's datasets and the version's item vectors."""

    scores: pa.Table
    splits: pa.Table
    items: pa.Table
    totals: pa.Table
    quarantined: pa.Table
    item_ids: NDArray[np.generic]
    item_vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """How many resamples, bins and neighbours."""

    resampling: Resampling
    n_bins: int
    n_probes: int
    n_neighbours: int


def _rows_of(table: pa.Table, split: str) -> pa.Table:
    rows = table.filter(pc.equal(table["split"], split))
    return rows.sort_by([("row", "ascending")])


def _check_scores(scores: pa.Table, version: int, model: str) -> None:
    """Two versions' scores never mix, and a report is about the version that it names."""
    versions = pc.unique(scores["version"]).to_pylist()
    if set(versions) - {version}:
        raise NotAvailable(
            f"{CTR_SCORES.name} holds scores of version {versions}, the report was asked for "
            f"version {version}; run job 'score' with --version {version}, or give --version "
            f"{versions[0]} here"
        )
    models = pc.unique(scores["model"]).to_pylist()
    if set(models) - {model}:
        raise NotAvailable(
            f"{CTR_SCORES.name} holds scores of model {models}, the report was asked for {model}"
        )


def _scored_rows(split: str, tables: NightTables, model: str) -> ScoredRows:
    train = _rows_of(tables.splits, "train")
    rows, scored = _rows_of(tables.splits, split), _rows_of(tables.scores, split)
    for column in ("row", "user_id", "item_id", "label"):
        if not rows[column].equals(scored[column]):
            raise NotAvailable(
                f"{CTR_SCORES.name} and {SPLITS.name} differ in '{column}' of the {split} rows "
                f"({scored.num_rows} scored, {rows.num_rows} in the split); run job 'score' again"
            )
    users, items = rows["user_id"].to_numpy(), rows["item_id"].to_numpy()
    train_users, train_items = train["user_id"].to_numpy(), train["item_id"].to_numpy()
    own = System(
        model,
        MODEL_TITLES.get(model, model),
        scored["logit"].to_numpy().astype(np.float64),
        scored["probability"].to_numpy().astype(np.float64),
    )
    labels = train["label"].to_numpy()
    means = controls(train_users, train_items, labels, users, items) if len(labels) else ()
    return ScoredRows(
        split=split,
        users=users,
        labels=rows["label"].to_numpy(),
        days=rows["rated_at"].to_numpy().astype("datetime64[D]"),
        slices=slice_masks(occurrences(train_users, users), occurrences(train_items, items)),
        systems=(own, *means),
    )


def _known_items(tables: NightTables, options: Options) -> list[Neighbourhood]:
    train = _rows_of(tables.splits, "train")
    counts = pc.value_counts(train["item_id"].combine_chunks())
    return neighbourhoods(
        tables.item_ids,
        tables.item_vectors,
        dict(zip(*tables.items.select(["item_id", "title"]).to_pydict().values(), strict=True)),
        dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)),
        n_probes=options.n_probes,
        n_neighbours=options.n_neighbours,
    )


def _verdict(test: ScoredRows, control: System | None, night_so_far: NightMetrics) -> Verdict:
    own = test.systems[0]
    title = f"Version {night_so_far.version} ({own.title})"
    if control is None:
        return judge(title, None, None, [])
    values = [night_so_far.find("test", "all", name) for name in (own.name, control.name)]
    return judge(title, control, night_so_far.compare("test", "all", control.name), values)


def night_metrics(
    tables: NightTables,
    *,
    day: date,
    domains: Sequence[str],
    version: int,
    model: str,
    facts: dict[str, str],
    options: Options,
) -> NightMetrics:
    """Judge a night's model beside the controls, and its data.

    Raises:
        NotAvailable: the scores are not those of these rows or of this version.
    """
    _check_scores(tables.scores, version, model)
    valid, test = (_scored_rows(split, tables, model) for split in JUDGED)
    ordered = strongest(test if len(test.labels) else valid)
    resampling = options.resampling
    control = ordered[0] if ordered else None
    by_name = {rows.split: {s.name: s for s in rows.systems} for rows in (valid, test)}

    def same(rows: ScoredRows) -> System | None:
        return by_name[rows.split][control.name] if control else None

    without_verdict = NightMetrics(
        day=day,
        domain=", ".join(domains),
        version=version,
        model=model,
        facts=facts,
        verdict=judge("", None, None, []),
        systems=[
            SystemName(name=s.name, title=s.title, is_control=s is not test.systems[0])
            for s in (test.systems[0], *ordered)
        ],
        slices=SLICES,
        quality=[q for rows in (valid, test) for q in qualities(rows, resampling)],
        comparisons=[c for rows in (valid, test) for c in comparisons(rows, resampling)],
        periods=[p for rows in (valid, test) for p in auc_over_time(rows, same(rows), resampling)],
        calibration=[
            b
            for rows in (valid, test)
            for b in calibration_bins(
                rows, [s for s in (rows.systems[0], same(rows)) if s], options.n_bins
            )
        ],
        histogram=[b for rows in (valid, test) for b in score_histogram(rows)],
        data=data_quality(tables.totals, tables.quarantined, tables.items, tables.splits),
        neighbourhoods=_known_items(tables, options),
        n_resamples=resampling.n,
    )
    verdict = _verdict(test, control, without_verdict)
    return without_verdict.model_copy(update={"verdict": verdict})
