"""The schema of metrics.json: every figure of a night; the page shows these and no others."""

from __future__ import annotations

import json
from datetime import date
from typing import Literal

from pydantic import Field

from jobs.report.figures import (
    CalibrationBin,
    Comparison,
    Estimate,
    Figure,
    HistogramBin,
    Quality,
    Record,
    SystemName,
    Verdict,
)

SCHEMA_VERSION = 2


class Slice(Record):
    """Some of the rows of a split, and which, in words."""

    name: str
    title: str
    says: str


class Side(Record):
    """One of two versions on rows that both have scored."""

    title: str
    auc: Figure | None
    uauc: Figure | None
    log_loss: Figure | None
    ece: Figure | None


class Previous(Record):
    """The version that tonight's follows, and what both say of the same rows."""

    version: int
    day: date | None = Field(description="null: its files are deleted")
    basis: Literal["scores", "gate", "none"] = Field(
        description="scores: test rows of both nights; gate: `auc_change` of the publication"
    )
    says: str = Field(description="which rows, or why there are none")
    n_rows: int | None
    n_users: int | None
    auc: Estimate | None = Field(description="tonight minus the version before, paired by user")
    uauc: Estimate | None
    tonight: Side | None
    before: Side | None


class NightPeriod(Record):
    """One system on the rows of `n_days` days from `start` on; intervals of the model alone."""

    split: str
    start: date
    n_days: int
    n_rows: int
    system: str
    auc: Estimate | None
    uauc: Estimate | None
    log_loss: Figure | None
    ece: Figure | None


class LiftTenth(Record):
    """The rows of one tenth, the highest scores first; rows that tie are shared evenly."""

    split: str
    system: str
    tenth: int = Field(ge=1, le=10)
    n_rows: Figure = Field(description="a tenth of the rows; not whole where ten does not divide")
    positive_share: Figure
    lift: Figure = Field(description="its share of positives over that of all rows")
    captured: Figure = Field(description="share of all positives in this and the tenths before")


class DriftBin(Record):
    """Shares of the scores in [low, high): tonight's, and those of the version before."""

    low: Figure
    high: Figure
    tonight: Figure
    before: Figure


class ScoreDrift(Record):
    """How tonight's probabilities lie against those of the night before, each on its own test."""

    n_rows: int
    n_rows_before: int
    mean: Figure
    mean_before: Figure
    psi: Figure = Field(description="population stability index over tenths of the night before")
    psi_by_chance: Figure = Field(description="what two samples of one distribution give, mean")
    ks: Figure = Field(description="largest distance of the two distribution functions")
    ks_by_chance: Figure = Field(description="what 95 % of such samples stay under")
    bins: list[DriftBin]


class VectorDrift(Record):
    """How a table moved against the version before, after alignment; from the gates."""

    table: str
    norm_shift: Figure | None
    mean_shift: Figure | None
    overlap: Figure | None


class CodeDrift(Record):
    """Share of the items whose code of one level is not that of the night before."""

    level: int
    share: Figure


class Drift(Record):
    """What moved since the version before."""

    scores: ScoreDrift | None
    why_no_scores: str
    vectors: list[VectorDrift]
    codes: list[CodeDrift]


class Gate(Record):
    """A check that the version had to pass before an alias moved to it."""

    name: str
    title: str
    about: str = Field(description="the table that it looked at, if it is one")
    value: Figure | None = Field(description="null: nothing to measure or to compare with")
    at_least: Figure | None
    at_most: Figure | None
    passed: bool
    says: str


class LayerFigure(Record):
    """A row of LLM_DIAGNOSTICS."""

    measure: str
    kind: str
    first_layer: int
    last_layer: int
    figure: str
    value: Figure


class MapPoint(Record):
    """An item on the map; coordinates are shares of the widest one."""

    item_id: int | str
    title: str
    x: Figure
    y: Figure
    code: int | None = Field(description="of level 0")
    n_train_rows: int
    is_named: bool


class CodeGroup(Record):
    """A code of level 0 that the map colours."""

    code: int
    n_items: int = Field(description="among all items, not those drawn alone")
    titles: list[str]


class ItemMap(Record):
    """The two directions in which the published item vectors spread most."""

    n_items: int
    spread: Figure = Field(description="share of the vectors' variance in the two directions")
    groups: list[CodeGroup]
    points: list[MapPoint] = Field(description="the items rated most often in training")


