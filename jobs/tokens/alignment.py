"""Contrastive losses that draw soft tokens to their targets in the LLM's space."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from jobs.collab.infonce import info_nce, near_twins
from jobs.job import Config


class ContrastConfig(Config):
    """InfoNCE between tokens and targets (methods.md 7.4)."""

    temperature: float = Field(default=0.1, gt=0, description="divides cosines")
    same_target_cosine: float = Field(
        default=0.95, gt=0, le=1, description="ids whose targets are nearer are no negatives"
    )
    cross_head_weight: float = Field(
        default=0.0,
        ge=0,
        description="of the term that holds each token nearer to its own target than to those of "
        "the other tokens of its user",
    )


DEFAULT = ContrastConfig()


def alignment_loss(
    user_tokens: Tensor | None,
    user_targets: Tensor | None,
    item_tokens: Tensor | None,
    item_targets: Tensor | None,
    config: ContrastConfig = DEFAULT,
) -> Tensor:
    """L_user + L_item of the ids of a batch (methods.md 7.6), in nats; not weighted.

    A side whose tokens or targets are None is left out. An id that is there twice is no negative
    of itself, as its targets are the same; it only weighs twice.

    Args:
        user_tokens: (b, n_tokens, d_llm).
        user_targets: (b, n_tokens, d_llm) of unit length; zero where there is none.
        item_tokens: (c, n_item_tokens, d_llm).
        item_targets: (c, n_item_tokens, d_llm).
        config: temperature, masks, cross-head term.

    Returns:
        Scalar; zero where nothing is left to align.
    """
    sides = ((user_tokens, user_targets), (item_tokens, item_targets))
    losses = [
        contrastive_loss(tokens, targets, config)
        for tokens, targets in sides
        if tokens is not None and targets is not None
    ]
    return torch.stack(losses).sum() if losses else torch.zeros(())


def contrastive_loss(tokens: Tensor, targets: Tensor, config: ContrastConfig = DEFAULT) -> Tensor:
    """Mean over the tokens m of symmetric InfoNCE(z_m, T_m), and the cross-head term.

    Negatives are the other rows, but those whose target is nearly the same. Rows without a target
    for a token take no part in it.

    Args:
        tokens: (b, n_tokens, d_llm).
        targets: (b, n_tokens, d_llm) of unit length, or zero.
        config: see `ContrastConfig`.
    """
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    tokens, targets = tokens.to(dtype), targets.to(dtype)
    known = targets.abs().amax(dim=2) > 0
    losses = [_of_token(tokens[:, m], targets[:, m], known[:, m], config) for m in _heads(tokens)]
    loss = torch.stack(losses).mean()
    if config.cross_head_weight and tokens.shape[1] > 1:
        loss = loss + config.cross_head_weight * cross_head_loss(tokens, targets, config)
    return loss


def _heads(tokens: Tensor) -> range:
    return range(tokens.shape[1])


def _of_token(tokens: Tensor, targets: Tensor, known: Tensor, config: ContrastConfig) -> Tensor:
    rows = known.nonzero()[:, 0]
    if not len(rows):
        return tokens.sum() * 0  # zero, and still with a gradient
    tokens, targets = tokens[rows], targets[rows]
    same = near_twins(targets, config.same_target_cosine)
    return info_nce(tokens, targets, config.temperature, same)


def cross_head_loss(tokens: Tensor, targets: Tensor, config: ContrastConfig = DEFAULT) -> Tensor:
    """Cross-entropy of a token's own target among the targets of all tokens of its user.

    It keeps the tokens of a user from falling into one. Targets of other tokens that are nearly
    the same, or missing, are left out of the sum.

    Args:
        tokens: (b, n_tokens, d_llm).
        targets: (b, n_tokens, d_llm) of unit length, or zero.
        config: temperature and what is nearly the same.
    """
    known = targets.abs().amax(dim=2) > 0
    own = torch.eye(targets.shape[1], dtype=torch.bool, device=targets.device)
    same = targets @ targets.transpose(1, 2) > config.same_target_cosine
    excluded = (same | ~known[:, None, :]) & ~own
    scores = functional.normalize(tokens, dim=2) @ targets.transpose(1, 2) / config.temperature
    logs = scores.masked_fill(excluded, -math.inf).log_softmax(dim=2).diagonal(dim1=1, dim2=2)
    return -(logs * known).sum() / known.sum().clamp(min=1)


def token_cosine(tokens: Tensor) -> float:
    """Mean cosine of two tokens of the same row (n, n_tokens, d_llm); 1 means that all are one.

    Zero where there is one token.
    """
    n, n_tokens, _ = tokens.shape
    if n == 0 or n_tokens < 2:
        return 0.0
    units = functional.normalize(tokens.float(), dim=2)
    off_diagonal = units.sum(dim=1).square().sum(dim=1) - units.square().sum(dim=(1, 2))
    return float(off_diagonal.mean()) / (n_tokens * (n_tokens - 1))
