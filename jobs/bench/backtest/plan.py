"""What a backtest replays, and where it keeps what it has done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from jobs.errors import JobError
from jobs.files import write_atomically
from jobs.home import Home
from jobs.job import Config
from jobs.launch import NIGHTLY, TUNING

_DAY = timedelta(days=1)


class Plan(Config):
    """The nights of a period, and what they are run with. Another plan is another backtest."""

    source: str = Field(description="as `ingest` takes it, absolute")
    domain: str
    first: date = Field(description="the first day that is scored, and the first night")
    last: date = Field(description="the last day that is scored")
    known_by: date = Field(description="labels are those that were known on this day")
    model: str = Field(description="backbone LLM")
    refit_every: int = Field(default=1, ge=1, description="days from one night to the next")
    valid_days: int | None = Field(
        default=None, ge=1, description="days before a midnight that choose the epochs"
    )

    warm_start: bool = Field(
        default=False, description="begin each fit at the version before, and refit nothing"
    )
    beside: tuple[str, ...] = Field(
        default=(), description="systems of the bench that are fitted every night, as controls"
    )
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="job -> fields of its config that are to be tried"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.last < self.first:
            raise ValueError(f"--to {self.last} is before --from {self.first}")
        if self.known_by <= self.last:
            raise ValueError(
                f"--known-by {self.known_by}: the events of {self.last} are known on "
                f"{self.last + _DAY} at the earliest"
            )
        return self

    @classmethod
    def of(cls, **fields: object) -> Plan:
        """The plan of these fields.

        Raises:
            JobError: a value that no plan can have.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            said = "; ".join(
                ".".join(str(part) for part in each["loc"])
                + (": " if each["loc"] else "")
                + each["msg"].removeprefix("Value error, ")
                for each in error.errors()
            )
            raise JobError(f"no backtest of that: {said}") from error

    @property
    def name(self) -> str:
        """Of its folder, where none is named."""
        return f"{self.domain}_{self.first}_{self.last}"

    def nights(self) -> list[date]:
        """The as-of days, in order; the night of D knows what was known before D 00:00 UTC."""
        n_days = (self.last - self.first).days + 1
        return [self.first + n * _DAY for n in range(0, n_days, self.refit_every)]

    def scored_by(self, night: date) -> tuple[date, date]:
        """The days that `night` is for: from it on, and before this day."""
        return night, min(night + self.refit_every * _DAY, self.last + _DAY)


# Scores and reports judge a night by rows of its own past, and the LLM is not tuned for each night
# of a backtest.
_LEFT_OUT = (*TUNING, "candidates", "score", "report")
REPLAYED = tuple(job for job in NIGHTLY if job not in _LEFT_OUT)


def settings_of(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`align.max_epochs=5` as {"align": {"max_epochs": 5}}; a value is JSON, or the text it is.

    Raises:
        JobError: a word is not of that form, or names no job of the nightly chain.
    """
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        name, is_set, value = word.partition("=")
        job, _, field = name.partition(".")
        if not (is_set and field) or job not in REPLAYED:
            raise JobError(
                f"--set {word}: expected JOB.FIELD=VALUE with a job of {', '.join(REPLAYED)}, for "
                "instance --set align.max_epochs=5"
            )
        found.setdefault(job, {})[field.replace("-", "_")] = _json_or_text(value)
    return found


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


@dataclass(frozen=True)
class Folder:
    """A backtest's own folder: nothing outside of it is written, and no job reads above it."""

    root: Path

    @property
    def nights(self) -> Home:
        """Where the nights run: tables and a store that know no day after the last night."""
        return Home(self.root / "nights")

    @property
    def outcomes(self) -> Home:
        """Where all events of the period are, with their labels. No night reads here."""
        return Home(self.root / "outcomes")

    @property
    def requests(self) -> Path:
        """The rows to score: users, items and times without labels."""
        return self.root / "requests.parquet"

    @property
    def log(self) -> Path:
        """What the jobs said."""
        return self.root / "jobs.log"

    @property
    def result(self) -> Path:
        """The figures."""
        return self.root / "backtest.json"

    @property
    def page(self) -> Path:
        """The figures as a page."""
        return self.root / "backtest.html"

    def scores(self, night: date) -> Path:
        """What the days of a night were given."""
        return self.root / "scores" / f"night={night}.parquet"

    def record(self, night: date) -> Path:
        """Written last: without it a night is not done."""
        return self.root / "records" / f"{night}.json"

    def begin(self, plan: Plan, cache: Path) -> None:
        """Write the plan down, or see that it is the one that was begun here.

        Args:
            plan: what will be replayed.
            cache: converted backbones, which any home may share.

        Raises:
            JobError: another backtest was begun here.
        """
        if self.is_begun:
            self._refuse_other(plan, self.plan())
            return
        if self.root.is_dir() and any(each.name != "lock" for each in self.root.iterdir()):
            raise JobError(f"{self.root} is not empty and holds no backtest; give another --home")
        self.nights.root.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        if not self.nights.cache.is_symlink():
            self.nights.cache.symlink_to(cache.resolve())
        write_atomically(self._plan, plan.model_dump_json(indent=2) + "\n")

    @property
    def _plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def is_begun(self) -> bool:
        """Whether an earlier call has settled a plan here."""
        return self._plan.is_file()

    def plan(self) -> Plan:
        """The plan that was begun here."""
        return Plan.model_validate_json(self._plan.read_text(encoding="utf-8"))

    def _refuse_other(self, plan: Plan, begun: Plan) -> None:
        now, then = plan.model_dump(mode="json"), begun.model_dump(mode="json")
        if changed := [name for name in now if now[name] != then[name]]:
            said = ", ".join(f"{name} was {then[name]} and is {now[name]}" for name in changed)
            raise JobError(
                f"{self.root} holds another backtest: {said}; give another --home, or remove it"
            )
