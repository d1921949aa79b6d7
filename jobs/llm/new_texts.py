"""The texts that are left to embed, in shards that survive a kill and that processes share."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from jobs.errors import JobError
from jobs.llm.carry_over import CarriedOver
from jobs.llm.embedding import TokenizedTexts, UnusableText, distil, tokenize
from jobs.llm.processes import Processes
from jobs.llm.shards import Shards
from jobs.llm.token_tree import n_nodes
from jobs.progress import progress

if TYPE_CHECKING:
    from jobs.llm.distil import Reader

_TRIED_BATCHES = 2  # what an estimate takes the time of


@dataclass(frozen=True)
class NewTexts:
    """The texts that no earlier version holds, distinct, sorted by their tokens.

    Attributes:
        ids: token ids of each.
        shards: their ranges and keys.
        rows: for each, a row of ITEM_TEXTS that it stands in.
    """

    ids: list[list[int]]
    shards: Shards
    rows: list[int]

    @property
    def n_computed(self) -> int:
        """Tokens that the model reads: beginnings in common once."""
        ranges = map(self.shards.range, range(len(self.shards)))
        batch_tokens = json.loads(self.shards.how)["batch_tokens"]
        return sum(n_nodes(sorted({tuple(i) for i in self.ids[r]}), batch_tokens) for r in ranges)


def new_texts(
    texts: pa.Table, keys: Sequence[str], known: CarriedOver, by: Reader, folder: Path
) -> tuple[NewTexts, TokenizedTexts]:
    """What is left to embed, and the tokens of all of its items, namesakes included."""
    rows = [row for row, key in enumerate(keys) if key not in known.places]
    prompts = texts["text"].take(pa.array(rows, pa.int64())).to_pylist()
    try:
        tokens = tokenize(prompts, by.backbone.tokenizer, by.config.max_tokens)
    except UnusableText as error:
        raise _of_item(texts, rows[error.position], error) from error
    first = {keys[row]: place for place, row in reversed(list(enumerate(rows)))}
    order = sorted(first.values(), key=lambda place: (tokens.ids[place], prompts[place]))
    device = by.backbone.model.device.type
    how = {
        "batch_tokens": by.config.batch_tokens,
        "device": device,
        # A CPU splits its sums among threads: the last bits depend on their number.
        "threads": torch.get_num_threads() if device == "cpu" else None,
    }
    shards = Shards(
        folder,
        [keys[rows[place]] for place in order],
        by.config.shard_items,
        by.dim,
        json.dumps(how, sort_keys=True),
    )
    new = NewTexts([tokens.ids[place] for place in order], shards, [rows[p] for p in order])
    return new, tokens


def _of_item(texts: pa.Table, row: int, error: UnusableText) -> JobError:
    return JobError(f"item {texts['item_id'][row].as_py()}: {error}")


def embed(texts: pa.Table, new: NewTexts, by: Reader, processes: Processes) -> np.ndarray:
    """(n_texts, d) float32: each process makes its shards, the first one reads all of them."""
    shards, device = new.shards, by.backbone.model.device
    if processes.is_first:
        shards.forget_others()
    processes.of_first(0, device)  # nobody writes before that
    own = range(processes.rank, len(shards), processes.n)
    left = [number for number in own if shards.read(number) is None]
    n_tokens = sum(len(ids) for number in left for ids in new.ids[shards.range(number)])
    if left:
        with progress("distil", n_tokens, "tokens") as advance:
            for number in left:
                shards.write(number, _shard(texts, new, number, by, advance))
    processes.sum(torch.zeros(1, device=device))  # until all are done
    if not processes.is_first:
        return np.empty((0, by.dim), np.float32)
    done = []
    for number in range(len(shards)):
        raw = shards.read(number)
        done.append(_shard(texts, new, number, by) if raw is None else raw)
    return np.concatenate(done)


def _shard(
    texts: pa.Table, new: NewTexts, number: int, by: Reader, advance: Any = lambda n: None
) -> np.ndarray:
    part, config = new.shards.range(number), by.config
    try:
        return distil(
            new.ids[part], by.backbone.model, config.pooling, config.batch_tokens, advance
        )
    except UnusableText as error:
        raise _of_item(texts, new.rows[part][error.position], error) from error


def computed_tokens_per_s(new: NewTexts, by: Reader) -> float:
    """Computed tokens a second, over neighbours from the middle of the sorted texts."""
    batch_tokens = by.config.batch_tokens
    middle = len(new.ids) // 2
    sizes = np.cumsum([len(ids) for ids in new.ids[middle:]])
    n = int(np.searchsorted(sizes, _TRIED_BATCHES * batch_tokens)) + 1
    some = new.ids[middle : middle + n]
    distil(some[:1], by.backbone.model, by.config.pooling, batch_tokens)  # warms up
    started = time.monotonic()
    distil(some, by.backbone.model, by.config.pooling, batch_tokens)
    return n_nodes(sorted(map(tuple, some)), batch_tokens) / (time.monotonic() - started)
