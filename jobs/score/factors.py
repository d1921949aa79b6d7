"""Logits of a matrix factorisation: of a version of the store, or of the night's own tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors.numpy import load_file

from embedding_store.lookup import Version, find_rows
from jobs.collab.visible import HistoryTaste, Visible
from jobs.datasets import ITEM_FACTORS, PROJECTORS, SPLITS, USER_FACTORS
from jobs.errors import NotAvailable
from jobs.job import Run
from jobs.vector_columns import as_matrix

_CHUNK = 65_536  # rows gathered at once
_GLOBAL_BIAS = "global_bias"
_WEIGHTS = f"{PROJECTORS.name}.safetensors"  # of a version

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Factors:
    """One side of a matrix factorisation.

    Attributes:
        ids: (n,) ascending, int64 or string.
        vectors: (n, d) float32.
        biases: (n,) float32.
    """

    ids: pa.Array
    vectors: NDArray[np.float32]
    biases: NDArray[np.float32]

    def places(self, wanted: pa.Array) -> Places:
        """(m,) rows of the wanted ids; -1 for an id that training did not see."""
        if len(self.ids) == 0:
            return np.full(len(wanted), -1)
        return find_rows(self.ids, wanted)


def _taken(values: NDArray[np.float32], places: Places) -> Floats:
    """`values[places]`, zero where a place is -1."""
    if len(values) == 0:
        return np.zeros((len(places), *values.shape[1:]))
    taken = values[places].astype(np.float64)
    taken[places < 0] = 0
    return taken


def mf_logits(
    users: Factors,
    items: Factors,
    global_bias: float,
    user_places: Places,
    item_places: Places,
    cold: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Logit of each row: mu + b_u + b_i + <p_u, q_i>.

    Sums run in float64 row by row, so a score does not depend on the other rows. What the model
    does not know adds nothing: a cold user on a known item scores mu + b_i, or with a factor from
    the history mu + b_i + <that factor, q_i>.

    Args:
        users: p (n_users, d) and b.
        items: q (n_items, d) and b.
        global_bias: mu.
        user_places: (n,) rows of `users`, -1 for a cold user.
        item_places: (n,) rows of `items`, -1 for a cold item.
        cold: (n, d) factors from histories; used in the rows of cold users only. None: zero.

    Returns:
        (n,) float32.

    Raises:
        ValueError: the two sides have factors of different lengths.
    """
    if users.vectors.shape[1] != items.vectors.shape[1]:
        raise ValueError(
            f"user factors have length {users.vectors.shape[1]}, item factors "
            f"{items.vectors.shape[1]}"
        )
    logits = np.empty(len(user_places), dtype=np.float32)
    for start in range(0, len(logits), _CHUNK):
        u, i = user_places[start : start + _CHUNK], item_places[start : start + _CHUNK]
        vectors = _taken(users.vectors, u)
        if cold is not None:
            vectors[u < 0] = cold[start : start + _CHUNK][u < 0]
        products = vectors * _taken(items.vectors, i)
        biases = _taken(users.biases, u) + _taken(items.biases, i)
        logits[start : start + _CHUNK] = global_bias + biases + products.sum(axis=1)
    return logits


def history_taste(version: Version) -> HistoryTaste | None:
    """How the version gives a factor to a user it has no row of; None if it does not."""
    if _WEIGHTS not in version.manifest.extra_files:
        return None
    return HistoryTaste.of(load_file(version.file(_WEIGHTS)))


def cold_factors(
    rows: pa.Table,
    is_cold: NDArray[np.bool_],
    histories: pa.Table,
    taste: HistoryTaste,
    ids: pa.Array,
) -> NDArray[np.float32]:
    """(n, d) factors of the cold rows from what each may see of its history; zero elsewhere.

    Args:
        rows: with `user_id` and `history_end`.
        is_cold: (n,) whose user the model does not know.
        histories: HISTORIES of the same day.
        taste: of the model.
        ids: items of the model, in the order of its table.
    """
    lists = histories["item_ids"].combine_chunks()
    items = pc.index_in(lists.flatten(), value_set=ids)
    # An item that the model does not know counts, and says nothing: a row of zeros at the end.
    places = pc.fill_null(items, len(ids)).to_numpy().astype(np.int64)
    of_items = np.vstack([taste.of_items, np.zeros_like(taste.of_items[:1])])
    starts = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())])
    owners = pc.index_in(
        rows["user_id"].combine_chunks(), value_set=histories["user_id"].combine_chunks()
    )
    begins = starts[pc.fill_null(owners, 0).to_numpy()]
    n_visible = np.where(
        is_cold & owners.is_valid().to_numpy(zero_copy_only=False),
        rows["history_end"].to_numpy(),
        0,
    )
    factors = np.zeros((rows.num_rows, of_items.shape[1]), np.float32)
    visible = Visible(places, begins, begins + n_visible)
    factors[is_cold] = replace(taste, of_items=of_items).factors(visible.at(is_cold))
    return factors


