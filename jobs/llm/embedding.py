"""Token ids to hidden states: one vector a text, beginnings in common read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from jobs.errors import JobError
from jobs.llm.batches import token_budget_batches
from jobs.llm.token_tree import TokenTree, token_trees

_TOKENIZED_AT_ONCE = 4_096
_TREE = "token_tree"
_NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # relative, between the two ways to compute
Tokens = Sequence[Sequence[int]]


class Pooling(Enum):
    """Which hidden state stands for a text."""

    LAST = "last"  # of its last real token, as the papers define it
    MEAN = "mean"  # over its real tokens


class UnusableText(JobError):
    """A text that no vector can be made of; `position` is its place among the texts."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(why)
        self.position = position


# -- text to token ids ---------------------------------------------------------------------------


class TokenizedTexts(NamedTuple):
    """Token ids of each text, cut to the limit."""

    ids: list[list[int]]
    n_truncated: int

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.ids))


def tokenize(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> TokenizedTexts:
    """Token ids of each text, at most `max_tokens`, its end lost if it is longer.

    What looks like a special token inside a text ("<|im_end|>") is read as plain characters: a
    title must not end the sequence.

    Raises:
        UnusableText: a text has no tokens.
    """
    ids: list[list[int]] = []
    for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
        some = list(texts[start : start + _TOKENIZED_AT_ONCE])
        # One more than the limit tells a text that fits exactly from one that is cut.
        ids += _token_ids(some, tokenizer, max_tokens + 1)
    too_long = [row for row, tokens in enumerate(ids) if len(tokens) > max_tokens]
    if too_long:
        cut = _token_ids([texts[row] for row in too_long], tokenizer, max_tokens)
        for row, tokens in zip(too_long, cut, strict=True):
            ids[row] = tokens
    for row, tokens in enumerate(ids):
        if not tokens:
            raise UnusableText(
                row, f"text {texts[row]!r} has no tokens, so no hidden state; give it a title"
            )
    return TokenizedTexts(ids, len(too_long))


def _token_ids(texts: list[str], tokenizer: Any, limit: int) -> list[list[int]]:
    return tokenizer(
        texts,
        truncation=True,
        max_length=limit,
        split_special_tokens=True,
        return_attention_mask=False,
    )["input_ids"]


# -- token ids to states -------------------------------------------------------------------------


def distil(
    tokens: Tokens,
    model: Any,
    pooling: Pooling = Pooling.LAST,
    batch_tokens: int = 1_024,
    advance: Callable[[int], None] = lambda n_tokens: None,
) -> np.ndarray:
    """Last hidden state after the final norm, at the last real token or averaged over all of them.

    E_L[i] = h_L[i, t_i] with t_i the last token that is not padding (SeLLa-Rec, stage 1). Equal
    rows are computed once, and so is every beginning that rows of a batch have in common; nothing
    is padded but in attention. The batches depend on the set of rows and not on their order.

    Args:
        tokens: token ids of each row, at least one.
        model: a causal LM in eval mode, or the decoder alone.
        pooling: which hidden state stands for the row.
        batch_tokens: tokens of a batch that are computed.
        advance: told the tokens of each finished batch, as they were asked for.

    Returns:
        (n, d) float32.

    Raises:
        UnusableText: a hidden state holds NaN or infinity.
    """
    times = Counter(map(tuple, tokens))
    distinct = sorted(times)
    decoder = model.get_decoder()  # without the head, which would cost a matmul over the vocabulary
    states = np.empty((len(distinct), decoder.config.hidden_size), dtype=np.float32)
    for rows, found in _batches(distinct, decoder, pooling, batch_tokens):
        states[rows] = found
        advance(sum(len(distinct[row]) * times[distinct[row]] for row in rows))
    place = {row: number for number, row in enumerate(distinct)}
    raw = states[[place[tuple(row)] for row in tokens]]
    _mend_or_refuse(raw, tokens, decoder, pooling)
    return raw


def _mend_or_refuse(raw: np.ndarray, tokens: Tokens, decoder: Any, pooling: Pooling) -> None:
    """Read rows that hold NaN or infinity once more by themselves; refuse the first that does so.

    One broken token makes NaN of others in its batch: 0 x NaN, where attention has weight 0.
    """
    for row in np.flatnonzero(~np.isfinite(raw).all(axis=1)).tolist():
        raw[row] = padded_states([tokens[row]], decoder, pooling)
        if not np.isfinite(raw[row]).all():
            raise UnusableText(
                row,
                "the hidden state holds NaN or infinity; try --dtype float32, or look at the "
                "backbone's weights",
            )


def _batches(
    distinct: Tokens, decoder: Any, pooling: Pooling, batch_tokens: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row numbers and states of each batch: by trees where the model lets us, else padded."""
    if not distinct:
        return
    longest = max(map(len, distinct))
    with reading_trees(decoder, longest) as reads_trees:
        if reads_trees:
            for tree in token_trees(distinct, batch_tokens):
                yield tree.rows, tree_states(tree, decoder, pooling)
            return
    for rows in token_budget_batches([len(row) for row in distinct], batch_tokens):
        yield rows, padded_states([distinct[row] for row in rows], decoder, pooling)


# -- by trees ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Places:
    """A tree's groups on the model's device: (nodes of t x w paths, t, w) each."""

    groups: list[tuple[Tensor, int, int]]
    found_at: Tensor


def _tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    tree: _Places | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention along the paths of a tree.

    Each text's keys and values are gathered from the nodes on its path, so that attention is the
    plain causal one of that text alone; a node that texts share takes the result of one of them.
    """
    assert tree is not None
    n_heads = query.shape[1]
    is_grouped = key.shape[1] != n_heads
    by_node = [each[0].transpose(0, 1) for each in (query, key, value)]  # (n, heads, dim)
    found = []
    for nodes, t, w in tree.groups:
        q, k, v = (
            each.index_select(0, nodes).view(t, w, each.shape[1], -1).transpose(1, 2)
            for each in by_node
        )
        # A path's padding lies behind its end, where causality hides it.
        out = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=is_grouped
        )
        found.append(out.transpose(1, 2).reshape(t * w, n_heads, out.shape[-1]))
    return torch.cat(found).index_select(0, tree.found_at)[None], None


@cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_TREE, _tree_attention)
    AttentionMaskInterface.register(_TREE, lambda **_: None)  # paths need no mask


