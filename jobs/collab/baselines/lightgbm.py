"""The control that any system must beat: boosted trees on counts, means and text similarities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import lightgbm
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jobs.collab.baselines.counts import (
    DAY_US,
    POPULARITY_DAYS,
    Doubles,
    as_of_counts,
    as_of_days,
)
from jobs.collab.baselines.kept import N_EPOCHS, epochs_tensor, expect, floats, ints
from jobs.collab.baselines.similarities import Lists, ends_before, positives_of, similarities
from jobs.collab.baselines.training import check
from jobs.collab.factors import Floats, Ints
from jobs.collab.systems import Evidence, Fitted, Histories, Labelled, Requests, System, Tensors
from jobs.errors import JobError
from jobs.report.controls import SMOOTHING
from jobs.report.metrics import auc

_EVENTS = ("users", "items", "times")
TENSORS = (*_EVENTS, "labels", "vectors", "trees", N_EPOCHS)


class LightGbm(System):
    """Boosted trees on as-of-midnight counts and means, and on eight text similarities.

    The similarities are those to the positives that a row may see, and to the negatives of train of
    the days before its own.
    """

    title: ClassVar[str] = "LightGBM control"

    n_leaves: int = Field(default=4, gt=1, description="leaves of a tree: few, the data is small")
    learning_rate: float = Field(default=0.05, gt=0, description="weight of a tree")
    min_rows: int = Field(default=100, gt=0, description="rows in a leaf, at least")
    l2: float = Field(default=10.0, ge=0, description="shrinks what a leaf says")
    feature_share: float = Field(default=0.7, gt=0, le=1, description="features a tree may use")
    row_share: float = Field(default=0.8, gt=0, le=1, description="rows a tree may use")
    max_trees: int = Field(default=600, gt=0, description="trees at most")
    patience: int = Field(default=50, gt=0, description="trees without a better valid AUC")
    trees_without_valid: int = Field(default=60, gt=0, description="trees when valid has no AUC")
    smoothing: float = Field(default=SMOOTHING, gt=0, description="rows at the global mean")
    popularity_days: int = Field(default=POPULARITY_DAYS, gt=0, description="days of popularity")
    with_similarities: bool = Field(default=True, description="use the items' texts")
    half_life_days: float = Field(default=90.0, gt=0, description="of the mean that forgets")
    newest: int = Field(default=500, gt=0, description="entries of a list that are looked at")
    fitted_days: int = Field(
        default=150, ge=0, description="trees learn from rows of so many last days; 0: from all"
    )

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Trees on the train rows, each with what its own midnight knew; an epoch is a tree.

        Raises:
            JobError: no train rows, or `n_epochs` below one.
        """
        check(evidence)
        if n_epochs is not None and n_epochs < 1:
            raise JobError(f"n_epochs is {n_epochs}; grow at least one tree")
        vectors = evidence.catalogue.semantics
        known = _Known(self, evidence.train, vectors.astype(np.float32, copy=False))
        train = evidence.train.at(self._fitted_places(evidence.train.requests.times))
        data = self._dataset(known.features(train.requests, evidence.histories), train.labels)
        stops = n_epochs is None and auc(evidence.valid.labels, np.zeros(len(evidence.valid)))
        if not stops:
            trees = lightgbm.train(
                self._settings(seed, len(train)), data, n_epochs or self.trees_without_valid
            )
            return FittedTrees(known, trees, trees.current_iteration())
        features = known.features(evidence.valid.requests, evidence.histories)
        stopped = lightgbm.train(
            self._settings(seed, len(train)),
            data,
            self.max_trees,
            valid_sets=[data.create_valid(features, evidence.valid.labels)],
            callbacks=[lightgbm.early_stopping(self.patience, verbose=False)],
        )
        kept = lightgbm.Booster(model_str=stopped.model_to_string(stopped.best_iteration))
        return FittedTrees(known, kept, kept.current_iteration())

    def _fitted_places(self, times: Ints) -> Ints:
        if self.fitted_days == 0:
            return np.arange(len(times))
        return np.flatnonzero(times >= times.max() - self.fitted_days * DAY_US)

    def _dataset(self, features: Doubles, labels: Floats) -> Any:
        return lightgbm.Dataset(features, labels, params={"verbose": -1, "num_threads": 1})

    def _settings(self, seed: int, n_rows: int) -> dict[str, Any]:
        # A share of a handful of rows can be no row, which LightGBM does not survive.
        row_share = self.row_share if n_rows * self.row_share >= 2 else 1.0
        return {
            "objective": "binary",
            "metric": "auc",
            "num_leaves": self.n_leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.min_rows,
            "lambda_l2": self.l2,
            "feature_fraction": self.feature_share,
            "bagging_fraction": row_share,
            "bagging_freq": 1,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,  # else it times both ways and takes the faster
            "num_threads": 1,
            "verbose": -1,
        }

    def restore(self, tensors: Tensors) -> Fitted:
        """What `FittedTrees.tensors` gave.

        Raises:
            JobError: tensors are missing, unknown, or hold no trees.
        """
        expect(tensors, {**dict.fromkeys(TENSORS, (None,)), "vectors": (None, None)})
        users, items, times = (ints(tensors, name) for name in _EVENTS)
        requests = Requests(users, items, times, np.zeros_like(users))
        known = _Known(
            self, Labelled(requests, floats(tensors, "labels")), floats(tensors, "vectors")
        )
        try:
            trees = lightgbm.Booster(model_str=bytes(tensors["trees"].tolist()).decode())
        except (ValueError, lightgbm.basic.LightGBMError) as error:
            raise JobError(f"tensor 'trees' holds no trees ({error}); fit the system anew") from (
                error
            )
        return FittedTrees(known, trees, int(tensors[N_EPOCHS][0]))


