"""A tuned system in use: backbone, LoRA, mappers and steering as `tune` left them, or a version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from jobs.datasets import (
    ITEM_TOKEN_INPUTS,
    TOKEN_CONFIG,
    TOKEN_WEIGHTS,
    TUNED_ADAPTER,
    USER_TOKEN_INPUTS,
    WARM_TOKEN_INPUTS,
)
from jobs.errors import JobError, SourceError
from jobs.job import Run
from jobs.llm.adapters import put_in
from jobs.llm.attention import suit_attention
from jobs.llm.backbone import Backbone
from jobs.llm.reading import Reader, ReadingConfig
from jobs.llm.scoring import Scorer
from jobs.llm.steering import steerable
from jobs.tokens.assembly import to_use
from jobs.tokens.inputs import TokenInputs
from jobs.tokens.soft_inputs import SoftInputs

Tensors = Mapping[str, NDArray[Any]]
FILES = {
    each.name: f"{each.name}.{each.format.value}"
    for each in (TOKEN_CONFIG, TOKEN_WEIGHTS, TUNED_ADAPTER)
}


class Published(Protocol):
    """What is asked of an opened version of the store."""

    version: int

    def file(self, name: str) -> Any:
        """Path of one of its files."""

    def __getitem__(self, table: str) -> Any:
        """One of its tables, with `table()`."""


@dataclass(frozen=True)
class TunedFiles:
    """All that `tune` made.

    Attributes:
        config: TOKEN_CONFIG.
        weights: TOKEN_WEIGHTS.
        adapter: TUNED_ADAPTER; empty without a LoRA.
        users, items, warm: USER_TOKEN_INPUTS, ITEM_TOKEN_INPUTS, WARM_TOKEN_INPUTS.
    """

    config: dict[str, Any]
    weights: Tensors
    adapter: Tensors
    users: pa.Table
    items: pa.Table
    warm: pa.Table

    @classmethod
    def of_run(cls, run: Run) -> TunedFiles:
        """What the day's `tune` made, read and recorded as inputs of `run`."""
        tables = map(run.read, (USER_TOKEN_INPUTS, ITEM_TOKEN_INPUTS, WARM_TOKEN_INPUTS))
        config = json.loads(run.locate(TOKEN_CONFIG).read_text(encoding="utf-8"))
        return cls(
            config, run.read_tensors(TOKEN_WEIGHTS), run.read_tensors(TUNED_ADAPTER), *tables
        )

    @classmethod
    def of_version(cls, version: Published) -> TunedFiles:
        """What a published version holds.

        Raises:
            SourceError: a file is not what its name says.
        """
        tables = [
            version[each.name].table()
            for each in (USER_TOKEN_INPUTS, ITEM_TOKEN_INPUTS, WARM_TOKEN_INPUTS)
        ]
        try:
            config = json.loads(version.file(FILES[TOKEN_CONFIG.name]).read_text(encoding="utf-8"))
            weights = load_file(version.file(FILES[TOKEN_WEIGHTS.name]))
            adapter = load_file(version.file(FILES[TUNED_ADAPTER.name]))
        except (OSError, ValueError, SafetensorError) as error:
            raise SourceError(
                f"version {version.version} holds no readable soft tokens ({error})"
            ) from error
        return cls(config, weights, adapter, *tables)

    @property
    def reading(self) -> ReadingConfig:
        """How prompts were packed in training, and are packed in use."""
        return ReadingConfig(**self.config["reading"])


class Tuned:
    """A backbone that has become the tuned one.

    Args:
        files: what `tune` made.
        backbone: as loaded; changed in place.

    Raises:
        JobError: it is another backbone than the one that was tuned.
    """

    def __init__(self, files: TunedFiles, backbone: Backbone) -> None:
        made_in = files.config["backbone"]
        if made_in["fingerprint"] != backbone.files.fingerprint:
            raise JobError(
                f"the soft tokens were tuned in backbone {made_in['name']} "
                f"({made_in['fingerprint'][:12]}...), not in {backbone.files.name} "
                f"({backbone.files.fingerprint[:12]}...); give the --model they were tuned in"
            )
        self.files, self.backbone = files, backbone
        if files.config["adapter"] is not None and files.adapter:
            put_in(backbone, files.config["adapter"], files.adapter)

    def reader(self, splits: pa.Table, histories: pa.Table, texts: pa.Table, noun: str) -> Reader:
        """Reads rows as they were read in training.

        Raises:
            JobError: the template has changed since.
        """
        config = self.files.config
        reader = Reader(
            splits,
            histories,
            texts,
            noun,
            self.backbone.tokenizer,
            self.files.reading,
            config["places"],
        )
        if reader.template.sha256 != config["template"]["sha256"]:
            raise JobError(
                f"template {config['template']['name']} has changed since the soft tokens were "
                "tuned with it; tune again, or give back the old template"
            )
        return reader

    def soft_inputs(self, reader: Reader) -> SoftInputs:
        """What the LLM is given beside the text of `reader`'s sequences; nothing learns."""
        chains, files = reader.chains(), self.files
        inputs = TokenInputs.of_tables(
            files.users, files.items, files.warm, chains.user_ids, chains.item_ids
        )
        soft = to_use(files.config["kinds"], files.weights, inputs, chains)
        return soft.to(next(self.backbone.model.parameters()).device).eval()

    @contextmanager
    def scorer(
        self,
        reader: Reader,
        batch_tokens: int,
        say: Callable[..., None] = lambda event, **figures: None,
    ) -> Iterator[Scorer]:
        """Scores sequences of `reader`; steered inside, where the version steers."""
        model, soft = self.backbone.model, self.soft_inputs(reader)
        multiple = suit_attention(model)
        with nullcontext() if soft.bias is None else steerable(model):
            yield Scorer(
                model,
                reader.answers,
                batch_tokens,
                multiple,
                say,
                conditions=soft,
            )
