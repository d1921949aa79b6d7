"""Attention over packed batches: a boolean mask for SDPA, a block-sparse one for FlexAttention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from jobs.errors import JobError
from jobs.llm.sequences import Batch, visible

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

FLEX = "flex_attention"
BLOCK = 128  # tokens to a side; FlexAttention's own choice
_OBEYS_A_MASK = {"full_attention", "sliding_attention", "chunked_attention"}
_AFTER_ALL = torch.iinfo(torch.int32).max


def suit_attention(model: Any) -> int:
    """Set the attention function that suits the model's device.

    FlexAttention on CUDA where transformers has it for this model, so that blocks that no token may
    see cost nothing; what the model was loaded with elsewhere.

    Returns:
        The multiple that sequences are padded to: `multiple` of `collate`.

    Raises:
        JobError: the model has layers that read a sequence without an attention mask, so that
            events could not be kept apart in it.
    """
    unknown = sorted(set(getattr(model.config, "layer_types", None) or ()) - _OBEYS_A_MASK)
    if unknown or not getattr(model, "_supports_sdpa", False):
        what = f"layers of kind '{unknown[0]}'" if unknown else "layers"
        raise JobError(
            f"{type(model).__name__} has {what} that take no attention mask, so packed events "
            "could see one another; use a backbone whose layers all attend"
        )
    is_cuda = next(model.parameters()).device.type == "cuda"
    # A steered one stays what it is: see `jobs.llm.steering.steerable`.
    if is_cuda and getattr(model, "_supports_flex_attn", False) and not _is_flex(model):
        model.set_attn_implementation(FLEX)
    return BLOCK if _is_flex(model) else 1


def _is_flex(model: Any) -> bool:
    return str(model.config._attn_implementation).endswith(FLEX)


def attention_mask(batch: Batch, model: Any) -> torch.Tensor | BlockMask:
    """`visible(batch)` in the form that the attention function of `model` takes.

    Returns:
        A block mask for FlexAttention, (b, 1, n, n) float for eager, else (b, 1, n, n) bool.
    """
    if _is_flex(model):
        return block_mask(batch)
    allowed = visible(batch)
    if model.config._attn_implementation != "eager":
        return allowed
    # Eager attention adds its mask.
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def block_mask(batch: Batch, block: int = BLOCK) -> BlockMask:
    """`visible(batch)` for FlexAttention, made from summaries of blocks and never as (n, n).

    Events are contiguous and numbered in ascending order. So a block of keys before a block of
    queries is seen by none of them unless it holds a shown token, or its last event reaches into
    the queries; it is seen by all of them if all its tokens are shown, or if both blocks lie in one
    event.
    """
    from torch.nn.attention.flex_attention import BlockMask

    event, is_shown = batch.event, batch.is_shown
    some, every = _blocks(event, is_shown, block)

    def mask(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (k <= q) & (is_shown[b, k] | (event[b, q] == event[b, k]))

    n = event.shape[1]
    made: BlockMask = BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=block,
        mask_mod=mask,
        seq_lengths=(n, n),
    )
    return made


def _blocks(
    event: torch.Tensor, is_shown: torch.Tensor, block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(b, 1, n_blocks, n_blocks) bool, twice: some query of a block sees a key; all see all."""
    n_beyond = -event.shape[1] % block
    # Padding belongs behind all events; what lies beyond n must never look like a whole block.
    event = torch.where(event < 0, _AFTER_ALL - 1, event)
    event = torch.nn.functional.pad(event, (0, n_beyond), value=_AFTER_ALL)
    is_shown = torch.nn.functional.pad(is_shown, (0, n_beyond), value=False)
    shape = (len(event), -1, block)
    events, shown = event.reshape(shape), is_shown.reshape(shape)
    first, last = events[:, :, 0], events[:, :, -1]
    reaches = last[:, None, :] >= first[:, :, None]
    is_one = (first == last)[:, None, :] & (last[:, :, None] == first[:, None, :])
    some = shown.any(dim=2)[:, None, :] | reaches
    every = shown.all(dim=2)[:, None, :] | (is_one & (first == last)[:, :, None])
    number = torch.arange(events.shape[1], device=event.device)
    before, same = number < number[:, None], number == number[:, None]
    return ((some & before) | same)[:, None], (every & before)[:, None]


def _listed(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many key blocks each query block takes, and which, those that it takes first."""
    counts = chosen.sum(dim=-1, dtype=torch.int32)
    order = torch.argsort(chosen.to(torch.int8), dim=-1, descending=True, stable=True)
    return counts, order.to(torch.int32).contiguous()
