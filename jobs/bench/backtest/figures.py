"""The schema of backtest.json, and how its figures come from scores and outcomes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from jobs.bench.backtest.beside import title_of
from jobs.bench.backtest.nights import NightRecord
from jobs.bench.backtest.outcomes import between, outcomes
from jobs.bench.backtest.plan import Folder, Plan
from jobs.bench.backtest.scores import CONTROL_TITLES, MODEL, MODEL_TITLE
from jobs.manifest import code_version
from jobs.report.controls import System
from jobs.report.evaluate import (
    SLICES,
    Resampling,
    ScoredRows,
    auc_over_time,
    comparisons,
    qualities,
    slice_masks,
    strongest,
)
from jobs.report.figures import Comparison, Figure, Period, Quality, SystemName
from jobs.report.metrics import auc

SCHEMA_VERSION = 1
SPLIT = "backtest"
RESAMPLING = Resampling(n=1_000, seed=0)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Day(_Record):
    """One day of the period; null where a figure is not defined, as the AUC of one class."""

    day: date
    n_rows: int
    n_users: int
    positive_share: Figure | None
    version: int | None = Field(description="that was serving; null before the first one")
    auc: dict[str, Figure | None] = Field(description="by system")
    auc_so_far: dict[str, Figure | None] = Field(description="of all rows up to this day")


class Night(_Record):
    """One night of the period."""

    night: date
    published: int | None
    serving: int | None
    why_failed: str | None
    why_not_promoted: str | None
    seconds: float
    seconds_by_job: dict[str, float]
    metrics: dict[str, float] = Field(description="of fitting")


class BacktestFigures(_Record):
    """Everything that a backtest says; the page shows these and no others."""

    schema_version: int = SCHEMA_VERSION
    plan: Plan
    code_version: str
    is_complete: bool
    n_nights_left: int
    n_rows: int = Field(description="events of the days that were scored")
    n_rows_unscored: int = Field(description="events of the period before the first version")
    n_resamples: int
    systems: list[SystemName] = Field(description="the model first, then controls, strongest first")
    slices: dict[str, str] = Field(description="slice -> what it holds, as of the row's midnight")
    quality: list[Quality]
    comparisons: list[Comparison] = Field(description="the model minus each control, paired")
    days: list[Day]
    periods: list[Period] = Field(description="days or, of a long period, weeks; for the chart")
    nights: list[Night]

    def find(self, system: str, slice_: str = "all") -> Quality | None:
        """The figures of one system on one slice."""
        wanted = (system, slice_)
        return next((q for q in self.quality if (q.system, q.slice) == wanted), None)

    def compare(self, against: str, slice_: str = "all") -> Comparison | None:
        """The model against one control on one slice."""
        wanted = (against, slice_)
        return next((c for c in self.comparisons if (c.against, c.slice) == wanted), None)


def json_schema() -> str:
    """JSON schema of backtest.json; the text of docs/backtest.schema.json."""
    return json.dumps(BacktestFigures.model_json_schema(), indent=2) + "\n"


def judged(plan: Plan, folder: Folder) -> BacktestFigures:
    """The figures of the nights that are done."""
    records = [
        NightRecord.model_validate_json(folder.record(night).read_text(encoding="utf-8"))
        for night in plan.nights()
        if folder.record(night).is_file()
    ]
    happened = outcomes(plan, folder)
    scored = _joined(happened, _scores(records, folder))
    rows = scored_rows(scored, CONTROL_TITLES | {name: title_of(name) for name in plan.beside})
    ordered = strongest(rows) if len(rows.labels) else []
    model = SystemName(name=MODEL, title=MODEL_TITLE, is_control=False)
    n_left = len(plan.nights()) - len(records)
    tried = (plan.first, plan.scored_by(records[-1].night)[1] if records else plan.first)
    return BacktestFigures(
        plan=plan,
        code_version=code_version(),
        is_complete=not n_left,
        n_nights_left=n_left,
        n_rows=len(rows.labels),
        n_rows_unscored=between(happened, *tried).num_rows - len(rows.labels),
        n_resamples=RESAMPLING.n,
        systems=[
            model,
            *(SystemName(name=s.name, title=s.title, is_control=True) for s in ordered),
        ],
        slices=SLICES,
        quality=qualities(rows, RESAMPLING) if len(rows.labels) else [],
        comparisons=comparisons(rows, RESAMPLING) if len(rows.labels) else [],
        days=list(_days(rows, records, tried, plan)),
        periods=auc_over_time(rows, ordered[0] if ordered else None, RESAMPLING),
        nights=[_night(record) for record in records],
    )


def _night(record: NightRecord) -> Night:
    return Night(
        night=record.night,
        published=record.published,
        serving=record.serving,
        why_failed=record.why_failed,
        why_not_promoted=record.why_not_promoted,
        seconds=round(sum(record.seconds.values()), 3),
        seconds_by_job=record.seconds,
        metrics=record.metrics,
    )


def _scores(records: Sequence[NightRecord], folder: Folder) -> pa.Table | None:
    paths = [folder.scores(record.night) for record in records]
    tables = [pq.read_table(path) for path in paths if path.is_file()]
    return pa.concat_tables(tables).sort_by("row") if tables else None


def _joined(happened: pa.Table, scores: pa.Table | None) -> pa.Table | None:
    """Scores with their labels, in the order of `row`."""
    if scores is None:
        return None
    labels = np.zeros(int(happened["row"].to_numpy().max(initial=-1)) + 1, dtype=np.int8)
    labels[happened["row"].to_numpy()] = happened["label"].to_numpy()
    return scores.append_column("label", pa.array(labels[scores["row"].to_numpy()]))


def scored_rows(scored: pa.Table | None, control_titles: Mapping[str, str]) -> ScoredRows:
    """Rows with scores and labels, as the report's figures are made of."""
    if scored is None:
        nothing = np.zeros(0)
        none_of = {name: nothing.astype(bool) for name in SLICES}
        own = System(MODEL, MODEL_TITLE, nothing, nothing)
        return ScoredRows(SPLIT, nothing, nothing, nothing.astype("datetime64[D]"), none_of, (own,))
    titles = {MODEL: MODEL_TITLE, **control_titles}
    return ScoredRows(
        split=SPLIT,
        users=scored["user_id"].to_numpy(),
        labels=scored["label"].to_numpy(),
        days=scored["rated_at"].to_numpy().astype("datetime64[D]"),
        slices=slice_masks(scored["n_of_user"].to_numpy(), scored["n_of_item"].to_numpy()),
        systems=tuple(
            System(name, title, scored[name].to_numpy(), scored[f"{name}_probability"].to_numpy())
            for name, title in titles.items()
        ),
    )


def _days(
    rows: ScoredRows, records: Sequence[NightRecord], tried: tuple[date, date], plan: Plan
) -> Iterator[Day]:
    """Every day that a night was for, those without an event too."""
    serving: dict[date, int | None] = {}
    for record in records:
        first, end = plan.scored_by(record.night)
        serving |= {first + timedelta(n): record.serving for n in range((end - first).days)}
    first, end = tried
    for day in (first + timedelta(n) for n in range((end - first).days)):
        at = np.datetime64(day, "D")
        today, so_far = rows.days == at, rows.days <= at
        labels = rows.labels[today]
        yield Day(
            day=day,
            n_rows=len(labels),
            n_users=len(np.unique(rows.users[today])),
            positive_share=float(labels.mean()) if len(labels) else None,
            version=serving.get(day),
            auc=_aucs(rows, today),
            auc_so_far=_aucs(rows, so_far),
        )


def _aucs(rows: ScoredRows, mask: np.ndarray) -> dict[str, float | None]:
    return {each.name: auc(rows.labels[mask], each.scores[mask]) for each in rows.systems}
