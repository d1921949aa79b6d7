"""Two nights of a small warehouse, undisturbed, and a home before each job of the second."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from drill.runs import Ended, Nursery
from embedding_store import EmbeddingStore
from jobs.datasets import ITEM_SEMANTICS, USER_FACTORS
from jobs.files import write_atomically
from jobs.home import Home
from jobs.launch import AFTER_LAST_NIGHT, MODULES, NIGHTLY
from jobs.manifest import code_version
from jobs.prepare.sample import write_sample

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)
TOKENS = 600  # that each stage of tuning reads: enough to take a step and to keep a checkpoint
_KNOWN = (ITEM_SEMANTICS, USER_FACTORS)  # what readers compare, by the column of its vector
_VECTOR = {ITEM_SEMANTICS.name: "vector", USER_FACTORS.name: "factor"}


@dataclass(frozen=True)
class World:
    """What was prepared once, and is copied for every fault.

    Attributes:
        folder: of everything.
        seconds: that each job of the second night took, undisturbed.
        changes: of files that it made then.
    """

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)

    @property
    def source(self) -> Path:
        """The raw deliveries."""
        return self.folder / "raw"

    @property
    def backbone(self) -> Path:
        """Two random layers and a real tokenizer."""
        return self.folder / "backbone"

    @property
    def done(self) -> Home:
        """After both nights."""
        return Home(self.folder / "done")

    @property
    def known(self) -> Path:
        """What a reader must find in a version of each day; see `drill.reading`."""
        return self.folder / "known.npz"

    def before(self, job: str) -> Home:
        """Before a job of the second night."""
        return Home(self.folder / "before" / job)

    def words(self, job: str, day: date = SECOND, /, **flags: object) -> list[str]:
        """Flags of a job as the night gives them; `flags` on top, None leaves one out."""
        version = {FIRST: 1, SECOND: 2}[day]
        given: dict[str, object] = {"day": day, **self._flags(job, day, version)}
        if job in AFTER_LAST_NIGHT and version > 1:
            given["previous_version"] = version - 1
        said = {name: value for name, value in {**given, **flags}.items() if value is not None}
        pairs = ((f"--{name.replace('_', '-')}", value) for name, value in said.items())
        return [
            word
            for flag, value in pairs
            for word in ([flag] if value is True else [flag, str(value)])
        ]

    def _flags(self, job: str, day: date, version: int) -> dict[str, object]:
        llm: dict[str, object] = {"model": self.backbone}
        tuning = {**llm, "max_tokens_total": TOKENS, "step_tokens": 256, "eval_steps": 1}
        flags: dict[str, dict[str, object]] = {
            "ingest": {"source": self.source},
            "adapt": {**tuning, "valid_rows": 20},
            "distil": {**llm, "adapter": day},
            "align": {"max_epochs": 2, "checkpoint_s": 0},
            "tune": {**tuning, "valid_rows": 20, "adapter": day},
            "project": llm,
            "candidates": {"version": version, "splits": "test"},
            "score": {"version": version, "backbone": self.backbone},
            "report": {"version": version, "n_resamples": 100},
        }
        return flags.get(job, {})

    @contextmanager
    def copy(self, of: Home, name: str) -> Iterator[Home]:
        """A copy of a home to do harm to; gone afterwards."""
        home = Home(self.folder / "faults" / name)
        shutil.rmtree(home.root, ignore_errors=True)
        shutil.copytree(of.root, home.root)
        try:
            yield home
        finally:
            shutil.rmtree(home.root, ignore_errors=True)


def run_checked(
    nursery: Nursery, job: str, words: list[str], home: Home, day: date = SECOND
) -> Ended:
    """A job and its checks, as the scheduler runs them; the first that fails."""
    done = nursery.run(MODULES[job], words, home.root, count=True)
    if done.status:
        return done
    checked = nursery.run(MODULES["check"], ["--producer", job, "--day", str(day)], home.root)
    return done if not checked.status else checked


def prepared(folder: Path, nursery: Nursery) -> World:
    """The world of a folder; made if it is not there, or was made by other code."""
    marker, made_by = folder / "prepared.json", code_version()
    if marker.is_file():
        said = json.loads(marker.read_text(encoding="utf-8"))
        if said["code_version"] == made_by:
            return World(folder, said["seconds"], said["changes"])
    for each in ("raw", "backbone", "before", "done", "garbage", "faults"):
        shutil.rmtree(folder / each, ignore_errors=True)
    marker.unlink(missing_ok=True)
    world = World(folder)
    _make(world, nursery)
    said = {"code_version": made_by, "seconds": world.seconds, "changes": world.changes}
    write_atomically(marker, json.dumps(said))
    return world


def with_sources(world: World) -> World:
    """Give a new world its deliveries and its backbone."""
    # Imports torch, which a drill that goes on can do without.
    from tests.tiny_backbone import write_tiny_backbone

    write_sample(world.source)
    write_tiny_backbone(world.backbone)
    return world


def _make(world: World, nursery: Nursery) -> None:
    with_sources(world)
    home = world.done
    home.root.mkdir(parents=True)
    # Nobody waits for readers that died, but those that live are waited for.
    EmbeddingStore(home.store).initialise(lease_ttl_s=600, grace_s=0)
    for day in (FIRST, SECOND):
        for job in NIGHTLY:
            if day == SECOND:
                shutil.copytree(home.root, world.before(job).root)
            ended = run_checked(nursery, job, world.words(job, day), home, day)
            if ended.status:
                raise RuntimeError(f"{job} of {day} ended with {ended.status}: {ended.said}")
            world.seconds[job], world.changes[job] = ended.seconds, ended.changes
    write_known(world.known, vectors_of(home, FIRST) | vectors_of(home, SECOND))


def vectors_of(home: Home, day: date) -> dict[str, np.ndarray]:
    """Ids and vectors of a day's tables, as `drill.reading` wants them; not from the store."""
    found = {}
    for dataset in _KNOWN:
        table = pq.read_table(home.output(dataset, day), partitioning=None)
        vectors = table[_VECTOR[dataset.name]].combine_chunks().flatten().to_numpy()
        found[f"{day}/{dataset.name}/ids"] = table[dataset.key[0]].to_numpy()
        found[f"{day}/{dataset.name}/vectors"] = vectors.reshape(len(table), -1)
    return found


def write_known(path: Path, vectors: Mapping[str, np.ndarray]) -> None:
    """What readers compare with, in one file without pickles."""
    save: Any = np.savez  # its types take every name for that of an option
    save(path, **vectors)
