"""InfoNCE between projected factors and targets in the LLM's space, and its negatives."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from jobs.job import Config

_TARGETS_AT_ONCE = 4_096  # of the catalogue, compared with a batch


class InfoNceConfig(Config):
    """How factors are drawn to the LLM's space: items to their texts, users to profiles."""

    alignment_weight: float = Field(
        default=1.0,
        ge=0,
        description="weight of the items' InfoNCE beside the cross-entropy; 0 turns it off",
    )
    user_alignment_weight: float = Field(
        default=0.0, ge=0, description="weight of the users' InfoNCE; 0 turns it off"
    )
    temperature: float = Field(default=0.4, gt=0, description="divides cosines in InfoNCE")
    n_hidden: int = Field(default=256, gt=0, description="width of the projector's hidden layer")
    user_projector: Literal["shared", "own"] = Field(
        default="shared", description="users go through the items' projector, or one of their own"
    )
    aligned_items: int = Field(default=128, gt=1, description="items of the catalogue in a step")
    alignment_passes: float = Field(
        default=1.25,
        gt=0,
        description="passes over the catalogue in an epoch, at most; the steps between do not "
        "align. --min-steps of them do in any case",
    )
    aligned_users: int = Field(default=128, gt=1, description="users with a profile in a step")
    same_profile_cosine: float = Field(
        default=0.95, gt=0, le=1, description="users whose targets are nearer are no negatives"
    )
    negatives: Literal["batch", "catalogue", "sampled"] = Field(
        default="batch", description="what an item's own text is told apart from"
    )
    n_negatives: int = Field(default=1024, gt=0, description="sampled negatives of a step")
    negatives_power: float = Field(
        default=0.75, ge=0, description="an item is sampled by (1 + train events) to this power"
    )
    semantics: Literal["frozen", "trainable"] = Field(
        default="frozen", description="whether the item embeddings learn too"
    )
    semantics_rate: float = Field(
        default=0.1, gt=0, description="their Adam step as a share of --learning-rate"
    )
    projector_learning_rate: float = Field(
        default=1e-3, gt=0, description="Adam step of the projector"
    )


def twins(groups: Tensor) -> Tensor:
    """(b, b) which rows are of one group; a row is not its own twin."""
    return (groups[:, None] == groups[None, :]).fill_diagonal_(False)


def near_twins(targets: Tensor, cosine: float) -> Tensor:
    """(b, b) which targets (b, d), of unit length, are nearer than `cosine`; no row to itself."""
    return (targets @ targets.T > cosine).fill_diagonal_(False)


