"""What the job `tune` leaves of a day, made in milliseconds: mappers of random weights."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from jobs.datasets import (
    ITEM_TOKEN_INPUTS,
    TOKEN_CONFIG,
    TOKEN_WEIGHTS,
    TUNED_ADAPTER,
    USER_TOKEN_INPUTS,
    WARM_TOKEN_INPUTS,
    Dataset,
)
from jobs.home import Home
from jobs.job import Config, Run, mark_checked
from jobs.llm.backbone import BackboneFiles
from jobs.tokens.mappers import Mapper, MapperFacts, random_mapper
from jobs.vector_columns import as_column
from tests.conftest import DAY
from tests.tiny_backbone import HIDDEN

D_FACTOR, D_TEXT = 5, HIDDEN
USERS, ITEMS = [f"u{n}" for n in range(5)], list(range(10, 100, 10))
KINDS: dict[str, dict[str, Any]] = {
    "user": {"mapper": "mlp", "n_tokens": 3, "source": "factor_or_history"},
    "item": {"mapper": "mlp", "n_tokens": 1},
    "warm": {"mapper": "linear", "n_tokens": 1},
}
_WIDTHS = {"user": D_FACTOR, "item": D_FACTOR, "warm": D_TEXT}
ADAPTER = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inputs_of(kind: str, n: int) -> np.ndarray:
    """(n, d_in) as the tables of `as_tuned` have them."""
    return floats(n, _WIDTHS[kind], seed=len(kind))


def mapper_for(kind: str, facts: dict[str, Any], d_llm: int = HIDDEN, seed: int = 0) -> Mapper:
    """The mapper of one kind; its tokens are about as long as those of the tiny backbone."""
    shape = {key: value for key, value in facts.items() if key != "source"}
    if shape["mapper"] == "qformer":
        shape |= {"d_query": 8, "n_heads": 2}
    made = MapperFacts(d_in=_WIDTHS[kind], d_llm=d_llm, n_hidden=6, **shape)
    mapper = random_mapper(made, torch.Generator().manual_seed(seed + len(kind)))
    mapper.match_norm(torch.tensor(inputs_of(kind, 9)), 1.7)
    return mapper


def as_tuned(
    home: Home,
    backbone: BackboneFiles,
    *,
    kinds: dict[str, dict[str, Any]] = KINDS,
    day: date = DAY,
    users: Any = USERS,
    items: Any = ITEMS,
    d_llm: int = HIDDEN,
    seed: int = 0,
    adapter: dict[str, Any] | None = ADAPTER,
    broken: dict[str, np.ndarray] | None = None,
) -> dict[str, Mapper]:
    """Write the datasets of `tune`, checked; `broken` replaces some of its tensors.

    Returns:
        The mappers, by kind.
    """
    mappers = {kind: mapper_for(kind, facts, d_llm, seed) for kind, facts in kinds.items()}
    tensors: dict[str, np.ndarray] = {"steering": np.zeros((2, 1, 1), np.float32)}
    for kind, mapper in mappers.items():
        tensors |= mapper.named_tensors(kind)
        tensors[f"{kind}.unknown"] = floats(mapper.facts.n_tokens * d_llm, seed=len(kind))
    said = {
        "backbone": {"name": backbone.name, "fingerprint": backbone.fingerprint},
        "adapter": adapter,
        "kinds": {kind: {**mappers[kind].facts.record(), **kinds[kind]} for kind in kinds},
        "seed": seed,
    }
    lora = {"q_proj.lora_A.weight": floats(2, d_llm, seed=seed)} if adapter else {}
    tables = tuned_tables(pa.array(users), pa.array(items))
    with Run("tune", day, Config(), home) as run:
        run.write_text(TOKEN_CONFIG, json.dumps(said))
        run.write_tensors(TOKEN_WEIGHTS, tensors | (broken or {}))
        run.write_tensors(TUNED_ADAPTER, lora)
        for dataset, table in tables:
            run.write(dataset, table)
    for dataset, _ in tables:
        mark_checked(home, dataset, day)
    return mappers


def tuned_tables(users: pa.Array, items: pa.Array) -> list[tuple[Dataset, pa.Table]]:
    """Inputs for some ids."""
    n = len(items)
    of_users = {"user_id": users, "input": as_column(inputs_of("user", len(users)))}
    of_items = {"item_id": items, "input": as_column(inputs_of("item", n))}
    of_items |= {"history": as_column(floats(n, D_FACTOR, seed=8))}
    of_texts = {"item_id": items, "input": as_column(inputs_of("warm", n))}
    return [
        (USER_TOKEN_INPUTS, pa.table(of_users)),
        (ITEM_TOKEN_INPUTS, pa.table(of_items)),
        (WARM_TOKEN_INPUTS, pa.table(of_texts)),
    ]
