"""What a mapping file can say: from the columns of a source to Tidemark's events and items."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from jobs.prepare.sources.source_form import ColumnName, Events, Files, Part

RATING, LABEL, IMPLICIT = "rating", "label", "implicit"

Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(strict=True)]


# -- feedback and rules ----------------------------------------------------------------------------


class RatingFeedback(Part):
    """Ratings; label = rating >= positive_from."""

    kind: Literal["rating"]
    minimum: Number
    maximum: Number
    positive_from: Number

    @model_validator(mode="after")
    def _ordered(self) -> RatingFeedback:
        if not self.minimum < self.positive_from <= self.maximum:
            raise ValueError("expected minimum < positive_from <= maximum")
        return self


def _label(value: Any) -> Any:
    """YAML's true and 1 as the text that a CSV holds."""
    return str(value).strip().lower() if isinstance(value, str | bool | int) else value


Label: TypeAlias = Annotated[str, BeforeValidator(_label, json_schema_input_type=str | bool | int)]


class LabelFeedback(Part):
    """Binary labels; compared as text, trimmed, without regard to case. Become rating 1 and 0."""

    kind: Literal["label"]
    positive: tuple[Label, ...] = Field(default=("1", "true", "yes"), min_length=1)
    negative: tuple[Label, ...] = Field(default=("0", "false", "no"), min_length=1)

    @model_validator(mode="after")
    def _apart(self) -> LabelFeedback:
        if both := set(self.positive) & set(self.negative):
            raise ValueError(f"{min(both)!r} is both positive and negative")
        return self


class ImplicitFeedback(Part):
    """Every event is positive (rating 1); negatives are sampled when the splits are made."""

    kind: Literal["implicit"]
    negatives_per_positive: Annotated[Count, Field(ge=1, le=100)] = 1
    popularity_power: Annotated[Number, Field(ge=0, le=2)] = 0.75
    seed: Annotated[Count, Field(ge=0)] = 0


Feedback: TypeAlias = Annotated[
    RatingFeedback | LabelFeedback | ImplicitFeedback, Discriminator("kind")
]


def _pattern(pattern: str) -> str:
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        raise ValueError(f"no regular expression (RE2): {str(error).splitlines()[0]}") from error
    return pattern


REASON = r"^[a-z][a-z0-9 '-]{1,59}$"
CONDITIONS = ("equals", "starts_with", "matches", "at_most", "at_least", "missing")


class RejectRule(Part):
    """Rows that are no events, with the reason that the quarantine gives. One condition a rule."""

    column: ColumnName = Field(description="a column of the source")
    reason: str = Field(pattern=REASON)
    equals: str | None = None
    starts_with: Annotated[str, Field(min_length=1)] | None = None
    matches: Annotated[str, AfterValidator(_pattern)] | None = Field(
        default=None, description="regular expression (RE2) that the whole value matches"
    )
    at_most: Number | None = None
    at_least: Number | None = None
    missing: Literal[True] | None = None

    @model_validator(mode="after")
    def _one_condition(self) -> RejectRule:
        given = [name for name in CONDITIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one of {', '.join(CONDITIONS)}; found {', '.join(given) or 'none'}"
            )
        return self


# -- items -----------------------------------------------------------------------------------------


class ItemColumns(Part):
    """Ours: theirs."""

    item_id: ColumnName
    title: ColumnName


class AppearanceColumns(Part):
    """Ours: theirs."""

    item_id: ColumnName
    row: ColumnName


class Appearances(Files):
    """Each item's place in the whole source, where the events are only a part of it."""

    columns: AppearanceColumns


class CatalogueFiles(Files):
    """Titles from files; of several rows of one item the last of the latest file stands."""

    columns: ItemColumns
    bad_rows: Literal["quarantine", "refuse"] = Field(
        default="quarantine", description="refuse: a bad or doubled row of a file stops the run"
    )
    appearances: Appearances | None = None


class TitlesFromEvents(Part):
    """Each item's most frequent title among its events as known that night."""

    from_: Literal["events"] = Field(alias="from")
    title: ColumnName


