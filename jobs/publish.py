"""Publish: a night's tables become one version of the embedding store, all or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from embedding_store import EmbeddingStore, IndexSpec, TableSpec
from embedding_store.errors import (
    AliasMoved,
    Corrupted,
    DayGoesBackwards,
    GatesFailed,
    NotFound,
    StoreError,
)
from embedding_store.gates import ReviewPlan, Thresholds, review
from embedding_store.lookup import Version
from embedding_store.manifest import GateEntry
from embedding_store.review import Review
from embedding_store.search import SearchableVersion
from jobs.datasets import (
    ITEM_CODES,
    ITEM_FACTORS,
    ITEM_SEMANTICS,
    ITEM_TOKENS,
    ITEMS,
    PROJECTORS,
    PUBLICATIONS,
    SPLITS,
    USER_FACTORS,
    USER_TOKENS,
    Dataset,
)
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, load_manifest, main
from jobs.manifest import Manifest, code_version
from jobs.score.ctr_gate import click_through_gates, last_labelled_rows

# Each table and the column that holds its vector; a table without one is carried as it is.
PUBLISHED: tuple[tuple[Dataset, str | None], ...] = (
    (ITEMS, None),
    (ITEM_SEMANTICS, "vector"),
    (USER_FACTORS, "factor"),
    (ITEM_FACTORS, "factor"),
    (USER_TOKENS, "tokens"),
    (ITEM_TOKENS, "tokens"),
)
# Tables of jobs that a night may do without. The next night's codes take their numbers from these.
IF_MADE: tuple[Dataset, ...] = (ITEM_CODES,)


PROJECTOR_FILE = "projectors.safetensors"

# Tables that turn from night to night, and must turn together where they are compared with one
# another. Soft tokens lie in the backbone's input space, which does not turn.
ALIGNED = {
    "semantics": (ITEM_SEMANTICS.name,),
    "factors": (USER_FACTORS.name, ITEM_FACTORS.name),
}


_TOLD = ("auc", "overlap", "mean_shift", "recall")


class PublishConfig(Thresholds, Config):
    """One version of the store from the night's tables, and the alias that moves to it.

    The gates look at the version as it is written. One that fails is published, and readable by
    its number, but the alias stays where it is.
    """

    alias: str = "production"
    rebuild: int = 0  # raise it to publish the same inputs once more, on purpose
    min_factor_overlap: float = Field(
        default=0.0, description="min_overlap of the factors, which are trained anew every night"
    )
    auc_rows: int = Field(
        default=200, gt=0, description="days before the last labelled one join until there are"
    )
    min_auc: float = Field(
        default=0.5, description="refused if all of the AUC's 95 % interval lies below"
    )
    max_auc_loss: float = Field(
        default=0.01, description="refused if all of the loss's paired 95 % interval is more"
    )


def run_key(day: str, config: PublishConfig, inputs: list[dict[str, Any]]) -> str:
    """What makes two publications one: day, config and inputs; neither code nor time."""
    identity = {
        "day": day,
        "config": config.model_dump(mode="json"),
        "inputs": sorted([each["name"], each["sha256"]] for each in inputs),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class Gatekeeper:
    """The gates of one publication: those of the store, and the click-through of its scores."""

    def __init__(
        self, store: EmbeddingStore, config: PublishConfig, splits: pa.Table, run: Run
    ) -> None:
        self.alias = config.alias
        self._store, self._config, self._run = store, config, run
        self._labelled = last_labelled_rows(splits, config.auc_rows)
        self._plan = ReviewPlan(
            thresholds=config,
            catalogue=ITEMS.name,
            groups=ALIGNED,
            queries={ITEM_FACTORS.name: USER_FACTORS.name},
            min_overlap={"factors": config.min_factor_overlap},
        )

    def __call__(self, candidate: SearchableVersion) -> Review:
        """What the version's manifest will say of it, before it is decided."""
        number = self._store.before(self._config.alias, str(self._run.day))
        return self.against(candidate, number)

    def against(self, candidate: SearchableVersion, number: int | None) -> Review:
        """The review of a version beside another one."""
        with self._opened(number) as reference:
            found = review(candidate, reference, self._plan)
            clicks = click_through_gates(
                self._labelled,
                candidate,
                reference,
                min_auc=self._config.min_auc,
                max_auc_loss=self._config.max_auc_loss,
            )
            return replace(found, gates=[*found.gates, *clicks])

    def _opened(self, number: int | None) -> AbstractContextManager[SearchableVersion | None]:
        """A version to compare with. One that nobody can read any more is nothing to keep to."""
        if number is None:
            return nullcontext()
        try:
            return self._store.open(number)
        except (NotFound, Corrupted) as error:
            self._run.log.warning("compared with no version", version=number, why=str(error))
            return nullcontext()


