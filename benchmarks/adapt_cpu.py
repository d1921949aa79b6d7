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
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from llm_homes import (
    DAY,
    curve,
    keep_table,
    print_curve,
    run_checked,
    score_table,
    spoken,
    together,
)
from numpy.typing import NDArray

from jobs.command_line import parse
from jobs.datasets import ADAPT_CURVE
from jobs.files import write_atomically
from jobs.home import Home
from jobs.job import Run, load_manifest
from jobs.launch import MODULES
from jobs.manifest import code_version

RESULT = Path(__file__).parent / "results" / "adapt_cpu.json"
PUBLISHED = {"zero-shot Qwen2-7B": [0.5718, 0.5145], "TALLRec Qwen2-7B": [0.7268, 0.6989]}
# The most telling figures first. `adapted` has the weights of the best evaluation, which looks at a
# tenth of the valid rows; `last` those of the last step. All valid rows together say which is kept.
PHASES = (
    ("zero-shot", "test", "online"),
    ("last", "test", "online"),
    ("last", "valid", "online"),
    ("last", "test", "frozen"),
    ("zero-shot", "valid", "online"),
    ("adapted", "valid", "online"),
    ("adapted", "test", "online"),
)
FLAGS = {
    "rank": 16,
    "alpha": 32.0,
    "learning_rate": 4e-4,
    "warmup_steps": 30,
    "step_tokens": 2_048,
    "batch_tokens": 1_024,
    "epochs": 1,
    "valid_rows": 1_000,
    "eval_steps": 60,
    "checkpoint_steps": 10,
    "seed": 0,
    "device": "cpu",
}


def prepare(folder: Path, home: Home) -> None:
    """Splits, histories and item texts of the published split, unless they are there."""
    for job in ("ingest", "splits", "item_texts"):
        run_checked(job, home, **({"source": folder} if job == "ingest" else {}))


def kept(home: Home, phase: tuple[str, str, str]) -> Path:
    """Where the figures of a phase are kept; those of an adapter belong to its flags."""
    name = "-".join(phase)
    if phase[0] != "zero-shot":
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
        elif system == "last":
            assign(prepared.learned, last_weights(home))
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
            scores = score_table(split, rows.numbers[at], logits[at])
            keep_table(kept(home, phase).with_suffix(".parquet"), scores)
            write_atomically(kept(home, phase), json.dumps(found))


def last_weights(home: Home) -> dict[str, NDArray[Any]]:
    """The weights after the last step, from the checkpoint that a run ends with."""
    from jobs.llm.checkpoints import Checkpoints

    manifest = load_manifest(home, "adapt", DAY)
    assert manifest is not None
    folder = home.run("adapt", DAY) / "checkpoints" / manifest.result["checkpoints"]
    newest = Checkpoints(folder).newest()
    assert newest is not None, f"no checkpoint below {folder}"
    assert newest.facts["is_finished"]
    return {name: weight.numpy() for name, weight in newest.group("weights").items()}


# -- the whole -----------------------------------------------------------------------------------


def report(home: Home, flags: dict[str, Any], processes: int) -> None:
    """Print and write what is known so far."""
    found = {}
    for phase in PHASES:
        if (path := kept(home, phase)).is_file():
            found[" ".join(phase)] = json.loads(path.read_text(encoding="utf-8"))
    manifest = load_manifest(home, "adapt", DAY)
    print_curve(curve(home, ADAPT_CURVE))
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
        "curve": curve(home, ADAPT_CURVE),
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
        if phase[0] != "zero-shot":  # says "unchanged" at once where it has run
            together(asked.processes, home, ["-m", MODULES["adapt"], *spoken(flags)])
        if not kept(home, phase).is_file():
            together(asked.processes, home, [*again, "--phase", "/".join(phase)])
        report(home, flags, asked.processes)


if __name__ == "__main__":
    main()
