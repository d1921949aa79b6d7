"""The record of one run, and the only sign that its outputs exist."""

from __future__ import annotations

import hashlib
import resource
import sys
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from jobs.errors import NotAvailable
from jobs.home import Home

_PACKAGES = ("jobs", "embedding_store", "sql")


class Artifact(BaseModel):
    """One input or output: which bytes, how many rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    path: str  # relative to the home, or absolute for a source outside it
    sha256: str
    n_rows: int | None = None


class Manifest(BaseModel):
    """What a job did on a day, with everything that decides its output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    day: str
    config: dict[str, Any]
    code_version: str
    seed: int | None
    sources: list[Artifact]  # files from outside the home
    inputs: list[Artifact]
    outputs: list[Artifact]
    metrics: dict[str, float]
    result: dict[str, Any]  # what the job tells its scheduler
    seconds: float
    peak_memory_bytes: int | None = None  # of the process, which runs one job; older ones: null

    def output(self, name: str) -> Artifact | None:
        """The output of that name, if the run made one."""
        return next((output for output in self.outputs if output.name == name), None)


def load_manifest(home: Home, job: str, day: date) -> Manifest | None:
    """The manifest of a job's last good run on a day; None if there is none.

    Raises:
        NotAvailable: there is one, and it cannot be read; a run of the job writes a new one.
    """
    path = home.manifest(job, day)
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # no UTF-8, no JSON, or another form
        raise NotAvailable(
            f"{path} is damaged ({str(error).splitlines()[0]}); run job '{job}' again for {day}"
        ) from error


def readable_manifest(home: Home, job: str, day: date) -> Manifest | None:
    """As `load_manifest`; one that cannot be read counts as none."""
    try:
        return load_manifest(home, job, day)
    except NotAvailable:
        return None


def peak_memory_bytes() -> int:
    """The most memory that this process has held at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cache
def code_version() -> str:
    """The distribution's version and a hash of the code that is running, editable or not."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in {".py", ".sql", ".j2", ".txt", ".yaml", ".toml"} and path.is_file():
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(path.read_bytes())
    return f"{version('tidemark')}+{digest.hexdigest()[:12]}"