def _promote(store: EmbeddingStore, published: Version, gatekeeper: Gatekeeper, run: Run) -> str:
    """Move the alias to the version; why it was not moved, or nothing.

    The comparison that decides is with the version that is being replaced: if the alias moved
    since the version was written, it is made once more. A backfilled day never moves it back.
    """
    alias, version = gatekeeper.alias, published.version
    while True:
        current, gates = store.aliases().get(alias), None
        replaced = store.before(alias, str(run.day))
        if current == replaced and current not in (version, published.manifest.reviewed_against):
            with store.open(version) as candidate:
                gates = gatekeeper.against(candidate, current).gates
            if why := _failed(gates):
                return f"beside version {current}, which '{alias}' names since: {why}"
        try:
            store.promote(
                version,
                alias,
                reason=f"nightly {run.day}",
                actor="publish",
                expected_prev=current or 0,
                gates=gates,
            )
        except AliasMoved:
            continue
        except (DayGoesBackwards, GatesFailed) as error:
            return str(error)
        return ""


def _failed(gates: Sequence[GateEntry]) -> str:
    return "; ".join(f"{gate.name}: {gate.says}" for gate in gates if not gate.passed)


def space_of(semantics: pa.Table, projectors: Path) -> dict[str, Any]:
    """What a reader must match: the semantics' own facts, one name for them, the projectors.

    The projectors are trained anew every night, so their hash is not part of `space_id`.
    """
    facts = json.loads(semantics.schema.metadata[b"space"])
    named = json.dumps(facts, sort_keys=True).encode()
    return facts | {
        "space_id": hashlib.sha256(named).hexdigest(),
        "projectors_sha256": hashlib.sha256(projectors.read_bytes()).hexdigest(),
    }


def _token_recipe(factors: Dataset, tokens: Dataset, rows: pa.Table) -> dict[str, Any]:
    """How a reader gets the soft tokens of one kind; see `embedding_store.soft_tokens`."""
    said = rows.schema.metadata
    return {
        "factors": factors.name,
        "tokens": tokens.name,
        "projector": PROJECTOR_FILE,
        "scale": float(said[b"scale"]),
        "n_tokens": int(said[b"n_tokens"]),
    }


def _tables(run: Run) -> dict[str, TableSpec]:
    """What the version will hold."""
    made = [(each, None) for each in IF_MADE if load_manifest(run.home, each.producer, run.day)]
    return {
        dataset.name: TableSpec(run.read(dataset), key=dataset.key[0], vector=vector)
        for dataset, vector in (*PUBLISHED, *made)
    }


def job(config: PublishConfig, run: Run) -> None:
    """Publish every table of the night with the index of the items, then move the alias."""
    tables = _tables(run)
    splits, projectors = run.read(SPLITS), run.locate(PROJECTORS)
    global_bias = run.read_tensors(PROJECTORS)["global_bias"]
    semantics = tables[ITEM_SEMANTICS.name].rows
    inputs = [
        {**each.model_dump(include={"name", "sha256", "n_rows"}), "day": str(run.day)}
        for each in run.inputs
    ]
    key = run_key(str(run.day), config, inputs)
    try:
        store = EmbeddingStore(run.home.store)
        gatekeeper = Gatekeeper(store, config, splits, run)
        version = store.publish(
            tables,
            run_key=key,
            day=str(run.day),
            space=space_of(semantics, projectors),
            files={PROJECTOR_FILE: projectors},
            indexes=[
                IndexSpec(table=ITEM_SEMANTICS.name, metric="cosine"),
                # for users: the item's bias is part of the logit
                IndexSpec(table=ITEM_FACTORS.name, metric="inner_product", bias="bias"),
            ],
            inputs=inputs,
            attributes={
                "global_bias": float(global_bias.reshape(-1)[0]),
                "soft_tokens": {
                    "user": _token_recipe(USER_FACTORS, USER_TOKENS, tables[USER_TOKENS.name].rows),
                    "item": _token_recipe(ITEM_FACTORS, ITEM_TOKENS, tables[ITEM_TOKENS.name].rows),
                },
                "code_version": code_version(),
            },
            review=gatekeeper,
        )
        with store.open(version, verify="off") as published:
            why = _promote(store, published, gatekeeper, run)
            gates = published.manifest.gates
    except StoreError as error:
        raise JobError(str(error)) from error
    run.write(
        PUBLICATIONS,
        pa.table(
            {
                "version": pa.array([version], pa.int64()),
                "run_key": [key],
                "alias": [config.alias],
                "promoted": [not why],
            }
        ),
    )
    _tell(gates, run)
    run.result = {"version": version, "promoted": not why, "alias": config.alias}
    if why:
        run.log.warning("published, not promoted", version=version, why=why)
        run.result["why"] = why


def _tell(gates: Sequence[GateEntry], run: Run) -> None:
    """The figures that move into the run's manifest; the gates that failed into the log."""
    for gate in gates:
        if gate.value is not None and gate.name.startswith(_TOLD):
            run.metric(f"gate.{gate.name}", gate.value)
        if not gate.passed:
            run.log.warning("gate failed", gate=gate.name, says=gate.says)
    run.metric("n_gates_failed", sum(not gate.passed for gate in gates))


def intact(manifest: Manifest, home: Home) -> bool:
    """Whether the version that an earlier run published is still there, with all made since."""
    day = date.fromisoformat(str(manifest.day))
    made = {each.name for each in IF_MADE if load_manifest(home, each.producer, day)}
    return made <= {each.name for each in manifest.inputs} and manifest.result["version"] in {
        each.version for each in EmbeddingStore(home.store).versions()
    }


if __name__ == "__main__":
    main("publish", PublishConfig, job, intact=intact)
