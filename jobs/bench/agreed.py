"""How far a fitted system's factors agree with the LLM's space, before and after its fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jobs.bench.kept import AgreedSide
from jobs.collab.agreement import Agreement, neighbour_overlap
from jobs.collab.systems import Evidence, Fitted

_FACTORS = "item_factors"  # the tensor that holds one row for each item of the catalogue


def agreed_sides(fitted: Fitted, evidence: Evidence) -> list[AgreedSide]:
    """What the system says of its own alignment; of others with item factors, their neighbours.

    A system that aligns has `agreements`: side -> (before, after). One that does not is the null
    control: its factors share neighbours with the texts by chance and by what labels and texts
    have in common.
    """
    said: Mapping[str, tuple[Agreement, Agreement]] = getattr(fitted, "agreements", {})
    if said:
        return [each for side, (old, new) in said.items() for each in _sides(side, old, new)]
    factors = fitted.tensors().get(_FACTORS)
    catalogue = evidence.catalogue
    if factors is None or factors.shape[0] != catalogue.n_items:
        return []
    rows = factors.astype(np.float32)
    every = np.arange(catalogue.n_items)
    unseen = np.setdiff1d(every, evidence.train.requests.items)
    return [
        AgreedSide(
            side=side,
            cosine_before=None,
            cosine=None,
            overlap_before=None,
            overlap=neighbour_overlap(rows, catalogue.semantics, queries),
        )
        for side, queries in (("items", every), ("items without events", unseen))
    ]


def _sides(side: str, old: Agreement, new: Agreement) -> list[AgreedSide]:
    found = [
        AgreedSide(
            side=side,
            cosine_before=old.cosine,
            cosine=new.cosine,
            overlap_before=old.overlap,
            overlap=new.overlap,
        )
    ]
    if new.overlap_unseen is not None:
        unseen = AgreedSide(
            side=f"{side} without events",
            cosine_before=None,
            cosine=None,
            overlap_before=old.overlap_unseen,
            overlap=new.overlap_unseen,
        )
        found.append(unseen)
    return found
