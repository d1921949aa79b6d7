"""Fits what a bench asks for and the home does not hold yet, one process after the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console

from jobs.bench.config import BenchConfig
from jobs.bench.entries import (
    TRIVIAL,
    BenchEntry,
    Entry,
    FusionEntry,
    NotMeasuredEntry,
    TableEntry,
)
from jobs.bench.evidence import SPLIT_NAMES, BenchRows
from jobs.bench.fusion import fused
from jobs.bench.kept import (
    ASKED,
    SCORES,
    Asked,
    Doubles,
    Kept,
    Outcome,
    code_sha256,
    kept_by_other_code,
    library_versions,
    read_scores,
)
from jobs.bench.one_fit import FAILED
from jobs.bench.protocols import Protocol
from jobs.bench.runs import OtherCode, SeedRun, SystemRuns
from jobs.bench.warehouse_years import FILE
from jobs.collab.baselines.registry import system_of
from jobs.collab.factors import Ints
from jobs.datasets import LLM_SCORES
from jobs.errors import JobError, NotAvailable
from jobs.files import sha256_file, write_atomically
from jobs.home import Home

_SCORED = SPLIT_NAMES[1:]
_JUDGED_ON = SPLIT_NAMES[2]


def entries_of(bench: BenchConfig) -> list[BenchEntry]:
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
        any_code: show what another version of the code has kept, where this one has nothing and
            all else is the same.
    """

    def __init__(
        self,
        bench: BenchConfig,
        rows: BenchRows,
        home: Home,
        folder: Path,
        console: Console,
        *,
        any_code: bool = False,
    ) -> None:
        self.bench, self.rows, self.home = bench, rows, home
        self.folder, self.console, self.any_code = folder, console, any_code

    def run(self, only: Collection[str] = ()) -> list[SystemRuns]:
        """Every row of the table, in order.

        Args:
            only: names to fit; of others, what the home holds is shown, and no row if it is not
                all there. Nothing: all.
        """
        entries = entries_of(self.bench)
        found = {
            entry.name: self._row(entry, not only or entry.name in only)
            for entry in entries
            if not isinstance(entry, FusionEntry)
        }
        for entry in entries:  # a blend may stand above its parts
            if isinstance(entry, FusionEntry):
                parts = [part for name in entry.of if (part := found[name]) is not None]
                whole = len(parts) == len(entry.of)
                found[entry.name] = fused(entry, parts, self.rows) if whole else None
        return [row for entry in entries if (row := found[entry.name]) is not None]

    def _row(
        self, entry: Entry | TableEntry | NotMeasuredEntry, may_fit: bool
    ) -> SystemRuns | None:
        if isinstance(entry, TableEntry):
            return self._table(entry)
        if isinstance(entry, NotMeasuredEntry):
            return SystemRuns(entry, entry.title, {}, (), None, entry.why)
        return self._fitted(entry, may_fit)

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
            try:
                run = self._seed(asked, may_fit)
            except JobError as failure:
                said = f"seed {seed}: {failure}"
                return SystemRuns(entry, title, settings, (), said)
            if run is None:
                return None
            runs.append(run)
        return SystemRuns(entry, title, settings, tuple(runs), None)

    def _seed(self, asked: Asked, may_fit: bool) -> SeedRun | None:
        """What is kept of a seed, or else made now; None if it may not be made.

        Raises:
            JobError: it could not be made.
        """
        kept = Kept(asked.folder(self.home))
        if kept.outcome() is not None:
            return self._read(asked.seed, kept)
        if self.any_code and (other := kept_by_other_code(asked, self.home)) is not None:
            theirs, kept = other
            return self._read(asked.seed, kept, OtherCode(theirs.code_sha256, theirs.versions))
        if not may_fit:
            return None
        if error := self._make(asked, kept):
            raise JobError(error)
        return self._read(asked.seed, kept)

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

    def _read(self, seed: int, kept: Kept, other_code: OtherCode | None = None) -> SeedRun:
        scores = {
            split: self._in_order(split, *found)
            for split, found in read_scores(kept.scores_path).items()
        }
        return SeedRun(seed, scores, kept.outcome(), other_code=other_code)

    # -- fitted elsewhere -------------------------------------------------------------------------

    def _table(self, entry: TableEntry) -> SystemRuns:
        try:
            frozen = entry.frozen_scores or ()
            runs = tuple(
                SeedRun(
                    seed,
                    self._scores(path, entry),
                    None,
                    self._frozen(frozen[seed], entry) if frozen else None,
                )
                for seed, path in enumerate(self._paths(entry))
            )
        except JobError as error:
            return SystemRuns(entry, entry.title, {}, (), str(error))
        return SystemRuns(entry, entry.title, {}, runs, None)

    def _paths(self, entry: TableEntry) -> Sequence[Path]:
        if entry.scores == "llm_scores":
            return [self.home.output(LLM_SCORES, _day(self.bench))]
        return list(entry.scores)

    def _frozen(self, path: Path, entry: TableEntry) -> Doubles:
        scores = self._scores(path, entry)
        if _JUDGED_ON not in scores:
            raise JobError(f"{path}: holds no row of {_JUDGED_ON}, which `frozen_scores` are of")
        return scores[_JUDGED_ON]

    def _scores(self, named: Path, entry: TableEntry) -> dict[str, Doubles]:
        path = self.folder / named
        if not path.is_file():
            way_out = (
                f"run the job {LLM_SCORES.producer} for that day"
                if entry.scores == "llm_scores"
                else "paths are meant from the folder of the bench file"
            )
            raise JobError(f"there is no file {path} with the scores of '{entry.name}'; {way_out}")
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
