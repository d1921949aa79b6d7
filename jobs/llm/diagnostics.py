"""What `diagnostics` asks an LLM: which rows, which passes, and the table of figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from jobs.job import Config
from jobs.llm.backbone import DEFAULT_BACKBONE, Backbone
from jobs.llm.probing import (
    Figure,
    Probe,
    Prompts,
    attention_mass,
    knockouts,
    logit_lens,
    windows,
)
from jobs.llm.reading import Reader
from jobs.llm.sequences import PackedSequence, refuse_too_long
from jobs.llm.steering import n_layers
from jobs.llm.token_kinds import QuestionShape, TokenKind, token_kinds
from jobs.llm.training import Rows
from jobs.progress import progress

_OF_A_USER = 10


class LookConfig(Config):
    """Which backbone is looked into, and at how many rows."""

    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
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
    seed: int = Field(default=0, ge=0, description="of the draw of users, and of what is shuffled")


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


def asked(reader: Reader, rows: Rows, backbone: Backbone, n: int, seed: int) -> Prompts:
    """Some of the rows, with the kind of each of their tokens.

    Args:
        reader: what read the rows.
        rows: of `RowPacking`.
        backbone: that will be asked.
        n: how many, see `drawn`.
        seed: of the draw.

    Raises:
        JobError: a prompt is longer than the backbone reads.
    """
    sequences = drawn(rows, n, seed)
    model: Any = backbone.model
    refuse_too_long(sequences, backbone.files.name, model.config)
    shape = QuestionShape.of(reader.template, backbone.tokenizer, reader.answers)
    kinds: list[NDArray[np.int64]] = [token_kinds(sequence, shape) for sequence in sequences]
    return Prompts(sequences, kinds, rows.labels, rows.users, rows.offsets)


def look(probe: Probe, prompts: Prompts, knockout_rows: int) -> list[Figure]:
    """Attention mass, logit lens, and knockouts on the first `knockout_rows` rows."""
    found = attention_mass(probe, prompts) + logit_lens(probe, prompts)
    if not knockout_rows:
        return found
    kinds = [kind for kind in prompts.present() if kind is not TokenKind.SINK]
    n_passes = len(kinds) * len(windows(n_layers(probe.model)))
    with progress("knockout", n_passes, "passes") as advance:
        return found + knockouts(probe, prompts.first(knockout_rows), kinds, advance)
