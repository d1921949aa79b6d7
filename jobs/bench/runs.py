"""What is known of a row of the table before it is judged: its scores by seed, or why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.bench.entries import BenchEntry
from jobs.bench.kept import Doubles, Outcome


@dataclass(frozen=True)
class OtherCode:
    """Another version of the code, which made a result that is shown here.

    Attributes:
        code_sha256: of the code that decided the scores.
        versions: of the libraries they depend on.
    """

    code_sha256: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class SeedRun:
    """One system with one seed: its scores by split, in the order of the rows.

    Attributes:
        seed: its number; of tables, their place in the list.
        scores: by split.
        outcome: what it cost; None where it was made elsewhere.
        frozen: of the test rows, with histories that end where test begins; None where nobody
            scored them so.
        other_code: what made it, where that is not the code that runs now.
    """

    seed: int
    scores: Mapping[str, Doubles]
    outcome: Outcome | None
    frozen: Doubles | None = None
    other_code: OtherCode | None = None


@dataclass(frozen=True)
class SystemRuns:
    """A row of the table before it is judged.

    Attributes:
        entry: what was asked for.
        title: what the table calls it.
        settings: all of them, defaults included.
        runs: by seed.
        error: what went wrong; None if nothing did.
        not_measured: why there is nothing to judge, where nothing went wrong either.
    """

    entry: BenchEntry
    title: str
    settings: Mapping[str, Any]
    runs: tuple[SeedRun, ...]
    error: str | None
    not_measured: str | None = None
