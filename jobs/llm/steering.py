"""Attention steering: a bias for each layer, added where a query looks at a soft token.

    A_l(q, .) = softmax_k(q.k / sqrt(d) + M(q, k) + b_l 1[k is soft] 1[q != k])

If the unbiased mass on soft tokens is m, the biased one is m e^b / (1 - m + m e^b): their odds grow
by e^b. A soft token's view of itself is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from jobs.errors import JobError
from jobs.llm.steered_attention import ATTENTION_FOR, register, seen_layers

BLOCK = -math.inf  # as a bias: the key is not seen at all
_LARGEST = 4.0  # of a learned bias with sign
_SMALLEST = 1e-3  # a learned bias that begins at zero would never leave it


class Schedule(Enum):
    """How the bias runs through the layers: shallow 30 %, middle 50 %, deep 20 %."""

    NONE = "none"
    SUPPRESS_ENHANCE = "suppress-enhance"  # suppress, none, enhance: the paper's pattern
    REVERSED = "reversed"  # enhance, none, suppress
    SUPPRESS = "suppress"  # the shallow part alone
    ENHANCE = "enhance"  # the deep part alone
    UNIFORM = "uniform"  # +enhance everywhere
    RANDOM_SIGN = "random-sign"  # the sizes of suppress-enhance, signs by chance


class SteeringError(JobError):
    """A model that cannot be steered, or a bias that does not fit it."""


def borders(n_layers: int) -> tuple[int, int]:
    """Where the middle and the deep part begin: round(.3 n) and round(.8 n).

    From two layers on, the shallow and the deep part have one layer at least.
    """
    deep = min(max(1, round(0.8 * n_layers)), n_layers - 1) if n_layers > 1 else 0
    shallow = min(max(1, round(0.3 * n_layers)), deep) if n_layers > 1 else 0
    return shallow, deep


def scheduled_bias(
    schedule: Schedule, n_layers: int, suppress: float = 2.0, enhance: float = 1.0, seed: int = 0
) -> Tensor:
    """The bias of each layer.

    suppress-enhance: -suppress for l < L1, 0 up to L2, then enhance (l - L2 + 1) / (n - L2), with
    L1, L2 from `borders`. Reversed is its mirror image: the rising part turned round lies in the
    shallow layers, the flat one in the deep layers.

    Args:
        schedule: the pattern.
        n_layers: of the model.
        suppress: size of the negative part; infinity blocks the soft tokens.
        enhance: largest value of the positive part.
        seed: of the random signs.

    Returns:
        (n_layers,) float32.
    """
    shallow, deep = borders(n_layers)
    down, up = torch.zeros(n_layers), torch.zeros(n_layers)
    down[:shallow] = -suppress
    up[deep:] = enhance * torch.arange(1, n_layers - deep + 1) / (n_layers - deep)
    if schedule is Schedule.NONE:
        return torch.zeros(n_layers)
    if schedule is Schedule.UNIFORM:
        return torch.full((n_layers,), float(enhance))
    if schedule is Schedule.RANDOM_SIGN:
        signs = torch.randint(0, 2, (n_layers,), generator=torch.Generator().manual_seed(seed))
        size = (down + up).abs()
        return torch.where(signs.bool(), size, -size)
    return {
        Schedule.SUPPRESS_ENHANCE: down + up,
        Schedule.REVERSED: (down + up).flip(0),
        Schedule.SUPPRESS: down,
        Schedule.ENHANCE: up,
    }[schedule]


# -- the bias: fixed or learned ------------------------------------------------------------------


class FixedBias(nn.Module):
    """A1: one number a layer, for all heads and kinds; nothing to learn."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.detach().float().reshape(-1, 1, 1))

    def forward(self) -> Tensor:
        """(n_layers, 1, 1) float32."""
        return self.values

    def penalty(self) -> Tensor:
        """Nothing is held."""
        return self.values.new_zeros(())


class SignedBias(nn.Module):
    """A2: one learned number a layer that keeps its sign: b = s 4 tanh(softplus(a) / 4).

    Layers whose bias begins at zero stay there. Starts at the values given.
    """

    signs: Tensor
    start: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        values = values.detach().float().reshape(-1, 1, 1)
        if not bool((values.abs() < _LARGEST).all()):
            raise SteeringError(
                f"a learned bias with sign lies within {_LARGEST:g}, not at "
                f"{float(values.abs().max()):g}; start from a smaller one"
            )
        self.register_buffer("signs", values.sign())
        self.register_buffer("start", values)
        size = torch.atanh(values.abs().clamp(min=_SMALLEST) / _LARGEST) * _LARGEST
        self.raw = nn.Parameter(torch.log(torch.expm1(size)))  # the inverse of softplus

    def forward(self) -> Tensor:
        """(n_layers, 1, 1) float32."""
        size = nn.functional.softplus(self.raw)
        return self.signs * _LARGEST * torch.tanh(size / _LARGEST)

    def penalty(self) -> Tensor:
        """Sum of (b - b_start)^2, to be weighted by the caller."""
        return (self() - self.start).square().sum()


