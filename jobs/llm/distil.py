"""Item texts to the LLM's hidden states: one vector an item."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from embedding_store.errors import Incompatible, StoreError, TableNotFound, VersionExpired
from embedding_store.lookup import open_version
from jobs.datasets import ITEM_SEMANTICS, ITEM_TEXTS
from jobs.errors import JobError, NotAvailable
from jobs.home import Home
from jobs.job import Config, Run, main
from jobs.llm.backbone import DEFAULT_BACKBONE, Backbone, load, resolve
from jobs.llm.batches import token_budget_batches
from jobs.llm.fingerprint import sha256_json
from jobs.llm.isotropy import all_but_the_top, mean_cosine
from jobs.manifest import Manifest
from jobs.progress import progress
from jobs.vector_columns import as_column, as_matrix

SPACE = b"space"  # schema metadata key: in which space the vectors of a table live
_TOKENIZED_AT_ONCE = 4_096


class Pooling(Enum):
    """Which hidden state stands for a text."""

    LAST = "last"  # of its last real token, as the papers define it
    MEAN = "mean"  # over its real tokens


class DistilConfig(Config):
    """Item texts to vectors: the backbone's last hidden state, after its final norm."""

    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
    pooling: Pooling = Field(
        default=Pooling.LAST, description="last real token, or mean over real tokens"
    )
    max_tokens: int = Field(default=64, gt=0, description="longer texts lose their end")
    batch_tokens: int = Field(
        default=1_024,
        gt=0,
        description="tokens of a batch, padding included; 16384 and more on a GPU",
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


class UnusableText(JobError):
    """A text that no vector can be made of; `position` is its place among the texts."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(why)
        self.position = position


class TokenizedTexts(NamedTuple):
    """Token ids of each text, cut to the limit."""

    ids: list[list[int]]
    n_truncated: int

    @property
    def n_tokens(self) -> int:
        """Tokens that the model has to read."""
        return sum(map(len, self.ids))


def tokenize(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> TokenizedTexts:
    """Token ids of each text, at most `max_tokens`, its end lost if it is longer.

    What looks like a special token inside a text ("<|im_end|>") is read as plain characters: a
    title must not end the sequence.

    Raises:
        UnusableText: a text has no tokens.
    """
    ids: list[list[int]] = []
    for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
        some = list(texts[start : start + _TOKENIZED_AT_ONCE])
        # One more than the limit tells a text that fits exactly from one that is cut.
        ids += _token_ids(some, tokenizer, max_tokens + 1)
    too_long = [row for row, tokens in enumerate(ids) if len(tokens) > max_tokens]
    if too_long:
        cut = _token_ids([texts[row] for row in too_long], tokenizer, max_tokens)
        for row, tokens in zip(too_long, cut, strict=True):
            ids[row] = tokens
    for row, tokens in enumerate(ids):
        if not tokens:
            raise UnusableText(row, f"text {texts[row]!r} has no tokens, so no hidden state")
    return TokenizedTexts(ids, len(too_long))


def _token_ids(texts: list[str], tokenizer: Any, limit: int) -> list[list[int]]:
    return tokenizer(
        texts,
        truncation=True,
        max_length=limit,
        split_special_tokens=True,
        return_attention_mask=False,
    )["input_ids"]


def distil(
    tokens: Sequence[Sequence[int]],
    model: Any,
    pooling: Pooling = Pooling.LAST,
    batch_tokens: int = 1_024,
    advance: Callable[[int], None] = lambda n_tokens: None,
) -> np.ndarray:
    """Last hidden state after the final norm, at the last real token or averaged over all of them.

    E_L[i] = h_L[i, t_i] with t_i the last token that is not padding (SeLLa-Rec, stage 1). Rows are
    padded on the right, with an explicit mask and positions, so no row sees its batch mates.
    Equal rows are computed once; the batches depend on the set of rows and not on their order.

    Args:
        tokens: token ids of each row, at least one.
        model: a causal LM in eval mode, or the decoder alone.
        pooling: which hidden state stands for the row.
        batch_tokens: budget of a batch, padding included.
        advance: told the tokens of each finished batch.

    Returns:
        (n, d) float32.

    Raises:
        UnusableText: a hidden state holds NaN or infinity.
    """
    times = Counter(map(tuple, tokens))
    distinct = sorted(times)
    decoder = model.get_decoder()  # without the head, which would cost a matmul over the vocabulary
    states = np.empty((len(distinct), decoder.config.hidden_size), dtype=np.float32)
    lengths = [len(row) for row in distinct]
    for rows in token_budget_batches(lengths, batch_tokens):
        states[rows] = _hidden_states([distinct[row] for row in rows], decoder, pooling)
        advance(sum(lengths[row] * times[distinct[row]] for row in rows))
    place = {row: number for number, row in enumerate(distinct)}
    raw = states[[place[tuple(row)] for row in tokens]]
    broken = np.flatnonzero(~np.isfinite(raw).all(axis=1))
    if len(broken):
        raise UnusableText(
            int(broken[0]),
            f"the hidden state holds NaN or infinity ({len(broken)} of {len(raw)} items); "
            "try --dtype float32, or look at the backbone's weights",
        )
    return raw


@torch.inference_mode()
def _hidden_states(
    batch: Sequence[Sequence[int]], decoder: torch.nn.Module, pooling: Pooling
) -> np.ndarray:
    """(rows, d) float32 for one batch."""
    device = next(decoder.parameters()).device
    lengths = torch.tensor([len(row) for row in batch])
    positions = torch.arange(int(lengths.max())).expand(len(batch), -1)
    mask = positions < lengths[:, None]
    input_ids = torch.zeros(positions.shape, dtype=torch.long)
    input_ids[mask] = torch.tensor([token for row in batch for token in row])
    states = decoder(
        input_ids=input_ids.to(device),
        attention_mask=mask.long().to(device),
        position_ids=positions.to(device),
        use_cache=False,
    ).last_hidden_state
    if pooling is Pooling.LAST:
        pooled = states[torch.arange(len(batch)), lengths - 1].float()
    else:
        real = mask.to(device)[..., None]
        pooled = states.float().masked_fill(~real, 0.0).sum(dim=1) / lengths.to(device)[:, None]
    return pooled.cpu().numpy()


# -- the table -----------------------------------------------------------------------------------


def content_key(text: str, fingerprint: str, config: DistilConfig) -> str:
    """What an item's vector depends on: the same key, the same vector, no need to embed again."""
    return sha256_json(
        {
            "text": text,
            "backbone": fingerprint,
            "adapter": None,
            "pooling": config.pooling.value,
            "max_tokens": config.max_tokens,
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


def _space(texts: pa.Table, backbone: Backbone, config: DistilConfig, dim: int) -> dict[str, Any]:
    """What a reader must know to put another text into the same space."""
    files = backbone.files
    titles, prompts = texts["title"].to_pylist(), texts["text"].to_pylist()
    return {
        "backbone": files.name,
        "fingerprint": files.fingerprint,
        "tokenizer_sha256": files.tokenizer_sha256,
        "template": text_template(titles, prompts),
        "pooling": config.pooling.value,
        "max_tokens": config.max_tokens,
        "adapter": None,
        "dtype": str(backbone.model.dtype).removeprefix("torch."),
        "dim": dim,
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


class CarriedOver(NamedTuple):
    """Raw vectors of an earlier version, by content key."""

    places: dict[str, int]
    raw: np.ndarray  # (n, d) float32
    version_sha256: str | None  # names the version's content


NOTHING = CarriedOver({}, np.empty((0, 0), np.float32), None)
# Vectors of two precisions do not mix, though the content key does not tell them apart.
_SAME = ("fingerprint", "dtype", "dim")


def carried_over(home: Home, space: dict[str, Any], version: int | None, log: Any) -> CarriedOver:
    """What an earlier version holds of this space; nothing if it is of another, or is gone.

    Raises:
        NotAvailable: there is no such version, or a file of it is not what was published.
    """
    if version is None:
        return NOTHING
    try:
        with open_version(home.store, version, expect={key: space[key] for key in _SAME}) as opened:
            rows = opened[ITEM_SEMANTICS.name].table(["content_key", "raw"])
            raw = as_matrix(rows["raw"]).copy()
    except (Incompatible, VersionExpired, TableNotFound) as error:
        log.warning("every item is embedded", previous_version=version, why=str(error))
        return NOTHING
    except StoreError as error:
        raise NotAvailable(str(error)) from error
    places = {key: row for row, key in enumerate(rows["content_key"].to_pylist())}
    return CarriedOver(places, raw, opened.manifest_sha256)


def _raw(
    texts: pa.Table,
    keys: Sequence[str],
    known: CarriedOver,
    backbone: Backbone,
    config: DistilConfig,
    run: Run,
) -> np.ndarray:
    """(n, d) float32: the states that are known, and those of the other texts, embedded now."""
    new = [row for row, key in enumerate(keys) if key not in known.places]
    old = [row for row, key in enumerate(keys) if key in known.places]
    raw = np.empty((len(keys), _dim(backbone)), dtype=np.float32)
    if old:
        raw[old] = known.raw[[known.places[keys[row]] for row in old]]
    if new:
        raw[new] = _embed(texts.take(pa.array(new)), backbone, config, run)
    run.metric("n_items", len(keys))
    run.metric("n_carried_over", len(old))
    run.metric("n_embedded", len(new))
    return raw


def _dim(backbone: Backbone) -> int:
    model: Any = backbone.model
    return int(model.get_decoder().config.hidden_size)


def _embed(texts: pa.Table, backbone: Backbone, config: DistilConfig, run: Run) -> np.ndarray:
    positions = getattr(backbone.model.config, "max_position_embeddings", config.max_tokens)
    if config.max_tokens > positions:
        raise JobError(
            f"--max-tokens {config.max_tokens}: {backbone.files.name} reads at most {positions}"
        )
    started = time.monotonic()
    try:
        tokens = tokenize(texts["text"].to_pylist(), backbone.tokenizer, config.max_tokens)
        with progress("distil", tokens.n_tokens, "tokens") as advance:
            raw = distil(tokens.ids, backbone.model, config.pooling, config.batch_tokens, advance)
    except UnusableText as error:
        raise JobError(f"item {texts['item_id'][error.position].as_py()}: {error}") from error
    run.metric("n_tokens", tokens.n_tokens)
    run.metric("n_truncated", tokens.n_truncated)
    run.metric("tokens_per_s", tokens.n_tokens / (time.monotonic() - started))
    return raw


def job(config: DistilConfig, run: Run) -> None:
    """Embed the day's item texts, those that an earlier version does not hold already."""
    texts = run.read(ITEM_TEXTS)
    if not texts.num_rows:
        raise JobError(f"{ITEM_TEXTS.name} of {run.day} has no rows; there is nothing to embed")
    backbone = load(resolve(config.model, run.home.cache), config.device, config.dtype)
    run.log.info(
        "backbone",
        name=backbone.files.name,
        fingerprint=backbone.files.fingerprint[:12],
        device=str(backbone.model.device),
        dtype=str(backbone.model.dtype).removeprefix("torch."),
    )
    fingerprint = backbone.files.fingerprint
    keys = [content_key(text, fingerprint, config) for text in texts["text"].to_pylist()]
    space = _space(texts, backbone, config, _dim(backbone))
    known = carried_over(run.home, space, config.previous_version, run.log)
    table = semantics_table(texts, keys, _raw(texts, keys, known, backbone, config, run), space)
    for column in ("raw", "vector"):
        run.metric(f"mean_cosine_{column}", mean_cosine(as_matrix(table[column])))
    run.write(ITEM_SEMANTICS, table)
    if known.version_sha256:
        run.result = {"previous_version_sha256": known.version_sha256}


def sources(config: DistilConfig, day: date, home: Home) -> Iterable[Path]:
    """The record of the backbone's fingerprint: another model under the same name is noticed."""
    return [resolve(config.model, home.cache).record]


def is_of_the_same_version(manifest: Manifest, home: Home) -> bool:
    """Whether the number still names the version that was carried over from.

    A version whose files were deleted since has done its part.
    """
    version = manifest.config["previous_version"]
    stated = manifest.result.get("previous_version_sha256")
    if version is None or stated is None:
        return True
    try:
        with open_version(home.store, version, verify="off") as opened:
            return opened.manifest_sha256 == stated
    except VersionExpired:
        return True
    except StoreError:
        return False


if __name__ == "__main__":
    main("distil", DistilConfig, job, sources=sources, intact=is_of_the_same_version)
