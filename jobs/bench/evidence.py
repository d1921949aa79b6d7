"""From the tables of a home to the dense numbers that every system of the bench learns from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.collab.factors import Ints
from jobs.collab.systems import Catalogue, Histories, Labelled, Requests
from jobs.datasets import HISTORIES, ITEM_CODES, ITEM_SEMANTICS, SPLITS
from jobs.errors import ContractError, NotAvailable
from jobs.home import Home
from jobs.job import Config, Run
from jobs.vector_columns import as_matrix

SPLIT_NAMES = ("train", "valid", "test")


@dataclass(frozen=True)
class BenchRows:
    """Every row of a home's splits, and what is known of its users and items, as dense numbers.

    Users are numbered by their sorted ids over all splits, items by the sorted ids of the whole
    catalogue. Rows stand in the order of `SPLIT_NAMES`, within a split by `row`.

    Attributes:
        catalogue: items and sizes.
        histories: the positives of everybody, all splits.
        rows: (n,) rows with their labels.
        splits: (n,) place of the row's split in `SPLIT_NAMES`.
        numbers: (n,) `splits.row`.
        user_ids: (n_users,) the source's ids.
        item_ids: (n_items,) the source's ids.
        fingerprint: sha256 over all of it; other input gives another one.
    """

    catalogue: Catalogue
    histories: Histories
    rows: Labelled
    splits: NDArray[np.int8]
    numbers: Ints
    user_ids: pa.Array
    item_ids: pa.Array
    fingerprint: str

    def places(self, split: str) -> Ints:
        """Where the rows of a split are."""
        return np.flatnonzero(self.splits == SPLIT_NAMES.index(split))

    def of(self, split: str) -> Labelled:
        """The rows of a split, by `row`."""
        return self.rows.at(self.places(split))


def bench_rows(home: Home, day: date) -> BenchRows:
    """What the snapshots of `day` hold; raises as `rows_read_by` does."""
    # Not entered: a run that only reads needs no lock.
    return rows_read_by(Run("bench", day, Config(), home))


def rows_read_by(reader: Run) -> BenchRows:
    """What the snapshots of the run's day hold, verified against their manifests and checks.

    Raises:
        NotAvailable: splits, histories or item embeddings are missing, or unchecked.
        ContractError: tables that do not belong together.
    """
    splits, semantics = reader.read(SPLITS), reader.read(ITEM_SEMANTICS)
    lists, codes = reader.read(HISTORIES), _codes_if_any(reader)
    user_ids = splits["user_id"].unique().sort()
    item_ids = semantics["item_id"].combine_chunks()
    order = _by_split_and_row(splits)
    splits = splits.take(order)
    users, items = _numbers(splits, "user_id", user_ids), _numbers(splits, "item_id", item_ids)
    times = splits["rated_at"].cast(pa.int64()).to_numpy()
    requests = Requests(users, items, times, splits["history_end"].to_numpy().astype(np.int64))
    rows = Labelled(requests, splits["label"].to_numpy().astype(np.float32))
    groups = semantics["content_key"].combine_chunks().dictionary_encode().indices.to_numpy()
    catalogue = Catalogue(
        n_users=len(user_ids),
        n_items=len(item_ids),
        semantics=as_matrix(semantics["vector"]),
        groups=groups.astype(np.int64),
        codes=_codes_of(codes, item_ids),
    )
    return BenchRows(
        catalogue=catalogue,
        histories=_histories(lists, user_ids, item_ids, rows),
        rows=rows,
        splits=_split_places(splits),
        numbers=splits["row"].to_numpy().astype(np.int64),
        user_ids=user_ids,
        item_ids=item_ids,
        fingerprint=_fingerprint(reader),
    )


def frozen_at(histories: Histories, requests: Requests, moment: int) -> tuple[Histories, Requests]:
    """Histories that end before `moment`, and the requests with all that is left visible to them.

    Args:
        histories: positives of everybody.
        requests: rows to score; what they were allowed to see before does not count.
        moment: microseconds since 1970; the moment itself is the future.
    """
    cut = cut_before(histories, moment)
    lengths = np.diff(cut.starts)
    return cut, replace(requests, history_ends=lengths[requests.users])


def cut_before(histories: Histories, moment: int) -> Histories:
    """The positives of everybody before `moment`, microseconds since 1970."""
    is_past = histories.times < moment
    n_past = np.concatenate([[0], np.cumsum(is_past)])
    starts = n_past[histories.starts].astype(np.int64)
    return Histories(histories.items[is_past], histories.times[is_past], starts)


def by_time(rows: Labelled) -> Labelled:
    """The rows in order of time; rows of one moment keep their order."""
    return rows.at(np.argsort(rows.requests.times, kind="stable"))


# -- tables ---------------------------------------------------------------------------------------


def _codes_if_any(reader: Run) -> pa.Table | None:
    """A home without a codebook has none; one that is half made is an error all the same."""
    if not reader.home.manifest(ITEM_CODES.producer, reader.day).is_file():
        return None
    return reader.read(ITEM_CODES)


def _codes_of(codes: pa.Table | None, item_ids: pa.Array) -> Ints:
    """(n_items, n_levels); no levels where the home has no codebook."""
    if codes is None:
        return np.zeros((len(item_ids), 0), dtype=np.int64)
    places = pc.index_in(item_ids, value_set=codes["item_id"].combine_chunks())
    if places.null_count:
        raise ContractError(
            f"{ITEM_CODES.name} lacks {places.null_count} items of {ITEM_SEMANTICS.name}; "
            f"run the job {ITEM_CODES.producer} again"
        )
    lists = codes["codes"].combine_chunks().take(places)
    flat = pc.list_flatten(lists).to_numpy(zero_copy_only=False)
    return flat.astype(np.int64).reshape(len(item_ids), -1)


def _by_split_and_row(splits: pa.Table) -> NDArray[np.int64]:
    return np.lexsort((splits["row"].to_numpy(), _split_places(splits)))


def _split_places(splits: pa.Table) -> NDArray[np.int8]:
    found = pc.index_in(splits["split"], value_set=pa.array(SPLIT_NAMES))
    if found.null_count:
        raise ContractError(
            f"{SPLITS.name}: a split is none of {', '.join(SPLIT_NAMES)}; run the job splits again"
        )
    return found.to_numpy().astype(np.int8)


def _numbers(table: pa.Table, column: str, ids: pa.Array) -> Ints:
    if table[column].type != ids.type:
        raise ContractError(
            f"{SPLITS.name}.{column} is {table[column].type}, {ITEM_SEMANTICS.name} has {ids.type}"
        )
    found = pc.index_in(table[column], value_set=ids)
    if found.null_count:
        place = pc.index(pc.is_null(found), True).as_py()
        raise ContractError(
            f"{SPLITS.name}: {found.null_count} rows have a {column} that {ITEM_SEMANTICS.name} "
            f"lacks, for instance {table[column][place]}; run the jobs item_texts and distil"
        )
    return found.to_numpy().astype(np.int64)


def _histories(
    lists: pa.Table, user_ids: pa.Array, item_ids: pa.Array, rows: Labelled
) -> Histories:
    """The lists of `histories`, users by number, with the times of the positive rows.

    A list is in order of time, so the n-th smallest time of a user's positives is its n-th entry's.
    """
    places = pc.index_in(user_ids, value_set=lists["user_id"].combine_chunks())
    if places.null_count:
        raise NotAvailable(
            f"{HISTORIES.name} lacks {places.null_count} users of {SPLITS.name}; "
            "run the job splits again"
        )
    taken = lists["item_ids"].combine_chunks().take(places)
    lengths = pc.list_value_length(taken).to_numpy().astype(np.int64)
    is_positive = rows.labels == 1
    users, times = rows.requests.users[is_positive], rows.requests.times[is_positive]
    if (np.bincount(users, minlength=len(user_ids)) != lengths).any():
        raise ContractError(
            f"{HISTORIES.name} and {SPLITS.name} count different positives; "
            "run the job splits again"
        )
    items = pc.index_in(pc.list_flatten(taken), value_set=item_ids)
    return Histories(
        items=items.to_numpy().astype(np.int64),
        times=times[np.lexsort((times, users))],
        starts=np.concatenate([[0], np.cumsum(lengths)]),
    )


def _fingerprint(reader: Run) -> str:
    hashes = sorted(f"{each.name} {each.sha256}" for each in reader.inputs)
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
