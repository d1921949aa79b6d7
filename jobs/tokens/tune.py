"""Soft tokens tuned on the click-through task: SeLLa-Rec's stage 3, SAILRec's joint tuning."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import nn

from jobs.datasets import (
    CONTROL_LOGITS,
    DOMAINS,
    HISTORIES,
    ITEM_FACTORS,
    ITEM_SEMANTICS,
    ITEM_TEXTS,
    ITEM_TOKEN_INPUTS,
    PROJECTORS,
    SPLITS,
    TOKEN_CONFIG,
    TOKEN_WEIGHTS,
    TUNE_CURVE,
    TUNE_VALID,
    TUNED_ADAPTER,
    USER_FACTORS,
    USER_TOKEN_INPUTS,
    WARM_TOKEN_INPUTS,
)
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Declared, Run
from jobs.llm.adapters import AdapterFiles, find_adapter, load_adapter
from jobs.llm.attention import suit_attention
from jobs.llm.backbone import Backbone, chosen_device, load, mean_embedding_norm, resolve
from jobs.llm.course import Fitted
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
from jobs.llm.lora import assign, chosen_targets, inject, peft_config
from jobs.llm.processes import ALONE, Processes, from_environment
from jobs.llm.prompts import template_record
from jobs.llm.reading import Reader, refuse_untrainable
from jobs.llm.sequences import refuse_too_long
from jobs.llm.steering import n_layers, steerable
from jobs.llm.together import lead_or_follow
from jobs.llm.training import Group, Rows, Trainer
from jobs.tokens.assembly import first_bias, first_mappers, kept_tensors, kind_facts, to_train
from jobs.tokens.initial import begin_at, find_tokens
from jobs.tokens.inputs import NightTables, TokenInputs, token_inputs
from jobs.tokens.joint import joint_penalty, warm_up_all
from jobs.tokens.projector import Projector
from jobs.tokens.soft_inputs import SoftInputs
from jobs.tokens.targets import read_targets
from jobs.tokens.tune_config import PRESETS, TuneConfig

Floats = NDArray[np.float32]

_SINGLE_RATE = 0.1  # share of the learning rate of single tokens and numbers


@dataclass(frozen=True)
class Prepared:
    """A backbone, its soft inputs, and the rows to learn from and to stop on.

    Attributes:
        learned: what moves: the LoRA by peft's names, soft inputs by `soft.<name>`.
        adapter: peft's description of the LoRA; None without one.
        adapter_tensors: of a frozen LoRA, which the backbone may have swallowed.
        figures: of the contrastive warm-up.
    """

    backbone: Backbone
    reader: Reader
    inputs: TokenInputs
    soft: SoftInputs
    learned: dict[str, nn.Parameter]
    lora: dict[str, nn.Parameter]
    adapter: dict[str, Any] | None
    adapter_tensors: dict[str, Floats]
    train: Rows
    valid: Rows
    figures: dict[str, float]

    def trainer(self, config: TuneConfig, log: Any, processes: Processes = ALONE) -> Trainer:
        """What moves the weights."""
        return Trainer(
            self.backbone.model,
            self.learned,
            self.reader.answers,
            config,
            processes,
            say=log.warning,
            conditions=self.soft,
            groups=_groups(self.learned, config),
        )


def _groups(learned: dict[str, nn.Parameter], config: TuneConfig) -> dict[str, Group]:
    """How each weight moves.

    A mapper's matrix takes steps in proportion to its size. Where factors are short, its first
    weights are a hundredth of a fresh layer's, and full steps would make tokens of any length.
    """
    groups = {}
    for name, weight in learned.items():
        if not name.startswith("soft."):
            groups[name] = Group(config.adapter_rate)
        elif name.startswith("soft.tables."):
            groups[name] = Group(config.inputs_rate, decays=False)
        elif name.startswith("soft.bias."):
            groups[name] = Group(config.steering_rate, decays=False)
        elif name.startswith("soft.unknown.") or name.endswith("scale"):
            groups[name] = Group(_SINGLE_RATE, decays=False)
        else:
            # A layer's bias as its weights: it is added to what they make.
            matrix = learned.get(re.sub(r"bias$", "weight", name), weight)
            groups[name] = Group(_relative_size(matrix), decays=weight.dim() > 1)
    return groups


def _relative_size(matrix: nn.Parameter) -> float:
    """Root mean square of the weights, 1 for those of a fresh layer; never more."""
    size = float(matrix.detach().square().mean().sqrt()) * matrix.shape[-1] ** 0.5
    return min(1.0, size)


def prepare(config: TuneConfig, run: Run, processes: Processes = ALONE) -> Prepared:
    """Read the day's tables, load the backbone with its LoRA and make the soft inputs.

    Raises:
        JobError: nothing to learn from, or factors, adapter and backbone that do not fit.
    """
    splits, histories, texts, domains = map(run.read, (SPLITS, HISTORIES, ITEM_TEXTS, DOMAINS))
    night = NightTables(splits, *map(run.read, (USER_FACTORS, ITEM_FACTORS, ITEM_SEMANTICS)))
    projector = Projector.of(run.read_tensors(PROJECTORS))
    device = chosen_device(config.device)
    if device.type == "cuda" and device.index is None:
        device = chosen_device(f"cuda:{processes.local_rank}")
    backbone = load(resolve(config.model, run.home.cache), str(device), config.dtype)
    noun = domains["item_noun"][0].as_py()
    reader = Reader(splits, histories, texts, noun, backbone.tokenizer, config, config.places())
    train, valid = _rows(config, run, reader, splits)
    model: Any = backbone.model
    refuse_too_long([*train.sequences, *valid.sequences], backbone.files.name, model.config)
    adapter, tensors, lora = _adapter(config, run, backbone)
    chains = reader.chains()
    inputs = token_inputs(night, chains.user_ids, chains.item_ids, config)
    norm = mean_embedding_norm(backbone.files)
    d_llm = int(model.get_input_embeddings().weight.shape[1])
    mappers = first_mappers(config, inputs, projector, d_llm, norm, config.seed)
    soft = to_train(config, inputs, chains, mappers, first_bias(config, model, config.seed))
    soft = soft.to(device)
    figures = _align(config, run, soft, inputs, norm)
    if config.init_tokens is not None:
        begin_at(soft, find_tokens(config.init_tokens, run.home))
    learned = {**lora, **_learned(soft)}
    if not learned:
        raise JobError(f"--learn {config.learn}: nothing learns; name a kind that the prompt has")
    return Prepared(
        backbone, reader, inputs, soft, learned, lora, adapter, tensors, train, valid, figures
    )


def _align(
    config: TuneConfig, run: Run, soft: SoftInputs, inputs: TokenInputs, mean_norm: float
) -> dict[str, float]:
    """Warm the mappers up, and hold them to their targets from then on; figures of the warm-up."""
    targets, found = None, {}
    if config.profiles != "none":
        targets = read_targets(
            run,
            config.profiles,
            inputs.user_ids,
            inputs.item_ids,
            config.user_tokens,
            permuted_seed=config.seed if config.permuted_profiles else None,
        )
    if targets is not None and config.warm_up_epochs:
        found = warm_up_all(soft, targets, config.warm_up_epochs, mean_norm, config.seed)
    penalty = joint_penalty(config, targets)
    soft.extra = None if penalty is None else penalty.to(next(soft.parameters()).device)
    return found


def _learned(soft: SoftInputs) -> dict[str, nn.Parameter]:
    return {f"soft.{name}": w for name, w in soft.named_parameters() if w.requires_grad}


def _rows(config: TuneConfig, run: Run, reader: Reader, splits: pa.Table) -> tuple[Rows, Rows]:
    """Train and valid rows, with the control's logits where they are learned on top of."""
    offsets = None
    if config.offset == "control":
        control = run.read(CONTROL_LOGITS)
        offsets = control_offsets(splits, control, frozen=config.valid_history == "frozen")
    train = reader.rows("train", offsets=offsets)
    refuse_untrainable(train)
    valid = reader.rows(
        "valid",
        history=config.valid_history,
        n_rows=config.valid_rows,
        seed=config.seed,
        offsets=offsets,
    )
    return train, valid


