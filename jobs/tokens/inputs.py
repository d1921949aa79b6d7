"""What soft tokens are made of: factors with counts, histories, the LLM's own vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from jobs.errors import JobError
from jobs.job import Config
from jobs.vector_columns import as_column, as_matrix

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_RIDGE = 0.1  # of the mean variance of a history; its effect on the map is small
N_COUNTS = 4  # numbers behind a factor: bias, log count, smoothed mean, whether there are rows


class InputsConfig(Config):
    """Which numbers of a user and an item reach the mappers."""

    counts: bool = Field(
        default=True,
        description="bias, log count and smoothed mean of the train rows beside the factor",
    )
    smoothing: float = Field(default=5.0, ge=0, description="pseudo-counts of the smoothed means")
    semantics: Literal["vector", "raw"] = Field(
        default="vector", description="column of item_semantics behind the warm token"
    )


@dataclass(frozen=True)
class TokenInputs:
    """Inputs of the mappers, in the order of a reader's users and items.

    Attributes:
        user_ids: (n_users,), ascending.
        item_ids: (n_items,).
        users: (n_users, d_user); zero where unknown.
        knows_user: (n_users,) whether the user has a row of his own.
        items: (n_items, d_item); zero where unknown.
        knows_item: (n_items,).
        history: (n_items, d_user) what liking the item adds to the input of a user who is known
            by history alone: his input is the mean over the items that he may be seen to like.
        warm: (n_items, d_llm) the LLM's own vector of the item's text; zero where unknown.
        knows_warm: (n_items,).
        factor_scales: what the factors of users and of items were divided by, each by one number,
            so that no direction is lost.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    users: Floats
    knows_user: Bools
    items: Floats
    knows_item: Bools
    history: Floats
    warm: Floats
    knows_warm: Bools
    factor_scales: tuple[float, float] = (1.0, 1.0)

    def tables(self) -> tuple[pa.Table, pa.Table, pa.Table]:
        """USER_TOKEN_INPUTS, ITEM_TOKEN_INPUTS and WARM_TOKEN_INPUTS: rows of what is known."""
        users, items, warm = (
            pa.array(np.flatnonzero(known))
            for known in (self.knows_user, self.knows_item, self.knows_warm)
        )
        return (
            pa.table(
                {
                    "user_id": self.user_ids.take(users),
                    "input": as_column(self.users[self.knows_user]),
                }
            ),
            pa.table(
                {
                    "item_id": self.item_ids.take(items),
                    "input": as_column(self.items[self.knows_item]),
                    "history": as_column(self.history[self.knows_item]),
                }
            ),
            pa.table(
                {
                    "item_id": self.item_ids.take(warm),
                    "input": as_column(self.warm[self.knows_warm]),
                }
            ),
        )

    @classmethod
    def of_tables(
        cls,
        users: pa.Table,
        items: pa.Table,
        warm: pa.Table,
        user_ids: pa.Array,
        item_ids: pa.Array,
    ) -> TokenInputs:
        """The inputs that `tables` wrote, for the users and items of another reader."""
        of_user = _placed(user_ids, users, "user_id")
        of_item = _placed(item_ids, items, "item_id")
        of_warm = _placed(item_ids, warm, "item_id")
        return cls(
            user_ids,
            item_ids,
            users=_spread(as_matrix(users["input"]), of_user),
            knows_user=of_user >= 0,
            items=_spread(as_matrix(items["input"]), of_item),
            knows_item=of_item >= 0,
            history=_spread(as_matrix(items["history"]), of_item),
            warm=_spread(as_matrix(warm["input"]), of_warm),
            knows_warm=of_warm >= 0,
        )


# -- making them ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class NightTables:
    """What `align`, `distil` and `splits` made of one day."""

    splits: pa.Table
    user_factors: pa.Table
    item_factors: pa.Table
    semantics: pa.Table


