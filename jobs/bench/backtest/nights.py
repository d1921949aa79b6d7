"""One night of a backtest: the jobs of the nightly chain, one after the other in this process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from datetime import date
from difflib import get_close_matches
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict, ValidationError

from embedding_store import EmbeddingStore
from embedding_store.errors import StoreError
from embedding_store.garbage import Policy
from embedding_store.lookup import previous_version
from jobs.bench.backtest.plan import REPLAYED, Plan
from jobs.check import check
from jobs.datasets import ALL
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Outcome, declared_by, execute, load_manifest
from jobs.publish import PublishConfig

ALIAS = PublishConfig().alias
_WAIT_S = 60.0  # for a job of a call that was killed a moment ago
# A scratch store has one reader, so what no alias needs can go at once.
_KEEP_NOTHING = Policy(keep_last=1, younger_than_s=0.0, attempt_age_s=0.0, skew_s=0.0)


class NightRecord(BaseModel):
    """How a night went; null where a failed night has no answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    night: date
    why_failed: str | None = None
    published: int | None = None
    why_not_promoted: str | None = None
    serving: int | None  # the version that the alias names after this night
    metrics: dict[str, float] = {}  # of fitting
    seconds: dict[str, float]  # of each job, its checks included


def refuse_unknown(settings: Mapping[str, Mapping[str, object]]) -> None:
    """Say before any night runs that a setting is none of its job's.

    Raises:
        JobError: names it, and the nearest that there is.
    """
    for job, fields in settings.items():
        known = list(declared_by(job).config_class.model_fields)
        for field in fields:
            if field not in known:
                near = get_close_matches(field, known, n=1)
                hint = f"do you mean {near[0]}?" if near else f"there are {', '.join(known)}"
                raise JobError(f"--set {job}.{field}: no such setting; {hint}")


def run_job(
    job: str,
    day: date,
    home: Home,
    given: Mapping[str, object],
    settings: Mapping[str, object] = MappingProxyType({}),
) -> Outcome:
    """One job of the chain and the checks of its tables.

    Args:
        job: a name in `jobs.launch.MODULES`.
        day: the as-of day.
        home: where it reads and writes.
        given: values for whichever of these fields the job's config has.
        settings: fields that its config must have.

    Raises:
        JobError: a setting is none of the job's, or the job failed.
    """
    declared = declared_by(job)
    config_class = declared.config_class
    fields = {name: value for name, value in given.items() if name in config_class.model_fields}
    try:
        config = config_class(**{**fields, **settings})
    except ValidationError as error:
        said = "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
        raise JobError(f"--set of {job}: {said}") from error
    outcome = execute(
        job,
        config,
        day,
        home,
        declared.job,
        sources=declared.sources,
        intact=declared.intact,
        wait_s=_WAIT_S,
    )
    check(job, day, home)
    return outcome


def run_night(plan: Plan, night: date, home: Home) -> NightRecord:
    """Everything from the raw files to a version of the scratch store, as of `night`.

    A night that was cut short goes on where it was: jobs whose inputs and config are the same
    have nothing to do.

    Raises:
        JobError: a job failed; the error says which, and why.
    """
    given = {
        "source": plan.source,
        "model": plan.model,
        "previous_version": _previous(home, night),
        "split_protocol": "rolling",  # a product has no rows to keep aside for a paper's table
        "valid_days": plan.valid_days,
        "test_days": 0,
    }
    settings = {"align": fitting(plan, given["previous_version"])}
    for job, fields in plan.settings.items():
        settings[job] = settings.get(job, {}) | fields
    seconds, said = {}, {}
    for job in REPLAYED:
        started = time.monotonic()
        try:
            said = run_job(job, night, home, given, settings.get(job, {})).manifest.result
        except JobError as error:
            raise JobError(f"{job}: {error}") from error
        seconds[job] = round(time.monotonic() - started, 3)
    fitted = load_manifest(home, "align", night)
    return NightRecord(
        night=night,
        published=said["version"],
        why_not_promoted=said.get("why"),
        serving=serving(home),
        metrics=fitted.metrics if fitted else {},
        seconds=seconds,
    )


def fitting(plan: Plan, previous: object) -> dict[str, object]:
    """Settings of align: a fit from scratch that ends with the valid rows in it, or a warm one.

    Never both: a version that was fitted to the valid rows cannot be where a fit starts that is
    stopped by them.
    """
    if plan.warm_start:
        return {"previous_version": previous, "refit_on_valid": False}
    return {"previous_version": None, "refit_on_valid": True}


def _previous(home: Home, night: date) -> int | None:
    try:
        return previous_version(home.store, night)
    except StoreError as error:
        raise JobError(str(error)) from error


def serving(home: Home) -> int | None:
    """The version that the alias names; None before the first night."""
    try:
        return EmbeddingStore(home.store).aliases().get(ALIAS)
    except StoreError:
        return None


def make_store(home: Home) -> None:
    """A store whose versions can be deleted without waiting for readers, for there is one."""
    EmbeddingStore(home.store).initialise(lease_ttl_s=1.0, grace_s=0.0)


def forget_before(night: date, home: Home) -> None:
    """Remove the tables of earlier nights and the versions that no later night needs.

    Manifests stay: checks compare a night's rows with those of the nights before.
    """
    for dataset in ALL:
        for folder in (home.root / "tables" / dataset.name).glob("day=*"):
            if date.fromisoformat(folder.name.removeprefix("day=")) < night:
                shutil.rmtree(folder)
    EmbeddingStore(home.store).gc(_KEEP_NOTHING)
