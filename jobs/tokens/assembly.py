"""Soft inputs put together: from a night's tables to train, from their tensors to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.errors import JobError
from jobs.llm.events import Events
from jobs.llm.steering import (
    Bias,
    FixedBias,
    FreeBias,
    Schedule,
    SignedBias,
    n_layers,
    scheduled_bias,
)
from jobs.tokens.inputs import N_COUNTS, TokenInputs
from jobs.tokens.mappers import (
    Mapper,
    MapperFacts,
    MlpMapper,
    mapper_of,
    random_mapper,
)
from jobs.tokens.projector import Projector
from jobs.tokens.soft_inputs import KINDS, SoftInputs
from jobs.tokens.tune_config import LearningConfig, SteeringConfig, TokensConfig

Floats = NDArray[np.float32]
Tensors = Mapping[str, Floats]

STEERING = "steering"


# -- to train ------------------------------------------------------------------------------------


def first_mappers(
    config: TokensConfig,
    inputs: TokenInputs,
    projector: Projector,
    d_llm: int,
    mean_norm: float,
    seed: int,
) -> dict[str, Mapper]:
    """A mapper for each kind of token, its tokens as long as the LLM's own.

    Args:
        config: which kinds, and what they begin as.
        inputs: what they will read.
        projector: of `align`, into the same LLM's space.
        d_llm: hidden size of the backbone.
        mean_norm: mean length of the backbone's token embeddings.
        seed: of what is random.
    """
    random = torch.Generator().manual_seed(seed)
    mappers: dict[str, Mapper] = {}
    n_extra = N_COUNTS if config.counts else 0
    for kind in config.kinds:
        if kind == "warm":
            mappers[kind] = random_mapper(_linear_facts(inputs.warm.shape[1], d_llm), random)
        elif kind == "item" and _is_shared(config):
            mappers[kind] = mappers["user"]
        else:
            mappers[kind] = _first(config, kind, inputs, projector, n_extra, d_llm, random)
    for kind, mapper in mappers.items():
        if not (kind == "item" and mapper is mappers.get("user")):
            mapper.match_norm(_known(inputs, kind), mean_norm)
            mapper.fold_scale()
    return mappers


def _is_shared(config: TokensConfig) -> bool:
    alike = config.user_tokens == 1 and config.user_mapper == "mlp"
    return config.shared_projector and alike and "user" in config.kinds


def _linear_facts(d_in: int, d_llm: int) -> MapperFacts:
    return MapperFacts(mapper="linear", d_in=d_in, n_tokens=1, d_llm=d_llm)


def _first(
    config: TokensConfig,
    kind: str,
    inputs: TokenInputs,
    projector: Projector,
    n_extra: int,
    d_llm: int,
    random: torch.Generator,
) -> Mapper:
    n_tokens = config.user_tokens if kind == "user" else 1
    mapper = config.user_mapper if kind == "user" else "mlp"
    d_in = (inputs.users if kind == "user" else inputs.items).shape[1]
    if mapper == "mlp" and config.projector == "aligned":
        if projector.output.out_features != d_llm:
            raise JobError(
                f"the projector of align maps into {projector.output.out_features} dimensions, the "
                f"backbone has {d_llm}; give tune the --model that distil was given"
            )
        scale = torch.tensor(inputs.factor_scales[0 if kind == "user" else 1])
        return MlpMapper.from_projector(
            projector,
            n_extra,
            n_tokens,
            generator=random,
            deviation=scale.expand(d_in - n_extra),
        )
    facts = MapperFacts(
        mapper=mapper, d_in=d_in, n_tokens=n_tokens, d_llm=d_llm, n_hidden=config.n_hidden
    )
    return random_mapper(facts, random)


def _known(inputs: TokenInputs, kind: str) -> torch.Tensor:
    """(n, d_in) inputs of what is known; one row of zeros where nothing is."""
    table, known = {
        "user": (inputs.users, inputs.knows_user),
        "item": (inputs.items, inputs.knows_item),
        "warm": (inputs.warm, inputs.knows_warm),
    }[kind]
    return torch.from_numpy(table[known] if known.any() else table[:1])


def first_unknown(mappers: Mapping[str, Mapper], inputs: TokenInputs) -> dict[str, torch.Tensor]:
    """(n_tokens, d_llm) by kind: the mean token of what is known, which says the least."""
    with torch.no_grad():
        return {kind: mapper(_known(inputs, kind)).mean(dim=0) for kind, mapper in mappers.items()}


def first_bias(config: SteeringConfig, model: Any, seed: int) -> Bias | None:
    """The bias that the config describes; None without steering."""
    schedule = Schedule(config.steering)
    if schedule is Schedule.NONE and config.steering_bias != "free":
        return None
    values = scheduled_bias(schedule, n_layers(model), config.suppress, config.enhance, seed)
    if config.steering_bias == "fixed":
        return FixedBias(values)
    if config.steering_bias == "signed":
        return SignedBias(values)
    return FreeBias(values, model.get_decoder().config.num_attention_heads)


def to_train(
    config: LearningConfig,
    inputs: TokenInputs,
    chains: Events,
    mappers: Mapping[str, Mapper],
    bias: Bias | None,
) -> SoftInputs:
    """Soft inputs whose weights learn as far as the config lets them."""
    soft = SoftInputs(
        inputs,
        chains,
        mappers,
        first_unknown(mappers, inputs),
        bias,
        source=config.user_source,
        learns_inputs=config.learn_inputs,
        text_only=config.text_only,
        strangers=config.strangers,
    )
    learning = [kind.strip() for kind in config.learn.split(",")]
    for kind in config.kinds:
        if kind not in learning:
            soft.mappers[kind].requires_grad_(False)
            soft.unknown[kind].requires_grad_(False)
            soft.tables[kind].requires_grad_(False)
    return soft


# -- to keep and to use --------------------------------------------------------------------------


def kept_tensors(soft: SoftInputs, n_layers: int) -> dict[str, Floats]:
    """TOKEN_WEIGHTS."""
    tensors: dict[str, Floats] = {}
    for kind, mapper in soft.mappers.items():
        assert isinstance(mapper, Mapper)
        tensors |= mapper.named_tensors(kind)
        tensors[f"{kind}.unknown"] = soft.unknown[kind].detach().cpu().numpy().reshape(-1).copy()
    with torch.no_grad():
        bias = torch.zeros(n_layers, 1, 1) if soft.bias is None else soft.bias().detach().cpu()
    tensors[STEERING] = bias.float().numpy().copy()
    return tensors


def kind_facts(soft: SoftInputs) -> dict[str, dict[str, Any]]:
    """What TOKEN_CONFIG says of each kind."""
    facts = {}
    for kind, mapper in soft.mappers.items():
        assert isinstance(mapper, Mapper)
        facts[kind] = mapper.facts.record()
    if "user" in facts:
        facts["user"]["source"] = soft.source
    return facts


def to_use(
    facts: Mapping[str, Mapping[str, Any]], tensors: Tensors, inputs: TokenInputs, chains: Events
) -> SoftInputs:
    """The soft inputs that `kept_tensors` and `kind_facts` describe; nothing learns.

    Raises:
        JobError: tensors are missing or of another shape than the facts say.
    """
    kinds: Sequence[str] = [kind for kind in KINDS if kind in facts]
    mappers = {kind: mapper_of(facts[kind], tensors, kind) for kind in kinds}
    unknown = {}
    for kind, mapper in mappers.items():
        found = tensors.get(f"{kind}.unknown")
        if found is None:
            raise JobError(f"token_weights hold no tensor {kind}.unknown; rerun tune")
        unknown[kind] = torch.tensor(found).view(mapper.facts.n_tokens, mapper.facts.d_llm)
    values = torch.tensor(tensors[STEERING])
    soft = SoftInputs(
        inputs,
        chains,
        mappers,
        unknown,
        _bias_of(values),
        source=facts.get("user", {}).get("source", "factor_or_history"),
    )
    return soft.requires_grad_(False)


def _bias_of(values: torch.Tensor) -> Bias | None:
    if not bool((values != 0).any()):
        return None
    if values.shape[1:] == (1, 1):
        return FixedBias(values.reshape(-1))
    free = FreeBias(torch.zeros(len(values)), values.shape[1], values.shape[2])
    with torch.no_grad():
        free.values.copy_(values)
    return free
