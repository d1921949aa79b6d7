"""What a user likes and dislikes, as shares of the codes of the items in the history.

The codes are those of a residual codebook (`item_codes`) or the words of a label codebook: the same
shapes, the same functions. Below, L levels and K codes a level. `content_*` is the control that
discretises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from jobs.collab.factors import Floats, Ints
from jobs.collab.systems import Histories, Requests
from jobs.collab.votes import (
    CodeVotes,
    DenseVotes,
    VoteConfig,
    Votes,
    ends_before,
    event_weights,
    running_sums,
)


class ProfileConfig(VoteConfig):
    """How events of a history are weighed, and how their votes become a profile."""

    dislike_weight: float = Field(
        default=0.5, ge=0, description="a negative event counts so much against its codes (gamma)"
    )
    pseudo_counts: float = Field(
        default=5.0, ge=0, description="events that everybody has of the common taste (alpha)"
    )
    vote: Literal["soft", "hard"] = Field(
        default="soft", description="hard: all of a level goes to its strongest code"
    )
    sharpness: float = Field(default=1.0, gt=0, description="shares to this power, then shares")


@dataclass(frozen=True)
class Histograms:
    """Sums of votes. Both sides are sums of positive weights; the sign is in their names.

    Attributes:
        likes: (n, L, K) of positive events; (n, d_llm) where the votes are embeddings.
        dislikes: the same of negative events.
    """

    likes: Floats
    dislikes: Floats


# -- as of one moment ----------------------------------------------------------------------------


def user_histograms(
    users: Ints,
    items: Ints,
    labels: Floats,
    times: Ints,
    codes: Ints,
    as_of: int,
    n_users: int,
    n_codes: int,
    config: VoteConfig,
    popularity: Ints | None = None,
) -> Histograms:
    """Votes (n_users, L, K) of all events before a moment, by user. Linear in events.

    Args:
        users: (n_events,) user rows.
        items: (n_events,) item rows.
        labels: (n_events,) 0 or 1.
        times: (n_events,) microseconds since 1970, UTC.
        codes: (n_items, L), 0 <= code < n_codes.
        as_of: microseconds since 1970; the moment itself is the future.
        n_users: rows of the result; a user without events has zeros.
        n_codes: K.
        config: weights; a `ProfileConfig` is one.
        popularity: (n_items,) see `event_weights`.
    """
    votes = CodeVotes(codes, n_codes)
    sums = vote_sums(users, items, labels, times, votes, as_of, n_users, config, popularity)
    return _by_level(sums, n_codes)


def content_histograms(
    users: Ints,
    items: Ints,
    labels: Floats,
    times: Ints,
    semantics: Floats,
    as_of: int,
    n_users: int,
    config: VoteConfig,
    popularity: Ints | None = None,
) -> Histograms:
    """Sums (n_users, d_llm) of item embeddings, liked and disliked; as `user_histograms`."""
    votes = DenseVotes(semantics)
    return vote_sums(users, items, labels, times, votes, as_of, n_users, config, popularity)


def vote_sums(
    users: Ints,
    items: Ints,
    labels: Floats,
    times: Ints,
    votes: Votes,
    as_of: int,
    n_users: int,
    config: VoteConfig,
    popularity: Ints | None = None,
) -> Histograms:
    """Sums (n_users, width) of any votes; the arguments of `user_histograms`."""
    known = np.flatnonzero(times < as_of)
    weights = event_weights(as_of - times[known], items[known], config, popularity)
    sides = []
    for side in (labels[known] > 0, labels[known] <= 0):
        rows = known[side]
        sums = votes.cast(users[rows], items[rows], weights[side], n_users)
        sides.append(sums.astype(np.float32))
    return Histograms(*sides)


def _by_level(sums: Histograms, n_codes: int) -> Histograms:
    n, width = sums.likes.shape
    shape = (n, width // n_codes, n_codes)
    return Histograms(sums.likes.reshape(shape), sums.dislikes.reshape(shape))


def global_histogram(items: Ints, codes: Ints, n_codes: int) -> Floats:
    """(L, K) `common_taste` of events (n_events,), given by their item rows."""
    return common_taste(np.bincount(items, minlength=len(codes)), codes, n_codes)


def common_taste(n_events: Ints, codes: Ints, n_codes: int) -> Floats:
    """(L, K) shares of the codes among events, whatever their labels; g of `profiles_of`.

    Without events it is the shares among the items of the catalogue.

    Args:
        n_events: (n_items,) events of each item.
        codes: (n_items, L).
        n_codes: K.
    """
    weights = n_events if n_events.sum() else np.ones(len(codes))
    counts = np.stack([np.bincount(level, weights, n_codes) for level in codes.T])
    return (counts / max(weights.sum(), 1)).astype(np.float32)


# -- as of each row ------------------------------------------------------------------------------


def profiles_as_of_rows(
    requests: Requests,
    histories: Histories,
    codes: Ints,
    prior: Floats,
    config: ProfileConfig,
    negatives: Histories | None = None,
    popularity: Ints | None = None,
) -> Floats:
    """(n, L * K) the profile of each row's user from what the row may see, and nothing else.

    A row sees the first `history_ends` positives of its user, and of `negatives` those strictly
    before its own time. So neither its own label nor anything later can change its profile, as
    long as `prior` and `popularity` do not hold them: give such that were fixed before.

    Args:
        requests: n rows.
        histories: positives of everybody.
        codes: (n_items, L).
        prior: (L, K) as `global_histogram`.
        config: see `ProfileConfig`.
        negatives: the dislikes that may be used, those of the train rows; None: none.
        popularity: (n_items,) see `event_weights`.
    """
    votes = CodeVotes(codes, prior.shape[1])
    sums = vote_sums_as_of_rows(requests, histories, votes, config, negatives, popularity)
    return profiles_of(sums, prior, config).reshape(len(requests), prior.size)


def content_as_of_rows(
    requests: Requests,
    histories: Histories,
    semantics: Floats,
    prior: Floats,
    config: ProfileConfig,
    negatives: Histories | None = None,
    popularity: Ints | None = None,
) -> Floats:
    """(n, d_llm) `content_profiles` of what each row may see; as `profiles_as_of_rows`."""
    votes = DenseVotes(semantics)
    sums = vote_sums_as_of_rows(requests, histories, votes, config, negatives, popularity)
    return content_profiles(sums, prior, config)


def vote_sums_as_of_rows(
    requests: Requests,
    histories: Histories,
    votes: Votes,
    config: VoteConfig,
    negatives: Histories | None = None,
    popularity: Ints | None = None,
) -> Histograms:
    """Sums (n, width) of the votes that each row may see; linear in rows and events."""
    likes = running_sums(requests, histories, votes, config, popularity)
    if negatives is None:
        return Histograms(likes, np.zeros_like(likes))
    seen = replace(requests, history_ends=ends_before(requests, negatives))
    return Histograms(likes, running_sums(seen, negatives, votes, config, popularity))


# -- from votes to profiles ----------------------------------------------------------------------


def profiles_of(histograms: Histograms, prior: Floats, config: ProfileConfig) -> Floats:
    """(n, L, K) profiles: what is left of the likes on each level, as shares that sum to 1.

    p = relu(likes - gamma * dislikes + alpha * g), divided by its sum; then p^beta likewise. The
    relu clips codes that are disliked more than liked: see `aversions`. A level of which nothing
    is left is the prior; the prior of a level without any is uniform.

    Args:
        histograms: of n users or rows, (n, L, K) or (n, L * K).
        prior: (L, K) shares, as `global_histogram`.
        config: gamma, alpha, beta, vote.
    """
    left = np.maximum(_signed(histograms, prior, config), 0)
    prior = _shares(prior[None], np.ones((1, *prior.shape), np.float32))
    shares = _shares(left, prior)
    if config.vote == "hard":
        return _winners(shares)
    if config.sharpness != 1.0:
        top = shares / shares.max(axis=2, keepdims=True)  # no power of a small share underflows
        shares = _shares(top**config.sharpness, prior)
    return shares


def aversions(histograms: Histograms, prior: Floats, config: ProfileConfig) -> Floats:
    """(n, L, K) what `profiles_of` clips: by how much a code is disliked more than liked."""
    return np.maximum(-_signed(histograms, prior, config), 0)


def _signed(histograms: Histograms, prior: Floats, config: ProfileConfig) -> Floats:
    signed = histograms.likes - np.float32(config.dislike_weight) * histograms.dislikes
    return signed.reshape(-1, *prior.shape) + np.float32(config.pseudo_counts) * prior


def _shares(masses: Floats, instead: Floats) -> Floats:
    """Masses (n, L, K) divided by their level's sum; `instead` (1, L, K) where that is zero."""
    total = masses.sum(axis=2, keepdims=True)
    shares = np.divide(masses, total, out=np.zeros_like(masses), where=total > 0)
    default = instead / np.maximum(instead.sum(axis=2, keepdims=True), np.float32(1e-30))
    return np.where(total > 0, shares, default).astype(np.float32)


