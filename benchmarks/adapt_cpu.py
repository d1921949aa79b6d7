"""SmolLM2-135M on MovieLens-1M: zero-shot, then one stream-packed LoRA seed, on a CPU.

    python benchmarks/adapt_cpu.py ../shared/data/ml-1m

Two processes of one thread each train together: on busy cores threads wait for each other at every
product, processes once a step. Each phase keeps what it found below TIDEMARK_HOME, and training
its checkpoints: the same command goes on where a killed one was. The result is written after every
phase to benchmarks/results/adapt_cpu.json, so that a run that is cut short has said what it knows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.command_line import parse
from jobs.datasets import ADAPT_CURVE
from jobs.files import write_atomically
from jobs.home import Home
from jobs.job import Run, load_manifest
from jobs.launch import MODULES, arguments
from jobs.manifest import code_version

DAY = date(2003, 3, 1)  # the published test window ends before it
RESULT = Path(__file__).parent / "results" / "adapt_cpu.json"
PUBLISHED = {"zero-shot Qwen2-7B": [0.5718, 0.5145], "TALLRec Qwen2-7B": [0.7268, 0.6989]}
# Test before valid, and what was trained before what was not: the most telling figures first.
PHASES = (
    ("zero-shot", "test", "online"),
    ("adapted", "test", "online"),
    ("adapted", "valid", "online"),
    ("adapted", "test", "frozen"),
    ("zero-shot", "valid", "online"),
)
FLAGS = {
    "rank": 16,
    "alpha": 32.0,
    "learning_rate": 1e-3,
    "warmup_steps": 15,
    "step_tokens": 4_000,
    "batch_tokens": 1_024,
    "epochs": 1,
    "valid_rows": 1_000,
    "eval_steps": 15,
    "checkpoint_steps": 5,
    "seed": 0,
    "device": "cpu",
}


def spoken(flags: dict[str, Any]) -> list[str]:
    """Flags of adapt's command line."""
    words = ["--day", str(DAY)]
    for name, value in flags.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def prepare(folder: Path, home: Home) -> None:
    """Splits, histories and item texts of the published split, unless they are there."""
    for job in ("ingest", "splits", "item_texts"):
        given = {"source": folder} if job == "ingest" else {}
        subprocess.run(arguments(job, day=DAY, **given), env=environment(home), check=True)
        check = arguments("check", producer=job, day=DAY)
        subprocess.run(check, env=environment(home), check=True)


def environment(home: Home) -> dict[str, str]:
    """One thread for each process."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return {**os.environ, **threads, "TIDEMARK_HOME": str(home.root)}


def together(n: int, home: Home, words: list[str]) -> None:
    """Run a module or script in `n` processes that speak to each other."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n)]
    subprocess.run([*launch, *words], env=environment(home), check=True)


def kept(home: Home, phase: tuple[str, str, str]) -> Path:
    """Where the figures of a phase are kept; those of an adapter belong to its flags."""
    name = "-".join(phase)
    if phase[0] == "adapted":
        manifest = load_manifest(home, "adapt", DAY)
        name += f"-{manifest.result['adapter'][:12]}" if manifest else ""
    return home.cache / "adapt_cpu" / f"{name}.json"


# -- a phase of scoring, in each process ---------------------------------------------------------


