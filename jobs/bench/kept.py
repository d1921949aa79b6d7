"""What has been fitted and scored stays in the home, each seed whole or not at all."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
from datetime import date
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.bench.evidence import SPLIT_NAMES, BenchRows
from jobs.bench.machine import installed
from jobs.bench.protocols import Protocol
from jobs.collab.baselines.registry import SYSTEMS
from jobs.collab.factors import Ints
from jobs.errors import JobError
from jobs.files import sha256_file, sync_directory, sync_file, write_atomically
from jobs.home import Home

Doubles = NDArray[np.float64]
ASKED = "asked.json"  # beside the result

_ROOMS = ("jobs.bench.evidence", "jobs.bench.protocols", "jobs.bench.warehouse", "jobs.collab",
          "jobs.codebook", "jobs.tokens", "jobs.report.metrics", "jobs.report.controls",
          "jobs.vector_columns")  # fmt: skip
_LIBRARIES = ("torch", "numpy", "numba", "lightgbm", "safetensors")
SCORES = pa.schema([("split", pa.string()), ("row", pa.int32()), ("logit", pa.float32())])


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(_Record):
    """One system with one seed: everything that decides its scores."""

    name: str
    system: str
    settings: dict[str, object]  # all of them, defaults included
    seed: int
    protocol: Protocol
    refit_every_days: int
    day: date
    earlier: str | None  # folder of the years before the window
    earlier_sha256: str | None
    evidence_sha256: str
    code_sha256: str
    versions: dict[str, str]
    n_threads: int

    @property
    def key(self) -> str:
        """Names the result. What a row is called, or where its inputs lie, is no part of it."""
        said = self.model_dump(mode="json", exclude={"name", "earlier"})
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def question(self) -> dict[str, object]:
        """What is asked, whichever code and libraries answer it."""
        beside = {"name", "earlier", "code_sha256", "versions"}
        return self.model_dump(mode="json", exclude=beside)

    def folder(self, home: Home) -> Path:
        """Where its result lies."""
        return _kept_in(home) / f"{self._place}-{self.key}"

    def folders(self, home: Home) -> list[Path]:
        """Where results of this system, protocol and seed lie, of whatever settings and code."""
        return sorted(_kept_in(home).glob(f"{self._place}-*"))

    @property
    def _place(self) -> str:
        return f"{self.system}-{self.protocol}-{self.seed}"


def _kept_in(home: Home) -> Path:
    return home.root / "bench" / "kept"


class AgreedSide(_Record):
    """How the factors of one side agree with the LLM's space; see `figures.Agreed`."""

    side: str
    cosine_before: float | None
    cosine: float | None
    overlap_before: float | None
    overlap: float | None


class FitCost(_Record):
    """One fit and the scoring after it.

    Attributes:
        name: `choice` for the fit that stopped on valid, else the day of the night.
        wall_s, cpu_s: of the fit; all threads.
        score_cpu_s: of scoring.
        n_epochs: of the fit.
        n_train: rows it was fitted to.
        agreement: of its factors with the LLM's space, where it is the first fit.
    """

    name: str
    wall_s: float
    cpu_s: float
    score_cpu_s: float
    n_epochs: int
    n_train: int
    agreement: list[AgreedSide]


class Outcome(_Record):
    """What one seed cost, written last: without it there is no result.

    Attributes:
        fits: in the order of time.
        peak_mib: most memory that the process held which finished it.
        before_fit_mib: what it held before the first fit.
        loads: one-minute load of the machine at the beginning and at the end.
        scores_sha256: of scores.parquet beside it.
    """

    fits: list[FitCost]
    peak_mib: float
    before_fit_mib: float
    loads: list[float]
    scores_sha256: str


