"""One system with one seed, in a process of its own: what it costs is its own.

    python -m jobs.bench.one_fit <folder of the result>

The folder holds `asked.json`. Whatever ends it, what was finished is not done again.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import structlog

from jobs.bench.agreed import agreed_sides
from jobs.bench.evidence import BenchRows, bench_rows
from jobs.bench.kept import (
    ASKED,
    SCORES,
    Asked,
    FitCost,
    Kept,
    Outcome,
    code_sha256,
    score_table,
)
from jobs.bench.memory import peak_mib, resident_mib
from jobs.bench.protocols import (
    Night,
    Occasion,
    Protocol,
    as_of_midnight,
    first_occasion,
    nights,
    occasion,
)
from jobs.bench.warehouse_years import with_earlier_years
from jobs.collab.baselines.registry import system_of
from jobs.collab.systems import Fitted, System
from jobs.errors import JobError, NotAvailable
from jobs.files import write_atomically
from jobs.home import Home
from jobs.job import EXIT_FAILED
from jobs.lock import take_lock
from jobs.logs import configure_logs
from jobs.progress import progress

FAILED = "failed.txt"
CHOICE = "choice"


def rows_of(home: Home, asked: Asked) -> BenchRows:
    """The rows of the protocol that is asked for.

    Raises:
        NotAvailable: the home's tables are other ones than when the bench began.
    """
    rows = bench_rows(home, asked.day)
    if rows.fingerprint != asked.evidence_sha256:
        raise NotAvailable("the tables of the home changed while the bench ran; start it again")
    return of_protocol(rows, asked.protocol, asked.earlier)


def of_protocol(rows: BenchRows, protocol: Protocol, earlier: str | None) -> BenchRows:
    """The rows as a protocol shows them: with the years before, as of each row's midnight."""
    if protocol is Protocol.PAPER:
        return rows
    if protocol is Protocol.WAREHOUSE and earlier is not None:
        rows = with_earlier_years(rows, Path(earlier))
    return as_of_midnight(rows)


def fit_and_score(
    name: str, system: System, seed: int, n_epochs: int | None, asked: Occasion, rows: BenchRows
) -> tuple[Fitted, FitCost, pa.Table]:
    """Fit once, score what is asked, and say what both cost."""
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = system.fit(asked.evidence, seed, n_epochs)
    fit_wall, fit_cpu = time.perf_counter() - wall, time.process_time() - cpu
    cpu = time.process_time()
    tables = [
        score_table(rows, each.places, _finite(fitted.score(each.requests, each.histories)))
        for each in asked.scorings
    ]
    cost = FitCost(
        name=name,
        wall_s=round(fit_wall, 3),
        cpu_s=round(fit_cpu, 3),
        score_cpu_s=round(time.process_time() - cpu, 3),
        n_epochs=fitted.n_epochs,
        n_train=len(asked.evidence.train),
        agreement=[],
    )
    return fitted, cost, pa.concat_tables([SCORES.empty_table(), *tables])


def _finite(logits: np.ndarray) -> np.ndarray:
    if not np.isfinite(logits).all():
        place = int(np.argmin(np.isfinite(logits)))
        raise JobError(f"the score of row {place} is {logits[place]}: the fit diverged")
    return logits


class Work:
    """All fits of one result, those that an earlier run finished left out.

    Args:
        asked: what to do.
        rows: of the protocol.
        kept: where parts go.
    """

    def __init__(self, asked: Asked, rows: BenchRows, kept: Kept) -> None:
        self.asked, self.rows, self.kept = asked, rows, kept
        self.system = system_of(asked.system, asked.settings)

    def run(self) -> Outcome:
        """Fit what is missing and finish the result."""
        before, load = resident_mib(), os.getloadavg()[0]
        first = self._first()
        costs = [first, *self._nightly(first.n_epochs or None)]
        outcome = Outcome(
            fits=costs,
            peak_mib=round(peak_mib(), 1),
            before_fit_mib=round(before, 1),
            loads=[round(load, 2), round(os.getloadavg()[0], 2)],
            scores_sha256="",
        )
        return self.kept.finish([cost.name for cost in costs], outcome)

    def _first(self) -> FitCost:
        if (cost := self.kept.part(CHOICE)) is not None:
            return cost
        asked = first_occasion(self.rows, self.asked.protocol)
        fitted, cost, scores = fit_and_score(
            CHOICE, self.system, self.asked.seed, None, asked, self.rows
        )
        cost = cost.model_copy(update={"agreement": agreed_sides(fitted, asked.evidence)})
        self.kept.keep_part(cost, scores)
        return cost

    def _nightly(self, n_epochs: int | None) -> Iterator[FitCost]:
        if self.asked.protocol is Protocol.PAPER:
            return
        every = nights(self.rows, self.asked.refit_every_days)
        with progress(f"{self.asked.name}, seed {self.asked.seed}", len(every), "nights") as step:
            for night in every:
                yield self._night(night, n_epochs)
                step(1)

    def _night(self, night: Night, n_epochs: int | None) -> FitCost:
        name = str(night.fitted)
        if (cost := self.kept.part(name)) is not None:
            return cost
        _, cost, scores = fit_and_score(
            name,
            self.system,
            self.asked.seed,
            n_epochs,
            occasion(self.rows, night),
            self.rows,
        )
        self.kept.keep_part(cost, scores)
        return cost


def make(folder: Path, home: Home) -> None:
    """Make the result of the folder, unless it is whole already."""
    asked = Asked.model_validate_json((folder / ASKED).read_bytes())
    # A bench that was killed may have left this work running: then wait for it, not beside it.
    with take_lock(folder / "lock", float("inf"), structlog.get_logger()):
        kept = Kept(folder)
        if kept.outcome() is None:
            if code_sha256(asked.system, asked.settings) != asked.code_sha256:
                raise JobError("the code changed while the bench ran; start it again")
            Work(asked, rows_of(home, asked), kept).run()


def main() -> None:
    """Entry point; why there is no result is left in `failed.txt`, in one line."""
    folder = Path(sys.argv[1])
    configure_logs()
    (folder / FAILED).unlink(missing_ok=True)
    try:
        make(folder, Home.from_environment())
    except JobError as error:
        write_atomically(folder / FAILED, " ".join(str(error).split()))
        sys.exit(EXIT_FAILED)
    except Exception as error:
        traceback.print_exc()
        write_atomically(folder / FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
