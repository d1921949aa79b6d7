"""Soft tokens: factors projected into the LLM's input space, at the length of its own tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from jobs.datasets import ITEM_FACTORS, ITEM_TOKENS, PROJECTORS, USER_FACTORS, USER_TOKENS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, main
from jobs.llm.backbone import DEFAULT_BACKBONE, hidden_size, mean_embedding_norm, resolve
from jobs.tokens.projector import Projector
from jobs.tokens.threads import torch_threads
from jobs.vector_columns import as_column, as_matrix

N_TOKENS = 1  # soft tokens for each user or item

Floats = NDArray[np.float32]


class ProjectConfig(Config):
    """User and item factors to soft tokens of a backbone."""

    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
    n_threads: int = Field(default=1, gt=0, description="torch threads; the last bits depend on it")


@dataclass(frozen=True)
class SoftTokens:
    """Soft tokens of one table.

    Attributes:
        tokens: (n, n_tokens * d_llm).
        scale: what the projected factors were multiplied by.
        norm: mean Euclidean length of a token, after scaling.
    """

    tokens: Floats
    scale: float
    norm: float


def soft_tokens(factors: Floats, projector: Projector, mean_norm: float) -> SoftTokens:
    """Projected factors, scaled by one number so that their mean length is `mean_norm`.

    The LLM has only seen inputs as long as its token embeddings; longer or shorter ones drown the
    text or drown in it. One number for the table keeps every direction, and which of two tokens
    is the longer.

    Args:
        factors: (n, d_cf).
        projector: from factors to the LLM's space (d_llm).
        mean_norm: mean length of the backbone's token embeddings.

    Raises:
        JobError: a projected factor is not finite, or all of them are zero.
    """
    projected = projector.project(factors).astype(np.float64)
    lengths = np.linalg.norm(projected, axis=1)
    if not np.isfinite(lengths).all():
        row = int(np.argmin(np.isfinite(lengths)))
        raise JobError(f"row {row} of {len(factors)} projects to NaN or infinity; rerun align")
    if len(lengths) == 0 or lengths.mean() == 0:
        raise JobError(f"{len(factors)} projected factors have no length to scale; rerun align")
    scale = mean_norm / float(lengths.mean())
    tokens = (projected * scale).astype(np.float32)
    return SoftTokens(
        tokens, scale, float(np.linalg.norm(tokens.astype(np.float64), axis=1).mean())
    )


def job(config: ProjectConfig, run: Run) -> None:
    """One soft token for each user and each item, at the mean length of the backbone's own."""
    tensors = run.read_tensors(PROJECTORS)
    projector = Projector.of(tensors)
    backbone = resolve(config.model, run.home.cache)
    d_llm = hidden_size(backbone)
    if projector.output.out_features != d_llm:
        raise JobError(
            f"the projector maps into {projector.output.out_features} dimensions, backbone "
            f"{backbone.name} has {d_llm}; give project the --model that distil was given"
        )
    norm = mean_embedding_norm(backbone)
    run.metric("embedding_norm", norm)
    with torch_threads(config.n_threads):
        for source, key, target in (
            (USER_FACTORS, "user_id", USER_TOKENS),
            (ITEM_FACTORS, "item_id", ITEM_TOKENS),
        ):
            rows = run.read(source)
            made = soft_tokens(as_matrix(rows["factor"]), projector, norm)
            run.metric(f"{target.name}_scale", made.scale)
            run.metric(f"{target.name}_norm_ratio", made.norm / norm)
            run.write(target, _table(key, rows[key], made, d_llm))


def _table(key: str, ids: pa.ChunkedArray, made: SoftTokens, d_llm: int) -> pa.Table:
    """Columns of a table of tokens; its schema metadata says how to read and remake them."""
    metadata = {
        b"n_tokens": str(N_TOKENS).encode(),
        b"d_llm": str(d_llm).encode(),
        b"scale": repr(made.scale).encode(),
    }
    return pa.table({key: ids, "tokens": as_column(made.tokens)}).replace_schema_metadata(metadata)


def sources(config: ProjectConfig, day: date, home: Home) -> Iterable[Path]:
    """The record of the backbone's fingerprint: another model under the same name is noticed."""
    return [resolve(config.model, home.cache).record]


if __name__ == "__main__":
    main("project", ProjectConfig, job, sources=sources)