@dataclass(frozen=True)
class _Known:
    """What features are made of: settings, train rows, texts."""

    system: LightGbm
    events: Labelled
    vectors: NDArray[np.float32]
    negatives: Lists = field(init=False)

    def __post_init__(self) -> None:
        requests = self.events.requests.at(self.events.labels == 0)
        n_users = int(self.events.requests.users.max(initial=-1)) + 1
        object.__setattr__(
            self,
            "negatives",
            Lists.of(requests.users, requests.items, requests.times, n_users),
        )

    def features(self, requests: Requests, histories: Histories) -> Doubles:
        """(n, 9 or 17) of rows, each as of its midnight; NaN where there is nothing to tell."""
        system = self.system
        as_of = as_of_days(requests.times, self.events)
        counts = as_of_counts(
            requests.users,
            requests.items,
            as_of,
            self.events,
            system.smoothing,
            system.popularity_days,
        ).matrix()
        if not system.with_similarities:
            return counts
        near = (system.half_life_days, system.newest)
        positives = positives_of(histories)
        liked = similarities(requests, positives, requests.history_ends, self.vectors, *near)
        disliked = np.full_like(liked, np.nan)
        seen = np.flatnonzero(requests.users < len(self.negatives.starts) - 1)
        rows = requests.at(seen)
        ends = ends_before(self.negatives, rows.users, as_of[seen] * DAY_US)
        disliked[seen] = similarities(rows, self.negatives, ends, self.vectors, *near)
        return np.column_stack([counts, liked, disliked])


@dataclass(frozen=True)
class FittedTrees:
    """Trees, and the events that their features are counted in."""

    known: _Known
    trees: Any
    n_epochs: int

    def score(self, requests: Requests, histories: Histories) -> Floats:
        """(n,) logits."""
        if len(requests) == 0:
            return np.zeros(0, dtype=np.float32)
        features = self.known.features(requests, histories)
        logits = self.trees.predict(features, raw_score=True, num_threads=1)
        return np.asarray(logits, dtype=np.float32)

    def tensors(self) -> Tensors:
        """The events, the texts, and the trees as LightGBM's own text in bytes."""
        requests = self.known.events.requests
        text = self.trees.model_to_string().encode()
        return {
            "users": requests.users,
            "items": requests.items,
            "times": requests.times,
            "labels": self.known.events.labels,
            "vectors": self.known.vectors,
            "trees": np.frombuffer(text, dtype=np.uint8),
            N_EPOCHS: epochs_tensor(self.n_epochs),
        }
