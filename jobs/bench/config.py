"""A bench as a file: which systems, which seeds, which protocol, and what is published of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator

from jobs.bench.entries import (
    FUSION,
    KINDS,
    NAME,
    NOT_MEASURED,
    TABLE,
    TRIVIAL,
    AnyEntry,
    Entry,
    FusionEntry,
    NotMeasuredEntry,
    TableEntry,
)
from jobs.bench.protocols import Protocol
from jobs.errors import JobError
from jobs.job import Config
from jobs.prepare.sources.mapping_text import Parsed, Place, parsed_yaml


class BenchConfigError(JobError):
    """A bench file says something that cannot be run."""


class BenchConfig(Config):
    """Systems, seeds and a protocol."""

    name: str = Field(pattern=f"^{NAME}$", description="results are called bench-<name>")
    title: str = Field(description="heading of the table")
    day: date | None = Field(default=None, description="as-of day of the home's tables")
    protocol: Protocol
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    control: str = Field(description="name of the system that all are compared with")
    also_against: tuple[str, ...] = Field(
        default=(), description="systems that tables and fusions are compared with too"
    )
    refit_every_days: int = Field(default=1, gt=0, description="nights between two fits")
    earlier: Path | None = Field(
        default=None, description="folder of the years before the window, for `warehouse`"
    )
    n_resamples: int = Field(default=2_000, ge=100, description="of users, for intervals")
    tolerance: float = Field(default=0.015, gt=0, description="of AUC against what is published")
    n_threads: int = Field(default=1, gt=0)
    systems: tuple[AnyEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_told_apart(self) -> BenchConfig:
        names = [*TRIVIAL, *(entry.name for entry in self.systems)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"systems: the name '{twice[0]}' stands twice; every row has its own")
        self._refuse_strangers(names)
        tables = [entry.name for entry in self.systems if isinstance(entry, TableEntry)]
        if tables and self.protocol is not Protocol.PAPER:
            raise ValueError(f"systems: '{tables[0]}' reads scores, which join the paper protocol")
        if self.protocol is Protocol.WAREHOUSE and self.earlier is None:
            raise ValueError("earlier: the warehouse protocol needs the years before the window")
        return self

    def _refuse_strangers(self, names: list[str]) -> None:
        """Every name that the file speaks of is one of its rows, and one that can be meant."""
        for key, named in (("control", (self.control,)), ("also_against", self.also_against)):
            for name in named:
                if name not in names:
                    raise ValueError(f"{key}: '{name}': {_choices(name, names)}")
        for entry in self.systems:
            if isinstance(entry, NotMeasuredEntry) and entry.name == self.control:
                raise ValueError(f"control: '{entry.name}' is not measured; it compares nothing")
            if isinstance(entry, FusionEntry):
                self._refuse_parts(entry, names)

    def _refuse_parts(self, entry: FusionEntry, names: list[str]) -> None:
        blends = {each.name for each in self.systems if isinstance(each, FusionEntry)}
        known = [name for name in names if name not in blends]
        for name in entry.of:
            if name not in known:
                raise ValueError(f"systems: '{entry.name}' is of '{name}': {_choices(name, known)}")
            if entry.of.count(name) > 1:
                raise ValueError(f"systems: '{entry.name}' names '{name}' twice")


def load_bench(path: Path, systems: Mapping[str, type[Config]], **changes: Any) -> BenchConfig:
    """The bench that a YAML file describes.

    Args:
        path: the file.
        systems: registered systems by short name; they say which settings there are.
        changes: keys of the file that the command line overrides; None leaves a key alone.

    Raises:
        BenchConfigError: one line with the file, the line, the key and what may stand there.
    """
    try:
        parsed = parsed_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not YAML, or not text
        raise BenchConfigError(f"{path}{error}") from error
    if not isinstance(parsed.value, dict):
        raise BenchConfigError(f"{path}: expected keys and values, such as `protocol: paper`")
    given = parsed.value | {key: value for key, value in changes.items() if value is not None}
    try:
        bench = BenchConfig.model_validate(given)
    except ValidationError as error:
        raise BenchConfigError(f"{path}{_said(error, parsed, (), BenchConfig)}") from error
    for place, entry in enumerate(bench.systems):
        if isinstance(entry, Entry):
            _refuse_unknown(path, parsed, place, entry, systems)
    return bench


def _refuse_unknown(
    path: Path, parsed: Parsed, place: int, entry: Entry, systems: Mapping[str, type[Config]]
) -> None:
    """Ends with one line unless the system is registered and takes the settings."""
    if entry.system not in systems:
        line = _line(parsed, ("systems", place, "system"))
        choices = _choices(entry.system, [*systems, TABLE, FUSION, NOT_MEASURED])
        raise BenchConfigError(
            f"{path}{line}: systems[{place}].system: '{entry.system}': {choices}"
        )
    model = systems[entry.system]
    try:
        model.model_validate(entry.settings)
    except ValidationError as error:
        where: Place = ("systems", place, "settings")
        raise BenchConfigError(f"{path}{_said(error, parsed, where, model)}") from error


def _said(error: ValidationError, parsed: Parsed, start: Place, model: type[BaseModel]) -> str:
    """One finding: line, key, value, and what may stand there.

    An unknown key comes first: it is often the misspelt one that is then missing.
    """
    every = error.errors(include_url=False)
    detail = min(every, key=lambda each: each["type"] != "extra_forbidden")
    inner: Place = tuple(part for part in detail["loc"] if part not in KINDS)
    line = _line(parsed, start + inner)
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in start + inner).lstrip(".")
    shown = f"{line}: {key}: " if key else f"{line}: "
    if detail["type"] == "extra_forbidden":
        return f"{shown}unknown key; {_choices(str(inner[-1]), _keys(detail['loc'], model))}"
    if detail["type"] == "missing":
        return f"{shown}this key is missing"
    said = detail["msg"].removeprefix("Value error, ")
    value = detail["input"]
    return f"{shown}{said}" if isinstance(value, dict | list) else f"{shown}'{value}': {said}"


def _line(parsed: Parsed, place: Place) -> str:
    line = parsed.line_of(place) if place else None
    return f", line {line}" if line else ""


def _keys(place: Place, model: type[BaseModel]) -> list[str]:
    """Keys that may stand where an unknown one does; `place` names the kind of an entry."""
    for part in place[:-1]:
        if part in KINDS:
            model = KINDS[str(part)]
        elif isinstance(part, str) and (inner := _model_in(model, part)) is not None:
            model = inner
    return list(model.model_fields)


def _model_in(model: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model that a field holds, alone or beside None."""
    annotation = model.model_fields[field].annotation
    inner = [annotation, *getattr(annotation, "__args__", ())]
    models = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
    return models[0] if models else None


def _choices(value: str, known: list[str]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    meant = f"did you mean '{close[0]}'? " if close else ""
    return f"{meant}known here: {', '.join(known)}"
