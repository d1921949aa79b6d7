"""Strike the pipeline with faults, one after the other, and see whether it keeps its promises.

Each fault has an expected end, which is looked at: nothing lost, nothing double, nothing
half-visible, and the same bytes as without it. Every fault that is done is one line in
`<work>/faults.jsonl`; a drill that was stopped goes on after the last one when the same command is
given again. docs/fault-drill.md says what each kind is.

Example: .venv/bin/python benchmarks/fault_drill.py --part jobs --n 20
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from drill.clock import CLOCK_JUMP
from drill.collector import STORE_MID_GC
from drill.disk import DISK_FULL
from drill.faults import Fault, Kind, Setting, plan, record
from drill.gates import GATE_REFUSES
from drill.inputs import CORRUPT_INPUT
from drill.killed import JOB_KILLED
from drill.mappings import BAD_MAPPING
from drill.on_airflow import ON_SCHEDULER, strike_scheduler
from drill.results import Line, append, lines_of, result_of, said, table
from drill.runs import Nursery
from drill.twins import TWO_RUNS
from drill.world import prepared

from jobs.errors import JobError
from jobs.lock import take_lock

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "fault_drill.json"
ON_JOBS = (
    JOB_KILLED,
    DISK_FULL,
    CORRUPT_INPUT,
    BAD_MAPPING,
    GATE_REFUSES,
    TWO_RUNS,
    CLOCK_JUMP,
    STORE_MID_GC,
)
PARTS: dict[str, tuple[Kind, ...]] = {"jobs": ON_JOBS, "scheduler": ON_SCHEDULER}
Told = Callable[[Line], None]


def strike_jobs(faults: list[Fault], given: argparse.Namespace, tell: Told) -> None:
    """Strike jobs that run on this machine without a scheduler."""
    with Nursery(given.work / "logs") as nursery:
        setting = Setting(prepared(given.work, nursery), nursery, given.faketime)
        try:
            for fault in faults:
                tell(record(fault, setting, given.seed))
        finally:
            setting.close()


def strike(part: str, faults: list[Fault], given: argparse.Namespace, tell: Told) -> None:
    """Strike the faults of a part; nobody else works on it in this folder."""
    if part == "jobs":
        strike_jobs(faults, given, tell)
    else:
        strike_scheduler(faults, given.work, given.seed, tell)


def chosen(part: str, given: argparse.Namespace) -> list[Fault]:
    """The faults of a part that were asked for."""
    if given.part not in (part, "all"):
        return []
    return plan([kind for kind in PARTS[part] if given.only in (None, kind.name)])[: given.n]


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({kind.name for kinds in PARTS.values() for kind in kinds})
    parser.add_argument("--only", metavar="KIND", choices=names, help=f"one of {', '.join(names)}")
    parser.add_argument("--n", type=int, help="so many faults of each part; all without it")
    parser.add_argument("--seed", type=int, default=1, help="decides every draw (default: 1)")
    parser.add_argument("--part", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--work", type=Path, help="folder to work in; kept, so that it can go on")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--again", action="store_true", help="forget the faults that are done")
    parser.add_argument("--list", action="store_true", help="print the faults, and strike none")
    parser.add_argument(
        "--faketime",
        type=Path,
        default=os.environ.get("FAKETIME_LIB"),
        help="libfaketime.so.1, for clock jumps; else the variable FAKETIME_LIB",
    )
    given = parser.parse_args()
    given.work = (given.work or Path(tempfile.gettempdir()) / "tidemark-fault-drill").absolute()
    return given


def main() -> int:
    """Strike what is not done yet, print the table, write the result."""
    given = arguments()
    # Ended politely, a drill stops what it started; killed, it only goes on where it was.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    asked = {part: chosen(part, given) for part in PARTS}
    if given.list:
        print("\n".join(fault.name for faults in asked.values() for fault in faults))
        return 0
    given.work.mkdir(parents=True, exist_ok=True)
    log = given.work / "faults.jsonl"
    if given.again:
        log.unlink(missing_ok=True)
    done = lines_of(log, given.seed)

    def tell(line: Line) -> None:
        append(log, line)
        print(said(line), flush=True)

    for part, faults in asked.items():
        if left := [fault for fault in faults if fault.name not in done]:
            with take_lock(given.work / f"{part}.lock", 0, None):
                strike(part, left, given, tell)
    result = result_of(lines_of(log, given.seed), given.seed)  # the other part may go on beside it
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return int(bool(result["promises_broken"]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JobError as error:  # another drill works in this folder
        sys.exit(f"fault_drill: {error}")