def score(phase: tuple[str, str, str], words: list[str], home: Home) -> None:
    """AUC and UAUC of all rows of a split; the first process writes them down."""
    import torch

    from jobs.llm.adapt import AdaptConfig, prepare
    from jobs.llm.adapters import find_adapter
    from jobs.llm.backbone import resolve
    from jobs.llm.lora import assign
    from jobs.llm.processes import connected, from_environment
    from jobs.progress import progress
    from jobs.report.metrics import auc, uauc

    system, split, history = phase
    config = parse("adapt", AdaptConfig, words).config
    processes = from_environment()
    run = Run("adapt", DAY, config, home)
    resolve(config.model, home.cache)  # converts before there is a group of processes
    with connected(processes, torch.device("cpu")):
        prepared = prepare(config, run, processes)
        if system == "adapted":
            assign(prepared.learned, find_adapter(str(DAY), home).tensors())
        rows = prepared.reader.rows(split, history="frozen" if history == "frozen" else "online")
        trainer = prepared.trainer(config, run.log, processes)
        started = time.monotonic()
        n_tokens = sum(rows.lengths)
        with progress(" ".join(phase), n_tokens // processes.n, "tokens") as advance:
            logits = trainer.score(rows, advance if processes.is_first else lambda n: None)
        seconds = time.monotonic() - started
        at = np.flatnonzero(~np.isnan(logits))
        value, n_users = uauc(rows.users[at], rows.labels[at], logits[at])
        found = {
            "auc": auc(rows.labels[at], logits[at]),
            "uauc": value,
            "n_users": n_users,
            "n_rows": len(at),
            "n_tokens": n_tokens,
            "tokens_per_s": n_tokens / seconds,
        }
        if processes.is_first:
            keep_scores(
                kept(home, phase).with_suffix(".parquet"), split, rows.numbers[at], logits[at]
            )
            write_atomically(kept(home, phase), json.dumps(found))


def keep_scores(path: Path, split: str, rows: NDArray[np.int64], logits: NDArray[Any]) -> None:
    """Logits by row, for the bench: other systems are compared with them on the same rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "split": pa.repeat(split, len(rows)),
            "row": rows.astype(np.int32),
            "logit": logits.astype(np.float32),
        }
    )
    pq.write_table(table.sort_by("row"), path)


# -- the whole -----------------------------------------------------------------------------------


def curve(home: Home) -> list[dict[str, Any]]:
    """Valid AUC against tokens read; nothing before training has ended."""
    if load_manifest(home, "adapt", DAY) is None:
        return []
    return pq.read_table(home.output(ADAPT_CURVE, DAY), partitioning=None).to_pylist()


def report(home: Home, flags: dict[str, Any], processes: int) -> None:
    """Print and write what is known so far."""
    found = {}
    for phase in PHASES:
        if (path := kept(home, phase)).is_file():
            found[" ".join(phase)] = json.loads(path.read_text(encoding="utf-8"))
    manifest = load_manifest(home, "adapt", DAY)
    print("step   tokens  seconds  train loss  valid AUC  valid UAUC")
    for point in curve(home):
        cells = [point[name] for name in ("train_loss", "valid_auc", "valid_uauc")]
        said = "  ".join(f"{cell:9.4f}" if cell is not None else " " * 9 for cell in cells)
        print(f"{point['step']:4d} {point['tokens']:8,d} {point['seconds']:8.0f}  {said}")
    for name, figures in found.items():
        print(f"{name}: AUC {figures['auc']:.4f} UAUC {figures['uauc']:.4f}")
    document = {
        "benchmark": "adapt_cpu",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "processes": processes, "threads_each": 1},
        "versions": {
            "tidemark": code_version(),
            **{each: version(each) for each in ("torch", "transformers", "peft")},
        },
        "config": flags,
        "training": manifest.metrics if manifest else {},
        "curve": curve(home),
        "results": found,
        "published_auc_uauc": PUBLISHED,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of MovieLens-1M")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--max-tokens-total", type=int, help="train on no more than these")
    parser.add_argument("--learning-rate", type=float, default=FLAGS["learning_rate"])
    parser.add_argument("--model", help="another backbone")
    parser.add_argument("--phase", help=argparse.SUPPRESS)  # what this script calls itself with
    asked = parser.parse_args()
    flags = {**FLAGS, "learning_rate": asked.learning_rate}
    if asked.max_tokens_total:
        flags["max_tokens_total"] = asked.max_tokens_total
    if asked.model:
        flags["model"] = asked.model
    home = Home.from_environment()
    if asked.phase:
        system, split, history = asked.phase.split("/")
        score((system, split, history), spoken(flags), home)
        return
    prepare(asked.folder, home)
    again = [str(Path(__file__)), *sys.argv[1:]]
    for phase in PHASES:
        if phase[0] == "adapted":  # says "unchanged" at once where it has run
            together(asked.processes, home, ["-m", MODULES["adapt"], *spoken(flags)])
        if not kept(home, phase).is_file():
            together(asked.processes, home, [*again, "--phase", "/".join(phase)])
        report(home, flags, asked.processes)


if __name__ == "__main__":
    main()
