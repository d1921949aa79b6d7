"""LoRA on the click-through task: the backbone learns to answer Yes or No about the next item."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from safetensors.numpy import save
from torch import nn

from jobs.datasets import (
    ADAPT_CURVE,
    ADAPTER,
    ADAPTER_CONFIG,
    DOMAINS,
    HISTORIES,
    ITEM_TEXTS,
    SPLITS,
)
from jobs.home import Home
from jobs.job import Declared, Run
from jobs.llm.adapters import OURS, check_backbone, find_adapter
from jobs.llm.backbone import DEFAULT_BACKBONE, Backbone, chosen_device, load, resolve
from jobs.llm.course import CourseConfig, Fitted
from jobs.llm.course_job import (
    checkpoints_of,
    curve_table,
    fit_and_tell,
    forget_others,
    measure,
    say_what,
)
from jobs.llm.estimate import estimate_of
from jobs.llm.fingerprint import sha256_json
from jobs.llm.lora import ALL_LINEAR, assign, chosen_targets, inject, peft_config
from jobs.llm.processes import ALONE, Processes, from_environment
from jobs.llm.prompts import template_record
from jobs.llm.reading import Reader, ReadingConfig, refuse_untrainable
from jobs.llm.sequences import refuse_too_long
from jobs.llm.together import lead_or_follow
from jobs.llm.training import Rows, Trainer

Arrays = Mapping[str, np.ndarray]


class AdaptConfig(ReadingConfig, CourseConfig):
    """LoRA in a frozen backbone, trained on l_yes - l_no at every answer of packed sequences.

    The defaults suit a CPU and a small backbone. A 7B model on a GPU takes the same flags and
    --model, --batch-tokens 16384, --gradient-checkpointing; several GPUs: torchrun
    --nproc-per-node 8 -m jobs.llm.adapt ... A killed run goes on from its last checkpoint when the
    same command is given again. The adapter's id is its day, an argument of distil and llm_scores.
    """

    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
    rank: int = Field(default=16, gt=0, description="columns of B, rows of A")
    alpha: float = Field(default=32.0, gt=0, description="B A is multiplied by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of what A reads")
    targets: str = Field(
        default=ALL_LINEAR, description="all-linear, or names of layers: q_proj,v_proj"
    )
    init_adapter: str | None = Field(
        default=None, description="go on from this adapter: a day of adapt, or a folder"
    )
    valid_rows: int = Field(
        default=0, ge=0, description="valid rows to stop on, of users drawn at random; 0: all"
    )
    valid_history: Literal["online", "frozen"] = Field(
        default="online", description="frozen: valid rows see the positives of train alone"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the backbone; auto: bfloat16 where the hardware multiplies it",
    )


@dataclass(frozen=True)
class Prepared:
    """A backbone with weights that learn, and the rows to learn from and to stop on."""

    backbone: Backbone
    reader: Reader
    learned: dict[str, nn.Parameter]
    targets: list[str]
    train: Rows
    valid: Rows
    init_fingerprint: str | None

    def trainer(self, config: AdaptConfig, log: Any, processes: Processes = ALONE) -> Trainer:
        """What moves the weights."""
        return Trainer(
            self.backbone.model,
            self.learned,
            self.reader.answers,
            config,
            processes,
            say=log.warning,
        )


def prepare(config: AdaptConfig, run: Run, processes: Processes = ALONE) -> Prepared:
    """Read the day's rows, load the backbone and put the adapter into it.

    Raises:
        JobError: nothing to learn from, an adapter of another backbone, no Yes in the vocabulary.
    """
    tables = {each.name: run.read(each) for each in (SPLITS, HISTORIES, ITEM_TEXTS, DOMAINS)}
    device = chosen_device(config.device)
    if device.type == "cuda" and device.index is None:
        device = chosen_device(f"cuda:{processes.local_rank}")
    backbone = load(resolve(config.model, run.home.cache), str(device), config.dtype)
    reader = Reader(
        tables[SPLITS.name],
        tables[HISTORIES.name],
        tables[ITEM_TEXTS.name],
        tables[DOMAINS.name]["item_noun"][0].as_py(),
        backbone.tokenizer,
        config,
    )
    train = reader.rows("train")
    refuse_untrainable(train)
    valid = reader.rows(
        "valid", history=config.valid_history, n_rows=config.valid_rows, seed=config.seed
    )
    refuse_too_long(
        [*train.sequences, *valid.sequences], backbone.files.name, backbone.model.config
    )
    learned, targets, init_fingerprint = _with_adapter(backbone, config, run.home)
    return Prepared(backbone, reader, learned, targets, train, valid, init_fingerprint)


def _with_adapter(
    backbone: Backbone, config: AdaptConfig, home: Home
) -> tuple[dict[str, nn.Parameter], list[str], str | None]:
    targets = chosen_targets(backbone.model, config.targets)
    learned = inject(
        backbone.model,
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        targets=targets,
        seed=config.seed,
    )
    if config.init_adapter is None:
        return learned, targets, None
    initial = find_adapter(config.init_adapter, home)
    check_backbone(initial, backbone.files)
    tensors = initial.tensors()
    # What counts is scale * B A: an adapter of another alpha is the same with another B.
    factor = np.float32(initial.scale / (config.alpha / config.rank))
    assign(learned, {k: t * factor if "lora_B" in k else t for k, t in tensors.items()})
    return learned, targets, initial.fingerprint


# -- the outputs ---------------------------------------------------------------------------------


def adapter_config(prepared: Prepared, config: AdaptConfig, fitted: Fitted) -> dict[str, Any]:
    """adapter_config.json as peft reads it; what it has no field for is under `tidemark`."""
    files = prepared.backbone.files
    return {
        **peft_config(files.name, config.rank, config.alpha, config.dropout, prepared.targets),
        OURS: {
            "backbone": {
                "name": files.name,
                "fingerprint": files.fingerprint,
                "tokenizer_sha256": files.tokenizer_sha256,
            },
            **prepared.reader.facts(),
            "continued_from": prepared.init_fingerprint,
            "best_step": fitted.course.best_step,
            "seed": config.seed,
        },
    }


def _write(run: Run, prepared: Prepared, config: AdaptConfig, fitted: Fitted, key: str) -> None:
    course = fitted.course
    tensors = {name: tensor.float().numpy() for name, tensor in course.best.items()}
    described = adapter_config(prepared, config, fitted)
    run.write_tensors(ADAPTER, tensors)
    run.write_text(ADAPTER_CONFIG, json.dumps(described, indent=1, sort_keys=True) + "\n")
    run.write(ADAPT_CURVE, curve_table(ADAPT_CURVE, course.curve))
    run.result = {"adapter": _fingerprint(described, tensors), "checkpoints": key}


def _fingerprint(described: dict[str, Any], tensors: Arrays) -> str:
    """As `find_adapter` computes it from the files."""
    sha256 = hashlib.sha256(save(dict(tensors))).hexdigest()
    return sha256_json({"config": described, "tensors": sha256})


# -- the job -------------------------------------------------------------------------------------


def job(config: AdaptConfig, run: Run) -> None:
    """Adapt the backbone to the day's train rows; write the weights with the best valid AUC."""
    processes = from_environment()
    prepared = prepare(config, run, processes)
    files = prepared.backbone.files
    key = sha256_json(
        {
            "config": config.model_dump(mode="json"),
            "inputs": {each.name: each.sha256 for each in run.inputs},
            "backbone": files.fingerprint,
            "init_adapter": prepared.init_fingerprint,
            "template": prepared.reader.template.sha256,
        }
    )[:16]
    train, valid = prepared.train, prepared.valid
    trainer = prepared.trainer(config, run.log, processes)
    if processes.is_first:
        say_what(run, trainer, files, train, valid)
    fitted = fit_and_tell(run, trainer, train, valid, config, checkpoints_of(run, key))
    if processes.is_first:
        _write(run, prepared, config, fitted, key)
        measure(run, trainer, train, fitted)
        forget_others(run, key)


def estimate(config: AdaptConfig, run: Run) -> dict[str, Any]:
    """Tokens, memory and time to expect, from a few steps of the real work."""
    prepared = prepare(config, run)
    return estimate_of(prepared.trainer(config, run.log), prepared.train, prepared.valid, config)


def sources(config: AdaptConfig, day: date, home: Home) -> Iterable[Path]:
    """The records of backbone and template, and the adapter to go on from."""
    files = [
        resolve(config.model, home.cache).record,
        template_record(config.template, home.cache),
    ]
    if config.init_adapter is not None:
        files += find_adapter(config.init_adapter, home).sources
    return files


DECLARED = Declared("adapt", AdaptConfig, job, sources=sources, estimate=estimate)


def command() -> None:
    """The job's command line, alone or as one of several processes."""
    lead_or_follow(DECLARED)


if __name__ == "__main__":
    command()
