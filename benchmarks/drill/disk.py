"""A disk that is full while a job runs: a tmpfs in a mount namespace of its own, and a filler."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drill.faults import Kind, Seen, Setting
from drill.invariants import half_visible, store_problems, versions_of
from drill.runs import Nursery
from drill.world import SECOND, run_checked
from embedding_store import EmbeddingStore
from jobs.datasets import made_by
from jobs.home import Home
from jobs.launch import MODULES, NIGHTLY

PAGE = 4_096
_TRIES = 4


def size_of(job: str, home: Home) -> int:
    """Bytes that a job writes."""
    paths = [home.output(dataset, SECOND) for dataset in made_by(job)]
    size = sum(path.stat().st_size for path in paths if path.exists())
    if job == "publish":
        with EmbeddingStore(home.store).open("production", verify="off") as version:
            size += sum(entry.bytes for entry in version.manifest.files)
    return size


def fill(path: Path, n_free: int) -> None:
    """A file that leaves exactly so many pages of its disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(64 * PAGE)) == 64 * PAGE:
                pass
            while file.write(bytes(PAGE)) == PAGE:
                pass
        except OSError:  # full
            pass
        size = file.tell() // PAGE * PAGE
        os.truncate(file.fileno(), max(0, size - n_free * PAGE))


@contextmanager
def on_small_disk(setting: Setting, job: str) -> Iterator[tuple[Nursery, Home, Home]]:
    """A home before a job on the small disk: its nursery, as its runs see it, and from here."""
    nursery, disk = setting.small_disk
    inside = Home(disk / "home")
    outside = Home(nursery.seen(disk) / "home")
    shutil.rmtree(outside.root, ignore_errors=True)
    shutil.copytree(setting.world.before(job).root, outside.root)
    try:
        yield nursery, inside, outside
    finally:
        shutil.rmtree(outside.root, ignore_errors=True)
        (outside.root.parent / "filler").unlink(missing_ok=True)


def strike(job: str, setting: Setting) -> Seen:
    """Leave a job less room than it needs; it says so, and runs once there is room again."""
    needed = size_of(job, setting.world.done) // PAGE + 1
    for _ in range(_TRIES):
        n_free = setting.random.randint(0, int(needed * 0.9))
        seen = Seen(end=f"{n_free} of about {needed} pages of 4 KiB were free")
        seen.recovered_by = "a retry once there is room"
        with on_small_disk(setting, job) as (nursery, inside, outside):
            filler = outside.root.parent / "filler"
            fill(filler, n_free)
            ended = nursery.run(MODULES[job], setting.world.words(job), inside.root)
            if ended.status == 0:  # it needed less than was thought
                continue
            seen.refused_in_words(job, ended, "no space left")
            _while_full(job, outside, seen)
            filler.unlink()
            again = run_checked(nursery, job, setting.world.words(job), inside)
            if seen.ended_well(f"the retry of {job}", again):
                setting.as_undisturbed(job, outside, seen)
            seen.problems += store_problems(outside)
        return seen
    return Seen(problems=[f"the disk could not be filled under {job} in {_TRIES} tries"])


def _while_full(job: str, home: Home, seen: Seen) -> None:
    """What was there before is whole and readable."""
    seen.problems += half_visible(home) + store_problems(home)
    if job == "publish":
        seen.expect(versions_of(home) in ([1], [1, 2]), f"versions {versions_of(home)}")
    with EmbeddingStore(home.store).open("production") as version:
        seen.expect(version.version in (1, 2), "production moved to what is not whole")


DISK_FULL = Kind(
    name="disk-full",
    expected="the job ends with one line that says which disk; what was there stays whole",
    recovery="make room (`embedding-store gc`), then a retry",
    times={**dict.fromkeys(NIGHTLY, 1), "publish": 3},
    strike=strike,
)