def control_offsets(splits: pa.Table, control: pa.Table, *, frozen: bool = False) -> Floats:
    """(n_rows of SPLITS,) the control's logit of each.

    Args:
        splits: SPLITS.
        control: CONTROL_LOGITS.
        frozen: what the control says by histories that end where a row's split begins.

    Raises:
        JobError: it lacks some.
    """
    keyed = splits.select(["split", "row"]).append_column(
        "place", pa.array(np.arange(splits.num_rows))
    )
    joined = keyed.join(control, keys=["split", "row"], join_type="inner")
    if joined.num_rows < splits.num_rows:
        raise JobError(
            f"control_logits know {joined.num_rows} of {splits.num_rows} rows; run the job "
            "`control` again for this day"
        )
    # Of train rows there is one logit: they are seen as they came.
    logits = pc.coalesce(joined["frozen_logit"], joined["logit"]) if frozen else joined["logit"]
    offsets = np.empty(splits.num_rows, np.float32)
    offsets[joined["place"].to_numpy()] = logits.to_numpy()
    return offsets


def _adapter(
    config: TuneConfig, run: Run, backbone: Backbone
) -> tuple[dict[str, Any] | None, dict[str, Floats], dict[str, nn.Parameter]]:
    """The LoRA: its description, its tensors, and what of it learns."""
    given = None if config.adapter is None else find_adapter(config.adapter, run.home)
    if not config.train_adapter:
        if given is None:
            return None, {}, {}
        load_adapter(backbone, given)
        return _described(given), given.tensors(), {}
    if given is not None:
        rank, alpha = given.rank, float(given.config["lora_alpha"])
        targets = list(given.config["target_modules"])
    else:
        rank, alpha = config.rank, config.alpha
        targets = chosen_targets(backbone.model, config.targets)
    lora = inject(
        backbone.model, rank=rank, alpha=alpha, dropout=0.0, targets=targets, seed=config.seed
    )
    if given is not None:
        assign(lora, given.tensors())
    return peft_config(backbone.files.name, rank, alpha, 0.0, targets), {}, lora