class Kept:
    """The folder of one result: parts while it is made, then scores and outcome.

    Args:
        folder: see `Asked.folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def scores_path(self) -> Path:
        """Parquet of (split, row, logit)."""
        return self.folder / "scores.parquet"

    def outcome(self) -> Outcome | None:
        """The finished result; None while there is none, or its scores are other ones."""
        try:
            found = Outcome.model_validate_json((self.folder / "outcome.json").read_bytes())
        except FileNotFoundError:
            return None
        if not self.scores_path.is_file() or sha256_file(self.scores_path) != found.scores_sha256:
            return None
        return found

    def part(self, name: str) -> FitCost | None:
        """What a fit cost whose scores are there already, from a run that was killed."""
        try:
            return FitCost.model_validate_json(self._part(name, "json").read_bytes())
        except FileNotFoundError:
            return None

    def keep_part(self, cost: FitCost, scores: pa.Table) -> None:
        """Scores first, then what they cost: the second is the sign that both are whole."""
        _write_parquet(self._part(cost.name, "parquet"), scores)
        write_atomically(self._part(cost.name, "json"), cost.model_dump_json())

    def finish(self, names: list[str], outcome: Outcome) -> Outcome:
        """Join the parts into one table of scores, and write the outcome last."""
        parts = [pq.read_table(self._part(name, "parquet"), partitioning=None) for name in names]
        _write_parquet(self.scores_path, pa.concat_tables(parts))
        done = outcome.model_copy(update={"scores_sha256": sha256_file(self.scores_path)})
        write_atomically(self.folder / "outcome.json", done.model_dump_json(indent=1))
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        return done

    def _part(self, name: str, suffix: str) -> Path:
        return self.folder / "parts" / f"{name}.{suffix}"


def kept_by_other_code(asked: Asked, home: Home) -> tuple[Asked, Kept] | None:
    """The finished answer of another version of the code to the same question, and what made it.

    Raises:
        JobError: there are several, and nothing says which one is meant.
    """
    found = []
    for folder in asked.folders(home):
        try:
            theirs = Asked.model_validate_json((folder / ASKED).read_bytes())
        except (FileNotFoundError, ValidationError):  # unfinished, or of a bench of long ago
            continue
        if theirs.question == asked.question and Kept(folder).outcome() is not None:
            found.append((theirs, Kept(folder)))
    if len(found) > 1:
        said = ", ".join(kept.folder.name for _, kept in found)
        raise JobError(
            f"{asked.name}, seed {asked.seed}: several versions of the code have kept a result "
            f"({said}); remove all but one of these folders, or leave --any-code out"
        )
    return found[0] if found else None


def score_table(rows: BenchRows, places: Ints, logits: NDArray[np.floating]) -> pa.Table:
    """Scores of the rows at `places` as a table."""
    names = np.array(SPLIT_NAMES)[rows.splits[places]]
    columns = [pa.array(names), pa.array(rows.numbers[places].astype(np.int32)), pa.array(logits)]
    return pa.table(columns, schema=SCORES)


def read_scores(path: Path) -> dict[str, tuple[Ints, Doubles]]:
    """Rows and logits of each split that a table of scores holds, by row."""
    table = pq.read_table(path, columns=SCORES.names, partitioning=None).cast(SCORES)
    for name in SCORES.names:
        if table[name].null_count:
            raise ValueError(f"{name} is null in {table[name].null_count} rows")
    splits = table["split"].to_numpy(zero_copy_only=False)
    rows, logits = table["row"].to_numpy(), table["logit"].to_numpy()
    found = {}
    for split in np.unique(splits):
        mask = splits == split
        order = np.argsort(rows[mask], kind="stable")
        found[str(split)] = (
            rows[mask][order].astype(np.int64),
            logits[mask][order].astype(np.float64),
        )
    return found


def _write_parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, aside, compression="zstd")
    sync_file(aside)
    aside.replace(path)
    sync_directory(path.parent)


# -- code -----------------------------------------------------------------------------------------


def code_sha256(system: str, settings: object) -> str:
    """Hash of the code that decides a system's scores: its module and what that imports.

    Only the rooms that compute are followed, so that a change of a command or a page fits nothing
    anew. A system that the settings name as a part of this one counts too.
    """
    digest = hashlib.sha256()
    modules = {SYSTEMS[name].__module__ for name in _named(system, settings)}
    start = modules | {"jobs.bench.one_fit", "jobs.bench.evidence", "jobs.bench.protocols"}
    for name in sorted(_closure(start)):
        digest.update(name.encode())
        digest.update(_source(name))
    return digest.hexdigest()


def _named(system: str, settings: object) -> set[str]:
    """The system, and those that its settings name as parts of it."""
    if isinstance(settings, str):
        return {system} | ({settings} & set(SYSTEMS))
    if isinstance(settings, dict):
        settings = list(settings.values())
    inner = settings if isinstance(settings, list) else []
    return {system}.union(*(_named(system, value) for value in inner))


def library_versions() -> dict[str, str]:
    """Versions of the libraries that the last bits of a score depend on."""
    return installed(_LIBRARIES)


def _closure(names: set[str]) -> set[str]:
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += _imports(name)
    return found


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of the rooms that compute, named by import statements anywhere in the file."""
    names = []
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
    return tuple(name for name in names if name.startswith(_ROOMS) and _is_module(name))


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the parent is a module, so this is a name in it
        return False


@cache
def _source(module: str) -> bytes:
    spec = find_spec(module)
    return Path(spec.origin).read_bytes() if spec and spec.origin else b""
