"""What benchmarks that train an LLM on MovieLens-1M share: processes, homes, scores, curves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.datasets import Dataset, Format, made_by
from jobs.home import Home
from jobs.job import is_checked, load_manifest
from jobs.launch import arguments

DAY = date(2003, 3, 1)  # the published test window ends before it
_ROOMS = ("tables", "reports", "runs")
_OF_ONE_RUN = {"lock", "staging", "checkpoints", "parts"}  # below runs/<job>/day=<day>


# -- processes -----------------------------------------------------------------------------------


def spoken(flags: dict[str, Any]) -> list[str]:
    """Flags of a job's command line, the day first; None leaves one out."""
    words = ["--day", str(DAY)]
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def environment(home: Home, n_processes: int) -> dict[str, str]:
    """Of several processes each has one thread; one alone has what the machine gives."""
    threads = {"OMP_NUM_THREADS": "1"} if n_processes > 1 else {}
    place = {"OMP_WAIT_POLICY": "PASSIVE", "TIDEMARK_HOME": str(home.root)}
    return {**os.environ, **threads, **place}


def together(n: int, home: Home, words: list[str]) -> None:
    """Run `-m module flags` or `script flags` in `n` processes that speak to each other."""
    several = ["-m", "torch.distributed.run", "--nproc-per-node", str(n)] if n > 1 else []
    subprocess.run([sys.executable, *several, *words], env=environment(home, n), check=True)


def run_checked(job: str, home: Home, *, day: date = DAY, **flags: object) -> None:
    """A job and its checks; without DuckDB, outputs that have passed elsewhere stand."""
    subprocess.run(arguments(job, day=day, **flags), env=environment(home, 1), check=True)
    tables = [each for each in made_by(job) if each.format is Format.PARQUET]
    if not all(is_checked(home, each, day) for each in tables) or find_spec("duckdb"):
        check = arguments("check", producer=job, day=day)
        subprocess.run(check, env=environment(home, 1), check=True)


# -- homes ---------------------------------------------------------------------------------------


def lend(shared: Home, own: Home, made_here: Collection[str]) -> None:
    """Give a home all that another one holds, except what the jobs `made_here` make.

    Files are hard links where the file system has them: a job gives a new file an old one's name
    and never writes into it, so neither home can change the other. The cache of converted backbones
    is one folder.
    """
    aside = {each.name for job in made_here for each in made_by(job)} | set(made_here)
    for room in _ROOMS:
        for path in _files(shared.root / room, aside):
            link(path, own.root / path.relative_to(shared.root))
    own.root.mkdir(parents=True, exist_ok=True)
    shared.cache.mkdir(parents=True, exist_ok=True)
    if not own.cache.exists():
        own.cache.symlink_to(shared.cache.resolve(), target_is_directory=True)


def _files(folder: Path, aside: Collection[str]) -> Iterator[Path]:
    for path in sorted(folder.glob("*")):
        if path.is_dir() and path.name not in aside and path.name not in _OF_ONE_RUN:
            yield from _files(path, aside)
        elif path.is_file() and path.stem not in aside and path.name not in _OF_ONE_RUN:
            yield path


def link(source: Path, target: Path) -> None:
    """A second name of a file, or a copy of it on another file system; nothing if it is there."""
    if target.is_file() and (target.samefile(source) or _same_time(source, target)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.link(source, aside)
    except OSError:  # another file system
        shutil.copy2(source, aside)
    aside.replace(target)


def _same_time(source: Path, target: Path) -> bool:
    left, right = source.stat(), target.stat()
    return (left.st_size, left.st_mtime_ns) == (right.st_size, right.st_mtime_ns)


# -- results -------------------------------------------------------------------------------------


def score_table(split: str, rows: NDArray[np.int64], logits: NDArray[Any]) -> pa.Table:
    """Logits by row, for the bench: other systems are compared with them on the same rows."""
    table = pa.table(
        {
            "split": pa.repeat(split, len(rows)),
            "row": rows.astype(np.int32),
            "logit": logits.astype(np.float32),
        }
    )
    return table.sort_by("row")


def keep_table(path: Path, table: pa.Table) -> None:
    """Write a table whole, or leave the one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, aside, compression="zstd")
    aside.replace(path)


def curve(home: Home, dataset: Dataset) -> list[dict[str, Any]]:
    """Valid AUC against tokens read; nothing before training has ended."""
    if load_manifest(home, dataset.producer, DAY) is None:
        return []
    return pq.read_table(home.output(dataset, DAY), partitioning=None).to_pylist()


def print_curve(points: list[dict[str, Any]]) -> None:
    """The curve as lines of a terminal."""
    print("step   tokens  seconds  train loss  valid AUC  valid UAUC")
    for point in points:
        cells = [point[name] for name in ("train_loss", "valid_auc", "valid_uauc")]
        said = "  ".join(f"{cell:9.4f}" if cell is not None else " " * 9 for cell in cells)
        print(f"{point['step']:4d} {point['tokens']:8,d} {point['seconds']:8.0f}  {said}")