def _kind_of_items(value: Any) -> str:
    if isinstance(value, dict):
        return "from events" if "from" in value or "from_" in value else "files"
    return "from events" if isinstance(value, TitlesFromEvents) else "files"


Items: TypeAlias = Annotated[
    Annotated[CatalogueFiles, Tag("files")] | Annotated[TitlesFromEvents, Tag("from events")],
    Discriminator(_kind_of_items),
]


# -- the rest --------------------------------------------------------------------------------------


SplitProtocol = Literal["rolling", "leave-one-out", "published-ml-1m", "published-amazon-book"]


class Split(Part):
    """How events are divided into train, valid and test."""

    protocol: SplitProtocol = "rolling"
    valid_days: Annotated[Count, Field(ge=1)] = 10
    test_days: Annotated[Count, Field(ge=1)] = 10


class Quarantine(Part):
    """How many rows may be bad before a run stops."""

    max_share: Share = Field(
        default=0.05, description="of all rows, over the reasons not in `expected`"
    )
    expected: dict[str, Share] = Field(
        default_factory=dict, description="reasons with a bound of their own: share of all rows"
    )


class Contract(Part):
    """What must hold of the events of every night."""

    max_age_days: Annotated[Count, Field(ge=0)] | None = Field(
        default=None, description="age of the newest event on the day of the run"
    )
    max_row_change: Annotated[Number, Field(gt=0)] | None = Field(
        default=None, description="against the median of the last 7 days: 0.5 is half more or less"
    )


class Mapping(Part):
    """One source: its files, the meaning of its columns, its rules."""

    domain: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="name of the domain")
    item_noun: str = Field(
        default="Item",
        min_length=1,
        max_length=60,
        description="what an item is called in a prompt",
    )
    root: str | None = Field(
        default=None, min_length=1, description="folder of the files; else that of the mapping"
    )
    events: Events
    feedback: Feedback
    reject: tuple[RejectRule, ...] = ()
    items: Items
    conflicts: Literal["first_stands", "later_delivery_replaces"] = Field(
        default="later_delivery_replaces",
        description="of rows with one user, item and time; within one delivery the first stands",
    )
    split: Split = Split()
    quarantine: Quarantine = Quarantine()
    contract: Contract = Contract()

    @model_validator(mode="after")
    def _feedback_has_its_column(self) -> Mapping:
        for kind in (RATING, LABEL):
            is_named = getattr(self.events.columns, kind) is not None
            if is_named != (self.feedback.kind == kind):
                raise ValueError(
                    f"events.columns.{kind} goes with feedback.kind {kind}, and only with it; "
                    f"feedback.kind is {self.feedback.kind}"
                )
        return self

    @property
    def positive_rating(self) -> float:
        """Label = rating >= this."""
        return self.feedback.positive_from if isinstance(self.feedback, RatingFeedback) else 1.0

    @property
    def title_column(self) -> str | None:
        """The column of the events that holds titles, if titles come from there."""
        return self.items.title if isinstance(self.items, TitlesFromEvents) else None

    @property
    def event_columns(self) -> tuple[str, ...]:
        """Columns of the source that parsing needs, each once, those of the reject rules too."""
        events = self.events
        named = [name for name in events.columns.model_dump().values() if name is not None]
        named += [events.ingested_at.column] if events.ingested_at else []
        named += [self.title_column] if self.title_column else []
        return tuple(dict.fromkeys([*named, *(rule.column for rule in self.reject)]))

    def reading_sha256(self) -> str:
        """Hash of what decides how a raw row is read and judged: not split, bounds or promises."""
        decides = self.model_dump(
            mode="json",
            include={"domain", "events", "feedback", "reject", "items", "conflicts"},
            exclude={"events": {"deliveries"}},
        )
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def json_schema() -> str:
    """JSON schema of a mapping file, for editors; the text of docs/mapping.schema.json."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **Mapping.model_json_schema(by_alias=True)}, indent=2) + "\n"
