"""Publish: a night's tables become one version of the embedding store, all or nothing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store.errors import DayGoesBackwards, StoreError
from jobs.datasets import (
    ITEM_FACTORS,
    ITEM_SEMANTICS,
    ITEM_TOKENS,
    ITEMS,
    PROJECTORS,
    PUBLICATIONS,
    USER_FACTORS,
    USER_TOKENS,
    Dataset,
)
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, main
from jobs.manifest import Manifest, code_version

# Each table and the column that holds its vector; a table without one is carried as it is.
PUBLISHED: tuple[tuple[Dataset, str | None], ...] = (
    (ITEMS, None),
    (ITEM_SEMANTICS, "vector"),
    (USER_FACTORS, "factor"),
    (ITEM_FACTORS, "factor"),
    (USER_TOKENS, "tokens"),
    (ITEM_TOKENS, "tokens"),
)


class PublishConfig(Config):
    """One version of the store from the night's tables, and the alias that moves to it."""

    alias: str = "production"
    rebuild: int = 0  # raise it to publish the same inputs once more, on purpose


def run_key(day: str, config: PublishConfig, inputs: list[dict[str, Any]]) -> str:
    """What makes two publications one: day, config and inputs; neither code nor time."""
    identity = {
        "day": day,
        "config": config.model_dump(mode="json"),
        "inputs": sorted([each["name"], each["sha256"]] for each in inputs),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _promote(store: EmbeddingStore, version: int, config: PublishConfig, run: Run) -> bool:
    """Whether the alias now names the version. A backfilled day never moves it backwards."""
    try:
        store.promote(version, config.alias, reason=f"nightly {run.day}", actor="publish")
    except DayGoesBackwards as error:
        run.log.warning("published, not promoted", version=version, why=str(error))
        return False
    return True


def job(config: PublishConfig, run: Run) -> None:
    """Publish every table of the night with the index of the items, then move the alias."""
    tables = {
        dataset.name: TableSpec(run.read(dataset), key=dataset.key[0], vector=vector)
        for dataset, vector in PUBLISHED
    }
    projectors = run.locate(PROJECTORS)
    global_bias = run.read_tensors(PROJECTORS)["global_bias"]
    semantics = tables[ITEM_SEMANTICS.name].rows
    inputs = [
        {**each.model_dump(include={"name", "sha256", "n_rows"}), "day": str(run.day)}
        for each in run.inputs
    ]
    key = run_key(str(run.day), config, inputs)
    try:
        store = EmbeddingStore(run.home.store)
        version = store.publish(
            tables,
            run_key=key,
            day=str(run.day),
            space=json.loads(semantics.schema.metadata[b"space"]),
            files={"projectors.safetensors": projectors},
            indexes=[
                IndexSpec(table=ITEM_SEMANTICS.name, metric="cosine"),
                IndexSpec(table=ITEM_FACTORS.name, metric="inner_product"),
            ],
            inputs=inputs,
            attributes={
                "global_bias": float(global_bias.reshape(-1)[0]),
                "code_version": code_version(),
            },
        )
        promoted = _promote(store, version, config, run)
    except StoreError as error:
        raise JobError(str(error)) from error
    run.write(
        PUBLICATIONS,
        pa.table(
            {
                "version": pa.array([version], pa.int64()),
                "run_key": [key],
                "alias": [config.alias],
                "promoted": [promoted],
            }
        ),
    )
    run.result = {"version": version, "promoted": promoted, "alias": config.alias}


def intact(manifest: Manifest, home: Home) -> bool:
    """Whether the version that an earlier run published is still in the store."""
    return manifest.result["version"] in {
        each.version for each in EmbeddingStore(home.store).versions()
    }


if __name__ == "__main__":
    main("publish", PublishConfig, job, intact=intact)
