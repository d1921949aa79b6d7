"""Figures that the nightly report, the backtest and the bench share."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# Six digits: more than any interval can bear, few enough for the same bytes on every machine.
Figure = Annotated[float, AfterValidator(lambda value: round(value, 6))]


class Record(BaseModel):
    """A part of a document: frozen, and a key that nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Record):
    """A figure and its 95 % user-bootstrap interval; no interval from fewer than ten users."""

    value: Figure
    low: Figure | None
    high: Figure | None


class SystemName(Record):
    """A system that was judged."""

    name: str
    title: str
    is_control: bool


class Quality(Record):
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


class Comparison(Record):
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


class Verdict(Record):
    """The night's model against something else, in one sentence."""

    outcome: Outcome
    against: str | None = Field(description="a control's name, or `version` and its number")
    sentence: str


class Period(Record):
    """AUC of the rows of `n_days` days from `start` on."""

    split: str
    start: date
    n_days: int
    n_rows: int
    auc: Estimate | None
    control_auc: Figure | None


class CalibrationBin(Record):
    """Rows of one split whose predicted probabilities lie in one bin."""

    split: str
    system: str
    n_rows: int
    predicted: Figure
    observed: Figure
    low: Figure = Field(description="95 % Wilson interval of `observed`, rows as independent")
    high: Figure


class HistogramBin(Record):
    """Shares of the positive and of the negative rows with probabilities in [low, high)."""

    split: str
    low: Figure
    high: Figure
    positives: Figure
    negatives: Figure