def _winners(shares: Floats) -> Floats:
    """One-hot of the strongest code of each level; of equals the lowest number wins."""
    winners = np.zeros_like(shares)
    np.put_along_axis(winners, shares.argmax(axis=2)[:, :, None], np.float32(1), axis=2)
    return winners


def content_profiles(histograms: Histograms, prior: Floats, config: ProfileConfig) -> Floats:
    """(n, d_llm) the control without codes: the direction of the weighted mean of the embeddings.

    likes - gamma * dislikes + alpha * g, to unit length: the same weights as with codes, nothing
    clipped. A user of whom nothing is left has zeros.

    Args:
        histograms: sums of embeddings, (n, d_llm).
        prior: (d_llm,) g: mean embedding of the events, or of the catalogue.
        config: gamma, alpha; vote and sharpness mean nothing here.
    """
    return unit(_signed(histograms, prior, config))


# -- in the LLM's space --------------------------------------------------------------------------


def lifted_centroids(
    semantics: Floats,
    codes: Ints,
    n_codes: int,
    lift: Literal["members", "residuals"] = "members",
) -> Floats:
    """(L, K, d_llm) the codes as points of the LLM's space; R of `profile_targets`.

    Args:
        semantics: (n_items, d_llm) unit vectors.
        codes: (n_items, L).
        n_codes: K.
        lift: members: mean of the items that have the code. residuals: mean of what the levels
            above leave of them. A code without items is zero.
    """
    rest = semantics.astype(np.float64)
    lifted = np.zeros((codes.shape[1], n_codes, semantics.shape[1]), dtype=np.float32)
    everyone = np.arange(len(semantics))
    for level, of_level in enumerate(codes.T):
        n_members = np.bincount(of_level, minlength=n_codes)
        sums = DenseVotes(rest).cast(of_level, everyone, np.ones(len(rest)), n_codes)
        means = sums / np.maximum(n_members, 1)[:, None]
        lifted[level] = means
        if lift == "residuals":
            rest -= means[of_level]
    return lifted


def profile_targets(profiles: Floats, lifted: Floats) -> Floats:
    """(n, L, d_llm) unit vectors T[m] = sum_k p[m, k] R[m, k]; zero where nothing is left.

    With a hard vote it is the direction of the winning code.

    Args:
        profiles: (n, L, K) or (n, L * K).
        lifted: (L, K, d_llm).
    """
    shares = profiles.reshape(-1, *lifted.shape[:2])
    targets = np.stack([shares[:, m] @ lifted[m] for m in range(len(lifted))], axis=1)
    return unit(targets)


def merged_targets(targets: Floats) -> Floats:
    """(n, d_llm) one unit vector a user, the mean of its levels' (n, L, d_llm)."""
    return unit(targets.mean(axis=1))


def unit(vectors: Floats) -> Floats:
    """Vectors of length 1 along the last axis; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
