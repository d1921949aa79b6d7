"""Attention functions that add a bias to the keys of soft tokens: SDPA, eager, FlexAttention."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jobs.llm.steering import Steering

# The attention that a model is loaded with, and its steered counterpart.
ATTENTION_FOR = {
    "sdpa": "steered_sdpa",
    "eager": "steered_eager",
    "flex_attention": "steered_flex_attention",
}
_seen: ContextVar[list[int] | None] = ContextVar("seen_layers", default=None)
Attended = tuple[Tensor, Tensor | None]


@contextmanager
def seen_layers() -> Iterator[list[int]]:
    """The numbers of the layers whose attention ran inside, in that order."""
    layers: list[int] = []
    token = _seen.set(layers)
    try:
        yield layers
    finally:
        _seen.reset(token)


def _note(module: nn.Module) -> None:
    if (layers := _seen.get()) is not None:
        layers.append(int(getattr(module, "layer_idx", -1)))


@cache
def register() -> None:
    """Make the functions known to transformers, each with the mask that its plain one takes.

    Without a mask function of the same name the mask is None, and padding is attended.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    functions: dict[str, Callable[..., Attended]] = {
        "sdpa": steered_sdpa,
        "eager": steered_eager,
        "flex_attention": steered_flex_attention,
    }
    known: Any = AttentionMaskInterface
    masks = {**known(), "flex_attention": block_mask}
    for plain, function in functions.items():
        AttentionInterface.register(ATTENTION_FOR[plain], function)
        AttentionMaskInterface.register(ATTENTION_FOR[plain], masks[plain])


# -- masks ---------------------------------------------------------------------------------------


def block_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Tensor],
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **_: Any,
) -> Any:
    """The block mask of transformers' mask function, for FlexAttention.

    Built here because transformers compiles it, which torch has deprecated and a CPU may not be
    able to.

    Args:
        batch_size: b.
        q_length: queries.
        kv_length: keys.
        mask_function: (b, h, q, k) -> whether q may attend to k.
        q_offset: place of the first query.
        kv_offset: place of the first key.
        attention_mask: (b, keys) bool, False at padding; None: no padding.
        device: where the mask lies.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        may = mask_function(b, h, q + q_offset, k + kv_offset)
        return may if attention_mask is None else may & attention_mask[b, k + kv_offset]

    n = None if attention_mask is None else batch_size
    return create_block_mask(allowed, n, None, q_length, kv_length, device=str(device))


def float_mask(mask: Tensor | None, query: Tensor, n_keys: int) -> Tensor:
    """(b or 1, 1, q, k) in the query's dtype: 0 where attention is allowed, its least value else.

    Args:
        mask: bool (True: allowed), additive, or None: causal.
        query: (b, h, q, d); its q positions are the last of the keys' positions.
        n_keys: k; a longer mask is cut.
    """
    least = torch.finfo(query.dtype).min  # infinity would make NaN of a row without any key
    if mask is None:
        n_queries = query.shape[2]
        places = torch.arange(n_keys, device=query.device)
        mask = (places <= places[n_keys - n_queries :, None])[None, None]
    mask = mask[..., :n_keys]
    if mask.dtype != torch.bool:
        return mask.to(query.dtype)
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask, zero, least)


def steered_mask(
    mask: Tensor | None, query: Tensor, n_keys: int, layer: int, steering: Steering
) -> Tensor:
    """(b, h or 1, q, k): the additive mask with the layer's bias."""
    bias = steering.at_keys(layer)[:, :, None, :n_keys]
    n_queries = query.shape[2]
    places = torch.arange(n_keys, device=query.device)
    applies = (places != places[n_keys - n_queries :, None])[None, None]
    if steering.queries is not None:
        applies = applies & steering.queries[:, None, :, None]
    wide = torch.promote_types(query.dtype, torch.float32)
    plain = float_mask(mask, query, n_keys).to(wide)
    # A blocked key counts as masked; the sum is clamped, for the mask alone may be the least value.
    total = torch.where(applies, bias.to(wide), 0.0) + plain
    return total.clamp(min=torch.finfo(query.dtype).min).to(query.dtype)


def repeated(states: Tensor, module: nn.Module) -> Tensor:
    """(b, h, k, d): keys or values once for each query head that shares them."""
    n = int(getattr(module, "num_key_value_groups", 1))
    return states if n == 1 else states.repeat_interleave(n, dim=1)


# -- the functions -------------------------------------------------------------------------------


def steered_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    steering: Steering | None = None,
    **kwargs: Any,
) -> Attended:
    """Plain SDPA where nothing is to be added, else SDPA with an additive mask."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    _note(module)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if steering is not None and not steering.skips(layer):
        attention_mask = steered_mask(attention_mask, query, key.shape[2], layer, steering)
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def attention_weights(
    query: Tensor, key: Tensor, mask: Tensor, scaling: float | None = None
) -> Tensor:
    """(b, h, q, k), float32 at least: softmax(query key / sqrt(d) + mask)."""
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = (query.to(wide) @ key.to(wide).transpose(2, 3)) * scale
    return (scores + mask.to(wide)).softmax(dim=-1)


def steered_eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    steering: Steering | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> Attended:
    """Written out, with the weights beside the result: what tests and diagnostics look at."""
    _note(module)
    key, value = repeated(key, module), repeated(value, module)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if steering is None:
        mask = float_mask(attention_mask, query, key.shape[2])
    else:
        mask = steered_mask(attention_mask, query, key.shape[2], layer, steering)
    weights = attention_weights(query, key, mask, scaling).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def steered_flex_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    steering: Steering | None = None,
    scaling: float | None = None,
    **_: Any,
) -> Attended:
    """FlexAttention under a block mask, the bias added to the scores: no mask of q x k numbers."""
    _note(module)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    add = None
    if steering is not None and not steering.skips(layer):
        add = _score_bias(steering.at_keys(layer), steering.queries, key.shape[2] - query.shape[2])
    result = _flex_attention(query.device.type)(
        query,
        repeated(key, module),
        repeated(value, module),
        score_mod=add,
        block_mask=attention_mask,
        scale=scaling,
    )
    return result.transpose(1, 2).contiguous(), None


def _score_bias(bias: Tensor, queries: Tensor | None, offset: int) -> Callable[..., Tensor]:
    """What FlexAttention adds to the score of query q and key k.

    Args:
        bias: (b, h or 1, k) float32.
        queries: (b, q) bool or None.
        offset: place of the first query among the keys.
    """
    # A finite stand-in for a blocked key: minus infinity minus itself is NaN in the kernel.
    least = torch.finfo(torch.float32).min / 4
    bias = bias.clamp(min=least)
    by_head = bias.shape[1] > 1

    def add(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        here = bias[b, h, k] if by_head else bias[b, torch.zeros_like(h), k]
        applies = q + offset != k
        if queries is not None:
            applies = applies & queries[b, q]
        return score + torch.where(applies, here, torch.zeros_like(here))

    return add


@cache
def _flex_attention(device: str) -> Callable[..., Tensor]:
    """The compiled kernel on a GPU; elsewhere the reference, which builds all scores."""
    from torch.nn.attention.flex_attention import flex_attention

    if device == "cuda":
        return torch.compile(flex_attention, dynamic=True)

    def reference(*arguments: Any, **named: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow without a compiler is known
            return flex_attention(*arguments, **named)

    return reference
