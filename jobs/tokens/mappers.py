"""Maps from the vector of a user or an item to soft tokens, and their flat names in a file."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from jobs.errors import JobError
from jobs.job import Config
from jobs.tokens.projector import Projector
from jobs.tokens.qformer import QFormer

Floats = NDArray[np.float32]
Tensors = dict[str, Floats]
MapperKind = Literal["mlp", "linear", "qformer"]

_AT_ONCE = 8_192  # rows whose tokens are held at once where only their lengths are asked for
_REPEATED_NOISE = 0.1  # of the output weights' deviation: what sets repeated tokens apart


class MapperFacts(Config):
    """The shape of a mapper; with its tensors, all that is needed to make it again."""

    mapper: MapperKind = "mlp"
    d_in: int = Field(gt=0)
    n_tokens: int = Field(default=1, gt=0)
    d_llm: int = Field(gt=0)
    n_hidden: int = Field(default=256, gt=0)  # mlp only
    d_query: int = Field(default=256, gt=0)  # this and the rest: qformer only
    n_layers: int = Field(default=2, gt=0)
    n_heads: int = Field(default=4, gt=0)
    n_chunks: int = Field(default=4, gt=0)

    def record(self) -> dict[str, Any]:
        """What TOKEN_CONFIG holds of a kind: the fields that mean something for this mapper."""
        return self.model_dump(include=set(_RECORDED[self.mapper]))


_COMMON = ("mapper", "d_in", "n_tokens", "d_llm")
_RECORDED: dict[MapperKind, tuple[str, ...]] = {
    "mlp": (*_COMMON, "n_hidden"),
    "linear": _COMMON,
    "qformer": (*_COMMON, "d_query", "n_layers", "n_heads", "n_chunks"),
}


class Mapper(nn.Module, ABC):
    """(n, d_in) -> (n, n_tokens, d_llm), times one learned number.

    Attributes:
        scale: () what the mapped vectors are multiplied by, so that they are as long as the
            LLM's own token embeddings (methods.md 6, norm matching).
    """

    def __init__(self, facts: MapperFacts) -> None:
        super().__init__()
        self.facts = facts
        self.scale = nn.Parameter(torch.ones(()))

    @abstractmethod
    def mapped(self, inputs: Tensor) -> Tensor:
        """(n, d_in) -> (n, n_tokens, d_llm), before the scale."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, d_in) -> (n, n_tokens, d_llm)."""
        return self.scale * self.mapped(inputs)

    @torch.no_grad()
    def match_norm(self, inputs: Tensor, mean_norm: float) -> float:
        """Set the scale so that the tokens of `inputs` are `mean_norm` long in the mean.

        Args:
            inputs: (n, d_in).
            mean_norm: mean Euclidean length of the backbone's token embeddings.

        Returns:
            The scale.

        Raises:
            JobError: an input maps to NaN or infinity, or all of them to zero.
        """
        parts = [self.mapped(some).norm(dim=2) for some in torch.split(inputs, _AT_ONCE)]
        lengths = torch.cat(parts) if parts else inputs.new_zeros(0, 1)
        bad = (~lengths.isfinite()).any(dim=1).nonzero()
        if len(bad):
            raise JobError(
                f"row {int(bad[0])} of {len(inputs)} maps to NaN or infinity; look at its input "
                "vector (align, biases, counts)"
            )
        mean = float(lengths.double().mean()) if lengths.numel() else 0.0
        if mean == 0:
            raise JobError(f"{len(inputs)} mapped inputs have no length to scale; rerun align")
        self.scale.fill_(mean_norm / mean)
        return float(self.scale)

    @torch.no_grad()
    def fold_scale(self) -> None:
        """Multiply the last layer by the scale, which becomes 1: the same tokens.

        A large scale would enlarge every step that an optimiser takes in the layers before it.
        """
        last = self.last_layer
        last.weight.mul_(self.scale)
        last.bias.mul_(self.scale)
        self.scale.fill_(1.0)

    @property
    @abstractmethod
    def last_layer(self) -> nn.Linear:
        """The one whose output is tokens."""

    def named_tensors(self, prefix: str) -> Tensors:
        """Float32 copies of all weights, named `<prefix>.<weight>`, as TOKEN_WEIGHTS has them."""
        return {
            f"{prefix}.{name}": weights.detach().to("cpu", torch.float32, copy=True).numpy()
            for name, weights in self.state_dict().items()
        }


