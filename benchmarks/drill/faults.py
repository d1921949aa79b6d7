"""What a fault is, what it is given to strike, and what is written down of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from drill.invariants import differences, half_visible, leftovers, outputs
from drill.runs import Ended, Nursery, Run
from drill.world import SECOND, World, run_checked
from jobs.home import Home

DISK_BYTES = 64 << 20


class Skipped(Exception):
    """This machine has not what the fault needs; the text says what."""


@dataclass
class Seen:
    """What was seen of one fault.

    Attributes:
        end: how it struck, in words.
        recovered_by: what put things right: "itself", or the command that did.
        problems: promises that were broken; none is what we hope for.
    """

    end: str = ""
    recovered_by: str = "a retry"
    problems: list[str] = field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        """Write down a broken promise."""
        if not holds:
            self.problems.append(otherwise)

    def ended_well(self, what: str, ended: Ended) -> bool:
        """Whether a run that had to succeed did."""
        self.expect(ended.status == 0, f"{what} ended with {ended.status}: {ended.last_words}")
        return ended.status == 0

    def refused_in_words(self, what: str, ended: Ended, *words: str) -> None:
        """A run that had to be refused was, in words that a person can act on."""
        self.expect(ended.status not in (0, 70), f"{what} ended with {ended.status}")
        self.expect("Traceback" not in ended.said, f"{what} left a traceback: {ended.last_words}")
        for word in words:
            said = ended.said.casefold()
            self.expect(word.casefold() in said, f"{what} did not say '{word}': {ended.last_words}")


class Setting:
    """What faults strike: the prepared world and the processes that run jobs.

    Args:
        world: the undisturbed nights.
        nursery: forks jobs.
        faketime: path of libfaketime's library; None if there is none.
    """

    def __init__(self, world: World, nursery: Nursery, faketime: Path | None = None) -> None:
        self.world, self.nursery, self.faketime = world, nursery, faketime
        self.random, self.number, self.name = random.Random(0), 0, ""
        self._others: list[Nursery] = []

    def enter(self, fault: Fault, seed: int) -> None:
        """Draw for this fault what is always drawn for it."""
        self.random, self.number = random.Random(f"{seed}/{fault.name}"), fault.number
        self.name = fault.name.replace("/", "-").replace(" ", "-")

    def close(self) -> None:
        """End the processes that were started on the way."""
        for other in self._others:
            other.__exit__(None, None, None)

    @property
    def cpu_s(self) -> float:
        """Of all runs so far."""
        return self.nursery.cpu_s + sum(other.cpu_s for other in self._others)

    @cached_property
    def clock(self) -> Path:
        """What the clock of `clocked` runs shows: seconds that are added to the real time."""
        return self.world.folder / "clock"

    @cached_property
    def clocked(self) -> Nursery:
        """Runs whose clock can be put forward and back while they run.

        Raises:
            Skipped: there is no libfaketime.
        """
        if self.faketime is None:
            raise Skipped("needs libfaketime: --faketime PATH, or FAKETIME_LIB")
        self.clock.write_text("+0\n")
        environment = {
            "LD_PRELOAD": str(self.faketime),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            # As where an administrator or NTP sets the time: what counts seconds goes on, and
            # files keep the times that the disk gave them.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        return self._other(environment=environment)

    @cached_property
    def small_disk(self) -> tuple[Nursery, Path]:
        """Runs in a mount namespace of their own, and where their small file system is.

        Raises:
            Skipped: this machine does not let us mount.
        """
        folder = self.world.folder / "disk"
        folder.mkdir(exist_ok=True)
        try:
            nursery = self._other(prefix=("unshare", "--map-root-user", "--mount"))
            options = f"size={DISK_BYTES}"
            nursery.tool("mount", "-t", "tmpfs", "-o", options, "none", folder)
        except (OSError, RuntimeError) as error:
            raise Skipped(f"needs `unshare --mount` for a small disk ({error})") from error
        return nursery, folder

    def _other(self, **how: Any) -> Nursery:
        other = Nursery(self.world.folder / "logs", **how)
        self._others.append(other)
        return other

    # -- what most faults do -----------------------------------------------------------------------

    @contextmanager
    def home(self, of: Home) -> Iterator[Home]:
        """A copy for this fault."""
        with self.world.copy(of, self.name) as home:
            yield home

    def start(self, job_module: str, words: list[str], home: Home, **how: Any) -> Run:
        """A run of the nursery that has the true clock and disk."""
        return self.nursery.start(job_module, words, home.root, **how)

    def retried(self, job: str, home: Home, seen: Seen, **flags: object) -> Ended:
        """The scheduler's retry: it must end well, and give what an undisturbed run gives."""
        ended = run_checked(self.nursery, job, self.world.words(job, **flags), home)
        if seen.ended_well(f"the retry of {job}", ended):
            self.as_undisturbed(job, home, seen)
        return ended

    def as_undisturbed(self, job: str, home: Home, seen: Seen) -> None:
        """Outputs are those of the undisturbed night, and nothing else is there."""
        wanted = outputs(self.world.done, job, SECOND)
        seen.problems += differences(outputs(home, job, SECOND), wanted)
        seen.problems += half_visible(home) + leftovers(home)

    @contextmanager
    def reader(self, home: Home, seen: Seen, *, pinned: int | None = None) -> Iterator[None]:
        """Somebody who reads all the while, and must never see anything but a whole version."""
        stop = home.root.with_name(f"{home.root.name}.stop{pinned or ''}")
        stop.unlink(missing_ok=True)
        words = [home.store, str(self.world.known), str(stop), "0.05"]
        words += [str(pinned)] if pinned else []
        run = self.nursery.start("drill.reading", words, home.root)
        try:
            yield
        finally:
            stop.touch()
            ended = run.wait()
            stop.unlink()
        if not seen.ended_well("a reader", ended):
            return
        seen.expect(ended.answer["reads"] > 0, "a reader never came to read")
        seen.problems += [f"a reader: {one}" for one in ended.answer["wrong"]]


