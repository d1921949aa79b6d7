"""LLM systems on MovieLens-1M, trained and scored for the bench: zero-shot to SAILRec.

    python benchmarks/llm_systems.py --prepare ../shared/data/ml-1m tallrec control
    python benchmarks/llm_systems.py sella sail sail_off --max-tokens-total 150000 --processes 2

A TIDEMARK_HOME holds what all systems read, stage 1's LoRA (tallrec) among it; each other system
trains in a home of its own below llm_systems/, through the real job `tune`. Each phase (training,
then valid and test as they come, test with frozen histories) is kept: the same command goes on
where a killed one was. Words after `--` go to the job as they are: `-- --learning-rate 5e-4`.

Without --prepare nothing needs DuckDB or faiss: a prepared home can be carried to a machine with a
GPU. There --processes 1 and --batch-tokens 65536 suit.

Scores go to benchmarks/results/scores/<system>-<seed>.parquet and ...-frozen.parquet, figures to
benchmarks/results/llm_systems.json; --results names another folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from llm_homes import DAY, curve, keep_table, print_curve, run_checked, score_table
from llm_work import PHASES, SYSTEMS, Phase, Work, score_share
from numpy.typing import NDArray

from jobs.datasets import ADAPT_CURVE, CONTROL_LOGITS, SPLITS, TUNE_CURVE
from jobs.files import write_atomically
from jobs.home import Home
from jobs.job import load_manifest
from jobs.manifest import code_version
from jobs.report.metrics import auc, uauc

RESULTS = Path(__file__).resolve().parent / "results"
# What tune reads. Distillation reads stage 1's LoRA, so that comes between.
PREPARED = ("ingest", "splits", "item_texts")
AFTER_STAGE_1 = ("distil", "codebook", "user_profiles", "align", "control")
CONTROL = "control"  # scores of the job control, without an LLM: what offsets and fusions are with


# -- what is known ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """The rows of valid and test, and what the control says of them."""

    splits: pa.Table
    control: pa.Table | None

    @classmethod
    def of(cls, home: Home) -> Labels:
        """Those of a home."""
        path = home.output(CONTROL_LOGITS, DAY)
        control = pq.read_table(path, partitioning=None) if path.is_file() else None
        return cls(pq.read_table(home.output(SPLITS, DAY), partitioning=None), control)

    def judged(self, phase: Phase, scores: pa.Table, *, behind_control: bool) -> dict[str, Any]:
        """AUC and UAUC of a phase; behind the control its logit is added."""
        rows = self.splits.filter(pc.equal(self.splits["split"], phase.split)).sort_by("row")
        if not rows["row"].equals(scores["row"]):
            raise SystemExit(f"{len(scores)} scores for {len(rows)} rows of {phase.split}")
        logits = scores["logit"].to_numpy()
        if behind_control:
            logits = logits + self.offsets(phase)
        users, labels = rows["user_id"].to_numpy(), rows["label"].to_numpy()
        value, n_users = uauc(users, labels, logits)
        return {"auc": auc(labels, logits), "uauc": value, "n_users": n_users, "n_rows": len(rows)}

    def offsets(self, phase: Phase) -> NDArray[np.float32]:
        """The control's logits, by row."""
        assert self.control is not None, "run the job control first: --prepare"
        column = "logit" if phase.history == "online" else "frozen_logit"
        rows = self.control.filter(pc.equal(self.control["split"], phase.split)).sort_by("row")
        return rows[column].to_numpy()


def figures_of(work: Work, labels: Labels) -> dict[str, Any]:
    """Everything that is known of a system with a seed so far."""
    system, results = work.system, {}
    for phase in PHASES:
        path = work.kept(phase)
        if path.is_file():
            scores, facts = pq.read_table(path), json.loads(path.with_suffix(".json").read_text())
            found = labels.judged(phase, scores, behind_control=False) | facts
            if system.flags.get("offset") == "control":
                found["behind_control"] = labels.judged(phase, scores, behind_control=True)
            results[" ".join(phase)] = found
    manifest = load_manifest(work.home, system.job, DAY) if system.job else None
    points = curve(work.home, TUNE_CURVE if system.job == "tune" else ADAPT_CURVE)
    return {
        "title": system.title,
        "seed": work.seed,
        "config": _without_folders(manifest.config) if manifest else {},
        "training": manifest.metrics if manifest else {},
        "train_seconds": points[-1]["seconds"] if system.job and points else 0.0,
        "curve": points if system.job else [],
        "results": results,
        "processes": work.asked.processes,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "tidemark": code_version(),
            **{each: version(each) for each in ("torch", "transformers")},
        },
    }


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """A config whose paths are their last part: results speak of no machine."""
    return {
        name: Path(value).name if isinstance(value, str) and value.startswith("/") else value
        for name, value in config.items()
    }


