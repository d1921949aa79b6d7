"""The schema of metrics.json: every figure of a night; the page shows these and no others."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

# Six digits: more than any interval can bear, few enough for the same bytes on every machine.
Figure = Annotated[float, AfterValidator(lambda value: round(value, 6))]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(_Record):
    """A figure and its 95 % user-bootstrap interval; no interval from fewer than ten users."""

    value: Figure
    low: Figure | None
    high: Figure | None


class SystemName(_Record):
    """A system that was judged."""

    name: str
    title: str
    is_control: bool


class Quality(_Record):
    """One system on one slice of one split; null where a figure is not defined."""

    split: str
    slice: str
    system: str
    n_rows: int
    n_users: int
    n_users_counted: int = Field(description="users with both classes: those that UAUC averages")
    positive_share: Figure | None
    auc: Estimate | None
    uauc: Estimate | None
    ndcg: Figure | None
    log_loss: Figure | None
    ece: Figure | None


class Comparison(_Record):
    """Paired differences, model minus control, over the same resamples of users."""

    split: str
    slice: str
    system: str
    against: str
    auc: Estimate | None
    uauc: Estimate | None


class Outcome(Enum):
    """Where the 95 % interval of the AUC difference lies."""

    BETTER = "better"  # above zero
    SAME = "same"  # zero is inside
    WORSE = "worse"  # below zero
    UNKNOWN = "unknown"  # there is nothing to judge by


class Verdict(_Record):
    """The night's model against the strongest control on test."""

    outcome: Outcome
    against: str | None
    sentence: str


class Period(_Record):
    """AUC of the rows of `n_days` days from `start` on."""

    split: str
    start: date
    n_days: int
    n_rows: int
    auc: Estimate | None
    control_auc: Figure | None


class CalibrationBin(_Record):
    """Rows of one split whose predicted probabilities lie in one bin."""

    split: str
    system: str
    n_rows: int
    predicted: Figure
    observed: Figure
    low: Figure = Field(description="95 % Wilson interval of `observed`, rows as independent")
    high: Figure


class HistogramBin(_Record):
    """Shares of the positive and of the negative rows with probabilities in [low, high)."""

    split: str
    low: Figure
    high: Figure
    positives: Figure
    negatives: Figure


class Quarantined(_Record):
    """Rows that were put aside for one reason, with one of them to look at."""

    reason: str
    n_rows: int
    example: str
    example_at: str


class SplitSize(_Record):
    """How large a split is."""

    split: str
    n_rows: int
    n_users: int
    n_items: int
    first_day: date | None
    last_day: date | None


class DataQuality(_Record):
    """What came in that night and what was put aside: n_rows_in = n_events + n_quarantined."""

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
    splits: list[SplitSize]


class Neighbour(_Record):
    """An item near another one."""

    item_id: int | str
    title: str
    cosine: Figure


class Neighbourhood(_Record):
    """A known item and the items nearest to it in the published vectors."""

    item_id: int | str
    title: str
    n_train_rows: int
    neighbours: list[Neighbour]


class NightMetrics(_Record):
    """Everything that a night's report says."""

    schema_version: int = SCHEMA_VERSION
    day: date
    domain: str
    version: int
    model: str
    facts: dict[str, str] = Field(description="what the version says of itself, and the code")
    verdict: Verdict
    systems: list[SystemName] = Field(description="the model first, then controls, strongest first")
    slices: dict[str, str] = Field(description="slice -> what it holds")
    quality: list[Quality]
    comparisons: list[Comparison]
    periods: list[Period]
    calibration: list[CalibrationBin]
    histogram: list[HistogramBin]
    data: DataQuality
    neighbourhoods: list[Neighbourhood]
    n_resamples: int

    def find(self, split: str, slice_: str, system: str) -> Quality:
        """The figures of one system on one slice of one split."""
        return next(
            q for q in self.quality if (q.split, q.slice, q.system) == (split, slice_, system)
        )

    def compare(self, split: str, slice_: str, against: str) -> Comparison | None:
        """The paired comparison with a control on one slice of one split, if there is one."""
        return next(
            (
                c
                for c in self.comparisons
                if (c.split, c.slice, c.against) == (split, slice_, against)
            ),
            None,
        )
