"""What a mapping file says of a source's files and of their columns."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal, TypeAlias
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

DAY = "{day}"
FORMS = ("iso", "date", "seconds", "milliseconds", "microseconds", "native")
_DIRECTIVES = frozenset("YymdHIpMSfbBaAjz%")

ColumnName: TypeAlias = Annotated[str, Field(min_length=1, max_length=255)]


class Part(BaseModel):
    """A part of a mapping: frozen, unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=()
    )


# -- files -----------------------------------------------------------------------------------------


def _inside(pattern: str) -> str:
    parts = pattern.replace("\\", "/").split("/")
    if pattern.startswith("/") or ":" in parts[0] or ".." in parts or "" in parts:
        raise ValueError(
            "a path is relative to the mapping's folder and may not leave it; "
            "say `root:` to start from another folder"
        )
    if pattern.count(DAY) > 1:
        raise ValueError(f"{DAY} may stand once in a name")
    return pattern


Pattern: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(_inside)]


class CsvForm(Part):
    """How a CSV file is written."""

    delimiter: str = Field(
        default=",", min_length=1, max_length=4, description="',', ';', '\\t', '::'"
    )
    encoding: Literal["utf-8", "latin-1", "windows-1252"] = "utf-8"
    header: bool = Field(default=True, strict=True, description="the first line names the columns")
    columns: tuple[ColumnName, ...] | None = Field(
        default=None, description="names of the columns, in order, of a file without a header"
    )
    quote: Literal['"', "'", ""] = Field(default='"', description="'' for files that quote nothing")
    open_end: bool = Field(
        default=False, strict=True, description="accept a last line without a line end"
    )

    @model_validator(mode="after")
    def _named_once(self) -> CsvForm:
        if self.header == (self.columns is not None):
            raise ValueError("columns are named by the header, or by `columns` without a header")
        if self.columns and len(set(self.columns)) < len(self.columns):
            raise ValueError("`columns` names one column twice")
        if set(self.delimiter) & {"\n", "\r", "\0", self.quote or "\n"}:
            raise ValueError("the delimiter may not hold a line end, a NUL or the quote")
        return self


class Files(Part):
    """Files of one form. `{day}` in a name is the day of the delivery, YYYY-MM-DD."""

    files: tuple[Pattern, ...] = Field(
        min_length=1, description="names or globs, for instance 'ratings/{day}.csv'"
    )
    format: Literal["parquet", "csv", "duckdb"]
    csv: CsvForm | None = Field(default=None, description="only with format csv")
    nulls: tuple[str, ...] = Field(
        default=("NULL", "null", "\\N"),
        description="texts that stand for a missing value, as blanks do",
    )
    table: str | None = Field(
        default=None,
        pattern=r"^\w+(\.\w+)?$",
        description="only with format duckdb: [schema.]table",
    )

    @model_validator(mode="after")
    def _fits_format(self) -> Files:
        if self.csv and self.format != "csv":
            raise ValueError(f"`csv` says how CSV is written; format is {self.format}")
        if (self.table is None) == (self.format == "duckdb"):
            raise ValueError("`table` goes with format duckdb, and only with it")
        return self

    @property
    def csv_form(self) -> CsvForm:
        """How the CSV is written; the defaults where the mapping says nothing."""
        return self.csv or CsvForm()


# -- columns ---------------------------------------------------------------------------------------


class Id(Part):
    """What an id is: a whole number, or text (trimmed; case kept)."""

    type: Literal["integer", "string"]


def _zone(name: str) -> str:
    if name != "UTC" and name not in available_timezones():
        raise ValueError("no such time zone; expected a name like UTC or Europe/London")
    return name


def _form(form: str) -> str:
    if form in FORMS:
        return form
    found = re.findall(r"%(.?)", form)
    if not found:
        raise ValueError(f"expected one of {', '.join(FORMS)}, or a pattern like %d/%m/%Y %H:%M")
    if unknown := [f"%{letter}" for letter in found if letter not in _DIRECTIVES]:
        raise ValueError(f"{unknown[0]} is not known; known: %{' %'.join(sorted(_DIRECTIVES))}")
    has_day = {"m", "d"} <= set(found) or {"b", "d"} <= set(found) or {"B", "d"} <= set(found)
    if not set("Yy") & set(found) or not (has_day or "j" in found):
        raise ValueError("the pattern says no year, month and day")
    return form


class Time(Part):
    """How a column says when.

    iso: 2026-01-31 10:00[:00[.123456]][Z or +01:00], T or a blank between; date: 2026-01-31;
    seconds, milliseconds, microseconds since 1970; native: a timestamp or date of the file's own
    type; or a strptime pattern.
    """

    form: Annotated[str, AfterValidator(_form)]
    zone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="of wall times that name no offset of their own"
    )

    @model_validator(mode="after")
    def _zone_fits(self) -> Time:
        if self.zone != "UTC" and self.form in ("date", "seconds", "milliseconds", "microseconds"):
            raise ValueError(
                f"form {self.form} has no zone: a date stays that day, a count starts in UTC"
            )
        return self


class Arrival(Time):
    """The column that says when the warehouse learned of a row."""

    column: ColumnName


class EventColumns(Part):
    """Ours: theirs."""

    user_id: ColumnName
    item_id: ColumnName
    at: ColumnName
    rating: ColumnName | None = Field(default=None, description="with feedback kind rating")
    label: ColumnName | None = Field(default=None, description="with feedback kind label")
    row: ColumnName | None = Field(
        default=None, description="a column that numbers the rows; else the place in the file"
    )


class Deliveries(Part):
    """The days for which a file of `{day}` was promised: one that is missing stops the run."""

    first: date
    last: date | None = None


class Events(Files):
    """Where the events lie, and what their columns mean."""

    columns: EventColumns
    user_id: Id
    item_id: Id
    at: Time
    ingested_at: Arrival | None = Field(
        default=None,
        description="else the day in the file's name; else the end of the event's own day",
    )
    deliveries: Deliveries | None = None

    @model_validator(mode="after")
    def _promise_has_days(self) -> Events:
        if self.deliveries and not all(DAY in pattern for pattern in self.files):
            raise ValueError(f"`deliveries` needs {DAY} in the names of `files`")
        if len({DAY in pattern for pattern in self.files}) > 1:
            raise ValueError(f"{DAY} stands in some of `files` and not in others")
        return self

    @property
    def has_days(self) -> bool:
        """Whether a file's name says the day of its delivery."""
        return DAY in self.files[0]