class MlpMapper(Mapper):
    """Linear(d_in, n_hidden), exact GELU, Linear(n_hidden, n_tokens * d_llm)."""

    def __init__(self, d_in: int, n_hidden: int, n_tokens: int, d_llm: int) -> None:
        super().__init__(
            MapperFacts(mapper="mlp", d_in=d_in, n_hidden=n_hidden, n_tokens=n_tokens, d_llm=d_llm)
        )
        self.hidden = nn.Linear(d_in, n_hidden)
        self.output = nn.Linear(n_hidden, n_tokens * d_llm)

    def mapped(self, inputs: Tensor) -> Tensor:
        """(n, d_in) -> (n, n_tokens, d_llm), before the scale."""
        tokens: Tensor = self.output(functional.gelu(self.hidden(inputs)))
        return tokens.view(-1, self.facts.n_tokens, self.facts.d_llm)

    @property
    def last_layer(self) -> nn.Linear:
        """The one whose output is tokens."""
        return self.output

    @classmethod
    @torch.no_grad()
    def from_projector(
        cls,
        projector: Projector,
        n_extra_inputs: int = 0,
        n_tokens: int = 1,
        *,
        generator: torch.Generator | None = None,
        mean: Tensor | None = None,
        deviation: Tensor | None = None,
    ) -> MlpMapper:
        """The mapper whose first token is what an aligned projector makes of a factor.

        Args:
            projector: of `align`; it is copied.
            n_extra_inputs: numbers that follow the factor in an input (bias, count, mean). Their
                columns start at zero.
            n_tokens: the output layer is repeated for each; all but the first get random
                differences of a tenth of its weights' deviation, or they would never part.
            generator: of those differences; needed if there are any.
            mean: (d_cf,) what was taken off the factors in the inputs; None: nothing.
            deviation: (d_cf,) what they were divided by; None: nothing.
        """
        d_llm, n_hidden = projector.output.weight.shape
        d_cf = projector.hidden.in_features
        mapper = cls(d_cf + n_extra_inputs, n_hidden, n_tokens, d_llm)
        weight = projector.hidden.weight
        mapper.hidden.weight.zero_()
        mapper.hidden.weight[:, :d_cf] = weight if deviation is None else weight * deviation
        mapper.hidden.bias.copy_(projector.hidden.bias)
        if mean is not None:
            mapper.hidden.bias.add_(weight @ mean)
        mapper.output.weight.copy_(projector.output.weight.repeat(n_tokens, 1))
        mapper.output.bias.copy_(projector.output.bias.repeat(n_tokens))
        if n_tokens > 1:
            if generator is None:
                raise ValueError("more than one token needs the generator of their differences")
            noise = torch.randn(((n_tokens - 1) * d_llm, n_hidden), generator=generator)
            mapper.output.weight[d_llm:] += (
                _REPEATED_NOISE * projector.output.weight.std() * noise.to(weight.device)
            )
        return mapper


class LinearMapper(Mapper):
    """Linear(d_in, n_tokens * d_llm)."""

    def __init__(self, d_in: int, n_tokens: int, d_llm: int) -> None:
        super().__init__(MapperFacts(mapper="linear", d_in=d_in, n_tokens=n_tokens, d_llm=d_llm))
        self.output = nn.Linear(d_in, n_tokens * d_llm)

    @property
    def last_layer(self) -> nn.Linear:
        """The one whose output is tokens."""
        return self.output

    def mapped(self, inputs: Tensor) -> Tensor:
        """(n, d_in) -> (n, n_tokens, d_llm), before the scale."""
        tokens: Tensor = self.output(inputs)
        return tokens.view(-1, self.facts.n_tokens, self.facts.d_llm)


class QFormerMapper(Mapper):
    """Learned queries, one a token, that ask the input and one another (methods.md 7.4)."""

    def __init__(
        self,
        d_in: int,
        n_tokens: int,
        d_llm: int,
        d_query: int = 256,
        n_layers: int = 2,
        n_heads: int = 4,
        n_chunks: int = 4,
    ) -> None:
        facts = MapperFacts(
            mapper="qformer",
            d_in=d_in,
            n_tokens=n_tokens,
            d_llm=d_llm,
            d_query=d_query,
            n_layers=n_layers,
            n_heads=n_heads,
            n_chunks=n_chunks,
        )
        if d_query % n_heads:
            raise JobError(f"d_query {d_query} is no multiple of n_heads {n_heads}")
        super().__init__(facts)
        self.qformer = QFormer(
            d_in,
            n_tokens,
            d_llm,
            d_query=d_query,
            n_layers=n_layers,
            n_heads=n_heads,
            n_chunks=n_chunks,
        )

    @property
    def last_layer(self) -> nn.Linear:
        """The one whose output is tokens."""
        return self.qformer.output

    def mapped(self, inputs: Tensor) -> Tensor:
        """(n, d_in) -> (n, n_tokens, d_llm), before the scale."""
        tokens: Tensor = self.qformer(inputs)
        return tokens


