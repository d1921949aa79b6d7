"""Items to labels that people wrote: a codebook of words, read by the LLM that reads the items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from jobs.codebook.audit import code_entropy, top_members
from jobs.codebook.tables import about_table, item_codes_table
from jobs.datasets import ITEM_LABELS, ITEM_SEMANTICS, ITEM_TEXTS, LABEL_CODEBOOK
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Declared, Run, main
from jobs.llm import distil
from jobs.llm.backbone import DEFAULT_BACKBONE
from jobs.llm.distil import SPACE, DistilConfig, Pooling, Reader
from jobs.llm.embedding import distil as states_of
from jobs.llm.embedding import tokenize
from jobs.llm.isotropy import top_directions
from jobs.llm.label_words import VOCABULARIES
from jobs.vector_columns import as_column, as_matrix

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class LabelsConfig(Config):
    """Labels of style, emotion and theme: each item gets the one of each that fits it best."""

    model: str = Field(default=DEFAULT_BACKBONE, description="the backbone that read the items")
    adapter: str | None = Field(default=None, description="its adapter, as distil had it")
    batch_tokens: int = Field(default=1_024, gt=0, description="tokens of a batch")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="as distil had it"
    )
    n_titles: int = Field(default=5, ge=0, description="items that show what a label drew")


@dataclass(frozen=True)
class Labelled:
    """Items by label.

    Attributes:
        codes: (n_items, n_levels) the label of each vocabulary that fits best.
        scores: (n_items, n_levels, n_codes) how well each fits, in standard deviations.
    """

    codes: Ints
    scores: Floats


def label_directions(raw: Floats, raw_items: Floats, n_components: int) -> Floats:
    """(n, d) unit vectors of labels, beside `item_semantics.vector`.

    Labels are shorter than items and none is the name of anything, so they have a mean of their
    own, and lose it. The directions that items lost are the items'.

    Args:
        raw: (n, d) hidden states of the labels.
        raw_items: (n_items, d) hidden states of the items.
        n_components: principal components that the items' vectors lost.
    """
    rest = raw.astype(np.float64) - raw.mean(axis=0, dtype=np.float64)
    top = top_directions(raw_items, n_components)
    rest -= (rest @ top) @ top.T
    length = np.linalg.norm(rest, axis=1, keepdims=True)
    return np.divide(rest, length, out=np.zeros_like(rest), where=length > 0).astype(np.float32)


def labelled(vectors: Floats, labels: Floats) -> Labelled:
    """The label of each vocabulary that fits an item best, and by how much.

    A label's cosines are taken in standard deviations over the items: a label that is near to
    everything would otherwise win everywhere. Of equals the first wins.

    Args:
        vectors: (n_items, d) unit vectors.
        labels: (n_levels, n_codes, d) unit vectors.
    """
    cosines = np.stack([vectors @ of_level.T for of_level in labels], axis=1)
    spread = cosines.std(axis=0, dtype=np.float64)
    centred = cosines - cosines.mean(axis=0, dtype=np.float64)
    scores = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-9)
    return Labelled(scores.argmax(axis=2), scores.astype(np.float32))


# -- the job -------------------------------------------------------------------------------------


def _reader(config: LabelsConfig, space: Mapping[str, Any], home: Home) -> Reader:
    """What read the items.

    Raises:
        JobError: the backbone, its adapter or its number format are others.
    """
    by = distil.reader(_as_distil(config, space), home)
    is_now = {
        "fingerprint": by.backbone.files.fingerprint,
        "adapter": by.adapter_fingerprint,
        "dtype": by.dtype,
    }
    for name, value in is_now.items():
        if space[name] != value:
            raise JobError(
                f"the labels would lie in another space than {ITEM_SEMANTICS.name}: its {name} is "
                f"{space[name]}, that of --model {config.model} is {value}; give --model, "
                "--adapter and --dtype as distil had them"
            )
    return by


def _as_distil(config: LabelsConfig, space: Mapping[str, Any]) -> DistilConfig:
    return DistilConfig(
        model=config.model,
        adapter=config.adapter,
        pooling=Pooling(space["pooling"]),
        max_tokens=space["max_tokens"],
        batch_tokens=config.batch_tokens,
        device=config.device,
        dtype=config.dtype,
    )


def prompts(vocabularies: Mapping[str, Sequence[str]], template: str | None) -> list[str]:
    """The labels as the items were read ("Movie: {title}"), vocabulary after vocabulary."""
    form = template or "{title}"
    return [form.replace("{title}", word) for words in vocabularies.values() for word in words]


def label_table(labels: Floats, found: Labelled, titles: pa.ChunkedArray, n_shown: int) -> pa.Table:
    """LABEL_CODEBOOK: one row a vocabulary and word."""
    n_levels, n_codes = labels.shape[:2]
    best = np.take_along_axis(found.scores, found.codes[:, :, None], axis=2)[:, :, 0]
    shown = top_members(found.codes, -best, n_codes, n_shown)
    words = {
        "vocabulary": [name for name, of_name in VOCABULARIES.items() for _ in of_name],
        "label": [word for of_name in VOCABULARIES.values() for word in of_name],
    }
    flat = labels.reshape(n_levels * n_codes, -1)
    return about_table(found.codes, n_codes, {**words, "lifted": as_column(flat)}, titles, shown)


def job(config: LabelsConfig, run: Run) -> None:
    """Embed the labels as the items were, and give each item its labels."""
    semantics = run.read(ITEM_SEMANTICS)
    space = json.loads(semantics.schema.metadata[SPACE])
    by = _reader(config, space, run.home)
    tokens = tokenize(
        prompts(VOCABULARIES, space["template"]), by.backbone.tokenizer, by.config.max_tokens
    )
    raw = states_of(tokens.ids, by.backbone.model, by.config.pooling, config.batch_tokens)
    flat = label_directions(raw, as_matrix(semantics["raw"]), space["post"]["removed_components"])
    labels = flat.reshape(len(VOCABULARIES), -1, flat.shape[1])
    found = labelled(as_matrix(semantics["vector"]), labels)
    items, texts = semantics["item_id"].combine_chunks(), run.read(ITEM_TEXTS)
    titles = texts["title"].take(pc.index_in(items, value_set=texts["item_id"].combine_chunks()))
    about = {"n_levels": labels.shape[0], "n_codes": labels.shape[1], "template": space["template"]}
    run.write(ITEM_LABELS, item_codes_table(items, found.codes, about))
    run.write(LABEL_CODEBOOK, label_table(labels, found, titles, config.n_titles))
    for level, name in enumerate(VOCABULARIES):
        counts = np.bincount(found.codes[:, level], minlength=labels.shape[1])
        run.metric(f"entropy_bits_{name}", code_entropy(counts))
        run.metric(f"dead_labels_{name}", int((counts == 0).sum()))


def sources(config: LabelsConfig, day: date, home: Home) -> list[Path]:
    """The backbone's record and the adapter's files, as `distil.sources`."""
    as_distil = DistilConfig(model=config.model, adapter=config.adapter)
    return list(distil.sources(as_distil, day, home))


DECLARED = Declared("labels", LabelsConfig, job, sources=sources)

if __name__ == "__main__":
    main(DECLARED)