def token_inputs(
    night: NightTables, user_ids: pa.Array, item_ids: pa.Array, config: InputsConfig
) -> TokenInputs:
    """Inputs of the night's users and items.

    Counts and means are of the train rows alone (methods.md 6, remedy a): nothing of them moves
    inside the window that is judged. The history's map is a ridge regression, over the users with
    train positives, of their own input on the mean input of the items that they liked.

    Args:
        night: tables of one day.
        user_ids: of the reader, ascending.
        item_ids: of the reader.
        config: which numbers.

    Raises:
        JobError: tables of other id types, or factors of no train row.
    """
    is_train = pc.equal(night.splits["split"], "train")
    train = night.splits.filter(is_train)
    if not train.num_rows:
        raise JobError("there are no train rows to make inputs of soft tokens from")
    labels = train["label"].to_numpy().astype(np.float64)
    owners = _places(train["user_id"].combine_chunks(), user_ids)
    liked = _places(train["item_id"].combine_chunks(), item_ids)
    users, knows_user, user_scale = _side(
        night.user_factors, "user_id", user_ids, owners, labels, config
    )
    items, knows_item, item_scale = _side(
        night.item_factors, "item_id", item_ids, liked, labels, config
    )
    is_liked = (labels > 0) & (owners >= 0) & (liked >= 0)
    history = _history(users, knows_user, items, owners[is_liked], liked[is_liked])
    history[~knows_item] = 0
    if config.counts:
        history[:, -1] = 0  # such a user has no row of his own
    of_warm = _placed(item_ids, night.semantics, "item_id")
    return TokenInputs(
        user_ids,
        item_ids,
        users,
        knows_user,
        items,
        knows_item,
        history.astype(np.float32),
        _spread(_standardised(as_matrix(night.semantics[config.semantics])), of_warm),
        of_warm >= 0,
        (user_scale, item_scale),
    )


def _side(
    factors: pa.Table,
    key: str,
    ids: pa.Array,
    owners: Ints,
    labels: Doubles,
    config: InputsConfig,
) -> tuple[Floats, Bools, float]:
    """Inputs of the users, or of the items."""
    places = _placed(ids, factors, key)
    known = places >= 0
    vectors = as_matrix(factors["factor"]).astype(np.float64)
    size = float(np.sqrt(np.mean(vectors**2))) if vectors.size else 0.0
    scale = size if size > 0 else 1.0
    made = _spread((vectors / scale).astype(np.float32), places)
    if not config.counts:
        return made, known, scale
    n = np.bincount(owners[owners >= 0], minlength=len(ids)).astype(np.float64)
    positives = np.bincount(owners[owners >= 0], labels[owners >= 0], minlength=len(ids))
    means = (positives + config.smoothing * labels.mean()) / np.maximum(n + config.smoothing, 1e-9)
    biases = _spread(factors["bias"].to_numpy().astype(np.float32)[:, None], places)[:, 0]
    columns = np.stack([biases, np.log1p(n), means], axis=1)
    columns = _standardised(columns, over=known) * known[:, None]
    return (
        np.hstack([made, columns, (n > 0)[:, None]]).astype(np.float32) * known[:, None],
        known,
        scale,
    )


def _standardised(columns: NDArray[np.floating], over: Bools | None = None) -> Floats:
    """Each column with mean 0 and deviation 1 over some rows; a constant one becomes 0."""
    some = columns if over is None else columns[over]
    if not len(some):
        return columns.astype(np.float32)
    deviation = some.std(axis=0, dtype=np.float64)
    centred = columns - some.mean(axis=0, dtype=np.float64)
    return (centred / np.where(deviation > 1e-9, deviation, np.inf)).astype(np.float32)


def _history(users: Floats, knows_user: Bools, items: Floats, owners: Ints, liked: Ints) -> Doubles:
    """(n_items, d_user): W x_i + w of the ridge regression of users on their mean items."""
    counts = np.bincount(owners, minlength=len(users))
    sums = np.zeros((len(users), items.shape[1]))
    np.add.at(sums, owners, items[liked].astype(np.float64))
    learned = knows_user & (counts > 0)
    if not learned.any():
        return np.zeros((len(items), users.shape[1]))
    x, y = sums[learned] / counts[learned][:, None], users[learned].astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    centred = x - x_mean
    gram = centred.T @ centred
    ridge = _RIDGE * max(float(np.trace(gram)) / len(gram), 1e-9)
    weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), centred.T @ (y - y_mean))
    return (items - x_mean) @ weights + y_mean


def _placed(ids: pa.Array, table: pa.Table, key: str) -> Ints:
    """Row of each id in a table; -1 where it is not there."""
    return _places(ids, table[key].combine_chunks())


def _places(ids: pa.Array, known: pa.Array) -> Ints:
    """Place of each id among the known ones; -1 where it is not there.

    Raises:
        JobError: ids of another type.
    """
    if ids.type != known.type:
        raise JobError(
            f"ids are {ids.type} in the rows and {known.type} in the tables of soft tokens; make "
            "both from the same warehouse"
        )
    return pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy().astype(np.int64)


def _spread(values: Floats, places: Ints) -> Floats:
    """`values[places]`, zero where a place is -1."""
    if not len(values):
        return np.zeros((len(places), values.shape[1]), np.float32)
    spread = values[places].astype(np.float32)
    spread[places < 0] = 0
    return spread