def _described(adapter: AdapterFiles) -> dict[str, Any]:
    kept = ("peft_type", "r", "lora_alpha", "target_modules", "bias")
    return {key: adapter.config[key] for key in kept if key in adapter.config}


# -- the outputs ---------------------------------------------------------------------------------


def token_config(prepared: Prepared, config: TuneConfig, fitted: Fitted) -> dict[str, Any]:
    """TOKEN_CONFIG: all that scoring must know beside the tensors."""
    files = prepared.backbone.files
    return {
        "backbone": {
            "name": files.name,
            "fingerprint": files.fingerprint,
            "tokenizer_sha256": files.tokenizer_sha256,
        },
        "adapter": prepared.adapter,
        **prepared.reader.facts(),
        "places": config.places(),
        "kinds": kind_facts(prepared.soft),
        "steering": {
            "schedule": config.steering,
            "suppress": config.suppress,
            "enhance": config.enhance,
            "learned": config.steering_bias,
        },
        "offset": config.offset,
        "preset": config.preset,
        "seed": config.seed,
        "best_step": fitted.course.best_step,
    }


def _keep_best(prepared: Prepared, fitted: Fitted) -> None:
    """Give the weights the values of the best step."""
    with torch.no_grad():
        for name, weight in prepared.learned.items():
            if name in fitted.course.best:
                weight.copy_(fitted.course.best[name])


def _final_inputs(prepared: Prepared) -> TokenInputs:
    """The inputs as they are after training."""
    tables = {kind: w.detach().cpu().numpy().copy() for kind, w in prepared.soft.tables.items()}
    names = {"user": "users", "item": "items", "warm": "warm"}
    return replace(prepared.inputs, **{names[kind]: table for kind, table in tables.items()})


