"""Soft tokens: what each mapper of `tune` makes of its inputs, as tables or to be made on read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field

from jobs.datasets import TOKEN_CONFIG, TOKEN_NORMS, TOKEN_WEIGHTS, Dataset
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Declared, Run, main
from jobs.llm.backbone import (
    DEFAULT_BACKBONE,
    BackboneFiles,
    hidden_size,
    mean_embedding_norm,
    resolve,
)
from jobs.tokens.mappers import Mapper, mapper_of
from jobs.tokens.recipes import (
    SIDES,
    Facts,
    check_readable,
    has_rows,
    token_config,
    wanted_kinds,
)
from jobs.tokens.threads import torch_threads
from jobs.vector_columns import as_column, as_matrix

_CHUNK = 8_192  # rows projected at once
_FAR = 5.0  # longer by more, tokens drown the text; shorter by more, they drown in it

Floats = NDArray[np.float32]

_NORMS = pa.schema(
    [
        ("kind", pa.string()),
        ("mapper", pa.string()),
        ("n_tokens", pa.int32()),
        ("d_llm", pa.int32()),
        ("scale", pa.float32()),
        ("n_rows", pa.int64()),
        ("is_materialised", pa.bool_()),
        ("mean_norm", pa.float64()),
        ("norm_ratio", pa.float64()),
    ]
)


class ProjectConfig(Config):
    """The inputs of users, items and warm tokens to soft tokens of a backbone.

    A kind that is not materialised is projected all the same and not kept: a token that is NaN
    is found tonight, and not by a reader.
    """

    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
    materialise: str = Field(
        default="user,item,warm",
        description="kinds whose tokens become tables, with commas; readers project the others",
    )
    n_threads: int = Field(default=1, gt=0, description="torch threads; the last bits depend on it")


@dataclass
class Projected:
    """What was projected of one kind.

    Attributes:
        n_rows: of the inputs.
        lengths: (n_rows, n_tokens) Euclidean lengths, a piece for each chunk.
        tokens: (n_rows, n_tokens * d_llm), a piece for each chunk; none where they are not kept.
    """

    n_rows: int = 0
    lengths: list[NDArray[np.float64]] = field(default_factory=list)
    tokens: list[Floats] = field(default_factory=list)

    @property
    def mean_norm(self) -> float | None:
        """Mean length of a token; None without rows."""
        return float(np.concatenate(self.lengths).mean()) if self.n_rows else None


def project(ids: pa.ChunkedArray, inputs: Floats, mapper: Mapper, *, keep: bool) -> Projected:
    """Soft tokens of all rows of `inputs`.

    Args:
        ids: (n,) whose they are, for what is said of a bad one.
        inputs: (n, d_in).
        mapper: of `tune`.
        keep: the tokens, and not only their lengths.

    Raises:
        JobError: a token is not finite, or has no length; it names the id.
    """
    projected = Projected(len(inputs))
    for start, tokens in _chunks(inputs, mapper):
        lengths = np.linalg.norm(tokens.astype(np.float64), axis=2)
        is_bad = ~(np.isfinite(lengths) & (lengths > 0)).all(axis=1)
        if is_bad.any():
            row = start + int(np.argmax(is_bad))
            what = "a soft token of no length"
            if not np.isfinite(lengths[row - start]).all():
                what = "a soft token with NaN or infinity"
            raise JobError(
                f"row {row} of {len(inputs)}, id {ids[row].as_py()!r}, projects to {what}; "
                "rerun tune"
            )
        projected.lengths.append(lengths)
        if keep:
            projected.tokens.append(tokens.reshape(len(tokens), -1))
    return projected


def _chunks(inputs: Floats, mapper: Mapper) -> Iterator[tuple[int, Floats]]:
    """First row and tokens (m, n_tokens, d_llm) of one chunk after the other."""
    for start in range(0, len(inputs), _CHUNK):
        with torch.inference_mode():
            yield start, mapper(torch.tensor(inputs[start : start + _CHUNK])).numpy()


def job(config: ProjectConfig, run: Run) -> None:
    """Project every kind that the prompt has; keep those that are to be tables."""
    said = token_config(run.locate(TOKEN_CONFIG))
    weights = run.read_tensors(TOKEN_WEIGHTS)
    weights_sha256 = next(one.sha256 for one in run.inputs if one.name == TOKEN_WEIGHTS.name)
    wanted = wanted_kinds(config.materialise)
    backbone = resolve(config.model, run.home.cache)
    _check_backbone(said["backbone"], backbone)
    norm = mean_embedding_norm(backbone)
    run.metric("embedding_norm", norm)
    norms = []
    for kind, facts in said["kinds"].items():
        mapper = _mapper(kind, facts, weights, backbone)
        is_materialised = kind in wanted
        check_readable(kind, facts, is_materialised=is_materialised)
        side = SIDES[kind]
        rows = run.read(side.inputs)
        if not has_rows(kind, facts):
            rows = rows.slice(0, 0)  # the LLM has never read what a row of theirs would make
        inputs = as_matrix(rows["input"])
        _check_width(side.inputs, inputs, mapper)
        with torch_threads(config.n_threads):
            made = project(rows[side.key], inputs, mapper, keep=is_materialised)
        if made.tokens:
            run.write(side.tokens, _table(side.key, rows[side.key], made, mapper, weights_sha256))
        norms.append(_norms(kind, made, mapper, norm, is_kept=bool(made.tokens)))
        _tell(run, side.tokens.name, norms[-1])
    run.write(TOKEN_NORMS, pa.Table.from_pylist(norms, schema=_NORMS))


def _check_backbone(said: Mapping[str, Any], backbone: BackboneFiles) -> None:
    if said.get("fingerprint") != backbone.fingerprint:
        raise JobError(
            f"the soft tokens were tuned in backbone {said.get('name')} "
            f"({str(said.get('fingerprint'))[:12]}...), not in {backbone.name} "
            f"({backbone.fingerprint[:12]}...); give project the --model that tune was given"
        )


def _mapper(
    kind: str, facts: Facts, weights: Mapping[str, Floats], backbone: BackboneFiles
) -> Mapper:
    """The mapper of one kind, if it and its unknown token fit the backbone."""
    mapper = mapper_of(facts, weights, kind).eval().requires_grad_(False)
    d_llm = hidden_size(backbone)
    if mapper.facts.d_llm != d_llm:
        raise JobError(
            f"the {kind} mapper maps into {mapper.facts.d_llm} dimensions, backbone "
            f"{backbone.name} has {d_llm}; give project the --model that tune was given"
        )
    unknown = weights.get(f"{kind}.unknown")
    size = mapper.facts.n_tokens * d_llm
    if unknown is None or unknown.size != size:
        found = "is not there" if unknown is None else f"has {unknown.size} numbers"
        raise JobError(f"tensor {kind}.unknown of token_weights {found}, not {size}; rerun tune")
    return mapper


def _check_width(dataset: Dataset, inputs: Floats, mapper: Mapper) -> None:
    if inputs.shape[1] != mapper.facts.d_in:
        raise JobError(
            f"{dataset.name} has inputs of {inputs.shape[1]} numbers, their mapper reads "
            f"{mapper.facts.d_in}; rerun tune"
        )


def _table(
    key: str, ids: pa.ChunkedArray, made: Projected, mapper: Mapper, weights_sha256: str
) -> pa.Table:
    """Columns of a table of tokens; its schema metadata says how to read and remake them."""
    metadata = {
        "n_tokens": str(mapper.facts.n_tokens),
        "d_llm": str(mapper.facts.d_llm),
        "scale": repr(mapper.scale.item()),
        "weights_sha256": weights_sha256,
    }
    tokens = as_column(np.concatenate(made.tokens))
    return pa.table({key: ids, "tokens": tokens}).replace_schema_metadata(metadata)


def _norms(
    kind: str, made: Projected, mapper: Mapper, embedding_norm: float, *, is_kept: bool
) -> dict[str, Any]:
    """The row of TOKEN_NORMS."""
    mean = made.mean_norm
    return {
        "kind": kind,
        "mapper": mapper.facts.mapper,
        "n_tokens": mapper.facts.n_tokens,
        "d_llm": mapper.facts.d_llm,
        "scale": mapper.scale.item(),
        "n_rows": made.n_rows,
        "is_materialised": is_kept,
        "mean_norm": mean,
        "norm_ratio": None if mean is None else mean / embedding_norm,
    }


def _tell(run: Run, name: str, norms: Mapping[str, Any]) -> None:
    run.metric(f"{name}_scale", norms["scale"])
    if (ratio := norms["norm_ratio"]) is None:
        return
    run.metric(f"{name}_norm_ratio", ratio)
    if not 1 / _FAR <= ratio <= _FAR:
        run.log.warning("not as long as tokens of text", tokens=name, norm_ratio=round(ratio, 3))


def sources(config: ProjectConfig, day: date, home: Home) -> Iterable[Path]:
    """The record of the backbone's fingerprint: another model under the same name is noticed."""
    return [resolve(config.model, home.cache).record]


DECLARED = Declared("project", ProjectConfig, job, sources=sources)

if __name__ == "__main__":
    main(DECLARED)
