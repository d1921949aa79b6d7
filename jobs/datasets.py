"""Every dataset, named once: its columns, its key and the job that makes it. Standard library only.

Column types are words of our own, so that a DAG can import this file without pyarrow:
`id` is int64 or string (the source's own ids), `vector` a fixed-size list of float32,
`timestamp` microseconds in UTC without a zone; the rest are Arrow's names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Format(Enum):
    """How a dataset is kept; the value is its file's suffix."""

    PARQUET = "parquet"
    SAFETENSORS = "safetensors"
    JSON = "json"
    HTML = "html"


@dataclass(frozen=True)
class Dataset:
    """A snapshot as of a day, made by exactly one job."""

    name: str
    producer: str
    columns: dict[str, str] | None = None
    key: tuple[str, ...] = ()
    nullable: tuple[str, ...] = ()
    format: Format = Format.PARQUET

    @property
    def uri(self) -> str:
        """Logical name for schedulers and lineage; no machine's path."""
        return f"warehouse://{self.name}"


DOMAINS = Dataset(
    "domains",
    producer="ingest",
    columns={
        "domain": "string",
        "item_noun": "string",  # what an item is called in a prompt: "Movie"
        "positive_rating": "float32",  # label = rating >= positive_rating
        "split_protocol": "string",  # see jobs/prepare/splits.py
    },
    key=("domain",),
)
EVENTS = Dataset(
    "events",
    producer="ingest",
    columns={
        "user_id": "id",
        "item_id": "id",
        "rating": "float32",
        "rated_at": "timestamp",
        "ingested_at": "timestamp",  # when the warehouse learned of it
        "source_row": "int64",  # place in the source; settles ties as the source ordered them
    },
    key=("user_id", "item_id", "rated_at"),
)
ITEMS = Dataset(
    "items",
    producer="ingest",
    columns={
        "item_id": "id",
        "title": "string",
        "first_row": "int64",  # the item's first appearance among the source's ratings
    },
    key=("item_id",),
    nullable=("first_row",),
)
QUARANTINED_EVENTS = Dataset(
    "quarantined_events",
    producer="ingest",
    columns={"source_file": "string", "line": "int64", "raw": "string", "reason": "string"},
    key=("source_file", "line"),
)
SPLITS = Dataset(
    "splits",
    producer="splits",
    columns={
        "split": "string",  # train, valid, test
        "row": "int32",  # 0-based place within the split
        "user_id": "id",
        "item_id": "id",
        "label": "int8",
        "rated_at": "timestamp",
        "history_end": "int32",  # histories.item_ids[:history_end] is what the row may see
        "is_warm": "bool",  # user and item both occur in train
    },
    key=("split", "row"),
)
HISTORIES = Dataset(
    "histories",
    producer="splits",
    columns={"user_id": "id", "item_ids": "list<id>"},  # the user's positives, oldest first
    key=("user_id",),
)
ITEM_TEXTS = Dataset(
    "item_texts",
    producer="item_texts",
    columns={"item_id": "id", "title": "string", "text": "string"},
    key=("item_id",),
)
ITEM_SEMANTICS = Dataset(
    "item_semantics",
    producer="distil",
    columns={
        "item_id": "id",
        "content_key": "string",  # sha256 of text, backbone, adapter, pooling, limit, dtype
        "raw": "vector",  # the LLM's hidden state
        "vector": "vector",  # centred, top components removed, unit norm: for search and alignment
    },
    key=("item_id",),
)
ADAPTER = Dataset("adapter", producer="adapt", format=Format.SAFETENSORS)  # LoRA weights
ADAPTER_CONFIG = Dataset("adapter_config", producer="adapt", format=Format.JSON)
ADAPT_CURVE = Dataset(
    "adapt_curve",
    producer="adapt",
    columns={
        "step": "int32",  # of the optimiser; 0 is the backbone before it learned
        "tokens": "int64",  # read up to then
        "seconds": "float64",  # spent up to then, evaluations included
        "learning_rate": "float64",
        "train_loss": "float64",  # mean over the answers since the row before, in nats
        "valid_auc": "float64",
        "valid_uauc": "float64",
    },
    key=("step",),
    nullable=("train_loss", "valid_auc", "valid_uauc"),
)
LLM_DIAGNOSTICS = Dataset(
    "llm_diagnostics",
    producer="diagnostics",
    columns={
        "measure": "string",  # mass, knockout, lens
        "kind": "string",  # of token: user, item, warm, sink, instruction, history, title; answer
        "first_layer": "int16",  # from 0
        "last_layer": "int16",
        "figure": "string",  # mass, share, lift, sink_free; auc, uauc, delta_auc, delta_uauc
        "value": "float64",
    },
    key=("measure", "kind", "first_layer", "figure"),
)
USER_FACTORS = Dataset(
    "user_factors",
    producer="align",
    columns={"user_id": "id", "factor": "vector", "bias": "float32", "n_events": "int32"},
    key=("user_id",),
)
ITEM_FACTORS = Dataset(
    "item_factors",
    producer="align",
    columns={"item_id": "id", "factor": "vector", "bias": "float32", "n_events": "int32"},
    key=("item_id",),
)
PROJECTORS = Dataset("projectors", producer="align", format=Format.SAFETENSORS)
USER_TOKENS = Dataset(
    "user_tokens",
    producer="project",
    columns={"user_id": "id", "tokens": "vector"},  # (n_tokens * d_llm), see schema metadata
    key=("user_id",),
)
ITEM_TOKENS = Dataset(
    "item_tokens",
    producer="project",
    columns={"item_id": "id", "tokens": "vector"},
    key=("item_id",),
)
PUBLICATIONS = Dataset(
    "publications",
    producer="publish",
    columns={
        "version": "int64",  # of the embedding store
        "run_key": "string",  # the same for every retry of one run
        "alias": "string",
        "promoted": "bool",  # whether the alias now names this version
    },
    key=("version",),
)
CTR_SCORES = Dataset(
    "ctr_scores",
    producer="score",
    columns={
        "split": "string",
        "row": "int32",
        "user_id": "id",
        "item_id": "id",
        "label": "int8",
        "is_warm": "bool",
        "version": "int64",  # of the embedding store
        "model": "string",
        "logit": "float32",
        "probability": "float32",
    },
    key=("split", "row"),
)
LLM_SCORES = Dataset(
    "llm_scores",
    producer="llm_scores",
    columns={
        "split": "string",
        "row": "int32",
        "user_id": "id",
        "item_id": "id",
        "label": "int8",
        "logit": "float32",  # l_yes - l_no
        "probability": "float32",
    },
    key=("split", "row"),
)
METRICS = Dataset("metrics", producer="report", format=Format.JSON)
REPORT = Dataset("report", producer="report", format=Format.HTML)

EMBEDDING_VERSIONS_URI = "warehouse://embedding_versions"  # the asset that promotion updates

ALL = (
    DOMAINS,
    EVENTS,
    ITEMS,
    QUARANTINED_EVENTS,
    SPLITS,
    HISTORIES,
    ITEM_TEXTS,
    ITEM_SEMANTICS,
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPT_CURVE,
    USER_FACTORS,
    ITEM_FACTORS,
    PROJECTORS,
    USER_TOKENS,
    ITEM_TOKENS,
    PUBLICATIONS,
    CTR_SCORES,
    LLM_SCORES,
    LLM_DIAGNOSTICS,
    METRICS,
    REPORT,
)
BY_NAME = {dataset.name: dataset for dataset in ALL}


def made_by(job: str) -> tuple[Dataset, ...]:
    """The datasets that `job` makes, in the order of this file."""
    return tuple(dataset for dataset in ALL if dataset.producer == job)