def write_results(work: Work, figures: dict[str, Any], folder: Path) -> None:
    """Scores as the bench reads them, and the figures among those of other systems."""
    online = [path for phase in PHASES if phase.history == "online"
              and (path := work.kept(phase)).is_file()]  # fmt: skip
    name = f"{work.name}-{work.seed}"
    if online:
        keep_table(folder / "scores" / f"{name}.parquet",
                   pa.concat_tables(map(pq.read_table, online)))  # fmt: skip
    frozen = work.kept(Phase("test", "frozen"))
    if frozen.is_file():
        keep_table(folder / "scores" / f"{name}-frozen.parquet", pq.read_table(frozen))
    path = folder / "llm_systems.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_atomically(path, json.dumps(known | {name: figures}, indent=1, sort_keys=True) + "\n")


def write_control(shared: Home, folder: Path) -> None:
    """The control's own scores, as those of any other system."""
    labels = Labels.of(shared)
    for history, name in (("online", f"{CONTROL}-0"), ("frozen", f"{CONTROL}-0-frozen")):
        tables = []
        for phase in (each for each in PHASES if each.history == history):
            logits = labels.offsets(phase)
            tables.append(score_table(phase.split, np.arange(len(logits)), logits))
        keep_table(folder / "scores" / f"{name}.parquet", pa.concat_tables(tables))


def print_table(folder: Path) -> None:
    """One line a system: what is known of it."""
    known = json.loads((folder / "llm_systems.json").read_text(encoding="utf-8"))
    print(f"{'system':32s} tokens  seconds" + "".join(f"  {' '.join(p):>13s}" for p in PHASES))
    for name, each in known.items():
        cells = []
        for phase in PHASES:
            found = each["results"].get(" ".join(phase))
            shown = found and found.get("behind_control", found)
            cells.append(f"{shown['auc']:.4f}/{shown['uauc']:.4f}" if shown else "-")
        tokens = int(each["training"].get("n_train_tokens", 0))
        print(f"{name:30s} {tokens:8,d} {each['train_seconds']:8.0f}"
              + "".join(f"  {cell:>13s}" for cell in cells))  # fmt: skip


# -- the whole -------------------------------------------------------------------------------------


def prepare(folder: Path, shared: Home, asked: argparse.Namespace) -> None:
    """Everything that tune reads: needs DuckDB. Stage 1 is trained between splits and distil."""
    for job in PREPARED:
        run_checked(job, shared, **({"source": folder} if job == "ingest" else {}))
    Work("tallrec", 0, shared, asked).train()
    for job in AFTER_STAGE_1:
        given = {"model": asked.model, "adapter": DAY, "device": asked.device}
        run_checked(job, shared, **(given if job == "distil" else {}))


def parsed() -> argparse.Namespace:
    """The command line; words after `--` are `rest`."""
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="+", choices=[*SYSTEMS, CONTROL])
    parser.add_argument("--prepare", type=Path, help="folder of MovieLens-1M: make what is missing")
    parser.add_argument("--seeds", default="0", help="0,1,2")
    parser.add_argument(
        "--phases",
        default=",".join("/".join(phase) for phase in PHASES),
        help="what to score, with commas between; the rest can be scored later (%(default)s)",
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--max-tokens-total", type=int, help="train a stage on no more than these")
    parser.add_argument("--batch-tokens", type=int, default=1_024)
    parser.add_argument("--valid-rows", type=int, default=1_000, help="to stop on; 0: all")
    parser.add_argument("--eval-steps", type=int, default=60)
    parser.add_argument("--model", help="another backbone")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--phase", help=argparse.SUPPRESS)  # what this script calls itself with
    parser.add_argument("--shared", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(words[:at])
    asked.rest = words[at + 1 :]
    return asked


def main() -> None:
    """See the module's docstring."""
    asked = parsed()
    shared = Home(asked.shared) if asked.shared else Home.from_environment()
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    if asked.phase:
        score_share(Work(asked.systems[0], seeds[0], shared, asked), Phase(*asked.phase.split("/")))
        return
    if asked.prepare:
        prepare(asked.prepare, shared, asked)
    known = {"/".join(phase): phase for phase in PHASES}
    if unknown := set(asked.phases.split(",")) - set(known):
        raise SystemExit(f"--phases {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    wanted = [known[name] for name in asked.phases.split(",")]
    for name in asked.systems:
        if name == CONTROL:
            write_control(shared, asked.results)
            continue
        for seed in seeds if SYSTEMS[name].job else seeds[:1]:
            work = Work(name, seed, shared, asked)
            work.train()
            for phase in wanted:
                work.score(phase)
                write_results(work, figures_of(work, Labels.of(shared)), asked.results)
            print_curve(curve(work.home, TUNE_CURVE if work.system.job == "tune" else ADAPT_CURVE))
    print_table(asked.results)


if __name__ == "__main__":
    main()