Strike = Callable[[str, Any], Seen]  # what it strikes, and a Setting or a Stage


@dataclass(frozen=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: as the documentation and the runbook have it.
        expected: the end that it must have.
        recovery: what puts things right.
        times: what it strikes, and how often in the longer run.
        strike: does it, and looks.
        part: of the drill: on jobs, or on a scheduler.
    """

    name: str
    expected: str
    recovery: str
    times: Mapping[str, int]
    strike: Strike
    part: str = "jobs"


@dataclass(frozen=True)
class Fault:
    """One fault of the drill."""

    kind: Kind
    what: str
    number: int

    @property
    def name(self) -> str:
        """Its name in the results."""
        return f"{self.kind.part}/{self.kind.name}/{self.what}/{self.number}"


def plan(kinds: list[Kind]) -> list[Fault]:
    """All faults, in an order in which every beginning has some of every kind."""
    queues = [_faults_of(kind) for kind in kinds]
    found: list[Fault] = []
    longest = max((len(queue) for queue in queues), default=0)
    for place in range(longest):
        found += [queue[place] for queue in queues if place < len(queue)]
    return found


def _faults_of(kind: Kind) -> list[Fault]:
    most = max(kind.times.values())
    return [
        Fault(kind, what, number)
        for number in range(most)
        for what, times in kind.times.items()
        if number < times
    ]


def record(fault: Fault, setting: Setting, seed: int) -> dict[str, Any]:
    """Strike, and say what came of it."""
    setting.enter(fault, seed)
    started, cpu_s = time.monotonic(), setting.cpu_s
    said: dict[str, Any] = {
        "fault": fault.name,
        "part": fault.kind.part,
        "kind": fault.kind.name,
        "seed": seed,
    }
    try:
        seen = fault.kind.strike(fault.what, setting)
        said |= {"end": seen.end, "recovered_by": seen.recovered_by, "problems": seen.problems}
    except Skipped as reason:
        said |= {"skipped": str(reason), "problems": []}
    return said | {
        "seconds": round(time.monotonic() - started, 2),
        "cpu_s": round(setting.cpu_s - cpu_s, 2),
    }
