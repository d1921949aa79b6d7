"""The clock jumps while a job runs: libfaketime, whose offset is changed in the middle of the work.

What counts seconds (CLOCK_MONOTONIC) goes on, and files keep the times that the disk gave them, as
where an administrator or NTP sets the time of a machine.
"""

from __future__ import annotations

import time

from drill.collector import SPARED
from drill.faults import Kind, Seen, Setting
from drill.invariants import half_visible, production, store_problems, versions_of
from drill.runs import Run
from jobs.launch import MODULES

LEASE = "reader"
_HOUR_S = 3_600
JUMPS_S = (_HOUR_S, -_HOUR_S, 24 * _HOUR_S, -24 * _HOUR_S, 400 * 24 * _HOUR_S, -400 * 24 * _HOUR_S)


def strike(what: str, setting: Setting) -> Seen:
    """Start with the true time, and let it jump once at a random moment."""
    if what == LEASE:
        return _reader(setting)
    seen = Seen(recovered_by="itself")
    with setting.home(setting.world.before(what)) as home:
        run = setting.clocked.start(MODULES[what], setting.world.words(what), home.root)
        _jump(run, setting, seen, setting.world.seconds[what])
        ended = run.wait()
        setting.clock.write_text("+0\n")
        seen.ended_well(what, ended)
        seen.problems += half_visible(home)
        setting.retried(what, home, seen)
        if what == "publish":
            seen.expect(versions_of(home) == [1, 2], f"versions {versions_of(home)}")
            seen.expect(production(home) == 2, f"production is {production(home)}")
            seen.problems += store_problems(home, setting.nursery)
    return seen


def _jump(run: Run, setting: Setting, seen: Seen, whole_s: float) -> None:
    jump = setting.random.choice(JUMPS_S)
    share = setting.random.uniform(0, 0.8)
    time.sleep(share * whole_s)
    setting.clock.write_text(f"{jump:+d}\n")
    seen.end = f"by {jump / _HOUR_S:+.0f} h after {share:.0%} of its time"


def _reader(setting: Setting) -> Seen:
    """The clock of a reader, and then of the collector, jumps: nothing that is open is deleted."""
    seen = Seen(recovered_by="itself")
    clocked, world = setting.clocked, setting.world
    with setting.home(world.done) as home:
        stop = home.root.with_name(f"{home.root.name}.clock-stop")
        stop.unlink(missing_ok=True)
        words = [home.store, str(world.known), str(stop), "0.05", "1"]
        reader = clocked.start("drill.reading", words, home.root)
        while not list((home.root / "store" / "leases").glob("*/*.json")):
            time.sleep(0.02)
        jump = setting.random.choice(JUMPS_S)
        setting.clock.write_text(f"{jump:+d}\n")
        seen.end = f"by {jump / _HOUR_S:+.0f} h while version 1 was open and gc ran"
        collected = clocked.run("drill.collecting", [home.store], home.root)
        seen.ended_well("gc", collected)
        kept = collected.answer.get("version 1")
        seen.expect(kept in SPARED, f"gc said of the version that is open: {kept}")
        stop.touch()
        ended = reader.wait()
        stop.unlink()
        setting.clock.write_text("+0\n")
        seen.ended_well("the reader", ended)
        seen.problems += [f"the reader: {one}" for one in ended.answer.get("wrong", [])]
        seen.expect(ended.answer.get("reads", 0) > 0, "the reader never came to read")
        later = setting.nursery.run("drill.collecting", [home.store], home.root)
        gone = later.answer.get("version 1")
        seen.expect(gone == "deleted", f"once it was closed, gc said {gone}")
        seen.expect(production(home) == 2, f"production is {production(home)}")
        seen.problems += store_problems(home, setting.nursery)
    return seen


CLOCK_JUMP = Kind(
    name="clock-jump",
    expected="the same bytes, the same versions; nothing that is open is deleted",
    recovery="itself",
    times={
        "ingest": 2,
        "distil": 2,
        "align": 2,
        "tune": 2,
        "publish": 4,
        "score": 1,
        LEASE: 3,
    },
    strike=strike,
)
