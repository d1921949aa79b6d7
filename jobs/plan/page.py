"""A night's plan: put together, and shown to people as lines or to machines as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.home import Home
from jobs.llm.forecast import EmbeddingForecast
from jobs.manifest import code_version
from jobs.night_flags import NightFlags
from jobs.plan.expected import Expected, expected
from jobs.plan.items import NotYetKnown, to_embed
from jobs.plan.steps import Status, Step, planned_steps

_SHOWN = 3  # reasons, and items
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Plan:
    """What a night would do.

    Attributes:
        night: the flags that it was asked with.
        steps: one a job, in the order of the chain.
        expected: by job, of those that may run.
        embedding: what `distil` would find to do; or why that is not known.
        code: of this command: what the jobs would run.
    """

    night: NightFlags
    steps: list[Step]
    expected: dict[str, Expected]
    embedding: EmbeddingForecast | str
    code: str

    def jobs(self, status: Status) -> list[str]:
        """Names of the jobs of a status."""
        return [step.job for step in self.steps if step.status is status]


def planned(night: NightFlags, home: Home, *, force: bool) -> Plan:
    """The plan of a night; reads, and runs nothing."""
    steps = planned_steps(night, home, force=force)
    embedding: EmbeddingForecast | str
    try:
        embedding = to_embed(night, {step.job: step for step in steps}, home)
    except NotYetKnown as error:
        embedding = str(error)
    known = None if isinstance(embedding, str) else embedding
    running: list[str] = []
    costs: dict[str, Expected] = {}
    for step in steps:
        if step.may_run:
            costs[step.job] = expected(
                step, running, known, night.day, home, is_tuned=bool(night.tokens)
            )
            running.append(step.job)
    return Plan(night, steps, costs, embedding, code_version())


# -- for people ------------------------------------------------------------------------------------


def lines(plan: Plan) -> Iterator[str]:
    """The plan as plain text: one line a job, its reasons below."""
    yield f"{plan.night.day}: {_headline(plan)}"
    yield ""
    yield f"{'job':<14}{'what':<12}{'rows in':>11}{'tokens':>10}{'time':>9}{'memory':>10}  basis"
    for step in plan.steps:
        yield _line(step, plan.expected.get(step.job))
        yield from _reasons(step)
    yield ""
    yield from _embedding(plan.embedding)
    if plan.expected:
        yield from _totals(list(plan.expected.values()))
    if older := _older_code(plan):
        yield (
            f"Code: {', '.join(older)} were made by other code than {plan.code}. "
            "A deploy alone redoes nothing; --force redoes them."
        )


def _headline(plan: Plan) -> str:
    redo, follows = plan.jobs(Status.REDO), plan.jobs(Status.FOLLOWS)
    if failing := plan.jobs(Status.FAILS):
        return f"{', '.join(failing)} would fail"
    if not redo and not follows:
        return "nothing to do"
    return f"{len(redo)} jobs to do, {len(follows)} that follow unless their inputs come out equal"


def _line(step: Step, cost: Expected | None) -> str:
    start = f"{step.job:<14}{step.status.value:<12}"
    if cost is None:
        return start.rstrip()
    tokens = "" if cost.tokens is None else f"{cost.tokens:,}"
    rows = _UNKNOWN if cost.rows is None else f"{cost.rows:,}"
    time, memory = _duration(cost.seconds), _size(cost.peak_memory_bytes)
    return f"{start}{rows:>11}{tokens:>10}{time:>9}{memory:>10}  {cost.basis}"


def _reasons(step: Step) -> Iterator[str]:
    for reason in step.why[:_SHOWN]:
        named = f"{reason.name} " if reason.name and reason.name != step.job else ""
        named = f"--{reason.name.replace('_', '-')} " if _is_flag(step, reason.name) else named
        yield f"    {named}{reason.says}"
    if len(step.why) > _SHOWN:
        yield f"    and {len(step.why) - _SHOWN:,} more"
    for table in step.unchecked:
        yield f"    the checks of {table} are still to run"


def _is_flag(step: Step, name: str) -> bool:
    is_of_config = any(reason.kind == "config" and reason.name == name for reason in step.why)
    return is_of_config and step.status is Status.REDO


def _embedding(found: EmbeddingForecast | str) -> Iterator[str]:
    if isinstance(found, str):
        yield f"Items to embed: unknown: {found}"
        return
    yield (
        f"Items to embed: {found.n_to_embed:,} of {found.n_items:,} "
        f"({found.n_new:,} new, {found.n_changed:,} changed), {found.n_tokens:,} tokens"
    )
    for item, text in found.named[:_SHOWN]:
        yield f"    {item}: {text}"
    if found.n_to_embed > _SHOWN:
        yield f"    and {found.n_to_embed - _SHOWN:,} more"


def _totals(costs: list[Expected]) -> Iterator[str]:
    seconds = [each.seconds for each in costs if each.seconds is not None]
    memory = [each.peak_memory_bytes for each in costs if each.peak_memory_bytes is not None]
    yield f"Time, all of it: {_duration(sum(seconds))}{_and_unknown(costs, seconds)}"
    yield f"Memory of the largest: {_size(max(memory, default=None))}{_and_unknown(costs, memory)}"


def _and_unknown(costs: list[Expected], known: Sequence[float]) -> str:
    n_unknown = len(costs) - len(known)
    return f", and {n_unknown} of {len(costs)} jobs unknown" if n_unknown and known else ""


def _older_code(plan: Plan) -> list[str]:
    return [
        step.job
        for step in plan.steps
        if step.status is Status.UP_TO_DATE and step.last and step.last.code_version != plan.code
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return _UNKNOWN
    return f"{n_bytes / 2**20:,.0f} MB" if n_bytes < 10 << 30 else f"{n_bytes / 2**30:,.1f} GB"


# -- for machines ----------------------------------------------------------------------------------


def as_json(plan: Plan) -> str:
    """The plan as one JSON object; sizes that nobody can tell are null."""
    found = plan.embedding
    said: dict[str, Any] = {
        "day": str(plan.night.day),
        "source": plan.night.source,
        "model": plan.night.model,
        "tokens": plan.night.tokens,
        "previous_version": plan.night.previous_version,
        "adapter": plan.night.adapter,
        "code_version": plan.code,
        "jobs": [_step_record(step, plan.expected.get(step.job)) for step in plan.steps],
        "embedding": {"unknown": found} if isinstance(found, str) else asdict(found),
    }
    return json.dumps(said, indent=2, default=str)


def _step_record(step: Step, cost: Expected | None) -> dict[str, Any]:
    return {
        "job": step.job,
        "status": step.status.value,
        "why": [asdict(reason) for reason in step.why],
        "expected": asdict(cost) if cost else None,
        "made_by": step.last.code_version if step.last else None,
        "unchecked": list(step.unchecked),
    }
