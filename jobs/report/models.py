"""The models that a night may have scored with, and which of them a report is about."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

TITLES = {"fused": "LLM and MF fused", "llm": "LLM", "mf": "Aligned MF"}  # the main one first


def title_of(model: str) -> str:
    """As a reader knows it; a model that is not in `TITLES` goes by its own name."""
    return TITLES.get(model, model)


def in_order(models: Sequence[str]) -> list[str]:
    """The main model first: fused, else llm, else mf, else by name."""
    known = list(TITLES)
    return sorted(models, key=lambda m: (known.index(m) if m in known else len(known), m))


def main_model(scores: pa.Table, wanted: str | None = None) -> str | None:
    """`wanted` if CTR_SCORES hold it, else the first there is; None without scores."""
    there = in_order(pc.unique(scores["model"]).to_pylist())
    if wanted in there:
        return wanted
    return there[0] if there else None
