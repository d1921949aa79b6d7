"""Item texts to the LLM's hidden states: one vector an item."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from jobs.datasets import ITEM_SEMANTICS, ITEM_TEXTS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Declared, Run
from jobs.llm.backbone import DEFAULT_BACKBONE, Backbone, chosen_device, load, resolve
from jobs.llm.carry_over import CarriedOver, carried_over, is_of_the_same_version
from jobs.llm.embedding import Pooling, UnusableText, distil, tokenize
from jobs.llm.fingerprint import sha256_json
from jobs.llm.isotropy import all_but_the_top, mean_cosine
from jobs.llm.new_texts import computed_tokens_per_s, embed, new_texts
from jobs.llm.processes import ALONE, Processes, from_environment
from jobs.llm.together import lead_or_follow
from jobs.vector_columns import as_column, as_matrix

if TYPE_CHECKING:
    from jobs.llm.adapters import AdapterFiles

__all__ = [
    "DistilConfig",
    "Pooling",
    "UnusableText",
    "distil",
    "is_of_the_same_version",
    "job",
    "sources",
    "tokenize",
]

SPACE = b"space"  # schema metadata key: in which space the vectors of a table live


class DistilConfig(Config):
    """Item texts to vectors: the backbone's last hidden state, after its final norm."""

    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
    adapter: str | None = Field(
        default=None, description="a day on which adapt ran, or an adapter's folder"
    )
    pooling: Pooling = Field(
        default=Pooling.LAST, description="last real token, or mean over real tokens"
    )
    max_tokens: int = Field(default=64, gt=0, description="longer texts lose their end")
    batch_tokens: int = Field(
        default=1_024,
        gt=0,
        description="tokens of a batch that are computed; 16384 and more on a GPU",
    )
    shard_items: int = Field(
        default=4_096, gt=0, description="items that are kept together when the run is cut short"
    )
    n_components: int = Field(
        default=2, ge=0, description="principal components removed from `vector`; 0 only centres"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="auto: bfloat16 where the hardware multiplies it, float32 elsewhere",
    )
    previous_version: int | None = Field(
        default=None,
        gt=0,
        description="take unchanged items over from this version of the store; "
        "without it every item is embedded",
    )