class FreeBias(nn.Module):
    """A3: a learned number for each layer, head and kind of soft token, of any sign.

    Args:
        values: (n_layers,) what every head and kind starts at.
        n_heads: query heads of a layer.
        n_kinds: kinds of soft tokens (user, item, warm).
    """

    def __init__(self, values: Tensor, n_heads: int, n_kinds: int = 3) -> None:
        super().__init__()
        start = values.detach().float().reshape(-1, 1, 1)
        if not bool(start.isfinite().all()):
            raise SteeringError("a learned bias must start at finite values")
        self.values = nn.Parameter(start.repeat(1, n_heads, n_kinds))

    def forward(self) -> Tensor:
        """(n_layers, n_heads, n_kinds) float32."""
        return self.values

    def penalty(self) -> Tensor:
        """Sum of b^2, to be weighted by the caller (1e-3)."""
        return self.values.square().sum()


Bias = FixedBias | SignedBias | FreeBias


# -- steering a forward pass ---------------------------------------------------------------------


@dataclass(frozen=True)
class Steering:
    """What one forward pass is steered by: `model(..., steering=Steering(...))`.

    Attributes:
        bias: (n_layers, n_heads or 1, n_kinds or 1) float32; -inf blocks a key.
        kinds: (b, k) int64; kind of each key's soft token, -1 where the key is none. Where the
            bias has one kind only, every soft token takes it.
        queries: (b, q) bool; which queries are steered; None: all. The answer places alone are
            methods.md's `apply_to="last"`.
        is_idle: for each layer, whether its bias is known to be zero: such a layer keeps the
            model's fastest kernel.
    """

    bias: Tensor
    kinds: Tensor
    queries: Tensor | None = None
    is_idle: tuple[bool, ...] = ()

    def skips(self, layer: int) -> bool:
        """Whether layer `layer` is left alone."""
        return bool(self.is_idle) and self.is_idle[layer]

    def at_keys(self, layer: int) -> Tensor:
        """(b, n_heads or 1, k): the bias of each key in layer `layer`."""
        table = self.bias[layer]
        kinds = self.kinds if table.shape[1] > 1 else self.kinds.clamp(max=0)
        of_none = table.new_zeros(table.shape[0], 1)
        padded = torch.cat([of_none, table], dim=1)  # kind -1 becomes column 0
        return padded[:, kinds + 1].transpose(0, 1)


def steering(bias: Bias, kinds: Tensor, queries: Tensor | None = None) -> Steering:
    """The steering of one batch by a fixed or learned bias; call it again after each step."""
    values = bias()
    idle = (values == 0).flatten(1).all(dim=1).tolist() if isinstance(bias, FixedBias) else ()
    return Steering(values, kinds, queries, tuple(idle))


def soft_kinds(shape: tuple[int, int], sequence: Tensor, at: Tensor, kind: Tensor) -> Tensor:
    """(b, n) int64: the kind of soft token at each place, -1 where there is none.

    Args:
        shape: of the batch.
        sequence: (s,) which sequence of the batch each soft token is in.
        at: (s,) its place there.
        kind: (s,) its kind.
    """
    kinds = torch.full(shape, -1, dtype=torch.long, device=at.device)
    return kinds.index_put((sequence.long(), at.long()), kind.long())


def n_layers(model: Any) -> int:
    """Decoder layers of `model`."""
    return int(model.get_decoder().config.num_hidden_layers)


@contextmanager
def steerable(model: Any) -> Iterator[Any]:
    """`model` takes `steering=` inside; it is what it was afterwards.

    The model's own attention (sdpa, eager, flex_attention) is replaced by one that computes the
    same and adds the bias. A backward pass through checkpointed layers, which are computed once
    more, belongs inside too.

    Raises:
        SteeringError: not every layer's attention can be reached.
    """
    name, before = type(model).__name__, model.config._attn_implementation
    if before not in ATTENTION_FOR:
        raise SteeringError(
            f"{name} uses the attention '{before}', which takes no bias; "
            f"load it with one of: {', '.join(ATTENTION_FOR)}"
        )
    register()
    try:
        model.set_attn_implementation(ATTENTION_FOR[before])
    except (ValueError, AttributeError) as error:
        raise SteeringError(_no_access(name, str(error).splitlines()[0])) from error
    try:
        _check_layers(model, name)
        yield model
    finally:
        model.set_attn_implementation(before)


def _no_access(name: str, why: str) -> str:
    return (
        f"{name} gives no access to the attention of each layer ({why}), so it cannot be steered; "
        "use a Llama- or Qwen2-shaped backbone, or run without steering"
    )


def _check_layers(model: Any, name: str) -> None:
    """Every layer must come through the steered function once: seen by one token's forward pass."""
    expected = list(range(n_layers(model)))
    decoder, device = model.get_decoder(), model.get_input_embeddings().weight.device
    modes = [(module, module.training) for module in decoder.modules()]
    decoder.eval()  # no dropout that would draw random numbers, no recomputation
    try:
        with torch.no_grad(), seen_layers() as seen:
            decoder(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False)
    finally:
        for module, mode in modes:
            module.training = mode
    if seen != expected:
        raise SteeringError(_no_access(name, f"{len(seen)} of {len(expected)} layers answered"))