class Miss(Record):
    """A test row that the model was most wrong about, as the LLM reads it."""

    row: int
    user_id: int | str
    item_id: int | str
    title: str
    rated_on: date
    label: int
    probability: Figure
    control_probability: Figure | None
    n_visible: int = Field(description="items of the history that the row may see")
    n_shown: int = Field(description="of those, in the prompt below")
    prompt: str


class JobCost(Record):
    """What one job of the night took, from its manifest."""

    job: str
    seconds: Figure
    rows: int | None = Field(description="written, all tables together")
    tokens: int | None = Field(description="that the LLM read")
    tokens_per_s: Figure | None
    peak_memory_bytes: int | None


class Quarantined(Record):
    """Rows that were put aside for one reason, with one of them to look at."""

    reason: str
    n_rows: int
    example: str
    example_at: str


class SplitSize(Record):
    """How large a split is."""

    split: str
    n_rows: int
    n_users: int
    n_items: int
    first_day: date | None
    last_day: date | None


class Arrival(Record):
    """What became known on one day."""

    known_day: date
    n_rows: int
    n_events: int
    n_late: int
    n_corrections: int
    n_quarantined: int
    n_released: int


class DataQuality(Record):
    """What came in and what was put aside: n_rows_in = n_events + n_quarantined."""

    n_rows_in: int
    n_events: int
    n_late: int  # events that became known more than a day after they happened
    n_quarantined: int
    quarantined: list[Quarantined]
    n_users: int
    n_items: int
    n_catalogue: int
    first_event: date | None
    last_event: date | None
    arrivals: list[Arrival] = Field(description="the last days on which something became known")
    splits: list[SplitSize]


class Neighbour(Record):
    """An item near another one."""

    item_id: int | str
    title: str
    cosine: Figure


class Neighbourhood(Record):
    """A known item and the items nearest to it in the published vectors."""

    item_id: int | str
    title: str
    n_train_rows: int
    neighbours: list[Neighbour]


class NightMetrics(Record):
    """Everything that a night's report says."""

    schema_version: int = SCHEMA_VERSION
    day: date
    domain: str
    version: int
    model: str = Field(description="the one that the verdict is about: fused, else llm, else mf")
    facts: dict[str, str] = Field(description="what the version says of itself, and the code")
    verdict: Verdict = Field(description="against the version before; without one, the control")
    control_verdict: Verdict = Field(description="against the strongest control on test")
    previous: Previous | None = Field(description="null: no version was there to follow")
    systems: list[SystemName] = Field(
        description="the model, other models, then controls, the strongest first"
    )
    notes: list[str] = Field(description="what a reader must know of the rows that were scored")
    slices: list[Slice]
    quality: list[Quality] = Field(
        description="every system on all rows; on slices the model and the strongest control"
    )
    comparisons: list[Comparison] = Field(description="the model minus another system, paired")
    periods: list[NightPeriod]
    calibration: list[CalibrationBin]
    histogram: list[HistogramBin]
    lift: list[LiftTenth]
    drift: Drift | None
    gates: list[Gate]
    attention: list[LayerFigure]
    map: ItemMap | None
    neighbourhoods: list[Neighbourhood]
    misses: list[Miss] = Field(description="wrongly sure of a dislike first, then of a liking")
    template: str = Field(description="of the misses' prompts")
    data: DataQuality
    cost: list[JobCost]
    n_resamples: int

    def find(self, split: str, slice_: str, system: str) -> Quality:
        """The figures of one system on one slice of one split."""
        return next(
            q for q in self.quality if (q.split, q.slice, q.system) == (split, slice_, system)
        )

    def compare(self, split: str, slice_: str, against: str) -> Comparison | None:
        """The paired comparison with another system on one slice of one split, if there is one."""
        return next(
            (
                c
                for c in self.comparisons
                if (c.split, c.slice, c.against) == (split, slice_, against)
            ),
            None,
        )

    @property
    def control(self) -> SystemName | None:
        """The strongest control, if training had rows to take means of."""
        return next((system for system in self.systems if system.is_control), None)


def json_schema() -> str:
    """JSON schema of metrics.json; written beside it, and the text of docs/metrics.schema.json."""
    return json.dumps(NightMetrics.model_json_schema(), indent=2) + "\n"
