"""Click-through scores of a day's candidates, from one pinned version of the store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from embedding_store.errors import StoreError
from embedding_store.lookup import Version, open_version
from jobs.datasets import CANDIDATES, CTR_SCORES, HISTORIES, TOKEN_CONFIG
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import DEPLOYMENT, Config, Declared, Run, main
from jobs.manifest import Manifest
from jobs.score.calibration import Calibration, Logits, sigmoid
from jobs.score.factors import MatrixFactorisation

TUNED_FILE = f"{TOKEN_CONFIG.name}.json"  # of a version that holds an LLM's tokens and adapter
_BLEND = "fused"
_CARRIED = ("split", "row", "user_id", "item_id", "label", "is_warm")


class ScoreConfig(Config):
    """Which version scores the day's candidates, and with which of its models.

    A killed run goes on where it was when the same command is given again. Several processes:
    torchrun --nproc-per-node 8 -m jobs.score.ctr_scores ...
    """

    version: int = Field(
        gt=0, description="version of the embedding store, by number", examples=[1]
    )
    model: Literal["auto", "mf", "llm", "fused"] = Field(
        default="auto",
        description="mf: the factors. llm: the tuned LLM, beside mf. fused: their blend, beside "
        "both. auto: fused if the version holds a tuned LLM and the blend, else llm or mf",
    )
    backbone: str | None = Field(
        default=None,
        description="of the LLM: the bundled model, a folder, a GGUF file or a hub id; without it "
        "the one that the version names",
    )
    batch_tokens: int = Field(
        default=2_048, gt=0, description="tokens of a batch, padding included; 65536 on a GPU"
    )
    shard_tokens: int = Field(
        default=100_000, gt=0, description="tokens that a killed run repeats at most"
    )
    device: str = Field(
        default="auto",
        description="auto, cpu, cuda, cuda:1, ...",
        json_schema_extra=DEPLOYMENT,
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the LLM; auto: bfloat16 where the hardware multiplies it",
    )


# -- what a version can do -------------------------------------------------------------------------


def models_of(version: Version, calibration: Calibration, model: str) -> tuple[str, ...]:
    """The models that are scored when `model` is asked for, it itself last.

    Raises:
        NotAvailable: the version holds no tuned LLM, or no blend of it with the factors.
    """
    is_tuned, is_blended = TUNED_FILE in version.manifest.extra_files, _BLEND in calibration.models
    if model == "auto":
        model = (_BLEND if is_blended else "llm") if is_tuned else "mf"
    if model != "mf" and not is_tuned:
        raise NotAvailable(
            f"version {version.version} has no {TUNED_FILE}: no LLM was tuned for it, so it scores "
            "by --model mf alone"
        )
    if model == _BLEND and not is_blended:
        raise NotAvailable(
            f"version {version.version} does not say how its two models are blended: job "
            "'calibrate' had not run when it was published; give --model llm"
        )
    return {"mf": ("mf",), "llm": ("mf", "llm"), _BLEND: ("mf", "llm", _BLEND)}[model]


def scores_table(
    rows: pa.Table, logits: Logits, models: Iterable[str], calibration: Calibration, version: int
) -> pa.Table:
    """CTR_SCORES: every row once for each model.

    The logit of a model that others are blended into is what the blend gives; see `calibration`.

    Args:
        rows: of CANDIDATES or SPLITS.
        logits: (n,) of each model that has its own.
        models: to write.
        calibration: the version's.
        version: its number.

    Raises:
        NotAvailable: a logit is NaN or infinite; names the row.
    """
    tables = []
    for model in models:
        link = calibration.link(model)
        linear = link.linear(logits)
        own = logits[model] if model in logits else linear.astype(np.float32)
        _refuse_broken(rows, model, own)
        n = rows.num_rows
        columns = {name: rows[name] for name in _CARRIED} | {
            "version": pa.repeat(pa.scalar(version, pa.int64()), n),
            "model": pa.repeat(pa.scalar(model), n),
            "logit": pa.array(own),
            "probability": pa.array(sigmoid(linear)),
        }
        tables.append(pa.table({name: columns[name] for name in CTR_SCORES.columns or ()}))
    return pa.concat_tables(tables)


def _refuse_broken(rows: pa.Table, model: str, logits: NDArray[np.float32]) -> None:
    broken = np.flatnonzero(~np.isfinite(logits))
    if len(broken):
        one = rows.slice(int(broken[0]), 1).to_pylist()[0]
        raise NotAvailable(
            f"the {model} score of {one['split']} row {one['row']} (user {one['user_id']}, item "
            f"{one['item_id']}) is NaN or infinite, {len(broken)} of {len(logits)} are; try "
            "--dtype float32, or look at the version's weights"
        )


def score_rows(
    rows: pa.Table, version: Version, histories: pa.Table | None = None
) -> tuple[pa.Table, dict[str, int]]:
    """CTR_SCORES by the version's factors, and how many users and items were cold.

    Args:
        rows: of CANDIDATES or SPLITS.
        version: has the factors.
        histories: HISTORIES; needed where the version gives cold users a factor.

    Raises:
        NotAvailable: see `MatrixFactorisation`.
    """
    found = MatrixFactorisation.of_version(version).score(rows, histories)
    calibration, logits = Calibration.of_version(version), {"mf": found.logits}
    table = scores_table(rows, logits, ["mf"], calibration, version.version)
    counts = {"n_cold_users": found.n_cold_users, "n_cold_items": found.n_cold_items}
    return table, {"n_rows": rows.num_rows, **counts}


# -- the job ---------------------------------------------------------------------------------------


def candidates_of(run: Run, version: Version) -> pa.Table:
    """The day's candidates, if they were chosen for this version.

    Raises:
        NotAvailable: they were chosen for another: scores of two versions never mix.
    """
    rows = run.read(CANDIDATES)
    others = set(pc.unique(rows["version"]).to_pylist()) - {version.version}
    if others:
        raise NotAvailable(
            f"{CANDIDATES.name} of {run.day} are those of version {min(others)}, and version "
            f"{version.version} is to score them; run job 'candidates' with --version "
            f"{version.version}, or give --version {min(others)} here"
        )
    return rows


def job(config: ScoreConfig, run: Run) -> None:
    """Score the candidates with every model that is asked for."""
    try:
        version = open_version(run.home.store, config.version)
        calibration = Calibration.of_version(version)
        models = models_of(version, calibration, config.model)
        rows = candidates_of(run, version)
        factors = MatrixFactorisation.of_version(version)
        histories = run.read(HISTORIES) if factors.taste is not None else None
        found = factors.score(rows, histories)
        logits = {"mf": found.logits}
        if "llm" in models:
            from jobs.score.llm_logits import llm_logits  # torch, which factors do without

            logits["llm"] = llm_logits(config, run, version, rows)
    except StoreError as error:
        raise NotAvailable(str(error)) from error  # it names the version and those there are
    if not _is_first():
        return  # it has helped with the LLM's shards; the first process writes
    run.write(CTR_SCORES, scores_table(rows, logits, models, calibration, version.version))
    run.metric("n_rows", rows.num_rows)
    run.metric("n_cold_users", found.n_cold_users)
    run.metric("n_cold_items", found.n_cold_items)
    run.result = {
        "version": version.version,
        "version_sha256": version.manifest_sha256,
        "models": list(models),
        "rows": rows.num_rows,
    }


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def is_of_the_same_version(manifest: Manifest, home: Home) -> bool:
    """Whether that number still names the content that was scored: stores can be replaced."""
    try:
        version = open_version(home.store, manifest.config["version"], verify="off")
    except StoreError:
        return False
    return version.manifest_sha256 == manifest.result.get("version_sha256")


def sources(config: ScoreConfig, day: date, home: Home) -> Iterable[Path]:
    """The records of the LLM's backbone and template; nothing where factors alone score."""
    try:
        version = open_version(home.store, config.version, verify="off")
        if "llm" not in models_of(version, Calibration.of_version(version), config.model):
            return []
    except (StoreError, NotAvailable):
        return []  # the job says what is wrong
    from jobs.score.llm_logits import records

    return records(config, version, home)


DECLARED = Declared("score", ScoreConfig, job, sources=sources, intact=is_of_the_same_version)


def command() -> None:
    """The job's command line, alone or as one of several processes."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        main(DECLARED)
        return
    from jobs.llm.together import lead_or_follow

    lead_or_follow(DECLARED)


if __name__ == "__main__":
    command()
