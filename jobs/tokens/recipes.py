"""Which soft tokens a night has: what TOKEN_CONFIG says of each kind, and how readers get them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.datasets import (
    ITEM_TOKEN_INPUTS,
    ITEM_TOKENS,
    TOKEN_WEIGHTS,
    USER_TOKEN_INPUTS,
    USER_TOKENS,
    WARM_TOKEN_INPUTS,
    WARM_TOKENS,
    Dataset,
)
from jobs.errors import JobError
from jobs.llm.fingerprint import read_json

Facts = Mapping[str, Any]

WEIGHTS_FILE = f"{TOKEN_WEIGHTS.name}.{TOKEN_WEIGHTS.format.value}"  # of a version
# Mappers that need nothing but two matrices: `embedding_store` applies them without torch.
PROJECTED_ON_READ = ("mlp", "linear")


@dataclass(frozen=True)
class Side:
    """The tables of one kind of soft tokens: what its mapper reads, and what comes out."""

    key: str
    inputs: Dataset
    tokens: Dataset


SIDES: Mapping[str, Side] = {
    "user": Side("user_id", USER_TOKEN_INPUTS, USER_TOKENS),
    "item": Side("item_id", ITEM_TOKEN_INPUTS, ITEM_TOKENS),
    "warm": Side("item_id", WARM_TOKEN_INPUTS, WARM_TOKENS),
}


def token_config(path: Path) -> dict[str, Any]:
    """What TOKEN_CONFIG says, with `kinds` and `backbone` in it.

    Raises:
        JobError: it says nothing of them, or describes a kind that there is not.
    """
    said = read_json(path)
    kinds, backbone = said.get("kinds"), said.get("backbone")
    if not isinstance(kinds, dict) or not isinstance(backbone, dict):
        raise JobError(f"{path} does not say which kinds of soft tokens there are; rerun tune")
    if unknown := sorted(kinds.keys() - SIDES.keys()):
        raise JobError(
            f"{path} describes soft tokens of '{unknown[0]}'; there are only {', '.join(SIDES)}"
        )
    return said


def wanted_kinds(materialise: str) -> list[str]:
    """The kinds that "user,item" names.

    Raises:
        JobError: there is no such kind.
    """
    wanted = [name.strip() for name in materialise.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in SIDES]:
        raise JobError(
            f"--materialise {materialise}: there are no {unknown[0]} tokens, but {', '.join(SIDES)}"
        )
    return wanted


def check_readable(kind: str, facts: Facts, *, is_materialised: bool) -> None:
    """Refuse tokens that no reader could get: those of a Q-Former without a table.

    Raises:
        JobError: they are neither in a table, nor made by a mapper that readers apply.
    """
    is_projected = facts["mapper"] in PROJECTED_ON_READ
    if has_rows(kind, facts) and not (is_materialised or is_projected):
        raise JobError(
            f"{kind} tokens are made by a {facts['mapper']}, which readers of the store do not "
            f"apply: name {kind} in project's --materialise"
        )


def scale_of(weights: Mapping[str, np.ndarray], kind: str) -> float:
    """What the mapped inputs of a kind are multiplied by.

    Raises:
        JobError: TOKEN_WEIGHTS do not say.
    """
    name = f"{kind}.scale"
    if name not in weights or weights[name].size != 1:
        raise JobError(f"token_weights hold no number {name}; rerun tune")
    return float(weights[name].item())


def recipe(kind: str, facts: Facts, scale: float, tables: Collection[str]) -> dict[str, Any]:
    """How a reader gets the soft tokens of one kind; see `embedding_store.soft_tokens`.

    Args:
        kind: user, item or warm.
        facts: of TOKEN_CONFIG.
        scale: of TOKEN_WEIGHTS.
        tables: those that the version holds.
    """
    side, is_by_row = SIDES[kind], has_rows(kind, facts)
    check_readable(kind, facts, is_materialised=side.tokens.name in tables)
    said = {
        "weights": WEIGHTS_FILE,
        "prefix": f"{kind}.",
        "mapper": facts["mapper"],
        "scale": scale,
        "n_tokens": facts["n_tokens"],
    }
    if is_by_row and side.inputs.name in tables:
        said["inputs"] = side.inputs.name
    if is_by_row and side.tokens.name in tables:
        said["tokens"] = side.tokens.name
    if _knows_histories(kind, facts) and ITEM_TOKEN_INPUTS.name in tables:
        said["histories"] = {"table": ITEM_TOKEN_INPUTS.name, "column": "history"}
    return said


def has_rows(kind: str, facts: Facts) -> bool:
    """Whether ids of this kind are known by a row of their own, and not by a history alone."""
    return kind != "user" or facts.get("source") != "history"


def _knows_histories(kind: str, facts: Facts) -> bool:
    """Whether an id without a row of its own is known by its history."""
    return kind == "user" and facts.get("source", "factor") != "factor"
