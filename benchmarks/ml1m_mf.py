"""Matrix factorisation on MovieLens-1M, the published split: the paper protocol.

    python benchmarks/ml1m_mf.py ../shared/data/ml-1m

Published MF, MF with biases, and aligned MF with biases, three seeds each, beside the means of the
training labels. Fitted on train, stopped on valid, read off on test. Item embeddings come from the
default backbone, once; they are kept in `<home>/cache`. Writes benchmarks/results/ml1m_mf.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from jobs.collab.align import AlignConfig, align
from jobs.collab.factors import UNKNOWN, Factors, Floats, Ints, Ratings
from jobs.collab.mf import PUBLISHED_MF, fit
from jobs.home import Home
from jobs.job import Config
from jobs.llm.backbone import DEFAULT_BACKBONE, load, resolve
from jobs.llm.distil import distil, tokenize
from jobs.llm.isotropy import all_but_the_top
from jobs.manifest import code_version
from jobs.progress import progress
from jobs.report.controls import controls
from jobs.report.metrics import UserBootstrap, auc, paired_user_bootstrap, uauc

RESULT = Path(__file__).resolve().parent / "results" / "ml1m_mf.json"
SEEDS = (0, 1, 2)
N_RESAMPLES = 2_000
SPLITS = ("train", "valid", "test")
PLAIN = AlignConfig(alignment_weight=0.0)
ALIGNED = AlignConfig()
PUBLISHED_AUC = {"mf_published": 0.6482}  # CoLLM, table II

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """One part of the published split; `users` keeps who is who, `ratings` has row numbers."""

    users: Ints
    ratings: Ratings
    is_warm: NDArray[np.bool_]


@dataclass(frozen=True)
class Fitted:
    """A system fitted with one seed: scores by split, and what the fit cost."""

    scores: Mapping[str, Doubles]
    best_epoch: int
    seconds: float


# -- data ----------------------------------------------------------------------------------------


def catalogue(folder: Path) -> tuple[Ints, list[str]]:
    """Ids and titles of movies.dat, all 3,883."""
    lines = (folder / "movies.dat").read_text(encoding="latin-1").splitlines()
    fields = [line.split("::") for line in lines]
    return np.array([int(each[0]) for each in fields]), [each[1] for each in fields]


def splits(folder: Path, item_ids: Ints) -> tuple[dict[str, Split], int]:
    """The published split with row numbers of train's users and of the catalogue."""
    table = pq.read_table(folder / "reference_split.parquet")
    with (folder / "item_id_map.csv").open(encoding="utf-8") as file:
        raw_id = {int(r["split_item_id"]): int(r["raw_item_id"]) for r in csv.DictReader(file)}
    raw = pa.array([raw_id[item] for item in table["item_id"].to_pylist()])
    items = pc.index_in(raw, value_set=pa.array(item_ids)).to_numpy().astype(np.int64)
    known = table.filter(pc.equal(table["split"], "train"))["user_id"].unique()
    users = pc.fill_null(pc.index_in(table["user_id"], value_set=known), UNKNOWN)
    columns = (
        table["user_id"].to_numpy(),
        users.to_numpy().astype(np.int64),
        items,
        table["label"].to_numpy().astype(np.float32),
        table["is_warm"].to_numpy(),
    )
    parts = {}
    for name in SPLITS:
        rows = pc.equal(table["split"], name).to_numpy()
        who, user, item, label, is_warm = (column[rows] for column in columns)
        parts[name] = Split(who, Ratings(user, item, label), is_warm)
    return parts, len(known)


def item_vectors(titles: list[str], home: Home) -> Floats:
    """(n_items, d_llm) unit vectors of "Movie: <title>" from the default backbone, in float32."""
    files = resolve(DEFAULT_BACKBONE, home.cache)
    kept = home.cache / f"ml1m_mf-{files.fingerprint[:16]}.npy"
    if not kept.is_file():
        backbone = load(files, device="cpu", dtype="float32")
        tokens = tokenize([f"Movie: {title}" for title in titles], backbone.tokenizer, 64)
        with progress("distil", tokens.n_tokens, "tokens") as advance:
            np.save(kept, distil(tokens.ids, backbone.model, advance=advance))
    return all_but_the_top(np.load(kept, allow_pickle=False), n_components=2)


# -- systems -------------------------------------------------------------------------------------


def means(parts: dict[str, Split]) -> dict[str, list[Fitted]]:
    """The means of the training labels, which need no seed."""
    train = parts["train"]
    scores: dict[str, dict[str, Doubles]] = {}
    for name, part in parts.items():
        for control in controls(
            train.users, train.ratings.items, train.ratings.labels, part.users, part.ratings.items
        ):
            scores.setdefault(control.name, {})[name] = control.scores
    return {name: [Fitted(scores[name], 0, 0.0)] for name in ("item_mean", "item_user_mean")}


def timed(
    parts: dict[str, Split], run: Callable[[], tuple[Factors, int]], name: str, seed: int
) -> Fitted:
    """Run a fit and score every split with it."""
    started = time.process_time()
    factors, best_epoch = run()
    seconds = time.process_time() - started
    print(f"{name}, seed {seed}: best epoch {best_epoch}, {seconds:.1f} CPU s")
    scores = {
        part: factors.logits(split.ratings.users, split.ratings.items)
        for part, split in parts.items()
    }
    return Fitted({k: np.asarray(v, np.float64) for k, v in scores.items()}, best_epoch, seconds)


