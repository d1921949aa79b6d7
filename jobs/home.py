"""Where everything lives: one root folder, TIDEMARK_HOME. Standard library only."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jobs.datasets import Dataset, Format


@dataclass(frozen=True)
class Home:
    """Paths below one root. Removing the root removes everything that Tidemark ever made."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """The folder that TIDEMARK_HOME names, `.tidemark` in the working directory without it."""
        return cls(Path(os.environ.get("TIDEMARK_HOME") or ".tidemark").expanduser().absolute())

    @property
    def raw(self) -> Path:
        """Source files that Tidemark itself made (the sample warehouse)."""
        return self.root / "raw"

    @property
    def store(self) -> str:
        """Root of the embedding store: TIDEMARK_STORE, or `store/` below the home."""
        return os.environ.get("TIDEMARK_STORE") or str(self.root / "store")

    @property
    def cache(self) -> Path:
        """Converted backbones; may be deleted at any time."""
        return self.root / "cache"

    def output(self, dataset: Dataset, day: date) -> Path:
        """The one file that holds `dataset` as of `day`."""
        if dataset.format in (Format.JSON, Format.HTML):
            return self.root / "reports" / str(day) / f"{dataset.name}.{dataset.format.value}"
        return self.root / "tables" / dataset.name / f"day={day}" / f"data.{dataset.format.value}"

    def run(self, job: str, day: date) -> Path:
        """Folder of one job on one day: manifest, lock, check marks, staging."""
        return self.root / "runs" / job / f"day={day}"

    def manifest(self, job: str, day: date) -> Path:
        """Written last; without it the job's outputs of that day do not exist."""
        return self.run(job, day) / "manifest.json"

    def nights(self, job: str) -> list[date]:
        """Days for which a job has left a manifest, readable or not, the oldest first.

        Whatever else somebody keeps beside them, a copy of a folder for instance, is passed over.
        """
        found = []
        for path in (self.root / "runs" / job).glob("day=*/manifest.json"):
            with suppress(ValueError):
                found.append(date.fromisoformat(path.parent.name.removeprefix("day=")))
        return sorted(found)

    def attempt(self, job: str, day: date) -> Path:
        """What became of the last execution of a job on a day, good or bad."""
        return self.run(job, day) / "attempt.json"

    def check_mark(self, dataset: Dataset, day: date) -> Path:
        """Says which bytes of `dataset` have passed its checks."""
        return self.run(dataset.producer, day) / "checked" / f"{dataset.name}.json"
