"""What a job of the night will cost, from what the same job cost on earlier nights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from statistics import median

from jobs.committed import committed
from jobs.datasets import BY_NAME
from jobs.home import Home
from jobs.llm.forecast import EmbeddingForecast
from jobs.manifest import Manifest, readable_manifest
from jobs.plan.steps import Step
from jobs.report.cost import costs

NIGHTS = 5  # that are looked at, the latest ones
# Tokens a second and bytes of the bundled backbone on two CPU cores in float32:
# docs/observability.md, What is expected without earlier nights.
DOCUMENTED = {
    "distil": (400.0, 1 << 30),
    "adapt": (200.0, 4_200 << 20),
    "tune": (200.0, 4_200 << 20),
    "score": (400.0, 1 << 30),
}
_READ = "n_tokens"  # what `score` says of a night whose version held a tuned LLM


@dataclass(frozen=True)
class Expected:
    """Of one job; None where nobody can tell.

    Attributes:
        rows: of its inputs.
        tokens: that the LLM will read.
        seconds: from start to manifest.
        peak_memory_bytes: of the process.
        basis: where the figures come from.
    """

    rows: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    basis: str = ""


def expected(
    step: Step,
    running: Iterable[str],
    embedding: EmbeddingForecast | None,
    day: date,
    home: Home,
    *,
    is_tuned: bool,
) -> Expected:
    """What `step` will cost if it works.

    Args:
        step: of a job that may run.
        running: jobs before it that may run: the size of what they make is unknown.
        embedding: what `distil` will find to do, where it is known.
        day: the as-of day.
        home: its manifests are what is measured by.
        is_tuned: whether the night's version will hold a tuned LLM, which then scores.
    """
    earlier = earlier_nights(step.job, day, home)
    if step.job == "score":
        earlier = [each for each in earlier if (_READ in each.metrics) == is_tuned]
    like = step.last or (earlier[0] if earlier else None)
    rows = None if like is None else _rows_now(like, set(running), day, home)
    tokens = _tokens(step, embedding, earlier)
    if step.job in DOCUMENTED and (is_tuned or step.job != "score"):
        return _of_llm(step.job, rows, tokens, earlier)
    if not earlier:
        return Expected(rows=rows, basis="no earlier night")
    return Expected(
        rows=rows,
        seconds=median(_seconds(each, rows) for each in earlier),
        peak_memory_bytes=_memory(earlier),
        basis=_nights(earlier),
    )


def earlier_nights(job: str, day: date, home: Home) -> list[Manifest]:
    """The last manifests of a job up to `day`, the latest first."""
    latest = [each for each in reversed(home.nights(job)) if each <= day][:NIGHTS]
    return [found for each in latest if (found := readable_manifest(home, job, each)) is not None]


def _rows_now(like: Manifest, running: set[str], day: date, home: Home) -> int | None:
    """Rows of the inputs as they lie there; None if one of them is made anew tonight."""
    total = 0
    for each in like.inputs:
        if BY_NAME[each.name].producer in running:
            return None
        now = committed(home, each.name, day)
        if now is None:
            return None
        total += now.n_rows or 0
    return total or None


def _seconds(earlier: Manifest, rows: int | None) -> float:
    """By the row, where both nights know how many there are."""
    then = sum(each.n_rows or 0 for each in earlier.inputs)
    return earlier.seconds * rows / then if rows and then else earlier.seconds


def _memory(earlier: Iterable[Manifest]) -> int | None:
    known = [each.peak_memory_bytes for each in costs(earlier)]
    return max((each for each in known if each is not None), default=None)


def _nights(earlier: list[Manifest]) -> str:
    days = sorted(each.day for each in earlier)
    return f"as on {days[0]}" if len(days) == 1 else f"{len(days)} nights, {days[0]} to {days[-1]}"


# -- jobs whose time goes into reading tokens ------------------------------------------------------


def _tokens(step: Step, embedding: EmbeddingForecast | None, earlier: list[Manifest]) -> int | None:
    if step.job == "distil":
        return embedding.n_tokens if embedding else None
    if step.job == "score":
        return next((int(each.metrics[_READ]) for each in earlier if _READ in each.metrics), None)
    return getattr(step.config, "max_tokens_total", None)


def _of_llm(job: str, rows: int | None, tokens: int | None, earlier: list[Manifest]) -> Expected:
    measured = [each for each in costs(earlier) if each.tokens_per_s]
    documented_rate, documented_memory = DOCUMENTED[job]
    rates = [float(each.tokens_per_s) for each in measured if each.tokens_per_s]
    rate = median(rates) if rates else documented_rate
    basis = _nights(earlier) if rates else "documented rate: two CPU cores, the bundled LLM"
    if tokens is None:
        return Expected(rows=rows, basis=basis)
    aside = median(_aside(each) for each in earlier) if earlier else 0.0
    return Expected(
        rows=rows,
        tokens=tokens,
        seconds=aside + tokens / rate,
        peak_memory_bytes=_memory(earlier) or documented_memory,
        basis=basis,
    )


def _aside(earlier: Manifest) -> float:
    """Seconds that went into loading and writing, not into reading tokens."""
    cost = costs([earlier])[0]
    reading = cost.tokens / cost.tokens_per_s if cost.tokens and cost.tokens_per_s else 0.0
    return max(earlier.seconds - reading, 0.0)
