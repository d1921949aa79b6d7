"""Every dataset, named once: its columns, its key and the job that makes it. Standard library only.

Column types are words of our own, so that a DAG can import this file without pyarrow:
`id` is int64 or string (the source's own ids), `vector` a fixed-size list of float32,
`timestamp` microseconds in UTC without a zone, `date` a day; the rest are Arrow's names.
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
    max_row_loss: float | None = None  # against the median of the last nights; see jobs/check.py

    @property
    def uri(self) -> str:
        """Logical name for schedulers and lineage; no machine's path."""
        return f"warehouse://{self.name}"


DOMAINS = Dataset(
    "domains",
    producer="ingest",
    columns={  # what the mapping says of the source; see docs/data.md
        "domain": "string",
        "item_noun": "string",  # what an item is called in a prompt: "Movie"
        "feedback": "string",  # rating, label or implicit
        "minimum": "float32",  # of a rating; 0 and 1 for labels, 1 and 1 for implicit feedback
        "maximum": "float32",
        "positive_rating": "float32",  # label = rating >= positive_rating
        "negatives_per_positive": "int32",  # sampled; 0 unless feedback is implicit
        "popularity_power": "float32",  # of the sampled negatives
        "negatives_seed": "int64",
        "split_protocol": "string",  # see jobs/prepare/splits.py
        "valid_days": "int32",
        "test_days": "int32",
        "max_age_days": "int32",  # of the newest event; null: any
        "max_row_change": "float32",  # of a delivery; null: any
    },
    key=("domain",),
    nullable=("max_age_days", "max_row_change"),
)
# The events of a day as a table for queries: `jobs.prepare.events.events_as_of`. It is no snapshot:
# rows lie in partitions that all later days share, and EVENT_PARTS names those of a day.
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
EVENT_PARTS = Dataset(
    "event_parts",
    producer="ingest",
    columns={
        "event_day": "date",  # UTC day of the events
        "known_day": "date",  # the first as-of day that knows them
        "path": "string",  # below the home
        "sha256": "string",
        "n_bytes": "int64",
        "n_rows": "int64",
    },
    key=("event_day", "known_day"),
)
WITHDRAWN_EVENTS = Dataset(
    "withdrawn_events",
    producer="ingest",
    columns={"source_row": "int64", "reason": "string"},  # in a partition, and no event today
    key=("source_row",),
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
    max_row_loss=0.5,
)
QUARANTINED_EVENTS = Dataset(
    "quarantined_events",
    producer="ingest",
    columns={
        "kind": "string",  # what the row would have been: event or item
        "source_file": "string",
        "line": "int64",
        "reason": "string",
        "column": "string",  # of the source, where one column is to blame
        "value": "string",
        "raw": "string",  # the row as it came
        "known_day": "date",  # the first as-of day that quarantines it, where one is known
        "source_row": "int64",
    },
    key=("kind", "source_file", "line", "source_row"),
    nullable=("column", "value", "known_day"),
)
ARRIVALS = Dataset(
    "arrivals",
    producer="ingest",
    columns={
        "known_day": "date",  # the first as-of day; 1970-01-01 for rows that no clock dates
        "n_rows": "int64",
        "n_events": "int64",
        "n_late": "int64",  # events of an earlier day than the one before known_day
        "n_corrections": "int64",  # events that replace one of the same user, item and time
        "n_quarantined": "int64",
        "n_released": "int64",  # events that an earlier night had quarantined
    },
    key=("known_day",),
)
EVENT_TOTALS = Dataset(
    "event_totals",
    producer="ingest",
    columns={  # one row
        "as_of": "date",
        "n_rows_in": "int64",  # n_events + n_quarantined
        "n_events": "int64",
        "n_quarantined": "int64",
        "n_late": "int64",
        "n_users": "int64",
        "n_items": "int64",  # with events
        "n_catalogue": "int64",
        "first_event": "timestamp",
        "last_event": "timestamp",
    },
    key=("as_of",),
    nullable=("first_event", "last_event"),  # where nothing is an event
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
    max_row_loss=0.5,
)
HISTORIES = Dataset(
    "histories",
    producer="splits",
    columns={"user_id": "id", "item_ids": "list<id>"},  # the user's positives, oldest first
    key=("user_id",),
    max_row_loss=0.5,
)
ROW_FEATURES = Dataset(
    "row_features",
    producer="features",
    columns={  # of one row of splits, from the train rows of the days before `as_of`
        "split": "string",
        "row": "int32",
        "as_of": "date",  # its midnight, never after the row: docs/data.md, Features
        "global_mean": "float32",  # share of positives; what the other means are drawn to
        "item_mean": "float32",  # smoothed share of positives
        "item_count": "int32",
        "item_age_days": "int32",  # since the day of the item's first event
        "item_recency_days": "int32",  # since the day of its last
        "item_popularity": "float32",  # its share of the events of the last window
        "user_mean": "float32",
        "user_count": "int32",
        "user_recency_days": "int32",
    },
    key=("split", "row"),
    nullable=("item_age_days", "item_recency_days", "user_recency_days"),
)
ITEM_FEATURES = Dataset(
    "item_features",
    producer="features",
    columns={
        "protocol": "string",  # paper: train rows only; nightly: all that the night knew
        "item_id": "id",
        "mean": "float32",
        "n_events": "int32",
        "n_positives": "int32",
        "popularity": "float32",
        "first_at": "timestamp",
        "last_at": "timestamp",
    },
    key=("protocol", "item_id"),
    nullable=("first_at", "last_at"),
)
USER_FEATURES = Dataset(
    "user_features",
    producer="features",
    columns={
        "protocol": "string",
        "user_id": "id",
        "mean": "float32",
        "n_events": "int32",
        "n_positives": "int32",
        "first_at": "timestamp",
        "last_at": "timestamp",
    },
    key=("protocol", "user_id"),
    nullable=("first_at", "last_at"),
)
ITEM_TEXTS = Dataset(
    "item_texts",
    producer="item_texts",
    columns={"item_id": "id", "title": "string", "text": "string"},
    key=("item_id",),
    max_row_loss=0.5,
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
    max_row_loss=0.5,
)
ITEM_CODES = Dataset(
    "item_codes",
    producer="codebook",
    columns={"item_id": "id", "codes": "list<int16>"},  # one a level; n_codes in the metadata
    key=("item_id",),
    max_row_loss=0.5,
)
CODEBOOK = Dataset(
    "codebook",
    producer="codebook",
    columns={
        "level": "int16",  # from 0; a level's codes stand for what those before it leave
        "code": "int16",
        "centroid": "vector",  # in the principal space of CODEBOOK_SPACE
        "lifted": "vector",  # in the space of item_semantics.vector, not of unit norm
        "n_items": "int32",
        "top_titles": "list<string>",  # nearest to the centroid, nearest first
    },
    key=("level", "code"),
)
CODEBOOK_SPACE = Dataset("codebook_space", producer="codebook", format=Format.SAFETENSORS)
ITEM_LABELS = Dataset(
    "item_labels",
    producer="labels",
    columns={"item_id": "id", "codes": "list<int16>"},  # codes of LABEL_CODEBOOK, one a level
    key=("item_id",),
)
LABEL_CODEBOOK = Dataset(
    "label_codebook",
    producer="labels",
    columns={
        "level": "int16",  # of the vocabulary
        "code": "int16",
        "vocabulary": "string",  # style, emotion, theme
        "label": "string",
        "lifted": "vector",  # the label in the space of item_semantics.vector, of unit norm
        "n_items": "int32",
        "top_titles": "list<string>",  # that it fits best, the best first
    },
    key=("level", "code"),
)
USER_PROFILES = Dataset(
    "user_profiles",
    producer="user_profiles",
    columns={
        "protocol": "string",  # paper: train rows only; nightly: all that the night knew
        "user_id": "id",
        "kind": "string",  # what an event votes for: codes, labels or content
        "profile": "vector",  # shares of codes, level after level; see the schema's metadata
        "likes": "vector",  # decayed sums behind it
        "dislikes": "vector",
        "n_events": "int32",
    },
    key=("protocol", "user_id"),
    max_row_loss=0.5,
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
        "measure": "string",  # mass, knockout, lens, intervention
        "kind": "string",  # of token: user, item, warm, sink, instruction, history, title; answer;
        # all soft tokens together
        "first_layer": "int16",  # from 0
        "last_layer": "int16",
        "figure": "string",  # mass, share, lift, sink_free; auc, uauc, delta_auc, delta_uauc; of an
        # intervention: <its name>_auc, ..._delta_auc, ..._delta_auc_low, see docs/steering.md
        "value": "float64",
    },
    key=("measure", "kind", "first_layer", "figure"),
)
USER_FACTORS = Dataset(
    "user_factors",
    producer="align",
    columns={"user_id": "id", "factor": "vector", "bias": "float32", "n_events": "int32"},
    key=("user_id",),
    max_row_loss=0.5,
)
ITEM_FACTORS = Dataset(
    "item_factors",
    producer="align",
    columns={"item_id": "id", "factor": "vector", "bias": "float32", "n_events": "int32"},
    key=("item_id",),
    max_row_loss=0.5,
)
PROJECTORS = Dataset("projectors", producer="align", format=Format.SAFETENSORS)
CONTROL_LOGITS = Dataset(
    "control_logits",
    producer="control",
    columns={
        "split": "string",
        "row": "int32",
        "logit": "float32",  # of train rows: by fits that have not seen them
        "frozen_logit": "float32",  # with histories that end where the row's split begins
    },
    key=("split", "row"),
    nullable=("frozen_logit",),  # of train rows
)
TOKEN_WEIGHTS = Dataset("token_weights", producer="tune", format=Format.SAFETENSORS)
TOKEN_CONFIG = Dataset("token_config", producer="tune", format=Format.JSON)
TUNED_ADAPTER = Dataset("tuned_adapter", producer="tune", format=Format.SAFETENSORS)
TUNE_CURVE = Dataset(
    "tune_curve",
    producer="tune",
    columns=ADAPT_CURVE.columns,
    key=ADAPT_CURVE.key,
    nullable=ADAPT_CURVE.nullable,
)
TUNE_VALID = Dataset(
    "tune_valid",
    producer="tune",
    columns={
        "split": "string",
        "row": "int32",
        "logit": "float32",  # l_yes - l_no by the weights that were kept
        "offset": "float32",  # the control's logit that it was trained on top of; 0 without one
    },
    key=("split", "row"),
)
# What the mappers of TOKEN_WEIGHTS read: factors with biases and counts, standardised.
USER_TOKEN_INPUTS = Dataset(
    "user_token_inputs",
    producer="tune",
    columns={"user_id": "id", "input": "vector"},
    key=("user_id",),
)
ITEM_TOKEN_INPUTS = Dataset(
    "item_token_inputs",
    producer="tune",
    columns={
        "item_id": "id",
        "input": "vector",
        "history": "vector",  # what liking it adds to the input of a user known by history alone
    },
    key=("item_id",),
)
WARM_TOKEN_INPUTS = Dataset(
    "warm_token_inputs",
    producer="tune",
    columns={"item_id": "id", "input": "vector"},  # the LLM's own vector of the item's text
    key=("item_id",),
)
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
WARM_TOKENS = Dataset(
    "warm_tokens",
    producer="project",
    columns={"item_id": "id", "tokens": "vector"},
    key=("item_id",),
)
TOKEN_NORMS = Dataset(
    "token_norms",
    producer="project",
    columns={  # one row for each kind that the prompt has
        "kind": "string",  # user, item, warm
        "mapper": "string",  # mlp, linear, qformer
        "n_tokens": "int32",
        "d_llm": "int32",
        "scale": "float32",  # what the mapped inputs are multiplied by
        "n_rows": "int64",
        "is_materialised": "bool",  # else readers project them
        "mean_norm": "float64",  # Euclidean length of a token
        "norm_ratio": "float64",  # over that of the backbone's token embeddings
    },
    key=("kind",),
    nullable=("mean_norm", "norm_ratio"),  # of a kind without rows
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
CALIBRATION = Dataset("calibration", producer="calibrate", format=Format.JSON)
CANDIDATES = Dataset(
    "candidates",
    producer="candidates",
    columns={
        "version": "int64",  # of the embedding store: the one that chose them, and will score them
        "split": "string",  # of SPLITS where they are its rows; top_k where an index proposed them
        "row": "int32",  # 0-based place within the split; of top_k by user, the best item first
        "user_id": "id",
        "item_id": "id",
        "label": "int8",  # null where nobody knows it yet
        "rated_at": "timestamp",  # of top_k the midnight of the day
        "history_end": "int32",  # histories.item_ids[:history_end] is what the row may see
        "is_warm": "bool",  # user and item both occur in train
    },
    key=("split", "row"),
    nullable=("label",),
)
CTR_SCORES = Dataset(
    "ctr_scores",
    producer="score",
    columns={
        "split": "string",
        "row": "int32",
        "user_id": "id",
        "item_id": "id",
        "label": "int8",  # null where nobody knows it yet
        "is_warm": "bool",
        "version": "int64",  # of the embedding store
        "model": "string",  # mf, llm, fused: each scores every candidate
        "logit": "float32",  # as the model gives it
        "probability": "float32",  # calibrated as the version says
    },
    key=("split", "row", "model"),
    nullable=("label",),
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
METRICS_SCHEMA = Dataset("metrics.schema", producer="report", format=Format.JSON)
REPORT = Dataset("report", producer="report", format=Format.HTML)

PREPARED_DAYS_URI = "warehouse://prepared_days"  # the asset that a day's checked tables update
EMBEDDING_VERSIONS_URI = "warehouse://embedding_versions"  # the asset that promotion updates

ALL = (
    DOMAINS,
    EVENT_PARTS,
    WITHDRAWN_EVENTS,
    ITEMS,
    QUARANTINED_EVENTS,
    ARRIVALS,
    EVENT_TOTALS,
    SPLITS,
    HISTORIES,
    ROW_FEATURES,
    ITEM_FEATURES,
    USER_FEATURES,
    ITEM_TEXTS,
    ITEM_SEMANTICS,
    ITEM_CODES,
    CODEBOOK,
    CODEBOOK_SPACE,
    ITEM_LABELS,
    LABEL_CODEBOOK,
    USER_PROFILES,
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPT_CURVE,
    USER_FACTORS,
    ITEM_FACTORS,
    PROJECTORS,
    CONTROL_LOGITS,
    TOKEN_WEIGHTS,
    TOKEN_CONFIG,
    TUNED_ADAPTER,
    TUNE_CURVE,
    TUNE_VALID,
    USER_TOKEN_INPUTS,
    ITEM_TOKEN_INPUTS,
    WARM_TOKEN_INPUTS,
    USER_TOKENS,
    ITEM_TOKENS,
    WARM_TOKENS,
    TOKEN_NORMS,
    CALIBRATION,
    PUBLICATIONS,
    CANDIDATES,
    CTR_SCORES,
    LLM_SCORES,
    LLM_DIAGNOSTICS,
    METRICS,
    METRICS_SCHEMA,
    REPORT,
)
BY_NAME = {dataset.name: dataset for dataset in ALL}


def made_by(job: str) -> tuple[Dataset, ...]:
    """The datasets that `job` makes, in the order of this file."""
    return tuple(dataset for dataset in ALL if dataset.producer == job)
