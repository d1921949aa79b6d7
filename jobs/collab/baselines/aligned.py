"""Aligned matrix factorisation as a system of the bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from jobs.collab.agreement import Agreement, permuted_rows
from jobs.collab.align import AlignConfig, Aligned, align
from jobs.collab.baselines.factorised import NO_RATINGS, FittedFactors, config_values, ratings_of
from jobs.collab.baselines.kept import expect, floats
from jobs.collab.baselines.training import check, places
from jobs.collab.factors import UNKNOWN, Floats, Ints
from jobs.collab.history_map import HistoryEvidence
from jobs.collab.profiles import ProfileConfig, lifted_centroids
from jobs.collab.systems import (
    Catalogue,
    Evidence,
    Fitted,
    Histories,
    Labelled,
    Requests,
    System,
    Tensors,
)
from jobs.collab.user_alignment import (
    Codes,
    code_targets,
    content_targets,
    history_evidence,
    one_hot,
    sees,
)
from jobs.collab.visible import HistoryTaste
from jobs.errors import JobError
from jobs.tokens.threads import torch_threads


class AlignedMf(AlignConfig, System):
    """MF with biases whose factors, projected, point where the LLM's embeddings point.

    Items point to their texts (`alignment_weight`), users to what they like of them
    (`user_alignment_weight`), and users without a factor get one from their history
    (`cold_users`). `permuted` is the null control: with "items" every use of an item's embedding
    or codes gets those of another item, with "users" only the users' targets are dealt out anew.
    """

    title: ClassVar[str] = "Aligned MF"

    seed: Literal[0] = Field(default=0, description="unused: `fit` is given its seed")

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Factors of the users in train and of the whole catalogue."""
        check(evidence)
        known = np.unique(evidence.train.requests.users)
        config = AlignConfig(**config_values(self, seed, n_epochs))
        if n_epochs is not None:
            nothing = evidence.valid.at(np.zeros(0, np.int64))
            evidence = replace(evidence, valid=nothing)
        with torch_threads(config.n_threads):
            done = align(
                ratings_of(evidence.train, known),
                ratings_of(evidence.valid, known) if n_epochs is None else NO_RATINGS,
                len(known),
                evidence.catalogue.semantics,
                evidence.catalogue.groups,
                config,
                profiles=_profiles(evidence, known, config),
                history=_history(evidence, known, config),
            )
        plain = FittedFactors(done.factors, known, done.best.number)
        return FittedAligned(plain, done.fit.history, _agreements(done))

    def restore(self, tensors: Tensors) -> Fitted:
        """The tables, and the map from histories where these settings make one."""
        kept = dict(tensors)
        history = None
        if self.cold_users == "profile":
            of_items = {name: kept.pop(name) for name in (_OF_ITEMS,) if name in kept}
            expect(of_items, {_OF_ITEMS: (None, self.n_factors)})
            history = HistoryTaste(
                floats(of_items, _OF_ITEMS), self.history_pseudo_counts, self.history_length
            )
        return FittedAligned(FittedFactors.restored(kept, self.n_factors), history)


_OF_ITEMS = "history_items"  # what a positive of the item says of its user


def _semantics(catalogue: Catalogue, config: AlignConfig) -> Floats:
    """Item embeddings, dealt out as `align` deals its targets where they are permuted."""
    if config.permuted != "items":
        return catalogue.semantics
    return permuted_rows(catalogue.semantics, config.seed)


def _codes(catalogue: Catalogue, config: AlignConfig) -> Codes:
    """The codebook, whose points are the mean embeddings of its items.

    Raises:
        JobError: the items have no codes.
    """
    codes = catalogue.codes
    if codes.shape[1] == 0:
        raise JobError('profile is "codes", and the items have none; run the job codebook first')
    lifted = lifted_centroids(catalogue.semantics, codes, int(codes.max(initial=0)) + 1)
    if config.permuted == "items":
        codes = permuted_rows((codes + 1).astype(np.float32), config.seed).astype(np.int64) - 1
    return Codes(codes, lifted)


def _profiles(evidence: Evidence, known: Ints, config: AlignConfig) -> Floats | None:
    """(n_known, d_llm) what the users' factors shall point to; None where nothing asks for it."""
    if config.user_alignment_weight == 0:
        return None
    train = evidence.train
    rows = replace(train.requests, users=places(known, train.requests.users))
    weights = ProfileConfig(dislike_weight=config.dislike_weight, decay_days=config.decay_days)
    labelled = Labelled(rows, train.labels)
    if config.profile == "content":
        semantics = _semantics(evidence.catalogue, config)
        return content_targets(labelled, len(known), semantics, weights)
    return code_targets(labelled, len(known), _codes(evidence.catalogue, config), weights)


def _history(evidence: Evidence, known: Ints, config: AlignConfig) -> HistoryEvidence | None:
    """What the map from histories learns from; None where nothing asks for it."""
    if config.cold_users == "none":
        return None
    catalogue = evidence.catalogue
    votes = (
        _semantics(catalogue, config)
        if config.profile == "content"
        else one_hot(_codes(catalogue, config))
    )
    return history_evidence(
        votes, evidence.train, evidence.valid.requests, evidence.histories, known
    )


def _agreements(done: Aligned) -> dict[str, tuple[Agreement, Agreement]]:
    found = {"items": (done.before, done.after)}
    if done.users_before is not None and done.users_after is not None:
        found["users"] = (done.users_before, done.users_after)
    return found


@dataclass(frozen=True)
class FittedAligned:
    """Factors, and a map from histories for users who have none.

    Attributes:
        plain: the factors.
        history: makes factors out of histories; None: such a user's is zero.
        agreements: side -> how far it agreed with the LLM's space before the fit and after. It is
            told of a fit and not kept on disk, as no score depends on it.
    """

    plain: FittedFactors
    history: HistoryTaste | None
    agreements: Mapping[str, tuple[Agreement, Agreement]] = field(default_factory=dict)

    @property
    def n_epochs(self) -> int:
        """Passes over the train rows."""
        return self.plain.n_epochs

    def score(self, requests: Requests, histories: Histories) -> Floats:
        """(n,) logits."""
        if self.history is None:
            return self.plain.score(requests, histories)
        users = places(self.plain.known, requests.users)
        strangers = users == UNKNOWN
        taste = np.zeros((len(requests), self.history.of_items.shape[1]), np.float32)
        taste[strangers] = self.history.factors(sees(requests.at(strangers), histories))
        logits = self.plain.factors.logits(users, requests.items, taste)
        return logits.astype(np.float32, copy=False)

    def tensors(self) -> Tensors:
        """Those of the factors, and of the map."""
        mapped: Tensors = {} if self.history is None else {_OF_ITEMS: self.history.of_items}
        return {**self.plain.tensors(), **mapped}