def empty_mapper(facts: MapperFacts) -> Mapper:
    """A mapper of this shape, with whatever weights torch gives a new layer."""
    f = facts
    if f.mapper == "mlp":
        return MlpMapper(f.d_in, f.n_hidden, f.n_tokens, f.d_llm)
    if f.mapper == "linear":
        return LinearMapper(f.d_in, f.n_tokens, f.d_llm)
    return QFormerMapper(f.d_in, f.n_tokens, f.d_llm, f.d_query, f.n_layers, f.n_heads, f.n_chunks)


@torch.no_grad()
def random_mapper(facts: MapperFacts, generator: torch.Generator) -> Mapper:
    """Weights N(0, 1 / fan-in), biases zero, scale 1; queries N(0, 1).

    The same for the same state of `generator`; torch's own state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        mapper = empty_mapper(facts)
    for name, weights in mapper.named_parameters():
        if name.endswith("bias"):
            weights.zero_()
        elif weights.dim() < 2:
            weights.fill_(1.0)  # of layer norms, and the scale
        else:
            deviation = 1.0 if name.endswith("queries") else 1 / math.sqrt(weights.shape[-1])
            weights.copy_(torch.randn(weights.shape, generator=generator) * deviation)
    return mapper


def mapper_of(kind_facts: Mapping[str, Any], tensors: Mapping[str, Floats], prefix: str) -> Mapper:
    """The mapper that `named_tensors` wrote; tensors of other names are ignored.

    Args:
        kind_facts: of TOKEN_CONFIG: `mapper`, `n_tokens`, `d_in`; of a Q-Former also `n_heads`.
            Other widths are read off the tensors.
        tensors: of TOKEN_WEIGHTS.
        prefix: user, item or warm.

    Raises:
        JobError: the facts name no known mapper, or a tensor is missing or of another shape.
    """
    facts = _facts_of(kind_facts, tensors, prefix)
    with torch.random.fork_rng(devices=[]):
        mapper = empty_mapper(facts)
    state = {}
    for name, weights in mapper.state_dict().items():
        found = _tensor(tensors, f"{prefix}.{name}")
        if found.shape != tuple(weights.shape):
            raise JobError(
                f"tensor {prefix}.{name} of token_weights has shape {found.shape}, a "
                f"{facts.mapper} mapper of {facts.d_in} inputs and {facts.n_tokens} tokens has "
                f"{tuple(weights.shape)}; rerun tune"
            )
        state[name] = torch.tensor(found, dtype=torch.float32)
    mapper.load_state_dict(state)
    return mapper


def _tensor(tensors: Mapping[str, Floats], name: str) -> Floats:
    if name not in tensors:
        raise JobError(
            f"token_weights hold no tensor {name}; there are: {', '.join(sorted(tensors))}"
        )
    return tensors[name]


def _facts_of(
    kind_facts: Mapping[str, Any], tensors: Mapping[str, Floats], prefix: str
) -> MapperFacts:
    """Shape of a mapper by TOKEN_CONFIG, and by its tensors where that says nothing."""
    lacking = [key for key in ("mapper", "n_tokens", "d_in") if key not in kind_facts]
    kind = kind_facts.get("mapper")
    if lacking or kind not in get_args(MapperKind):
        raise JobError(
            f"token_config does not describe the {prefix} mapper: mapper is {kind!r}, of "
            f"{', '.join(get_args(MapperKind))}; missing: {', '.join(lacking) or 'nothing'}"
        )
    n_tokens = max(int(kind_facts["n_tokens"]), 1)
    facts: dict[str, Any] = {"mapper": kind, "n_tokens": n_tokens, "d_in": kind_facts["d_in"]}
    if kind == "qformer":
        facts |= _qformer_widths(kind_facts, tensors, f"{prefix}.qformer")
    else:
        facts["d_llm"] = _tensor(tensors, f"{prefix}.output.bias").size // n_tokens
    if kind == "mlp":
        facts["n_hidden"] = _tensor(tensors, f"{prefix}.hidden.bias").size
    try:
        return MapperFacts(**facts)
    except ValidationError as error:
        raise JobError(
            f"token_config and token_weights do not describe a {prefix} mapper: {error}"
        ) from error


def _qformer_widths(
    kind_facts: Mapping[str, Any], tensors: Mapping[str, Floats], prefix: str
) -> dict[str, int]:
    layers = {
        name.removeprefix(f"{prefix}.layers.").split(".")[0]
        for name in tensors
        if name.startswith(f"{prefix}.layers.")
    }
    return {
        "d_llm": _tensor(tensors, f"{prefix}.output.bias").size,
        "d_query": _tensor(tensors, f"{prefix}.queries").shape[-1],
        "n_chunks": len(_tensor(tensors, f"{prefix}.chunks.bias")),
        "n_layers": max(len(layers), 1),
        "n_heads": int(kind_facts.get("n_heads", 4)),
    }
