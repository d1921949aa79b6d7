"""Publish: a night's tables become one version of the embedding store, all or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog
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
    BY_NAME,
    CALIBRATION,
    ITEM_CODES,
    ITEM_FACTORS,
    ITEM_SEMANTICS,
    ITEMS,
    PROJECTORS,
    PUBLICATIONS,
    SPLITS,
    TOKEN_CONFIG,
    TOKEN_WEIGHTS,
    TUNED_ADAPTER,
    USER_FACTORS,
    Dataset,
)
from jobs.errors import JobError
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import Config, Declared, Run, load_manifest, main
from jobs.launch import TUNING
from jobs.manifest import Manifest, code_version
from jobs.score.ctr_gate import click_through_gates, last_labelled_rows
from jobs.tokens.recipes import SIDES, recipe, scale_of, token_config

# Each table and the column that holds its vector; a table without one is carried as it is.
PUBLISHED: tuple[tuple[Dataset, str | None], ...] = (
    (ITEMS, None),
    (ITEM_SEMANTICS, "vector"),
    (USER_FACTORS, "factor"),
    (ITEM_FACTORS, "factor"),
)
# Tables that a night may do without: codes, from which the next night's take their numbers, and
# of each kind of soft tokens that its prompt has what they are projected from, and they
# themselves where they are materialised.
IF_MADE: tuple[tuple[Dataset, str | None], ...] = (
    (ITEM_CODES, None),
    *((side.inputs, "input") for side in SIDES.values()),
    *((side.tokens, "tokens") for side in SIDES.values()),
)
# With the tables above all that it takes to score with the LLM: mappers, steering, prompt and LoRA,
# and what makes a probability of a logit.
FILES_IF_MADE: tuple[Dataset, ...] = (TOKEN_WEIGHTS, TOKEN_CONFIG, TUNED_ADAPTER, CALIBRATION)

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
    soft_tokens: bool = Field(
        default=True, description="those of the day, where it has any; no: as if it had none"
    )
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
        "config": config.model_dump(mode="json", exclude={"soft_tokens"}),  # the inputs say it
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


def space_of(semantics: pa.Table, files: Mapping[str, Path]) -> dict[str, Any]:
    """What a reader must match: the semantics' own facts, one name for them, what was trained.

    Projectors, soft tokens and their adapter are trained anew: their hashes are not part of
    `space_id`. The backbone of the soft tokens, and whether an adapter belongs to them, are said
    beside those of the semantics, which need not be the same.
    """
    facts = json.loads(semantics.schema.metadata[b"space"])
    named = json.dumps(facts, sort_keys=True).encode()
    space = facts | {
        "space_id": hashlib.sha256(named).hexdigest(),
        "projectors_sha256": sha256_file(files[_file_name(PROJECTORS)]),
    }
    if _file_name(TOKEN_CONFIG) not in files:
        return space
    said = token_config(files[_file_name(TOKEN_CONFIG)])
    adapter = files[_file_name(TUNED_ADAPTER)]
    return space | {
        "token_backbone": said["backbone"].get("name"),
        "token_fingerprint": said["backbone"].get("fingerprint"),
        "token_weights_sha256": sha256_file(files[_file_name(TOKEN_WEIGHTS)]),
        "tuned_adapter_sha256": sha256_file(adapter) if said.get("adapter") else None,
    }


def is_made(home: Home, dataset: Dataset, day: date) -> bool:
    """Whether the job that makes `dataset` has made it for that day."""
    manifest = load_manifest(home, dataset.producer, day)
    return manifest is not None and manifest.output(dataset.name) is not None


def _is_wanted(home: Home, dataset: Dataset, day: date, soft_tokens: object) -> bool:
    """Whether a night has made what it may do without, and this run is to publish it."""
    return (bool(soft_tokens) or dataset.producer not in TUNING) and is_made(home, dataset, day)


def _optional(home: Home, day: date, soft_tokens: object) -> list[Dataset]:
    """What a night may do without, and this one publishes."""
    every = [*(dataset for dataset, _ in IF_MADE), *FILES_IF_MADE]
    return [dataset for dataset in every if _is_wanted(home, dataset, day, soft_tokens)]


def _tables(run: Run, wanted: Sequence[Dataset]) -> dict[str, TableSpec]:
    """What the version will hold."""
    made = [(each, vector) for each, vector in IF_MADE if each in wanted]
    tables = {
        dataset.name: TableSpec(run.read(dataset), key=dataset.key[0], vector=vector)
        for dataset, vector in (*PUBLISHED, *made)
    }
    needless = {each.name for each, _ in made if not tables[each.name].rows.num_rows}
    return {name: spec for name, spec in tables.items() if name not in needless}


def _files(run: Run, wanted: Sequence[Dataset]) -> dict[str, Path]:
    """Its extra files, by the names that they get."""
    made = [each for each in FILES_IF_MADE if each in wanted]
    if CALIBRATION in made:
        check_fresh(CALIBRATION, run)
    return {_file_name(each): run.locate(each) for each in (PROJECTORS, *made)}


def check_fresh(dataset: Dataset, run: Run) -> None:
    """Refuse what was made from another state of the night than the one that is published.

    Raises:
        JobError: an input has been made anew since.
    """
    manifest = load_manifest(run.home, dataset.producer, run.day)
    for each in manifest.inputs if manifest else []:
        producer = BY_NAME[each.name].producer
        stands = load_manifest(run.home, producer, run.day)
        now = stands.output(each.name) if stands else None
        if now is None or now.sha256 != each.sha256:
            raise JobError(
                f"{dataset.name} of {run.day} was made from another {each.name} than there is "
                f"now; run {dataset.producer} again"
            )


def _file_name(dataset: Dataset) -> str:
    return f"{dataset.name}.{dataset.format.value}"


def soft_tokens_of(
    run: Run, tables: Mapping[str, TableSpec], files: Mapping[str, Path]
) -> dict[str, Any]:
    """How a reader gets the soft tokens of each kind; nothing where none are published.

    Raises:
        JobError: a table of tokens was not made by the night's own weights.
    """
    is_tuned = _file_name(TOKEN_WEIGHTS) in files
    weights = run.read_tensors(TOKEN_WEIGHTS) if is_tuned else {}
    tonight = next((one.sha256 for one in run.inputs if one.name == TOKEN_WEIGHTS.name), None)
    for side in SIDES.values():
        if side.tokens.name in tables:
            metadata = tables[side.tokens.name].rows.schema.metadata or {}
            if metadata.get(b"weights_sha256", b"").decode() != tonight:
                raise JobError(
                    f"{side.tokens.name} of {run.day} was not made by the token_weights of that "
                    "day; run tune and project again"
                )
    kinds = token_config(run.locate(TOKEN_CONFIG))["kinds"] if is_tuned else {}
    return {
        kind: recipe(kind, facts, scale_of(weights, kind), tables) for kind, facts in kinds.items()
    }


def job(config: PublishConfig, run: Run) -> None:
    """Publish every table of the night with the index of the items, then move the alias."""
    wanted = _optional(run.home, run.day, config.soft_tokens)
    tables, files = _tables(run, wanted), _files(run, wanted)
    splits = run.read(SPLITS)
    global_bias = run.read_tensors(PROJECTORS)["global_bias"]
    soft_tokens = soft_tokens_of(run, tables, files)
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
            space=space_of(semantics, files),
            files=files,
            indexes=[
                IndexSpec(table=ITEM_SEMANTICS.name, metric="cosine"),
                # for users: the item's bias is part of the logit
                IndexSpec(table=ITEM_FACTORS.name, metric="inner_product", bias="bias"),
            ],
            inputs=inputs,
            attributes={
                "global_bias": float(global_bias.reshape(-1)[0]),
                "soft_tokens": soft_tokens,
                "code_version": code_version(),
            },
            review=gatekeeper,
        )
        structlog.contextvars.bind_contextvars(version=version)
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
    asked = manifest.config.get("soft_tokens", True)
    made = {each.name for each in _optional(home, day, asked)}
    return made <= {each.name for each in manifest.inputs} and manifest.result["version"] in {
        each.version for each in EmbeddingStore(home.store).versions()
    }


DECLARED = Declared("publish", PublishConfig, job, intact=intact)

if __name__ == "__main__":
    main(DECLARED)
