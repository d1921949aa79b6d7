"""The fold-in and the LightGBM control together: two kinds of mistakes, added on the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from jobs.collab.baselines import fold_in, lightgbm
from jobs.collab.baselines.fold_in import FoldIn
from jobs.collab.baselines.lightgbm import LightGbm
from jobs.collab.factors import Floats
from jobs.collab.systems import Evidence, Fitted, Histories, Requests, System, Tensors
from jobs.errors import JobError

_PARTS = ("fold_in", "trees")
_NAMES = {
    f"{part}.{name}"
    for part, names in zip(_PARTS, (fold_in.TENSORS, lightgbm.TENSORS), strict=True)
    for name in names
}


class Blend(System):
    """Logit of the fold-in plus a share of that of boosted trees, divided by the sum of both."""

    title: ClassVar[str] = "Fold-in + LightGBM"

    fold_in: FoldIn = Field(default=FoldIn(), description="settings of the fold-in")
    trees: LightGbm = Field(
        default=LightGbm(trees_without_valid=240), description="settings of the trees"
    )
    share: float = Field(default=0.3, ge=0, description="weight of the trees beside 1")

    def fit(self, evidence: Evidence, seed: int, n_epochs: int | None = None) -> Fitted:
        """Fit both; `n_epochs` is that of the fold-in, the trees then grow to their own number."""
        given = self.trees
        folded = self.fold_in.fit(evidence, seed, n_epochs)
        grown = given.fit(evidence, seed, None if n_epochs is None else given.trees_without_valid)
        return Blended(self.share, folded, grown)

    def restore(self, tensors: Tensors) -> Fitted:
        """What `Blended.tensors` gave.

        Raises:
            JobError: tensors are missing or unknown, or what a part's own `restore` refuses.
        """
        missing, unknown = sorted(_NAMES - tensors.keys()), sorted(tensors.keys() - _NAMES)
        if missing:
            raise JobError(f"tensors are missing: {', '.join(missing)}; fit the system anew")
        if unknown:
            raise JobError(f"unknown tensors: {', '.join(unknown)}; they are of another system")
        folded = self.fold_in.restore(_part(tensors, _PARTS[0]))
        grown = self.trees.restore(_part(tensors, _PARTS[1]))
        return Blended(self.share, folded, grown)


def _part(tensors: Tensors, name: str) -> Tensors:
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@dataclass(frozen=True)
class Blended:
    """Both, fitted.

    Attributes:
        share: weight of the trees beside 1.
        folded: the fold-in.
        grown: the trees.
    """

    share: float
    folded: Fitted
    grown: Fitted

    @property
    def n_epochs(self) -> int:
        """Of the fold-in."""
        return self.folded.n_epochs

    def score(self, requests: Requests, histories: Histories) -> Floats:
        """(n,) logits."""
        parts = [each.score(requests, histories) for each in (self.folded, self.grown)]
        return ((parts[0] + self.share * parts[1]) / (1 + self.share)).astype(np.float32)

    def tensors(self) -> Tensors:
        """Those of both, by part."""
        parts = zip(_PARTS, (self.folded, self.grown), strict=True)
        return {f"{part}.{k}": v for part, each in parts for k, v in each.tensors().items()}
