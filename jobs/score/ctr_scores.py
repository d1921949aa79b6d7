"""Click-through scores of the valid and test rows, from one pinned version of the store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import load_file

from embedding_store.errors import StoreError
from embedding_store.lookup import Version, find_rows, open_version
from jobs.collab.visible import HistoryTaste, Visible
from jobs.datasets import (
    CTR_SCORES,
    HISTORIES,
    ITEM_FACTORS,
    PROJECTORS,
    SPLITS,
    USER_FACTORS,
)
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import Config, Run, main
from jobs.manifest import Manifest

_CHUNK = 65_536  # rows gathered at once
_GLOBAL_BIAS = "global_bias"
_WEIGHTS = f"{PROJECTORS.name}.safetensors"  # of a version

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


class ScoreConfig(Config):
    """Which version scores the rows, and with which of its models."""

    version: int = Field(
        gt=0, description="version of the embedding store, by number", examples=[1]
    )
    model: Literal["mf"] = "mf"


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

    Sums run in float64 row by row, so a score does not depend on the other rows. What the version
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


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 / (1 + exp(-logit)), (n,) float32, held inside (0, 1): nothing is certain."""
    wide = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    one = np.float32(1)
    return np.clip(wide.astype(np.float32), np.finfo(np.float32).tiny, np.nextafter(one, 0 * one))


def _factors(version: Version, table: str) -> Factors:
    vectors = version[table]
    biases = vectors.table(["bias"])["bias"].to_numpy()
    return Factors(vectors.ids, vectors.vectors, biases)


def _same_ids(factors: Factors, rows: pa.Table, column: str, version: int) -> pa.Array:
    """The rows' ids, if they are of the type that the version has."""
    ids = rows[column].combine_chunks()
    if ids.type != factors.ids.type:
        raise NotAvailable(
            f"version {version} has {column} as {factors.ids.type}, the rows of {SPLITS.name} as "
            f"{ids.type}; score rows of the warehouse that the version was made from"
        )
    return ids


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
        rows: of SPLITS.
        is_cold: (n,) whose user the version does not know.
        histories: HISTORIES of the same day.
        taste: of the version.
        ids: items of the version, in the order of its table.
    """
    lists = histories["item_ids"].combine_chunks()
    items = pc.index_in(lists.flatten(), value_set=ids)
    # An item that the version does not know counts, and says nothing: a row of zeros at the end.
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


def score_rows(
    rows: pa.Table, version: Version, histories: pa.Table | None = None
) -> tuple[pa.Table, dict[str, int]]:
    """CTR_SCORES for rows of SPLITS, and how many users and items were cold.

    `histories` are needed where the version has a `history_taste`.
    """
    if _GLOBAL_BIAS not in version.attributes:
        raise NotAvailable(
            f"version {version.version} records no attribute '{_GLOBAL_BIAS}', so it holds no "
            "matrix factorisation with biases; publish one and give its number"
        )
    users, items = (_factors(version, d.name) for d in (USER_FACTORS, ITEM_FACTORS))
    user_ids = _same_ids(users, rows, "user_id", version.version)
    item_ids = _same_ids(items, rows, "item_id", version.version)
    user_places, item_places = users.places(user_ids), items.places(item_ids)
    global_bias = float(version.attributes[_GLOBAL_BIAS])
    cold, taste = None, history_taste(version)
    if taste is not None and histories is not None:
        if len(taste.of_items) != len(items.ids):
            # Its rows belong to items by their place, and erasing an item moves the places.
            raise NotAvailable(
                f"version {version.version} places users by {len(taste.of_items)} items and holds "
                f"{len(items.ids)}: items were erased since it was fitted; publish a new version"
            )
        cold = cold_factors(rows, user_places < 0, histories, taste, items.ids)
    logits = mf_logits(users, items, global_bias, user_places, item_places, cold)
    n = rows.num_rows
    columns = {name: rows[name] for name in ("split", "row", "user_id", "item_id", "label")}
    columns |= {
        "is_warm": rows["is_warm"],
        "version": pa.repeat(pa.scalar(version.version, pa.int64()), n),
        "model": pa.repeat(pa.scalar("mf"), n),
        "logit": pa.array(logits),
        "probability": pa.array(sigmoid(logits)),
    }
    counts = {
        "n_rows": n,
        "n_cold_users": pc.count_distinct(user_ids.filter(pa.array(user_places < 0))).as_py(),
        "n_cold_items": pc.count_distinct(item_ids.filter(pa.array(item_places < 0))).as_py(),
    }
    return pa.table({name: columns[name] for name in CTR_SCORES.columns or ()}), counts


def job(config: ScoreConfig, run: Run) -> None:
    """Score valid and test with the pinned version."""
    try:
        version = open_version(run.home.store, config.version)
        rows = run.read(SPLITS)
        rows = rows.filter(pc.is_in(rows["split"], value_set=pa.array(["valid", "test"])))
        histories = run.read(HISTORIES) if history_taste(version) is not None else None
        scores, counts = score_rows(rows, version, histories)
    except StoreError as error:
        raise NotAvailable(str(error)) from error  # it names the version and those there are
    run.write(CTR_SCORES, scores)
    for name, count in counts.items():
        run.metric(name, count)
    run.result = {
        "version": version.version,
        "version_sha256": version.manifest_sha256,
        "rows": scores.num_rows,
    }


def is_of_the_same_version(manifest: Manifest, home: Home) -> bool:
    """Whether that number still names the content that was scored: stores can be replaced."""
    try:
        version = open_version(home.store, manifest.config["version"], verify="off")
    except StoreError:
        return False
    return version.manifest_sha256 == manifest.result.get("version_sha256")


if __name__ == "__main__":
    main("score", ScoreConfig, job, intact=is_of_the_same_version)
