"""Two runs of one day at once: the same job twice, and two nights that publish into one store."""

from __future__ import annotations

import time

from drill.faults import Kind, Seen, Setting
from drill.invariants import differences, outputs, production, store_problems, versions_of
from drill.world import FIRST, SECOND, run_checked
from jobs.job import EXIT_BUSY
from jobs.launch import MODULES

NIGHTS = "two nights publish"
OF_THE_NUMBER = {"publications", "store/alignment.safetensors"}  # which of the two came first
_WAIT_S = 300  # of the one that queues


def strike(what: str, setting: Setting) -> Seen:
    """Start both within a moment; one does the work."""
    return _two_nights(setting) if what == NIGHTS else _twins(what, setting)


def _twins(job: str, setting: Setting) -> Seen:
    waits = setting.number % 2 == 1
    seen = Seen(end="the second queued behind the first" if waits else "the second was refused")
    seen.recovered_by = "itself" if waits else "itself: status 75 is tried again by the scheduler"
    words = setting.world.words(job, **({"wait_s": _WAIT_S} if waits else {}))
    with setting.home(setting.world.before(job)) as home:
        first = setting.start(MODULES[job], words, home)
        time.sleep(setting.random.uniform(0, 0.3) * setting.world.seconds[job])
        second = setting.start(MODULES[job], words, home)
        ended = [first.wait(), second.wait()]
        done = [one.answer.get("status") for one in ended if one.status == 0]
        seen.expect(done.count("done") == 1, f"{done.count('done')} of the two did the work")
        for one in ended:
            if one.status:
                seen.expect(not waits, f"one that had to wait ended with {one.status}")
                seen.expect(one.status == EXIT_BUSY, f"the second ended with {one.status}")
                seen.refused_in_words(job, one, "already running", "--wait-s")
        again = run_checked(setting.nursery, job, setting.world.words(job), home)
        if seen.ended_well("the next run", again):
            seen.expect(again.answer.get("status") == "unchanged", f"it said {again.answer}")
            setting.as_undisturbed(job, home, seen)
        if job == "publish":
            seen.expect(versions_of(home) == [1, 2], f"versions {versions_of(home)}")
            seen.problems += store_problems(home, setting.nursery)
    return seen


def _two_nights(setting: Setting) -> Seen:
    """Tonight's version and one more of the night before, at once: tonight's is in production."""
    seen = Seen(end="both published at once", recovered_by="itself")
    world = setting.world
    with setting.home(world.before("publish")) as home:
        with setting.reader(home, seen):
            backfill = world.words("publish", FIRST, rebuild=1)
            runs = [setting.start(MODULES["publish"], backfill, home)]
            time.sleep(setting.random.uniform(0, 0.5) * world.seconds["publish"])
            runs.append(setting.start(MODULES["publish"], world.words("publish"), home))
            ended = [run.wait() for run in runs]
        for day, one in zip((FIRST, SECOND), ended, strict=True):
            seen.ended_well(f"publish of {day}", one)
        seen.expect(versions_of(home) == [1, 2, 3], f"versions {versions_of(home)}")
        tonight = ended[1].answer.get("version")
        seen.expect(production(home) == tonight, f"production is {production(home)}")
        wanted = outputs(world.done, "publish", SECOND)
        found = outputs(home, "publish", SECOND)
        seen.problems += differences(found, wanted, aside=OF_THE_NUMBER)
        seen.problems += store_problems(home, setting.nursery)
    return seen


TWO_RUNS = Kind(
    name="two-runs",
    expected="one does the work; the other is refused with status 75, or waits and finds it done",
    recovery="itself",
    times={
        **dict.fromkeys(("ingest", "distil", "align", "tune", "publish", "score"), 2),
        NIGHTS: 3,
    },
    strike=strike,
)