# -- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """What reads the texts: a loaded backbone, with an adapter or without.

    Attributes:
        backbone: the adapter is in it.
        adapter: None without.
        config: pooling and limits.
    """

    backbone: Backbone
    adapter: AdapterFiles | None
    config: DistilConfig

    @property
    def dim(self) -> int:
        """Of a hidden state."""
        model: Any = self.backbone.model
        return int(model.get_decoder().config.hidden_size)

    @property
    def dtype(self) -> str:
        """In which it computes."""
        return str(self.backbone.model.dtype).removeprefix("torch.")

    @property
    def adapter_fingerprint(self) -> str | None:
        """None without an adapter."""
        return self.adapter.fingerprint if self.adapter else None

    def key(self, text: str) -> str:
        """The content key of a text."""
        fingerprint = self.backbone.files.fingerprint
        return content_key(text, fingerprint, self.config, self.dtype, self.adapter_fingerprint)


def reader(config: DistilConfig, home: Home, processes: Processes = ALONE) -> Reader:
    """Load what reads the texts, on this process's device."""
    device = chosen_device(config.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", processes.local_rank)
    backbone = load(resolve(config.model, home.cache), str(device), config.dtype)
    positions = getattr(backbone.model.config, "max_position_embeddings", config.max_tokens)
    if config.max_tokens > positions:
        raise JobError(
            f"--max-tokens {config.max_tokens}: {backbone.files.name} reads at most {positions}"
        )
    adapter = adapter_files(config, home)
    if adapter is not None:
        from jobs.llm.adapters import load_adapter

        load_adapter(backbone, adapter)
    return Reader(backbone, adapter, config)


def adapter_files(config: DistilConfig, home: Home) -> AdapterFiles | None:
    """Of the adapter that the config names; None if it names none."""
    if config.adapter is None:
        return None
    from jobs.llm.adapters import find_adapter  # brings peft: seconds that most nights need not pay

    return find_adapter(config.adapter, home)


def content_key(
    text: str,
    fingerprint: str,
    config: DistilConfig,
    dtype: str = "float32",
    adapter: str | None = None,
) -> str:
    """What an item's vector depends on: the same key, the same vector, no need to embed again.

    The number format is part of it: vectors of two formats differ by more than rounding and must
    not meet in one table.
    """
    return sha256_json(
        {
            "text": text,
            "backbone": fingerprint,
            "adapter": adapter,
            "pooling": config.pooling.value,
            "max_tokens": config.max_tokens,
            "dtype": dtype,
        }
    )


def text_template(titles: Sequence[str], texts: Sequence[str]) -> str | None:
    """How the texts were made of the titles ("Movie: {title}"); None if not all in one way."""
    templates = {
        text.removesuffix(title) + "{title}" if text.endswith(title) else None
        for title, text in zip(titles, texts, strict=True)
        if title
    }
    return templates.pop() if len(templates) == 1 else None


def _space(texts: pa.Table, by: Reader) -> dict[str, Any]:
    """What a reader must know to put another text into the same space."""
    files, config = by.backbone.files, by.config
    titles, prompts = texts["title"].to_pylist(), texts["text"].to_pylist()
    return {
        "backbone": files.name,
        "fingerprint": files.fingerprint,
        "tokenizer_sha256": files.tokenizer_sha256,
        "template": text_template(titles, prompts),
        "pooling": config.pooling.value,
        "max_tokens": config.max_tokens,
        "adapter": by.adapter_fingerprint,
        "dtype": by.dtype,
        "dim": by.dim,
        "post": {"centred": True, "removed_components": config.n_components},
    }


def semantics_table(
    texts: pa.Table, keys: Sequence[str], raw: np.ndarray, space: dict[str, Any]
) -> pa.Table:
    """ITEM_SEMANTICS: keys, raw vectors, and their variant for search and alignment.

    The variant is made from all raw vectors in the order of the items, carried over or not: the
    same raw vectors give the same bytes.
    """
    columns = {
        "item_id": texts["item_id"],
        "content_key": pa.array(keys, type=pa.string()),
        "raw": as_column(raw),
        "vector": as_column(all_but_the_top(raw, space["post"]["removed_components"])),
    }
    return pa.table(columns).replace_schema_metadata({SPACE: json.dumps(space, sort_keys=True)})


# -- embedding what is new -----------------------------------------------------------------------


def _raw(
    texts: pa.Table,
    keys: Sequence[str],
    known: CarriedOver,
    by: Reader,
    run: Run,
    processes: Processes,
) -> np.ndarray:
    """(n, d) float32: the states that are known, and those of the other texts, embedded now."""
    started = time.monotonic()
    folder = _shard_folder(run)
    new, tokens = new_texts(texts, keys, known, by, folder)
    place = {key: number for number, key in enumerate(new.shards.keys)}
    raw = np.empty((len(keys), by.dim), dtype=np.float32)
    if place:
        embedded = embed(texts, new, by, processes)
        if not processes.is_first:
            return raw
        rows = [row for row, key in enumerate(keys) if key in place]
        raw[rows] = embedded[[place[keys[row]] for row in rows]]
        run.metric("n_tokens", tokens.n_tokens)
        run.metric("n_tokens_computed", new.n_computed)
        run.metric("n_truncated", tokens.n_truncated)
        run.metric("tokens_per_s", tokens.n_tokens / (time.monotonic() - started))
    old = [row for row, key in enumerate(keys) if key not in place]
    if old:
        raw[old] = known.raw[[known.places[keys[row]] for row in old]]
    run.metric("n_items", len(keys))
    run.metric("n_carried_over", len(old))
    run.metric("n_embedded", len(keys) - len(old))
    return raw


def _shard_folder(run: Run) -> Path:
    return run.home.run(run.job, run.day) / "shards"


# -- the job -------------------------------------------------------------------------------------


def _read(config: DistilConfig, run: Run) -> pa.Table:
    texts = run.read(ITEM_TEXTS)
    if not texts.num_rows:
        raise JobError(f"{ITEM_TEXTS.name} of {run.day} has no rows; there is nothing to embed")
    return texts


def job(config: DistilConfig, run: Run) -> None:
    """Embed the day's item texts, those that an earlier version does not hold already."""
    processes = from_environment()
    texts = _read(config, run)
    by = reader(config, run.home, processes)
    if processes.is_first:
        _say_what(by, run, processes)
    keys = [by.key(text) for text in texts["text"].to_pylist()]
    space = _space(texts, by)
    known = carried_over(run.home, space, config.previous_version, run.log)
    raw = _raw(texts, keys, known, by, run, processes)
    if not processes.is_first:
        return
    table = semantics_table(texts, keys, raw, space)
    for column in ("raw", "vector"):
        run.metric(f"mean_cosine_{column}", mean_cosine(as_matrix(table[column])))
    run.write(ITEM_SEMANTICS, table)
    run.discard(_shard_folder(run))
    if known.version_sha256:
        run.result = {"previous_version_sha256": known.version_sha256}


def _say_what(by: Reader, run: Run, processes: Processes) -> None:
    run.log.info(
        "backbone",
        name=by.backbone.files.name,
        fingerprint=by.backbone.files.fingerprint[:12],
        adapter=by.adapter.name if by.adapter else None,
        device=str(by.backbone.model.device),
        dtype=by.dtype,
        processes=processes.n,
    )


def estimate(config: DistilConfig, run: Run) -> dict[str, Any]:
    """Tokens, memory and time to expect, from two batches of the real work."""
    from jobs.llm.estimate import peak_memory_bytes  # 0.5 s that no other run needs

    texts = _read(config, run)
    by = reader(config, run.home)
    keys = [by.key(text) for text in texts["text"].to_pylist()]
    known = carried_over(run.home, _space(texts, by), config.previous_version, run.log)
    new, tokens = new_texts(texts, keys, known, by, _shard_folder(run))
    computed = new.n_computed
    tokens_per_s = computed_tokens_per_s(new, by) if new.ids else float("inf")
    return {
        "items": len(keys),
        "items_to_embed": len(tokens.ids),
        "distinct_texts": len(new.ids),
        "tokens": tokens.n_tokens,
        "tokens_computed": computed,
        "truncated": tokens.n_truncated,
        "shards": len(new.shards),
        "shards_done": sum(new.shards.read(n) is not None for n in range(len(new.shards))),
        "computed_tokens_per_s": round(tokens_per_s, 1) if new.ids else None,
        "seconds": round(computed / tokens_per_s, 1),
        "peak_memory_mb": round(peak_memory_bytes(by.backbone.model.device) / 2**20),
        "table_mb": round(2 * 4 * by.dim * len(keys) / 2**20, 1),
        "device": str(by.backbone.model.device),
        "dtype": by.dtype,
    }


def sources(config: DistilConfig, day: date, home: Home) -> Iterable[Path]:
    """The record of the backbone's fingerprint, and the adapter: another model is noticed."""
    files = [resolve(config.model, home.cache).record]
    adapter = adapter_files(config, home)
    return files if adapter is None else [*files, *adapter.sources]


DECLARED = Declared(
    "distil", DistilConfig, job, sources=sources, intact=is_of_the_same_version, estimate=estimate
)


def command() -> None:
    """The job's command line, alone or as one of several processes."""
    lead_or_follow(DECLARED)


if __name__ == "__main__":
    command()
