"""The process that runs the nights: models and libraries are loaded once for all of them."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from datetime import date
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq

from jobs.bench.backtest.beside import fit_beside
from jobs.bench.backtest.nights import NightRecord, forget_before, make_store, run_night, serving
from jobs.bench.backtest.outcomes import between
from jobs.bench.backtest.plan import Folder, Plan
from jobs.bench.backtest.scores import Known, score_days, write_scores
from jobs.errors import JobError
from jobs.files import write_atomically
from jobs.job import EXIT_FAILED
from jobs.logs import configure_logs


def replay_night(plan: Plan, night: date, folder: Folder) -> NightRecord:
    """Run a night and score its days; the record that it is done is written last.

    Raises:
        JobError: a job of the night failed.
    """
    home = folder.nights
    record = run_night(plan, night, home)
    _score(plan, record, folder, known_of=night)
    write_atomically(folder.record(night), record.model_dump_json(indent=2) + "\n")
    forget_before(night, home)
    return record


def pass_over(plan: Plan, night: date, folder: Folder, why: str) -> NightRecord:
    """A failed night as a product lives through it: the version from before goes on serving."""
    record = NightRecord(night=night, why_failed=why, serving=serving(folder.nights), seconds={})
    _score(plan, record, folder, known_of=_last_done(plan, night, folder))
    write_atomically(folder.record(night), record.model_dump_json(indent=2) + "\n")
    return record


def _last_done(plan: Plan, night: date, folder: Folder) -> date | None:
    """The last night before `night` that did not fail."""
    for earlier in reversed([each for each in plan.nights() if each < night]):
        record = NightRecord.model_validate_json(folder.record(earlier).read_text("utf-8"))
        if record.why_failed is None:
            return earlier
    return None


def _score(plan: Plan, record: NightRecord, folder: Folder, known_of: date | None) -> None:
    if record.serving is None or known_of is None:
        return  # no night has made a version yet, so nothing can be said of these days
    home = folder.nights
    asked = between(pq.read_table(folder.requests), *plan.scored_by(record.night))
    beside = fit_beside(plan.beside, home, known_of, asked) if plan.beside else None
    known = Known.of(home, known_of, beside)
    write_scores(folder.scores(record.night), score_days(asked, known, home, record.serving))


# -- the process ---------------------------------------------------------------------------------


def _die_with_parent() -> None:
    """End at once when the process that holds the other end of stdin is gone, however it went."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(EXIT_FAILED)

    threading.Thread(target=wait, daemon=True).start()


def work(folder: Folder, channel: IO[str], *, keep_going: bool) -> int:
    """Run the nights that are not done yet, in order, and say into `channel` how each went."""

    def say(**event: Any) -> None:
        channel.write(json.dumps(event) + "\n")
        channel.flush()

    plan = folder.plan()
    make_store(folder.nights)
    for night in plan.nights():
        if folder.record(night).is_file():
            continue
        try:
            record = replay_night(plan, night, folder)
        except JobError as error:
            if not keep_going:
                say(failed=str(night), why=str(error))
                return EXIT_FAILED
            record = pass_over(plan, night, folder, str(error))
        except Exception as error:  # a defect: the whole story goes to the log
            traceback.print_exc()
            say(failed=str(night), why=f"{error!r}; the traceback is in {folder.log}")
            return EXIT_FAILED
        say(night=str(night), record=record.model_dump(mode="json"))
    return 0


if __name__ == "__main__":
    configure_logs()
    _die_with_parent()
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no word to the parent
    sys.exit(work(Folder(Path(sys.argv[1])), channel, keep_going="--keep-going" in sys.argv[2:]))
