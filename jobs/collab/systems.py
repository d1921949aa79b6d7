"""The contract of every system on the bench: what it learns from, what it scores, what is kept.

A system is a frozen config with a `fit`; what it gives is `Fitted`, plain tensors with a `score`.
Users and items are dense numbers of the whole catalogue here, also those that no train row has:
a system finds out for itself whom it has seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.collab.factors import Floats, Ints
from jobs.job import Config

Tensors = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Histories:
    """The positives of each user, oldest first, one list with offsets (CSR).

    Attributes:
        items: (n_positives,) item rows.
        times: (n_positives,) microseconds since 1970, UTC, ascending within a user.
        starts: (n_users + 1,) where the list of each user begins, and the end of the last.
    """

    items: Ints
    times: Ints
    starts: Ints


@dataclass(frozen=True)
class Requests:
    """Rows to score. A row may look at the first `history_ends` positives of its user, no further.

    Attributes:
        users: (n,) user rows.
        items: (n,) item rows.
        times: (n,) microseconds since 1970, UTC.
        history_ends: (n,) visible positives of the row's user, counted from the oldest.
    """

    users: Ints
    items: Ints
    times: Ints
    history_ends: Ints

    def __len__(self) -> int:
        return len(self.users)

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Requests:
        """Some of the rows, by place or by mask."""
        return replace(
            self,
            users=self.users[places],
            items=self.items[places],
            times=self.times[places],
            history_ends=self.history_ends[places],
        )


@dataclass(frozen=True)
class Labelled:
    """Rows whose labels are known: (n,) 0 or 1."""

    requests: Requests
    labels: Floats

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Labelled:
        """Some of the rows, by place or by mask."""
        return Labelled(self.requests.at(places), self.labels[places])


@dataclass(frozen=True)
class Catalogue:
    """What is known of the items without anybody's labels.

    Attributes:
        n_users: users of the whole bench, numbered from 0.
        n_items: items of the whole bench, numbered from 0.
        semantics: (n_items, d_llm) embeddings of unit length, as `item_semantics.vector`.
        groups: (n_items,) equal where the text is equal.
        codes: (n_items, n_levels) residual codes of `semantics`, as `item_codes`.
    """

    n_users: int
    n_items: int
    semantics: Floats
    groups: Ints
    codes: Ints


@dataclass(frozen=True)
class Evidence:
    """All that a system may learn from.

    Attributes:
        catalogue: items and sizes.
        histories: positives of everybody, past and future: only what a row's `history_ends`
            allows may be looked at.
        train: rows to fit, in order of time.
        valid: rows to stop on and to choose by; no rows where there is nothing to choose.
    """

    catalogue: Catalogue
    histories: Histories
    train: Labelled
    valid: Labelled


class Fitted(Protocol):
    """A fitted system: it scores rows, and it is its tensors."""

    @property
    def n_epochs(self) -> int:
        """Passes over the train rows behind it; 0 where that means nothing."""

    def score(self, requests: Requests, histories: Histories) -> Floats:
        """(n,) finite logits. A row's does not depend on the other rows of the request."""

    def tensors(self) -> Tensors:
        """All it is, by name, to be kept as safetensors."""


class System(Config, ABC):
    """A system's settings. Subclasses are listed in `jobs.collab.baselines.registry`.

    Attributes:
        title: what a table calls it.
    """

    title: ClassVar[str]

    @abstractmethod
    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Fit to the train rows.

        Args:
            evidence: train rows, valid rows, catalogue, histories.
            seed: of all chance. The same evidence, seed and number of threads give the same bits.
            n_epochs: train for so many passes and look at no valid row; None: stop by valid AUC,
                and where valid has no AUC, after a number of passes of the system's own.

        Raises:
            JobError: no train rows, or weights that diverge; it says what to change.
        """

    @abstractmethod
    def restore(self, tensors: Tensors) -> Fitted:
        """What `Fitted.tensors` gave, as the fitted system that scores bit for bit alike.

        Raises:
            JobError: tensors are missing, or of other shapes than these settings make.
        """
