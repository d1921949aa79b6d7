"""Nights by jobs alone, which nights on a scheduler are compared with."""

from __future__ import annotations

import shutil
from datetime import date, timedelta

import numpy as np

from drill.invariants import differences, half_visible, leftovers, outputs
from drill.runs import Nursery
from drill.world import World, run_checked, vectors_of, write_known
from jobs.home import Home
from jobs.job import load_manifest
from jobs.launch import MODULES, NIGHTLY, arguments
from jobs.night_flags import NightFlags

FIRST = date(2026, 2, 20)  # is not disturbed: production is there before the first fault
WORDS_BEFORE_FLAGS = 3  # interpreter, -m, module


class Nights:
    """The undisturbed nights, one after the other, made as far as they are asked for.

    Args:
        world: has the deliveries and the backbone.
        nursery: forks the jobs.
    """

    def __init__(self, world: World, nursery: Nursery) -> None:
        self.world, self._nursery = world, nursery
        self.home, self.known = Home(world.folder / "undisturbed"), world.known
        self._n_made = 0

    def up_to(self, n_nights: int) -> list[date]:
        """Make so many, the first included; their days."""
        days = [FIRST + timedelta(days=n) for n in range(n_nights)]
        for day in days[self._n_made :]:
            self._make(day)
        self._n_made = max(self._n_made, n_nights)
        known: dict[str, np.ndarray] = {}
        for day in days:
            known |= vectors_of(self.home, day)
        write_known(self.known, known)
        return days

    def _make(self, day: date) -> None:
        last = self._nursery.run(MODULES["previous"], ["--day", str(day)], self.home.root)
        flags = NightFlags.of_chain(
            day,
            last.answer,
            source=str(self.world.source),
            model=str(self.world.backbone),
            tokens=0,
        )
        version: int | None = None
        for job in NIGHTLY:
            if flags.why_left_out(job):
                continue
            words = arguments(job, **flags.of(job, version), day=day)[WORDS_BEFORE_FLAGS:]
            ended = run_checked(self._nursery, job, words, self.home, day)
            if ended.status:
                raise RuntimeError(f"{job} of {day} ended with {ended.status}: {ended.said}")
            if job == "publish":
                version = int(ended.answer["version"])
                if not ended.answer["promoted"]:
                    return  # a healthy night may be refused; then nothing is scored

    def is_promoted(self, day: date) -> bool:
        """Whether the version of a night passed its gates."""
        published = load_manifest(self.home, "publish", day)
        return published is not None and bool(published.result["promoted"])

    def lend(self, home: Home) -> None:
        """Give a new home the first night."""
        shutil.rmtree(home.root, ignore_errors=True)
        shutil.copytree(self.home.root, home.root)

    def differences(self, home: Home, day: date) -> list[str]:
        """What of a night is not as undisturbed; the report's own figures are left aside."""
        found = half_visible(home) + leftovers(home)
        for job in NIGHTLY:
            unlike = differences(outputs(home, job, day), outputs(self.home, job, day))
            found += [f"{day}: {one}" for one in unlike]
        return found
