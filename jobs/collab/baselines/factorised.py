"""Matrix factorisation as the papers ran it, and with biases, as systems of the bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from jobs.collab.baselines.kept import N_EPOCHS, epochs_tensor, expect, floats, ints
from jobs.collab.baselines.training import check, places
from jobs.collab.factors import Factors, Floats, Ints, Ratings
from jobs.collab.mf import PUBLISHED_MF, MfConfig, fit
from jobs.collab.systems import Evidence, Fitted, Histories, Labelled, Requests, System, Tensors

NO_RATINGS = Ratings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


class BiasedMf(MfConfig, System):
    """Global bias, biases and factors of users and items; see `jobs.collab.mf`."""

    title: ClassVar[str] = "MF with biases"

    seed: Literal[0] = Field(default=0, description="unused: `fit` is given its seed")

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Factors of the users in train and of the whole catalogue."""
        check(evidence)
        known = np.unique(evidence.train.requests.users)
        valid = ratings_of(evidence.valid, known) if n_epochs is None else NO_RATINGS
        config = MfConfig(**config_values(self, seed, n_epochs))
        done = fit(
            ratings_of(evidence.train, known),
            valid,
            len(known),
            evidence.catalogue.n_items,
            config,
        )
        return FittedFactors(done.factors, known, done.best.number)

    def restore(self, tensors: Tensors) -> Fitted:
        """The tables of `FittedFactors`."""
        return FittedFactors.restored(tensors, self.n_factors)


class PublishedMf(BiasedMf):
    """The same model with the settings of the papers: no bias, d 256, dense Adam with L2."""

    title: ClassVar[str] = "MF"

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        """What is not given is as published."""
        return PUBLISHED_MF.model_dump() | given if isinstance(given, dict) else given


def config_values(system: MfConfig, seed: int, n_epochs: int | None) -> dict[str, Any]:
    """The settings of a factorisation with its seed, and with its number of epochs if fixed.

    A fixed number is what `jobs.collab.mf.fit` runs when valid has no AUC.
    """
    fixed = {} if n_epochs is None else {"epochs_without_valid": n_epochs}
    return {**system.model_dump(), "seed": seed, **fixed}


def ratings_of(rows: Labelled, known: Ints) -> Ratings:
    """Rows with users by their place in `known`, the users of train; UNKNOWN for others."""
    requests = rows.requests
    return Ratings(places(known, requests.users), requests.items, rows.labels)


@dataclass(frozen=True)
class FittedFactors:
    """Factors of the users whom train has seen; others have factor and bias zero.

    Attributes:
        factors: tables; users by their place in `known`, items as in the catalogue.
        known: (n_known,) user rows of the catalogue, ascending.
        n_epochs: passes over the train rows.
    """

    factors: Factors
    known: Ints
    n_epochs: int

    def score(self, requests: Requests, histories: Histories) -> Floats:
        """(n,) logits."""
        logits = self.factors.logits(places(self.known, requests.users), requests.items)
        return logits.astype(np.float32, copy=False)

    def tensors(self) -> Tensors:
        """The tables, whom they know, and the number of epochs."""
        factors = self.factors
        return {
            "user_factors": factors.user_factors,
            "user_biases": factors.user_biases,
            "item_factors": factors.item_factors,
            "item_biases": factors.item_biases,
            "global_bias": np.array([factors.global_bias], dtype=np.float64),
            "known_users": self.known,
            N_EPOCHS: epochs_tensor(self.n_epochs),
        }

    @classmethod
    def restored(cls, tensors: Tensors, n_factors: int) -> FittedFactors:
        """What `tensors` gave.

        Raises:
            JobError: tensors are missing, unknown, or of other shapes.
        """
        expect(
            tensors,
            {
                "user_factors": (None, n_factors),
                "user_biases": (None,),
                "item_factors": (None, n_factors),
                "item_biases": (None,),
                "global_bias": (1,),
                "known_users": (None,),
                N_EPOCHS: (1,),
            },
        )
        factors = Factors(
            user_factors=floats(tensors, "user_factors"),
            user_biases=floats(tensors, "user_biases"),
            item_factors=floats(tensors, "item_factors"),
            item_biases=floats(tensors, "item_biases"),
            global_bias=float(tensors["global_bias"][0]),
        )
        return cls(factors, ints(tensors, "known_users"), int(tensors[N_EPOCHS][0]))
