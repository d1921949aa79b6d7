"""Where the backbone looks, what it needs, and in which layer its answer forms."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from jobs.datasets import DOMAINS, HISTORIES, ITEM_TEXTS, LLM_DIAGNOSTICS, SPLITS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Run, main
from jobs.llm.adapters import find_adapter, load_adapter
from jobs.llm.backbone import DEFAULT_BACKBONE, load, resolve
from jobs.llm.probing import (
    Figure,
    Probe,
    Prompts,
    attention_mass,
    knockouts,
    logit_lens,
    windows,
)
from jobs.llm.prompts import template_record
from jobs.llm.reading import Reader, ReadingConfig
from jobs.llm.sequences import PackedSequence, refuse_too_long
from jobs.llm.steering import n_layers
from jobs.llm.token_kinds import QuestionShape, TokenKind, token_kinds
from jobs.llm.training import Rows
from jobs.progress import progress

_OF_A_USER = 10


class DiagnosticsConfig(ReadingConfig):
    """Attention mass by kind of token, knockout windows and logit lens, layer by layer."""

    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
    adapter: str | None = Field(
        default=None, description="a day on which adapt ran, or an adapter's folder"
    )
    packing: Literal["rows"] = Field(default="rows", description="one prompt a row")
    split: Literal["train", "valid", "test"] = Field(default="valid", description="which rows")
    n_rows: int = Field(
        default=512, gt=0, description="rows of users drawn at random, ten of a user at most"
    )
    knockout_rows: int = Field(
        default=128, ge=0, description="rows of a knockout pass; there are dozens; 0: none"
    )
    batch_tokens: int = Field(default=4_096, gt=0, description="of a batch, padding included")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="auto: bfloat16 where the hardware multiplies it, float32 elsewhere",
    )
    seed: int = Field(default=0, ge=0, description="of the draw of users")


def diagnostics_table(figures: Iterable[Figure]) -> pa.Table:
    """LLM_DIAGNOSTICS of the figures."""
    columns = list(zip(*figures, strict=True))
    types = {"first_layer": pa.int16(), "last_layer": pa.int16(), "value": pa.float64()}
    return pa.table(
        {
            name: pa.array(values, types.get(name, pa.string()))
            for name, values in zip(Figure._fields, columns, strict=True)
        }
    )


def job(config: DiagnosticsConfig, run: Run) -> None:
    """Look into the backbone while it answers rows of the day's splits."""
    probe, prompts = _prepared(config, run)
    run.metric("n_rows", len(prompts.sequences))
    found = attention_mass(probe, prompts) + logit_lens(probe, prompts)
    if config.knockout_rows:
        kinds = [kind for kind in prompts.present() if kind is not TokenKind.SINK]
        n_passes = len(kinds) * len(windows(n_layers(probe.model)))
        with progress("knockout", n_passes, "passes") as advance:
            found += knockouts(probe, prompts.first(config.knockout_rows), kinds, advance)
    run.write(LLM_DIAGNOSTICS, diagnostics_table(found))


def drawn(rows: Rows, n: int, seed: int) -> list[PackedSequence]:
    """Prompts of users in a random order, until there are `n`: random ones, ten of a user at most.

    Ten, so that UAUC has users with both labels, and no user has all.
    """
    chance = np.random.default_rng(seed)
    order = chance.permutation(len(rows.sequences))
    of_user: dict[int, list[PackedSequence]] = {}
    for number in order.tolist():
        sequence = rows.sequences[number]
        own = of_user.setdefault(int(rows.users[sequence.answer_row[0]]), [])
        if len(own) < _OF_A_USER:
            own.append(sequence)
    users = sorted(of_user)
    shuffled = [users[place] for place in chance.permutation(len(users))]
    return [sequence for user in shuffled for sequence in of_user[user]][:n]


def _prepared(config: DiagnosticsConfig, run: Run) -> tuple[Probe, Prompts]:
    splits, histories, texts, domains = map(run.read, (SPLITS, HISTORIES, ITEM_TEXTS, DOMAINS))
    backbone = load(resolve(config.model, run.home.cache), config.device, config.dtype)
    if config.adapter is not None:
        load_adapter(backbone, find_adapter(config.adapter, run.home))
    noun = domains["item_noun"][0].as_py()
    reader = Reader(splits, histories, texts, noun, backbone.tokenizer, config)
    rows = reader.rows(config.split)
    if not rows.sequences:
        raise JobError(f"--split {config.split}: {SPLITS.name} of {run.day} has no such rows")
    sequences = drawn(rows, config.n_rows, config.seed)
    refuse_too_long(sequences, backbone.files.name, backbone.model.config)
    shape = QuestionShape.of(reader.template, backbone.tokenizer, reader.answers)
    kinds = [token_kinds(sequence, shape) for sequence in sequences]
    prompts = Prompts(sequences, kinds, rows.labels, rows.users)
    return Probe(backbone.model, reader.answers, batch_tokens=config.batch_tokens), prompts


def sources(config: DiagnosticsConfig, day: date, home: Home) -> Iterable[Path]:
    """The record of the backbone's fingerprint, the template, and the adapter."""
    files = [
        resolve(config.model, home.cache).record,
        template_record(config.template, home.cache),
    ]
    if config.adapter is not None:
        files += find_adapter(config.adapter, home).sources
    return files


if __name__ == "__main__":
    main("diagnostics", DiagnosticsConfig, job, sources=sources)
