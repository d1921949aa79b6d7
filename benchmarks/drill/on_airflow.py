"""The part of the drill on a scheduler: faults strike a night, and then the night is looked at."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

from drill.faults import Fault, Seen
from drill.invariants import production, store_problems, versions_of
from drill.nights import Nights
from drill.on_scheduler import STRUCK_AT_NIGHT, TooLate
from drill.planned import PLANNED
from drill.results import Line
from drill.runs import Nursery
from drill.stage import EMBEDDINGS, FEATURES, SCORING, Stage
from drill.world import World, with_sources
from embedding_store import EmbeddingStore
from jobs.home import Home
from tests.dags.scheduler import Scheduler, why_not

FAULTS_OF_A_NIGHT = 10
Tell = Callable[[Line], None]


def strike_scheduler(faults: list[Fault], work: Path, seed: int, tell: Tell) -> None:
    """Strike nights on a scheduler that is started for it, until no fault is left.

    Args:
        faults: those that are not done yet.
        work: the drill's folder.
        seed: decides every draw.
        tell: is given the line of each fault when its night has been looked at.
    """
    if why := why_not():
        for fault in faults:
            tell(_line(fault, seed) | {"skipped": why, "problems": [], "seconds": 0, "cpu_s": 0})
        return
    at_night = [fault for fault in faults if fault.kind in STRUCK_AT_NIGHT]
    with ExitStack() as stack:
        nursery = stack.enter_context(Nursery(work / "logs"))
        folder = work / "nights"
        shutil.rmtree(folder, ignore_errors=True)
        nights = Nights(with_sources(World(folder)), nursery)
        first = nights.up_to(1)[0]
        home = Home(folder / "struck")
        nights.lend(home)
        airflow = stack.enter_context(_airflow(home, nights))
        airflow.unpause(FEATURES, EMBEDDINGS, SCORING)
        stage = Stage(airflow, nights, nursery, home, first)
        n_nights = 1
        while at_night:
            n_nights += 1
            stage.day, stage.struck = nights.up_to(n_nights)[-1], set()
            at_night = _strike_a_night(at_night, stage, seed, tell)
        for fault in faults:
            if fault.kind in PLANNED:
                n_nights += 1
                stage.day = nights.up_to(n_nights)[-1]
                _strike_as_planned(fault, stage, seed, tell)


def _airflow(home: Home, nights: Nights) -> Scheduler:
    world = nights.world
    variables = {
        "TIDEMARK_SOURCE": str(world.source),
        "TIDEMARK_MODEL": str(world.backbone),
        "TIDEMARK_TOKENS": "0",
    }
    return Scheduler(home.root, environment=variables)


def _strike_a_night(faults: list[Fault], stage: Stage, seed: int, tell: Tell) -> list[Fault]:
    """Strike a night with the next faults; those that came too late, and those after them."""
    lines: list[tuple[Line, Seen]] = []
    whole = Seen()
    left = list(faults)
    with stage.reader(whole):
        stage.airflow.trigger(FEATURES, day=str(stage.day))
        while left and len(lines) < FAULTS_OF_A_NIGHT and not stage.has_ended():
            stage.enter(left[0], seed)
            started = time.monotonic()
            try:
                seen = left[0].kind.strike(left[0].what, stage)
            except TooLate:
                break
            line = _line(left[0], seed) | {"seconds": round(time.monotonic() - started, 1)}
            lines.append((line, seen))
            left.pop(0)
            print(f"struck   {line['fault']}: {seen.end}", flush=True)
        stage.wait_for_the_end(whole)
    stage.end_forsaken()
    _look_at_the_night(stage, whole)
    for line, seen in lines:
        tell(line | _told(seen, whole, stage.day))
    return left


def _strike_as_planned(fault: Fault, stage: Stage, seed: int, tell: Tell) -> None:
    """A fault that has a night of its own."""
    whole, started = Seen(), time.monotonic()
    stage.enter(fault, seed)
    with stage.reader(whole):
        try:
            seen = fault.kind.strike(fault.what, stage)
        except (AssertionError, RuntimeError, TimeoutError) as error:
            seen = Seen(problems=[str(error)[-2_000:]])
        stage.wait_for_the_end(whole)
    _look_at_the_night(stage, whole)
    line = _line(fault, seed) | {"seconds": round(time.monotonic() - started, 1)}
    tell(line | _told(seen, whole, stage.day))


def _look_at_the_night(stage: Stage, whole: Seen) -> None:
    """Tables and version as undisturbed; each version once; events at least once."""
    whole.problems += stage.nights.differences(stage.home, stage.day)
    whole.problems += store_problems(stage.home, stage.nursery)
    of_the_day = [
        each.version
        for each in EmbeddingStore(stage.home.store).versions()
        if each.day == str(stage.day)
    ]
    whole.expect(bool(of_the_day), f"there is no version of {stage.day}")
    wanted = set(of_the_day[:1]) if stage.nights.is_promoted(stage.day) else set()
    newest = production(stage.home)
    moved = {newest} & set(of_the_day)
    whole.expect(moved == wanted, f"production is {newest} of {versions_of(stage.home)}")
    told = {
        version
        for event in stage.airflow.asset_events("embedding_versions")
        for day, version in (event["extra"] or {}).get("versions", {}).items()
        if day == str(stage.day)
    }
    whole.expect(told == wanted, f"events of {stage.day} tell of the versions {sorted(told)}")


def _line(fault: Fault, seed: int) -> dict[str, Any]:
    return {
        "fault": fault.name,
        "part": fault.kind.part,
        "kind": fault.kind.name,
        "seed": seed,
        "cpu_s": 0.0,
    }


def _told(seen: Seen, whole: Seen, day: date) -> dict[str, Any]:
    return {
        "night": str(day),
        "end": seen.end,
        "recovered_by": _recovery(seen, whole),
        "problems": [*seen.problems, *whole.problems],
        "load": round(os.getloadavg()[0], 1),
    }


def _recovery(seen: Seen, whole: Seen) -> str:
    """Of the fault itself, and of a night in which a task was struck at all of its tries."""
    is_cleared = whole.recovered_by != Seen().recovered_by
    return f"{seen.recovered_by}; {whole.recovered_by}" if is_cleared else seen.recovered_by


ON_SCHEDULER = (*STRUCK_AT_NIGHT, *PLANNED)
