"""What the night took: seconds, tokens and memory of each job, from the manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobs.manifest import Manifest
from jobs.report.night_figures import JobCost

_TOKENS = ("n_tokens", "n_train_tokens")  # what the jobs that read text call them
_SPEED, _MEMORY = "tokens_per_s", "peak_memory_bytes"


def costs(manifests: Iterable[Manifest]) -> list[JobCost]:
    """One line a job, in the order given. A job that had nothing to do keeps its last run's."""
    return [_cost(each) for each in manifests]


def _cost(manifest: Manifest) -> JobCost:
    said = manifest.metrics
    rows = [output.n_rows for output in manifest.outputs if output.n_rows is not None]
    speed = said.get(_SPEED)
    return JobCost(
        job=manifest.job,
        seconds=manifest.seconds,
        rows=sum(rows) if rows else None,
        tokens=_first(said, _TOKENS),
        tokens_per_s=round(speed, 1) if speed is not None else None,
        peak_memory_bytes=_first(said, (_MEMORY,)) or manifest.peak_memory_bytes,
    )


def _first(said: Mapping[str, float], names: Iterable[str]) -> int | None:
    return next((int(said[name]) for name in names if name in said), None)
