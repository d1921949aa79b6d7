"""What a night would redo and why, decided by what the jobs themselves ask before they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from enum import Enum

from pydantic import ValidationError

from embedding_store.errors import StoreError
from jobs.command_line import explain
from jobs.committed import is_checked, source_artifacts
from jobs.datasets import BY_NAME, Format, made_by
from jobs.decision import Asked, Reason, reasons
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, declared_by, deployment_fields
from jobs.launch import NIGHTLY
from jobs.manifest import Manifest, readable_manifest
from jobs.night_flags import ON_VERSION, NightFlags
from jobs.previous import last_night


class Status(Enum):
    """What a job would do."""

    REDO = "redo"  # for certain
    FOLLOWS = (
        "follows"  # an input is made anew: redone unless that comes out byte for byte as it was
    )
    UP_TO_DATE = "up to date"
    LEFT_OUT = "left out"
    FAILS = "fails"


@dataclass(frozen=True)
class Step:
    """One job of the night.

    Attributes:
        job: its name.
        status: what it would do.
        why: the reasons; of a job that fails, what it would say.
        config: what it would be given; None where that hangs on a job before it.
        last: the manifest that it would reuse or replace.
        unchecked: tables of an up-to-date job whose checks are still to run.
    """

    job: str
    status: Status
    why: tuple[Reason, ...] = ()
    config: Config | None = None
    last: Manifest | None = None
    unchecked: tuple[str, ...] = ()

    @property
    def may_run(self) -> bool:
        """Whether it works tonight, for certain or perhaps."""
        return self.status in (Status.REDO, Status.FOLLOWS)


def planned_steps(night: NightFlags, home: Home, *, force: bool) -> list[Step]:
    """A step for each job of the chain, in its order; reads, and runs nothing."""
    planner = _Planner(night, home, force)
    for job in NIGHTLY:
        planner.add(job)
    return planner.steps


def flags_of_night(day: date, home: Home, *, source: str, model: str, tokens: int) -> NightFlags:
    """What the chain would give its jobs, found as it finds it (`jobs.previous`).

    Raises:
        JobError: the store cannot be read.
    """
    try:
        last = last_night(home, day)
    except StoreError as error:
        raise JobError(str(error)) from error
    return NightFlags.of_chain(day, last, source=source, model=model, tokens=tokens)


class _Planner:
    def __init__(self, night: NightFlags, home: Home, force: bool) -> None:
        self.night, self.home, self.force = night, home, force
        self.steps: list[Step] = []

    def add(self, job: str) -> None:
        """Decide one more job, when those before it are decided."""
        if why := self.night.why_left_out(job):
            self.steps.append(Step(job, Status.LEFT_OUT, (Reason("config", job, why),)))
            return
        last = readable_manifest(self.home, job, self.night.day)  # a run removes a damaged one
        try:
            config = self._config(job)
            step = self._unless_refused(self._decided(job, config, last))
        except (JobError, StoreError) as error:
            # What the job would look at first is not there yet: a job before it may make it.
            config, why = None, str(error)
            follows = Status.FOLLOWS if any(each.may_run for each in self.steps) else Status.FAILS
            step = Step(job, follows, (Reason("source", job, why),), config, last)
        self.steps.append(step)

    def _config(self, job: str) -> Config | None:
        """None where the version is needed that `publish` has yet to name."""
        version = None
        if job in ON_VERSION:
            published = readable_manifest(self.home, "publish", self.night.day)
            if published is None:
                return None
            version = published.result["version"]
        given = {k: v for k, v in self.night.of(job, version).items() if v is not None}
        try:
            return declared_by(job).config_class(**given)
        except ValidationError as error:
            raise JobError(f"{job}: {explain(error)}") from error

    def _decided(self, job: str, config: Config | None, last: Manifest | None) -> Step:
        if last is None:
            first = Reason("new", job, f"has not run for {self.night.day}")
            return Step(job, Status.REDO, (first,), config)
        if self.force:
            forced = Reason("forced", job, "asked for by --force")
            return Step(job, Status.REDO, (forced,), config, last)
        found = [] if config is None else list(reasons(last, self._asked(job, config), self.home))
        follows = list(self._follows(job, last))
        if found:
            return Step(job, Status.REDO, (*found, *follows), config, last)
        if follows:
            return Step(job, Status.FOLLOWS, tuple(follows), config, last)
        return Step(job, Status.UP_TO_DATE, (), config, last, self._unchecked(last))

    def _unless_refused(self, step: Step) -> Step:
        refuses = declared_by(step.job).refuses
        if refuses is None or step.config is None or not step.may_run:
            return step
        why = refuses(step.config, self.night.day, self.home)
        return (
            replace(step, status=Status.FAILS, why=(Reason("source", step.job, why),))
            if why
            else step
        )

    def _asked(self, job: str, config: Config) -> Asked:
        day, home, of_job = self.night.day, self.home, declared_by(job)
        return Asked(
            job=job,
            day=day,
            config=config.model_dump(mode="json"),
            aside=deployment_fields(config),
            sources=lambda: source_artifacts(
                of_job.sources(config, day, home) if of_job.sources else ()
            ),
            intact=of_job.intact,
        )

    def _unchecked(self, last: Manifest) -> tuple[str, ...]:
        tables = [BY_NAME[each.name] for each in last.outputs]
        return tuple(
            table.name
            for table in tables
            if table.format is Format.PARQUET and not is_checked(self.home, table, self.night.day)
        )

    # -- what follows from the jobs before -------------------------------------------------------

    def _follows(self, job: str, last: Manifest) -> Iterator[Reason]:
        running = {step.job: step for step in self.steps if step.may_run}
        for each in last.inputs:
            producer = BY_NAME[each.name].producer
            if producer in running:
                yield Reason("follows", each.name, f"is made anew by {producer}")
        yield from self._of_sources(last, running)
        if job in ON_VERSION and "publish" in running:
            yield Reason("follows", "version", "is named anew by publish")
        if declared_by(job).intact is not None:
            yield from self._first_times(last, running.values())

    def _of_sources(self, last: Manifest, running: Iterable[str]) -> Iterator[Reason]:
        """Files below the home that an earlier job makes, such as the adapter."""
        day, paths = self.night.day, {each.path for each in last.sources}
        for producer in running:
            for dataset in made_by(producer):
                if str(self.home.output(dataset, day)) in paths:
                    yield Reason("follows", dataset.name, f"is made anew by {producer}")

    def _first_times(self, last: Manifest, running: Iterable[Step]) -> Iterator[Reason]:
        """What a night may do without, and has not had: a job that looks for it may take it in."""
        read = {BY_NAME[each.name].producer for each in last.inputs}
        for step in running:
            if step.last is None and step.job not in read:
                yield Reason("follows", step.job, "runs for the first time; it may be taken in")
