"""Fits what a bench asks for and the home does not hold yet, one process after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from jobs.bench.config import TRIVIAL, BenchConfig, Entry, TableEntry
from jobs.bench.evidence import SPLIT_NAMES, BenchRows
from jobs.bench.kept import (
    SCORES,
    Asked,
    Doubles,
    Kept,
    Outcome,
    code_sha256,
    library_versions,
    read_scores,
)
from jobs.bench.one_fit import ASKED, FAILED
from jobs.bench.protocols import Protocol
from jobs.bench.warehouse_years import FILE
from jobs.collab.baselines.registry import system_of
from jobs.collab.factors import Ints
from jobs.datasets import LLM_SCORES
from jobs.errors import JobError, NotAvailable
from jobs.files import sha256_file, write_atomically
from jobs.home import Home

_SCORED = SPLIT_NAMES[1:]


@dataclass(frozen=True)
class SeedRun:
    """One system with one seed: its scores by split, in the order of the rows, or why not."""

    seed: int
    scores: Mapping[str, Doubles]
    outcome: Outcome | None


@dataclass(frozen=True)
class SystemRuns:
    """A row of the table before it is judged.

    Attributes:
        entry: what was asked for.
        title: what the table calls it.
        settings: all of them, defaults included.
        runs: by seed.
        error: why there are none.
    """

    entry: Entry | TableEntry
    title: str
    settings: dict[str, Any]
    runs: tuple[SeedRun, ...]
    error: str | None


def entries_of(bench: BenchConfig) -> list[Entry | TableEntry]:
    """The trivial controls, then what the file lists; means need no second seed."""
    first = bench.seeds[:1]
    means = [Entry(name=name, system=name, title=title, seeds=first)
             for name, title in TRIVIAL.items()]  # fmt: skip
    return [*means, *bench.systems]


class Bench:
    """A bench on a home.

    Args:
        bench: what to run.
        rows: the home's tables.
        home: where results are kept.
        folder: of the bench file; scores named in it are beside it.
        console: for progress.
    """

    def __init__(
        self, bench: BenchConfig, rows: BenchRows, home: Home, folder: Path, console: Console
    ) -> None:
        self.bench, self.rows, self.home = bench, rows, home
        self.folder, self.console = folder, console

    def run(self, only: Collection[str] = ()) -> Iterator[SystemRuns]:
        """Every row of the table, in order.

        Args:
            only: names to fit; of others, what the home holds is shown, and no row if it is not
                all there. Nothing: all.
        """
        for entry in entries_of(self.bench):
            if isinstance(entry, TableEntry):
                yield self._table(entry)
            elif (found := self._fitted(entry, not only or entry.name in only)) is not None:
                yield found

    # -- fitted here ------------------------------------------------------------------------------

    def _fitted(self, entry: Entry, may_fit: bool) -> SystemRuns | None:
        try:
            system = system_of(entry.system, entry.settings)
        except JobError as failure:
            return SystemRuns(entry, entry.title or entry.name, entry.settings, (), str(failure))
        title, settings = entry.title or system.title, system.model_dump(mode="json")
        runs: list[SeedRun] = []
        for seed in entry.seeds or self.bench.seeds:
            asked = self.asked(entry, settings, seed)
            kept = Kept(asked.folder(self.home))
            if kept.outcome() is None:
                if not may_fit:
                    return None
                if error := self._make(asked, kept):
                    return SystemRuns(entry, title, settings, (), f"seed {seed}: {error}")
            runs.append(self._read(seed, kept))
        return SystemRuns(entry, title, settings, tuple(runs), None)

    def asked(self, entry: Entry, settings: dict[str, Any], seed: int) -> Asked:
        """Everything that decides the scores of a system with a seed."""
        bench = self.bench
        is_paper = bench.protocol is Protocol.PAPER
        earlier = self._earlier()
        return Asked(
            name=entry.name,
            system=entry.system,
            settings=settings,
            seed=seed,
            protocol=bench.protocol,
            refit_every_days=1 if is_paper else entry.refit_every_days or bench.refit_every_days,
            day=_day(bench),
            earlier=str(earlier) if earlier else None,
            earlier_sha256=sha256_file(earlier / FILE) if earlier else None,
            evidence_sha256=self.rows.fingerprint,
            code_sha256=code_sha256(entry.system, settings),
            versions=library_versions(),
            n_threads=bench.n_threads,
        )

    def _earlier(self) -> Path | None:
        """The folder of the years before the window, in the protocol that knows them."""
        if self.bench.protocol is not Protocol.WAREHOUSE or self.bench.earlier is None:
            return None
        folder = (self.folder / self.bench.earlier.expanduser()).resolve()
        if not (folder / FILE).is_file():
            raise NotAvailable(f"{folder / FILE} is absent; the key `earlier` names its folder")
        return folder

    def _make(self, asked: Asked, kept: Kept) -> str | None:
        """Run the work in a process of its own; what went wrong, None if nothing did."""
        said = f"{asked.name}, seed {asked.seed}"
        self.console.print(f"{said}: fitting", style="dim", highlight=False)
        kept.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(kept.folder / ASKED, asked.model_dump_json(indent=1))
        words = [sys.executable, "-m", "jobs.bench.one_fit", str(kept.folder)]
        threads = {"OMP_NUM_THREADS": str(asked.n_threads), "OMP_WAIT_POLICY": "PASSIVE"}
        place = {"TIDEMARK_HOME": str(self.home.root)}
        done = subprocess.run(words, env=os.environ | threads | place, check=False)
        outcome = kept.outcome()
        if done.returncode == 0 and outcome is not None:
            self.console.print(f"{said}: {_cost(outcome)}", highlight=False)
            return None
        error = _failure(kept.folder, done.returncode)
        self.console.print(f"{said}: {error}", style="red", highlight=False)
        return error

    def _read(self, seed: int, kept: Kept) -> SeedRun:
        scores = {
            split: self._in_order(split, *found)
            for split, found in read_scores(kept.scores_path).items()
        }
        return SeedRun(seed, scores, kept.outcome())

    # -- fitted elsewhere -------------------------------------------------------------------------

    def _table(self, entry: TableEntry) -> SystemRuns:
        try:
            runs = tuple(
                SeedRun(seed, self._scores(path), None)
                for seed, path in enumerate(self._paths(entry))
            )
        except JobError as error:
            return SystemRuns(entry, entry.title, {}, (), str(error))
        return SystemRuns(entry, entry.title, {}, runs, None)

    def _paths(self, entry: TableEntry) -> Sequence[Path]:
        if entry.scores == "llm_scores":
            return [self.home.output(LLM_SCORES, _day(self.bench))]
        return [self.folder / path for path in entry.scores]

    def _scores(self, path: Path) -> dict[str, Doubles]:
        try:
            found = read_scores(path)
        except (OSError, ValueError, pa.ArrowException) as error:
            columns = ", ".join(SCORES.names)
            raise JobError(f"{path}: cannot be read as Parquet of {columns}: {error}") from error
        try:
            return {name: self._in_order(name, *found[name]) for name in _SCORED if name in found}
        except JobError as error:
            raise JobError(f"{path}: {error}") from error

    def _in_order(self, split: str, numbers: Ints, logits: Doubles) -> Doubles:
        """Logits in the order of the split's rows; every row has exactly one."""
        wanted = self.rows.numbers[self.rows.places(split)]
        if numbers.shape == wanted.shape and (numbers == wanted).all():
            if not np.isfinite(logits).all():
                row = int(numbers[np.argmin(np.isfinite(logits))])
                raise JobError(f"the logit of {split} row {row} is not a finite number")
            return logits
        odd = sorted(set(wanted.tolist()) ^ set(numbers.tolist()))
        where = f"row {odd[0]}" if odd else "a row that stands twice"
        raise JobError(
            f"{len(numbers)} scores for the {len(wanted)} rows of {split}, they part at {where}; "
            "score the splits of this home and day"
        )


def _day(bench: BenchConfig) -> Any:
    if bench.day is None:
        raise JobError("which day's tables? give --day, or the key `day` in the bench file")
    return bench.day


def _cost(outcome: Outcome) -> str:
    cpu, wall = (sum(getattr(fit, name) for fit in outcome.fits) for name in ("cpu_s", "wall_s"))
    n = len(outcome.fits)
    fits = "one fit" if n == 1 else f"{n} fits"
    return f"{fits}, {cpu:.1f} CPU s, {wall:.1f} s, at most {outcome.peak_mib:,.0f} MiB"


def _failure(folder: Path, returncode: int) -> str:
    path = folder / FAILED
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = "; it may have needed more memory than there is" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with status {returncode} and said nothing"