def similarities(projected: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """(b, n) cos(projected_i, targets_j) / temperature; `targets` are of unit length."""
    return functional.normalize(projected, dim=1) @ targets.T / temperature


def info_nce(
    projected: Tensor, targets: Tensor, temperature: float, excluded: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE between paired rows, by cosine (van den Oord et al. 2018, both ways).

    With s_ij = cos(projected_i, targets_j) / temperature, the mean over i of
    -(log softmax_j(s_ij) + log softmax_j(s_ji)) / 2, both at j = i. Rows must be distinct items or
    users: a double would be its own false negative.

    Args:
        projected: (b, d).
        targets: (b, d), of unit length.
        temperature: divides the cosines.
        excluded: (b, b) pairs that are no negatives of each other, as their targets are the same
            or nearly so; False on the diagonal. None: no such pair.

    Returns:
        Scalar, in nats; 0 for one row.
    """
    scores = similarities(projected, targets, temperature)
    if excluded is not None:
        scores = scores.masked_fill(excluded, -math.inf)
    own = torch.arange(len(projected), device=projected.device)
    return (functional.cross_entropy(scores, own) + functional.cross_entropy(scores.T, own)) / 2


def backward_info_nce(
    projected: Tensor, targets: Tensor, temperature: float, excluded: Tensor | None
) -> Tensor:
    """The half of `info_nce` whose anchors are the targets: which row of the batch is mine?"""
    scores = similarities(projected, targets, temperature)
    if excluded is not None:
        scores = scores.masked_fill(excluded, -math.inf)
    own = torch.arange(len(projected), device=projected.device)
    return functional.cross_entropy(scores.T, own)


class _LogSumExp(torch.autograd.Function):
    """log sum_j exp(anchor . target_j), with the catalogue a chunk at a time, both ways."""

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, targets: Tensor, own: Tensor, groups: Tensor | None
    ) -> Tensor:
        total = anchors.new_full((len(anchors),), -math.inf)
        for start in range(0, len(targets), _TARGETS_AT_ONCE):
            scores = _chunk_scores(anchors, targets, own, groups, start)
            total = torch.logaddexp(total, scores.logsumexp(dim=1))
        ctx.save_for_backward(anchors, targets, own, groups, total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        anchors, targets, own, groups, total = ctx.saved_tensors
        slope = torch.zeros_like(anchors)
        for start in range(0, len(targets), _TARGETS_AT_ONCE):
            scores = _chunk_scores(anchors, targets, own, groups, start)
            shares = (scores - total[:, None]).exp_()
            slope += shares @ targets[start : start + _TARGETS_AT_ONCE]
        return slope * gradients[0][:, None], None, None, None


def _chunk_scores(
    anchors: Tensor, targets: Tensor, own: Tensor, groups: Tensor | None, start: int
) -> Tensor:
    """(b, m) scores of a chunk of the catalogue; -inf for the anchor's twins, not for itself."""
    scores = anchors @ targets[start : start + _TARGETS_AT_ONCE].T
    if groups is None:
        return scores
    places = torch.arange(start, start + scores.shape[1], device=scores.device)
    is_twin = groups[own][:, None] == groups[places][None, :]
    is_twin &= own[:, None] != places[None, :]
    return scores.masked_fill_(is_twin, -math.inf)


def catalogue_info_nce(
    projected: Tensor,
    own: Tensor,
    own_targets: Tensor,
    targets: Tensor,
    temperature: float,
    groups: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of each row's own text among all texts of the catalogue.

    -s_i + log sum_j exp(s_ij) with j over the whole catalogue but the row's twins. Time is b * n,
    memory b * 4,096. The catalogue's targets are constants here.

    Args:
        projected: (b, d).
        own: (b,) rows of the catalogue that these are.
        own_targets: (b, d) their targets, of unit length, which may learn.
        targets: (n, d) of the catalogue, of unit length.
        temperature: divides the cosines.
        groups: (n,) equal where the text is equal; None if all differ.
    """
    anchors = functional.normalize(projected, dim=1) / temperature
    total: Tensor = _LogSumExp.apply(anchors, targets, own, groups)  # type: ignore[no-untyped-call]
    return (total - (anchors * own_targets).sum(dim=1)).mean()


def sampled_info_nce(
    projected: Tensor,
    own: Tensor,
    own_targets: Tensor,
    sample: Tensor,
    sample_targets: Tensor,
    log_expected: Tensor,
    temperature: float,
    groups: Tensor | None = None,
) -> Tensor:
    """`catalogue_info_nce` with its sum over the catalogue estimated from a sample.

    A sampled item k stands for 1 / (K q_k) items, which is what subtracting log(K q_k) from its
    score does (Bengio and Senecal 2008): exp(s_i) + sum over k, not i, of exp(s_ik) / (K q_k)
    has the full sum as its expectation.

    Args:
        projected: (b, d).
        own: (b,) rows of the catalogue that these are.
        own_targets: (b, d) their targets, of unit length.
        sample: (K,) rows of the catalogue, drawn with replacement with probability q.
        sample_targets: (K, d) their targets.
        log_expected: (K,) log(K q) of each.
        temperature: divides the cosines.
        groups: (n,) equal where the text is equal; None if all differ.
    """
    anchors = functional.normalize(projected, dim=1) / temperature
    scores = anchors @ sample_targets.T - log_expected
    excluded = own[:, None] == sample[None, :]
    if groups is not None:
        excluded |= groups[own][:, None] == groups[sample][None, :]
    scores = scores.masked_fill(excluded, -math.inf)
    positive = (anchors * own_targets).sum(dim=1)
    return (torch.cat([positive[:, None], scores], dim=1).logsumexp(dim=1) - positive).mean()
