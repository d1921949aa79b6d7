"""What the jobs of a home did, as OpenMetrics text, for Prometheus's node_exporter.

Jobs end before anybody could ask them, so nothing is served: the figures lie in manifests and
records of attempts, and are put together whenever somebody asks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Literal

from embedding_store.errors import StoreError
from embedding_store.lookup import open_version
from jobs.attempt import ENDS, Attempt, load_attempt
from jobs.home import Home
from jobs.launch import MODULES
from jobs.manifest import Manifest, code_version, readable_manifest
from jobs.report.cost import costs

_ALIAS = "production"
_DAY = re.compile(r"day=(\d{4}-\d{2}-\d{2})")
Labels = Mapping[str, str]


@dataclass
class Family:
    """A metric: its name, what it means, and a sample for each set of labels."""

    name: str
    kind: Literal["gauge", "counter", "info"]
    means: str
    unit: str = ""
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def add(self, value: float | None, **labels: str) -> None:
        """One more sample; nothing where nothing is known."""
        if value is not None:
            self.samples.append((labels, float(value)))

    def lines(self) -> Iterator[str]:
        """As OpenMetrics has it; nothing without samples."""
        if not self.samples:
            return
        yield f"# TYPE {self.name} {self.kind}"
        if self.unit:
            yield f"# UNIT {self.name} {self.unit}"
        yield f"# HELP {self.name} {self.means}"
        suffix = {"counter": "_total", "info": "_info"}.get(self.kind, "")
        for labels, value in self.samples:
            yield f"{self.name}{suffix}{_braced(labels)} {_number(value)}"


def exposition(home: Home, n_days: int) -> str:
    """Every metric of the last `n_days` as-of days that any job ran for, ended by `# EOF`."""
    days = sorted(_days(home), reverse=True)[:n_days]
    families = [*_of_jobs(home, sorted(days)), *_of_store(home, sorted(days)), _build()]
    lines = [line for family in families for line in family.lines()]
    return "\n".join([*lines, "# EOF", ""])


def _days(home: Home) -> set[date]:
    """Of all jobs; on-demand jobs too."""
    found = set()
    for job in MODULES:
        for folder in (home.root / "runs" / job).glob("day=*"):
            if match := _DAY.fullmatch(folder.name):
                found.add(date.fromisoformat(match[1]))
    return found


# -- jobs ------------------------------------------------------------------------------------------


def _of_jobs(home: Home, days: Iterable[date]) -> list[Family]:
    work = _Work()
    for day in days:
        for job in MODULES:
            labels = {"job": job, "day": str(day)}
            manifest = readable_manifest(home, job, day)
            if manifest is not None:
                work.add_manifest(manifest, labels)
            if (last := load_attempt(home, job, day)) is not None:
                work.add_attempt(last, labels)
    return work.families


class _Work:
    def __init__(self) -> None:
        self._seconds = Family(
            "tidemark_job_duration_seconds",
            "gauge",
            "Of the last run that did the work.",
            "seconds",
        )
        self._rows = Family("tidemark_job_output_rows", "gauge", "Rows written, all tables.")
        self._tokens = Family("tidemark_job_tokens", "gauge", "Tokens that the LLM read.")
        self._memory = Family(
            "tidemark_job_peak_memory_bytes",
            "gauge",
            "Most memory held at once; of a GPU where the work was there.",
            "bytes",
        )
        self._figures = Family(
            "tidemark_job_figure", "gauge", "A figure that the job itself measured."
        )
        self._last = Family(
            "tidemark_job_last_run",
            "gauge",
            "1 for how the last run ended: done, unchanged (nothing to do), failed; or running.",
        )
        self._success = Family(
            "tidemark_job_last_success_timestamp_seconds",
            "gauge",
            "When a run last ended well, with work or with nothing to do.",
            "seconds",
        )
        self._runs = Family("tidemark_job_runs", "counter", "Runs by how they ended.")
        self.families = [
            self._seconds,
            self._rows,
            self._tokens,
            self._memory,
            self._figures,
            self._last,
            self._success,
            self._runs,
        ]

    def add_manifest(self, manifest: Manifest, labels: dict[str, str]) -> None:
        cost = costs([manifest])[0]
        self._seconds.add(manifest.seconds, **labels)
        self._rows.add(cost.rows, **labels)
        self._tokens.add(cost.tokens, **labels)
        self._memory.add(cost.peak_memory_bytes, **labels)
        for name, value in manifest.metrics.items():
            self._figures.add(value, **labels, figure=name)

    def add_attempt(self, last: Attempt, labels: dict[str, str]) -> None:
        self._last.add(1, **labels, status=last.status)
        if last.last_success_at is not None:
            moment = datetime.fromisoformat(last.last_success_at)
            self._success.add(moment.timestamp(), **labels)
        for end in ENDS:
            self._runs.add(last.ends.get(end, 0), **labels, status=end)


# -- versions --------------------------------------------------------------------------------------


def _of_store(home: Home, days: Iterable[date]) -> list[Family]:
    version = Family("tidemark_alias_version", "gauge", "The version that an alias names.")
    as_of = Family(
        "tidemark_alias_day_timestamp_seconds",
        "gauge",
        "Midnight UTC of the as-of day of that version.",
        "seconds",
    )
    refused = Family(
        "tidemark_promotion_refused",
        "gauge",
        "1 if the day's version was published and not promoted, by a gate or because production "
        "is of a later day.",
    )
    gates = Family("tidemark_gates_failed", "gauge", "Gates that the day's version failed.")
    try:
        with open_version(home.store, _ALIAS, verify="off", lease=False) as opened:
            midnight = datetime.fromisoformat(opened.day).replace(tzinfo=UTC)
            version.add(opened.version, alias=_ALIAS)
            as_of.add(midnight.timestamp(), alias=_ALIAS)
    except StoreError:
        pass  # no store yet, or nothing was promoted: no sample, which an alert can ask for
    for day in days:
        if (published := readable_manifest(home, "publish", day)) is not None:
            refused.add(not published.result.get("promoted", True), day=str(day))
            gates.add(published.metrics.get("n_gates_failed"), day=str(day))
    return [version, as_of, refused, gates]


def _build() -> Family:
    build = Family("tidemark_build", "info", "The code that is installed.")
    build.add(1, code_version=code_version())
    return build


# -- text ------------------------------------------------------------------------------------------


def _braced(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
