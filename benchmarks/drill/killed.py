"""kill -9 of a job at a random moment: at a change of a file, or in the middle of the work."""

from __future__ import annotations

import signal
import time

from drill.faults import Kind, Seen, Setting
from drill.invariants import half_visible, store_problems, versions_of
from drill.runs import Ended
from drill.world import SECOND, run_checked
from jobs.home import Home
from jobs.launch import MODULES, NIGHTLY

_TRIES = 5  # a run may end before it is killed
CHECK = "check"


def kill(job: str, home: Home, setting: Setting, whole_s: float) -> tuple[Ended, str]:
    """Start a job and kill it within `whole_s`; how it ended, and when it was struck."""
    words, world = setting.world.words(job), setting.world
    if setting.number % 2 == 0:
        place = setting.random.randint(1, world.changes[job])
        ended = setting.start(MODULES[job], words, home, die_at=place).wait()
        return ended, f"before change {place} of {world.changes[job]} of a file"
    share = setting.random.uniform(0.05, 0.9)
    run = setting.start(MODULES[job], words, home)
    time.sleep(share * whole_s)
    run.kill()
    return run.wait(), f"after {share * whole_s:.2f} s"


def strike(job: str, setting: Setting) -> Seen:
    """Kill, look, run it again, look again; a third run finds nothing to do."""
    if job == CHECK:
        return _strike_check(setting)
    for n in range(_TRIES):
        seen = Seen()
        whole_s = setting.world.seconds[job] / 2**n  # the machine may be less busy than it was
        with setting.home(setting.world.before(job)) as home:
            ended, when = kill(job, home, setting, whole_s)
            if ended.status != -signal.SIGKILL:  # it came through before
                continue
            seen.end = f"killed {when}"
            _look_and_retry(job, home, setting, seen)
        return seen
    return Seen(problems=[f"{job} could not be killed in {_TRIES} tries"])


def _look_and_retry(job: str, home: Home, setting: Setting, seen: Seen) -> None:
    seen.problems += half_visible(home)
    if job == "publish":
        seen.expect(versions_of(home) in ([1], [1, 2]), f"versions {versions_of(home)}")
        seen.problems += store_problems(home)
        with setting.reader(home, seen):
            setting.retried(job, home, seen)
        seen.expect(versions_of(home) == [1, 2], f"versions {versions_of(home)} after the retry")
        seen.problems += store_problems(home, setting.nursery)
    else:
        setting.retried(job, home, seen)
    again = setting.nursery.run(MODULES[job], setting.world.words(job), home.root)
    seen.expect(again.answer.get("status") == "unchanged", f"a third run said {again.answer}")


def _strike_check(setting: Setting) -> Seen:
    """The checks of a job's tables are killed: unmarked tables are read by nobody."""
    seen = Seen()
    job = setting.random.choice(("ingest", "splits", "distil", "align"))
    with setting.home(setting.world.before(job)) as home:
        done = setting.nursery.run(MODULES[job], setting.world.words(job), home.root)
        seen.ended_well(job, done)
        words, place = ["--producer", job, "--day", str(SECOND)], setting.random.randint(1, 3)
        ended = setting.start(MODULES[CHECK], words, home, die_at=place).wait()
        seen.expect(ended.status == -signal.SIGKILL, f"check ended with {ended.status}")
        seen.end = f"the checks of {job} were killed before change {place} of a file"
        seen.problems += half_visible(home)
        again = run_checked(setting.nursery, job, setting.world.words(job), home)
        if seen.ended_well("the retry of check", again):
            setting.as_undisturbed(job, home, seen)
    return seen


JOB_KILLED = Kind(
    name="job-killed",
    expected="no output, or the whole of it; the lock goes with the process",
    recovery="itself: the scheduler's retry",
    times={**dict.fromkeys(NIGHTLY, 4), CHECK: 2},
    strike=strike,
)