@contextmanager
def reading_trees(decoder: Any, longest: int) -> Iterator[bool]:
    """Whether the model inside reads trees: seen by a small one that it must read right.

    Args:
        decoder: of a causal LM.
        longest: tokens of the longest text; a sliding window may not be shorter.
    """
    before = str(decoder.config._attn_implementation)
    if not _has_plain_layers(decoder.config, longest) or not _accepts_trees(decoder):
        yield False
        return
    try:
        reads = _reads_right(decoder, before)
        yield reads
    finally:
        decoder.set_attn_implementation(before)


def _has_plain_layers(config: Any, longest: int) -> bool:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if kinds - {"full_attention", "sliding_attention"}:
        return False
    return window is None or window >= longest


def _accepts_trees(decoder: Any) -> bool:
    _register()
    if not getattr(decoder, "_supports_attention_backend", False):
        return False
    try:
        decoder.set_attn_implementation(_TREE)
    except (ValueError, AttributeError):
        return False
    return True


def _reads_right(decoder: Any, plain: str) -> bool:
    """Whether a tree of two texts gives the states that padding gives; leaves trees switched on.

    An architecture may do in its attention what a tree does not know of: soft caps, sinks.
    """
    texts = [(3, 1, 2), (3, 1, 4)]
    (tree,) = token_trees(texts, 4)
    by_tree = tree_states(tree, decoder, Pooling.LAST)
    decoder.set_attn_implementation(plain)
    padded = padded_states(texts, decoder, Pooling.LAST)
    decoder.set_attn_implementation(_TREE)
    tolerance = _NEAR.get(decoder.dtype, 0.1) * np.abs(padded).max()
    return bool(np.abs(by_tree - padded).max() <= tolerance)


@torch.inference_mode()
def tree_states(tree: TokenTree, decoder: Any, pooling: Pooling) -> np.ndarray:
    """(t, d) float32: the states of a tree's texts, in the order of `tree.rows`."""
    device = next(decoder.parameters()).device
    groups = [
        (torch.from_numpy(g.nodes.reshape(-1)).to(device), *g.nodes.shape) for g in tree.groups
    ]
    states = decoder(
        input_ids=torch.from_numpy(tree.tokens)[None].to(device),
        position_ids=torch.from_numpy(tree.depths)[None].to(device),
        use_cache=False,
        tree=_Places(groups, torch.from_numpy(tree.found_at).to(device)),
    ).last_hidden_state[0]
    pooled = torch.empty((len(tree.rows), states.shape[1]), device=device)
    for group, (nodes, t, w) in zip(tree.groups, groups, strict=True):
        lengths = torch.from_numpy(group.lengths).to(device)
        paths = nodes.view(t, w)
        if pooling is Pooling.LAST:
            found = states[paths.gather(1, lengths[:, None] - 1)[:, 0]].float()
        else:
            real = (torch.arange(w, device=device) < lengths[:, None])[..., None]
            found = states[paths].float().masked_fill(~real, 0.0).sum(dim=1) / lengths[:, None]
        pooled[torch.from_numpy(group.rows).to(device)] = found
    return pooled.cpu().numpy()


# -- padded --------------------------------------------------------------------------------------


@torch.inference_mode()
def padded_states(batch: Tokens, decoder: Any, pooling: Pooling) -> np.ndarray:
    """(rows, d) float32: rows padded on the right, with an explicit mask and positions."""
    device = next(decoder.parameters()).device
    lengths = torch.tensor([len(row) for row in batch])
    positions = torch.arange(int(lengths.max())).expand(len(batch), -1)
    mask = positions < lengths[:, None]
    input_ids = torch.zeros(positions.shape, dtype=torch.long)
    input_ids[mask] = torch.tensor([token for row in batch for token in row])
    states = decoder(
        input_ids=input_ids.to(device),
        attention_mask=mask.long().to(device),
        position_ids=positions.to(device),
        use_cache=False,
    ).last_hidden_state
    if pooling is Pooling.LAST:
        pooled = states[torch.arange(len(batch)), lengths - 1].float()
    else:
        real = mask.to(device)[..., None]
        pooled = states.float().masked_fill(~real, 0.0).sum(dim=1) / lengths.to(device)[:, None]
    return pooled.cpu().numpy()