def factorisations(
    parts: dict[str, Split], n_users: int, vectors: Floats
) -> dict[str, list[Fitted]]:
    """The three matrix factorisations, each with every seed."""
    train, valid = parts["train"].ratings, parts["valid"].ratings
    groups = np.unique(vectors, axis=0, return_inverse=True)[1].reshape(-1)

    def published(seed: int) -> tuple[Factors, int]:
        config = PUBLISHED_MF.model_copy(update={"seed": seed})
        done = fit(train, valid, n_users, len(vectors), config)
        return done.factors, done.best.number

    def with_biases(config: AlignConfig, seed: int) -> tuple[Factors, int]:
        config = config.model_copy(update={"seed": seed})
        done = align(train, valid, n_users, vectors, groups, config)
        return done.factors, done.best.number

    systems: dict[str, Callable[[int], tuple[Factors, int]]] = {
        "mf_published": published,
        "mf_biases": lambda seed: with_biases(PLAIN, seed),
        "mf_aligned": lambda seed: with_biases(ALIGNED, seed),
    }
    return {
        name: [timed(parts, partial(run, seed), name, seed) for seed in SEEDS]
        for name, run in systems.items()
    }


# -- figures -------------------------------------------------------------------------------------


def figures(part: Split, scores: Doubles) -> dict[str, float | None]:
    """AUC over all, warm and cold rows, UAUC and how many users it counts."""
    labels, warm = part.ratings.labels, part.is_warm
    value, n_users = uauc(part.users, labels, scores)
    return {
        "auc": auc(labels, scores),
        "uauc": value,
        "n_users": n_users,
        "auc_warm": auc(labels[warm], scores[warm]),
        "auc_cold": auc(labels[~warm], scores[~warm]),
    }


def mean_figures(part: Split, runs: list[Fitted], split: str) -> dict[str, Any]:
    """Mean over seeds, and the spread of AUC among them."""
    each = [figures(part, run.scores[split]) for run in runs]
    mean = {key: float(np.mean([one[key] for one in each])) for key in each[0]}
    return {**mean, "auc_by_seed": [one["auc"] for one in each]}


def difference(test: Split, left: list[Fitted], right: list[Fitted]) -> dict[str, Any]:
    """Left minus right on test: for each pair of seeds, and for scores averaged over seeds."""

    def interval(a: Doubles, b: Doubles) -> dict[str, Any]:
        found = paired_user_bootstrap(test.users, test.ratings.labels, a, b, n=N_RESAMPLES)
        return _plain(found)

    scores = [[run.scores["test"] for run in runs] for runs in (left, right)]
    n = max(map(len, scores))
    pairs = zip(*(side * (n // len(side)) for side in scores), strict=True)
    return {
        "averaged_over_seeds": interval(*(np.mean(side, axis=0) for side in scores)),
        "by_seed": [interval(a, b) for a, b in pairs],
    }


def _plain(found: UserBootstrap) -> dict[str, Any]:
    return {
        name: None if at is None else {"value": at.value, "low": at.low, "high": at.high}
        for name, at in (("auc", found.auc), ("uauc", found.uauc))
    }


# -- report --------------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> Iterable[str]:
    """Lines of a Markdown table."""
    head = ("system", "valid AUC", "test AUC", "UAUC", "warm", "cold", "epoch", "CPU s")
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for name, each in results.items():
        valid, test = each["valid"], each["test"]
        cells = [valid["auc"], *(test[key] for key in ("auc", "uauc", "auc_warm", "auc_cold"))]
        epochs = "/".join(map(str, each["best_epochs"]))
        numbers = " | ".join(f"{cell:.4f}" for cell in cells)
        yield f"| {name} | {numbers} | {epochs} | {each['seconds']:.1f} |"


def spoken(name: str, found: dict[str, Any]) -> str:
    """A difference in one line."""
    at = found["averaged_over_seeds"]
    return f"{name}: " + ", ".join(
        f"{metric.upper()} {at[metric]['value']:+.4f} "
        f"[{at[metric]['low']:+.4f}, {at[metric]['high']:+.4f}]"
        for metric in ("auc", "uauc")
    )


def machine() -> dict[str, Any]:
    """What the seconds were taken on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":", 1)[1].strip() if lines else model
    return {"cpu": model, "cores": os.cpu_count(), "os": platform.system(), "threads": 1}


def main() -> None:
    """Run every system, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with movies.dat and reference_split")
    folder: Path = parser.parse_args().folder
    torch.set_num_threads(1)
    item_ids, titles = catalogue(folder)
    parts, n_users = splits(folder, item_ids)
    vectors = item_vectors(titles, Home.from_environment())
    systems = means(parts) | factorisations(parts, n_users, vectors)
    results = {
        name: {
            **{split: mean_figures(parts[split], runs, split) for split in ("valid", "test")},
            "best_epochs": [run.best_epoch for run in runs],
            "seconds": float(np.mean([run.seconds for run in runs])),
        }
        for name, runs in systems.items()
    }
    differences = {
        f"mf_aligned - {other}": difference(parts["test"], systems["mf_aligned"], systems[other])
        for other in ("mf_biases", "item_user_mean", "mf_published")
    }
    print(*table(results), sep="\n")
    print(*(spoken(name, found) for name, found in differences.items()), sep="\n")
    configs: dict[str, Config] = {
        "mf_published": PUBLISHED_MF,
        "mf_biases": PLAIN,
        "mf_aligned": ALIGNED,
    }
    document = {
        "benchmark": "ml1m_mf",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {
            "tidemark": code_version(),
            **{each: version(each) for each in ("torch", "numpy", "transformers")},
        },
        "protocol": "paper: fitted on train, stopped on valid AUC, test read once",
        "backbone": DEFAULT_BACKBONE,
        "seeds": SEEDS,
        "configs": {name: config.model_dump(mode="json") for name, config in configs.items()},
        "results": results,
        "test_differences": differences,
        "n_resamples": N_RESAMPLES,
        "published_test_auc": PUBLISHED_AUC,
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