class MfScored(NamedTuple):
    """Scores of some rows, and what the model knew of them."""

    logits: NDArray[np.float32]  # (n,)
    n_cold_users: int
    n_cold_items: int


@dataclass(frozen=True)
class MatrixFactorisation:
    """Everything that a logit of a matrix factorisation is made of.

    Attributes:
        name: what messages call it.
        users: p and b.
        items: q and b.
        global_bias: mu.
        taste: gives a factor to a user without one; None if users without one have none.
    """

    name: str
    users: Factors
    items: Factors
    global_bias: float
    taste: HistoryTaste | None

    @classmethod
    def of_version(cls, version: Version) -> MatrixFactorisation:
        """The one that a version holds.

        Raises:
            NotAvailable: it holds none with biases, or lost items since it was fitted.
        """
        if _GLOBAL_BIAS not in version.attributes:
            raise NotAvailable(
                f"version {version.version} records no attribute '{_GLOBAL_BIAS}', so it holds no "
                "matrix factorisation with biases; publish one and give its number"
            )
        users, items = (_factors(version, d.name) for d in (USER_FACTORS, ITEM_FACTORS))
        mu, taste = float(version.attributes[_GLOBAL_BIAS]), history_taste(version)
        return cls(f"version {version.version}", users, items, mu, taste)

    @classmethod
    def of_night(cls, run: Run) -> MatrixFactorisation:
        """The one that `align` made for the day, before anything is published."""
        users, items = (_side(run.read(d), d.key[0]) for d in (USER_FACTORS, ITEM_FACTORS))
        tensors = run.read_tensors(PROJECTORS)
        mu = float(tensors[_GLOBAL_BIAS].reshape(-1)[0])
        return cls(f"the factors of {run.day}", users, items, mu, HistoryTaste.of(tensors))

    def score(self, rows: pa.Table, histories: pa.Table | None) -> MfScored:
        """Logits of rows with `user_id`, `item_id` and `history_end`.

        Without `histories` a cold user has no factor.

        Raises:
            NotAvailable: ids of another type, or items were erased since the model was fitted.
        """
        user_ids, item_ids = (
            self._same_ids(side, rows, column)
            for side, column in ((self.users, "user_id"), (self.items, "item_id"))
        )
        user_places, item_places = self.users.places(user_ids), self.items.places(item_ids)
        cold = None
        if self.taste is not None and histories is not None:
            cold = self.cold_factors(rows, user_places < 0, histories)
        return MfScored(
            mf_logits(self.users, self.items, self.global_bias, user_places, item_places, cold),
            pc.count_distinct(user_ids.filter(pa.array(user_places < 0))).as_py(),
            pc.count_distinct(item_ids.filter(pa.array(item_places < 0))).as_py(),
        )

    def cold_factors(
        self, rows: pa.Table, is_cold: NDArray[np.bool_], histories: pa.Table
    ) -> NDArray[np.float32]:
        """(n, d); see `cold_factors`. Zero where the model gives cold users no factor."""
        if self.taste is None:
            return np.zeros((rows.num_rows, self.items.vectors.shape[1]), np.float32)
        if len(self.taste.of_items) != len(self.items.ids):
            # Its rows belong to items by their place, and erasing an item moves the places.
            raise NotAvailable(
                f"{self.name} places users by {len(self.taste.of_items)} items and holds "
                f"{len(self.items.ids)}: items were erased since it was fitted; publish a new "
                "version"
            )
        return cold_factors(rows, is_cold, histories, self.taste, self.items.ids)

    def _same_ids(self, side: Factors, rows: pa.Table, column: str) -> pa.Array:
        """The rows' ids, if they are of the type that the model has."""
        ids = rows[column].combine_chunks()
        if ids.type != side.ids.type:
            raise NotAvailable(
                f"{self.name} has {column} as {side.ids.type}, the rows of {SPLITS.name} as "
                f"{ids.type}; score rows of the warehouse that the version was made from"
            )
        return ids


def _side(table: pa.Table, key: str) -> Factors:
    """Of USER_FACTORS or ITEM_FACTORS, whose rows are in the order of their ids."""
    ids = table[key].combine_chunks()
    return Factors(ids, as_matrix(table["factor"]), table["bias"].to_numpy())


def _factors(version: Version, table: str) -> Factors:
    vectors = version[table]
    biases = vectors.table(["bias"])["bias"].to_numpy()
    return Factors(vectors.ids, vectors.vectors, biases)