def _write(
    run: Run, prepared: Prepared, config: TuneConfig, fitted: Fitted, valid_logits: Floats, key: str
) -> None:
    described = token_config(prepared, config, fitted)
    weights = kept_tensors(prepared.soft, n_layers(prepared.backbone.model))
    adapter = {
        **prepared.adapter_tensors,
        **{name: w.detach().float().cpu().numpy().copy() for name, w in prepared.lora.items()},
    }
    users, items, warm = _final_inputs(prepared).tables()
    run.write_text(TOKEN_CONFIG, json.dumps(described, indent=1, sort_keys=True) + "\n")
    run.write_tensors(TOKEN_WEIGHTS, weights)
    run.write_tensors(TUNED_ADAPTER, adapter)
    run.write(USER_TOKEN_INPUTS, users)
    run.write(ITEM_TOKEN_INPUTS, items)
    run.write(WARM_TOKEN_INPUTS, warm)
    run.write(TUNE_CURVE, curve_table(TUNE_CURVE, fitted.course.curve))
    run.write(TUNE_VALID, _valid_table(prepared.valid, valid_logits))
    sha256 = hashlib.sha256(save(weights) + save(adapter)).hexdigest()
    run.result = {
        "tokens": sha256_json({"config": described, "tensors": sha256}),
        "checkpoints": key,
    }


def _valid_table(valid: Rows, logits: Floats) -> pa.Table:
    """TUNE_VALID: rows that training stopped on."""
    at = np.flatnonzero(~np.isnan(logits))
    offsets = np.zeros(len(at)) if valid.offsets is None else valid.offsets[at]
    return pa.table(
        {
            "split": pa.repeat("valid", len(at)),
            "row": pa.array(valid.numbers[at].astype(np.int32)),
            "logit": pa.array(logits[at].astype(np.float32)),
            "offset": pa.array(offsets.astype(np.float32)),
        }
    )


# -- the job -------------------------------------------------------------------------------------


@contextmanager
def steered(prepared: Prepared) -> Iterator[None]:
    """The backbone takes a bias inside, if there is one."""
    if prepared.soft.bias is None:
        yield
        return
    suit_attention(prepared.backbone.model)
    with steerable(prepared.backbone.model):
        yield


def job(config: TuneConfig, run: Run) -> None:
    """Tune the soft tokens of the day; write the weights with the best valid AUC."""
    processes = from_environment()
    prepared = prepare(config, run, processes)
    key = sha256_json(
        {
            "config": config.model_dump(mode="json"),
            "inputs": {each.name: each.sha256 for each in run.inputs},
            "backbone": prepared.backbone.files.fingerprint,
            "adapter": prepared.adapter,
            "template": prepared.reader.template.sha256,
        }
    )[:16]
    train, valid = prepared.train, prepared.valid
    with steered(prepared):
        trainer = prepared.trainer(config, run.log, processes)
        if processes.is_first:
            say_what(run, trainer, prepared.backbone.files, train, valid)
        fitted = fit_and_tell(run, trainer, train, valid, config, checkpoints_of(run, key))
        _keep_best(prepared, fitted)
        logits = trainer.score(valid)
    if processes.is_first:
        _write(run, prepared, config, fitted, logits, key)
        measure(run, trainer, train, fitted)
        for name, value in prepared.figures.items():
            run.metric(name, value)
        forget_others(run, key)


def estimate(config: TuneConfig, run: Run) -> dict[str, Any]:
    """Tokens, memory and time to expect, from a few steps of the real work."""
    prepared = prepare(config, run)
    with steered(prepared):
        trainer = prepared.trainer(config, run.log)
        return estimate_of(trainer, prepared.train, prepared.valid, config)


def sources(config: TuneConfig, day: date, home: Home) -> Iterable[Path]:
    """The records of backbone and template, the preset, and the adapter."""
    files = [
        resolve(config.model, home.cache).record,
        template_record(config.template, home.cache),
    ]
    if config.preset is not None:
        named = Path(config.preset)
        files.append(named if named.suffix == ".toml" else PRESETS / f"{config.preset}.toml")
    if config.adapter is not None:
        files += find_adapter(config.adapter, home).sources
    if config.init_tokens is not None:
        files += find_tokens(config.init_tokens, home).sources
    return files


DECLARED = Declared("tune", TuneConfig, job, sources=sources, estimate=estimate)


def command() -> None:
    """The job's command line, alone or as one of several processes."""
    lead_or_follow(DECLARED)


if __name__ == "__main__":
    command()
