"""Weights of an earlier version to start from, for the users and items that it knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import torch
from pydantic import Field
from safetensors.numpy import load_file

from embedding_store.errors import Incompatible, StoreError, TableNotFound, VersionExpired
from embedding_store.lookup import Version, find_rows, open_version
from jobs.collab.align_tables import Night
from jobs.collab.factors import Factors, Floats, Ints
from jobs.collab.history_map import HistoryMap
from jobs.collab.mf import Start
from jobs.collab.sides import DualAlignment
from jobs.collab.visible import HistoryTaste
from jobs.datasets import ITEM_FACTORS, PROJECTORS, USER_FACTORS
from jobs.errors import NotAvailable
from jobs.job import Config, Run

COMMON_TASTE = "common_taste"
FITTED_ON_VALID = "fitted_on_valid"  # there if the valid rows were fitted too
_PROJECTOR_FILE = f"{PROJECTORS.name}.safetensors"
_SAME_SPACE = ("fingerprint", "dtype", "dim")


class WarmStartConfig(Config):
    """Whether a night begins where the night before ended."""

    previous_version: int | None = Field(
        default=None, gt=0, description="version of the store to start from; none: from scratch"
    )
    scratch_every: int = Field(
        default=7, ge=0, description="from scratch every so many days all the same; 0: never"
    )


@dataclass(frozen=True)
class Previous:
    """What an earlier version holds.

    Attributes:
        factors: its tables, the common taste folded into the item biases.
        user_places: (n_users,) tonight's users in its user table; -1 for a new one.
        item_places: (n_items,) likewise.
        weights: its tensors by name: projector, common taste, map from histories.
    """

    factors: Factors
    user_places: Ints
    item_places: Ints
    weights: Mapping[str, Floats]

    def merged_into(self, first: Start, history: HistoryMap | None) -> Start:
        """The earlier rows where there are any, those of `first` for new users and items.

        A published user factor holds what was mapped from the history of that night; what is
        mapped from tonight's by the same map is taken off it, and the rest is the user's own.
        """
        users, items = self.user_places, self.item_places
        taste = self.weights.get(COMMON_TASTE, np.zeros_like(first.common_taste))
        unfolded = self.factors.item_biases - self.factors.item_factors @ taste
        mine, theirs = first.factors, self.factors
        of_users = _merged(mine.user_factors, theirs.user_factors, users)
        if history is not None:
            of_users[users >= 0] -= history.tastes_of_users().cpu().numpy()[users >= 0]
        merged = replace(
            mine,
            user_factors=of_users,
            user_biases=_merged(mine.user_biases, theirs.user_biases, users),
            item_factors=_merged(mine.item_factors, theirs.item_factors, items),
            item_biases=_merged(mine.item_biases, unfolded, items),
            global_bias=theirs.global_bias,
        )
        return Start(merged, taste)

    def give_weights(self, alignment: DualAlignment, history: HistoryMap | None) -> None:
        """Bring the earlier projector, and what histories said, into place."""
        with torch.no_grad():
            for name, weights in alignment.projector.named_parameters():
                weights.copy_(torch.tensor(self.weights[name]))
            said = HistoryTaste.of(self.weights)
            known = np.flatnonzero(self.item_places >= 0)
            if history is not None and said is not None and len(known):
                history.start_from(known, said.of_items[self.item_places[known]])


def _merged(first: Floats, earlier: Floats, places: Ints) -> Floats:
    """Row i is `earlier[places[i]]`, or `first[i]` where the place is -1."""
    made, known = first.copy(), places >= 0
    made[known] = earlier[places[known]]
    return made


# -- from the store -------------------------------------------------------------------------------


def is_scratch_day(day: date, every: int) -> bool:
    """Whether the schedule fits from scratch on this day; the day alone decides."""
    return every > 0 and day.toordinal() % every == 0


def previous_of(
    config: WarmStartConfig, run: Run, night: Night, shape: tuple[int, int, int]
) -> tuple[Previous | None, str | None]:
    """The weights of the version that the run names, and the sha256 that names their content.

    Nothing, with a warning, if the version is of another space or shape, or its files are gone.

    Args:
        config: names the version.
        run: its day may be one that starts from scratch.
        night: tonight's users, items and space.
        shape: d_cf, n_hidden and d_llm of tonight's model.

    Raises:
        NotAvailable: there is no such version, or a file of it is not what was published.
    """
    number = config.previous_version
    if number is None:
        return None, None
    if is_scratch_day(run.day, config.scratch_every):
        run.log.info("starts from scratch", previous_version=number, why="the schedule's day")
        return None, None
    try:
        with open_version(run.home.store, number, expect=_expected(night)) as version:
            found = _read(version, night, shape)
    except (Incompatible, VersionExpired, TableNotFound) as error:
        run.log.warning("started from scratch", previous_version=number, why=str(error))
        return None, None
    except StoreError as error:
        raise NotAvailable(str(error)) from error
    run.log.info("starts from the last version", previous_version=number)
    return found, version.manifest_sha256


def _expected(night: Night) -> dict[str, object]:
    """What the version must say of its space."""
    if night.space is None:
        return {}
    facts = json.loads(night.space)
    return {name: facts[name] for name in _SAME_SPACE if name in facts}


def _read(version: Version, night: Night, shape: tuple[int, int, int]) -> Previous:
    weights = load_file(version.file(_PROJECTOR_FILE))
    if FITTED_ON_VALID in weights:
        raise Incompatible(
            f"version {version.version} was fitted to its valid rows, which may be tonight's: they "
            "could not tell when to stop"
        )
    users, items = version[USER_FACTORS.name], version[ITEM_FACTORS.name]
    d_cf, n_hidden, d_llm = shape
    there = (users.dim, *weights["hidden.bias"].shape, *weights["output.bias"].shape)
    if there != shape:
        raise Incompatible(
            f"version {version.version} has factors of {there[0]}, a hidden layer of {there[1]} "
            f"and {there[2]} dimensions of the LLM; tonight's are {d_cf}, {n_hidden} and {d_llm}"
        )
    said = HistoryTaste.of(weights)
    if said is not None and len(said.of_items) != len(items.ids):
        raise Incompatible(f"version {version.version} has lost items since it was fitted")
    for name, table, ids in (("user", users, night.users), ("item", items, night.items)):
        if table.ids.type != ids.type:
            raise Incompatible(f"version {version.version} has {name} ids as {table.ids.type}")
    factors = Factors(
        user_factors=np.array(users.vectors),
        user_biases=users.table(["bias"])["bias"].to_numpy(),
        item_factors=np.array(items.vectors),
        item_biases=items.table(["bias"])["bias"].to_numpy(),
        global_bias=float(weights["global_bias"][0]),
    )
    return Previous(
        factors=factors,
        user_places=find_rows(users.ids, night.users),
        item_places=find_rows(items.ids, night.items),
        weights=weights,
    )
