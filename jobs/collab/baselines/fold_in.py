"""The best system without an LLM at scoring time: items learned slowly, users folded in nightly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from jobs.collab.align import AlignConfig
from jobs.collab.baselines.bayesian_items import BayesianConfig
from jobs.collab.baselines.counts import DAY_US
from jobs.collab.baselines.item_side import ItemSide, Kept, aligned_side, bayesian_side, key_of
from jobs.collab.baselines.kept import N_EPOCHS, epochs_tensor, expect, floats, ints
from jobs.collab.baselines.similarities import by_user
from jobs.collab.baselines.training import check
from jobs.collab.baselines.user_process import (
    Doubles,
    UserEvents,
    UserProcessConfig,
    departures,
)
from jobs.collab.factors import Floats, Ints
from jobs.collab.systems import Evidence, Fitted, Histories, Labelled, Requests, System, Tensors
from jobs.tokens.threads import torch_threads

_EVENTS = ("users", "items", "times")
TENSORS = ("item_means", "item_loadings", "vectors", *_EVENTS, "labels", N_EPOCHS)
_SIDES = Kept()


class FoldIn(UserProcessConfig, System):
    """Users as Gaussian processes over the items of a factorisation.

    The item side is that of an aligned MF (few labels) or of a Bayesian factorisation (many). The
    user side has nothing to train: it is the posterior mean given all that the user did, so a night
    costs no more than the users that are scored. Cold users are told from the positives that their
    rows may see.
    """

    title: ClassVar[str] = "Gaussian fold-in"

    items: Literal["aligned", "bayesian"] = Field(
        default="aligned", description="the item side: for few labels, or for many"
    )
    relearn_days: int = Field(
        default=1,
        gt=0,
        description="the item side is learned from the rows before the last day whose number "
        "since 1970 this divides; 1: from all rows, every night",
    )
    aligned: AlignConfig = Field(default=AlignConfig(), description="settings of `aligned`")
    bayesian: BayesianConfig = Field(default=BayesianConfig(), description="of `bayesian`")

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Learn the item side, or take the one that was learned from the same rows; keep events."""
        check(evidence)
        settled = replace(evidence, train=self._settled(evidence.train))
        settings = f"{self.model_dump_json()} {seed} {n_epochs}"
        valid = settled.valid if n_epochs is None else settled.valid.at(np.zeros(0, np.int64))
        key = key_of(settings, settled.catalogue, settled.train, valid)
        side = _SIDES.get(key, lambda: self._learned(settled, seed, n_epochs))
        rows = evidence.train
        order = np.lexsort((np.arange(len(rows)), rows.requests.times, rows.requests.users))
        vectors = evidence.catalogue.semantics.astype(np.float32, copy=False)
        return FoldedIn(self, side, vectors, rows.at(order))

    def _settled(self, train: Labelled) -> Labelled:
        """The rows that the item side is learned from; all, where that would be none."""
        times = train.requests.times
        day = int(times.max()) // DAY_US + 1
        is_settled = times < day // self.relearn_days * self.relearn_days * DAY_US
        return train.at(is_settled) if is_settled.any() else train

    def _learned(self, evidence: Evidence, seed: int, n_epochs: int | None) -> ItemSide:
        if self.items == "aligned":
            return aligned_side(evidence, self.aligned, seed, n_epochs)
        return bayesian_side(evidence.train, evidence.catalogue.n_items, self.bayesian, seed)

    def restore(self, tensors: Tensors) -> Fitted:
        """What `FoldedIn.tensors` gave."""
        d = self.aligned.n_factors if self.items == "aligned" else self.bayesian.n_factors
        shapes = dict.fromkeys(TENSORS, (None,))
        expect(tensors, {**shapes, "item_loadings": (None, d), "vectors": (None, None)})
        users, items, times = (ints(tensors, name) for name in _EVENTS)
        side = ItemSide(
            floats(tensors, "item_means"),
            floats(tensors, "item_loadings"),
            int(tensors[N_EPOCHS][0]),
        )
        requests = Requests(users, items, times, np.zeros_like(users))
        rows = Labelled(requests, floats(tensors, "labels"))
        return FoldedIn(self, side, floats(tensors, "vectors"), rows)


@dataclass(frozen=True)
class FoldedIn:
    """The item side, and what everybody did until now.

    Attributes:
        system: settings.
        side: items.
        vectors: (n_items, d_llm) texts, of unit length.
        events: rows with labels, by user, then time.
    """

    system: FoldIn
    side: ItemSide
    vectors: Floats
    events: Labelled

    @property
    def n_epochs(self) -> int:
        """Of the item side."""
        return self.side.n_epochs

    def score(self, requests: Requests, histories: Histories) -> Floats:
        """(n,) logits: the tangent at one half of expected label + the user's departure."""
        means = self.side.means[requests.items].astype(np.float64)
        with torch_threads(1):
            told = self._departures(requests, histories)
        logits: Floats = (4 * (means + told - 0.5)).astype(np.float32)
        return logits

    def _departures(self, requests: Requests, histories: Histories) -> Doubles:
        loadings, vectors = self.side.loadings.astype(float), self.vectors.astype(float)
        found = np.zeros(len(requests))
        for user, rows in by_user(requests.users):
            events, n_seen = self._seen(user, requests.history_ends[rows], histories)
            found[rows] = departures(
                events,
                requests.items[rows],
                requests.times[rows],
                n_seen,
                loadings,
                vectors,
                self.system,
            )
        return found

    def _seen(self, user: int, ends: Ints, histories: Histories) -> tuple[UserEvents, Ints]:
        """A user's labelled events and the positives after them; how many of both a row sees."""
        newest, known = self.system.newest, self.events.requests
        labelled = np.arange(*np.searchsorted(known.users, [user, user + 1]))[-newest:]
        start = histories.starts[user]
        mine = slice(start, start + int(ends.max(initial=0)))
        last = known.times[labelled[-1]] if len(labelled) else np.iinfo(np.int64).min
        n_before = int(np.searchsorted(histories.times[mine], last, side="right"))
        beyond = slice(start + n_before, min(mine.stop, start + n_before + newest))
        items = known.items[labelled]
        told = self.events.labels[labelled] - self.side.means[items].astype(np.float64)
        n_beyond = len(histories.items[beyond])
        events = UserEvents(
            items=np.concatenate([items, histories.items[beyond]]),
            times=np.concatenate([known.times[labelled], histories.times[beyond]]),
            departures=np.concatenate([told, np.full(n_beyond, self.system.liked_beyond)]),
            n_labelled=len(labelled),
        )
        return events, len(labelled) + np.clip(ends - n_before, 0, n_beyond)

    def tensors(self) -> Tensors:
        """Items, texts and events."""
        requests = self.events.requests
        return {
            "item_means": self.side.means,
            "item_loadings": self.side.loadings,
            "vectors": self.vectors,
            "users": requests.users,
            "items": requests.items,
            "times": requests.times,
            "labels": self.events.labels,
            N_EPOCHS: epochs_tensor(self.n_epochs),
        }
