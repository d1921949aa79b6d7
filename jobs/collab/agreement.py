"""How far the collaborative space and the LLM's space agree about items, or about users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jobs.collab.factors import Floats, Ints

N_NEIGHBOURS = 10
_QUERIES = 2_000  # items whose neighbours are looked up, evenly spaced, in a larger catalogue
_CHUNK = 256  # queries compared with the whole catalogue at once


@dataclass(frozen=True)
class Agreement:
    """How the two spaces agree about one side; None where there is nothing to compare.

    Attributes:
        cosine: mean cosine of a projected factor with its target.
        overlap: share of a row's 10 nearest rows, by cosine of factors, that are also among the
            10 nearest by target.
        overlap_unseen: the same over rows without train events.
    """

    cosine: float
    overlap: float | None
    overlap_unseen: float | None


def agreement_of(
    factors: Floats, project: Callable[[Floats], Floats], targets: Floats, unseen: Ints
) -> Agreement:
    """The agreement of one side.

    Args:
        factors: (n, d) of items, or of users.
        project: (n, d) to (n, d_llm), as `Projector.project`.
        targets: (n, d_llm) of unit length: embeddings of the items, profiles of the users.
        unseen: rows without train events.
    """
    if len(factors) == 0:
        return Agreement(0.0, None, None)
    return Agreement(
        cosine=mean_cosine(project(factors), targets),
        overlap=neighbour_overlap(factors, targets, np.arange(len(targets))),
        overlap_unseen=neighbour_overlap(factors, targets, unseen),
    )


def permuted_rows(targets: Floats, seed: int) -> Floats:
    """Targets dealt out at random among the rows that have one: the null control of alignment.

    Whatever alignment gains with these is not in what the targets say. Rows of zeros, which have
    no target, stay as they are.
    """
    rows = np.flatnonzero(np.abs(targets).max(axis=1, initial=0) > 0)
    dealt = np.array(targets)
    dealt[rows] = targets[rows[np.random.default_rng([seed, 0x9E37]).permutation(len(rows))]]
    return dealt


def mean_cosine(projected: Floats, targets: Floats) -> float:
    """Mean cosine of paired rows, (n, d) both; `targets` are of unit length."""
    lengths = np.linalg.norm(projected, axis=1)
    products = np.einsum("nd,nd->n", projected, targets)
    return float(
        np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).mean()
    )


def neighbour_overlap(
    left: Floats, right: Floats, queries: Ints, n_neighbours: int = N_NEIGHBOURS
) -> float | None:
    """Mean share of an item's nearest items, by cosine, that two spaces have in common.

    Two unrelated spaces share n_neighbours / (n - 1).

    Args:
        left: (n, d1) items in one space.
        right: (n, d2) the same items in another.
        queries: rows whose neighbours are compared; of more than 2,000, evenly spaced ones are.
        n_neighbours: neighbours of each, at most n - 1.

    Returns:
        Between 0 and 1; None without queries, or with one item.
    """
    k = min(n_neighbours, len(left) - 1)
    if k < 1 or len(queries) == 0:
        return None
    if len(queries) > _QUERIES:
        queries = queries[np.linspace(0, len(queries) - 1, _QUERIES).astype(np.int64)]
    units = [torch.nn.functional.normalize(torch.tensor(side), dim=1) for side in (left, right)]
    shared = 0
    for chunk in torch.split(torch.tensor(queries), _CHUNK):
        both = torch.cat([_nearest(side, chunk, k) for side in units], dim=1).sort(dim=1).values
        shared += int((both[:, 1:] == both[:, :-1]).sum())
    return shared / (k * len(queries))


def _nearest(units: Tensor, queries: Tensor, k: int) -> Tensor:
    """(b, k) rows nearest to each query by cosine, itself left out."""
    similarities = units[queries] @ units.T
    similarities[torch.arange(len(queries)), queries] = -torch.inf
    return similarities.topk(k, dim=1).indices
