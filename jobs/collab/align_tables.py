"""The tables of a night as arrays for alignment, and factors as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from jobs.codebook.tables import about_codes, codes_matrix
from jobs.collab.factors import UNKNOWN, Factors, Floats, Ints, Ratings
from jobs.collab.history_map import HistoryEvidence
from jobs.collab.profiles import ProfileConfig
from jobs.collab.systems import Histories, Labelled, Requests
from jobs.collab.user_alignment import (
    Codes,
    code_targets,
    content_targets,
    history_evidence,
    one_hot,
)
from jobs.datasets import CODEBOOK, HISTORIES, ITEM_CODES, ITEM_SEMANTICS, SPLITS
from jobs.errors import ContractError
from jobs.job import Config, Run
from jobs.vector_columns import as_column, as_matrix

_SPLIT_COLUMNS = ("split", "user_id", "item_id", "label", "rated_at", "history_end")


class EvidenceConfig(Config):
    """What of the night's tables users are aligned to."""

    profile: Literal["content", "codes"] = Field(
        default="content",
        description="a user's profile is made of the embeddings of the items, or of their codes",
    )
    dislike_weight: float = Field(
        default=0.5, ge=0, description="a negative event counts so much against its item"
    )
    decay_days: float | None = Field(
        default=180.0, gt=0, description="an event of this age weighs 1/e in a profile"
    )


@dataclass(frozen=True)
class Night:
    """What alignment reads.

    Attributes:
        users: ids of the users in train, ascending.
        items: ids of the whole catalogue, ascending.
        train: events.
        valid: events.
        semantics: (n_items, d_llm).
        groups: (n_items,) equal where the text is equal.
        space: what `item_semantics` says of its space; None if it says nothing.
        profiles: (n_users, d_llm); None where nothing asks for them.
        history: None where nothing asks for it.
    """

    users: pa.Array
    items: pa.Array
    train: Ratings
    valid: Ratings
    semantics: Floats
    groups: Ints
    space: bytes | None
    profiles: Floats | None
    history: HistoryEvidence | None


def read_night(
    config: EvidenceConfig,
    run: Run,
    *,
    wants_profiles: bool,
    wants_history: bool,
    valid_is_train: bool = False,
) -> Night:
    """The night's tables; codes and histories only where they are wanted.

    With `valid_is_train` the valid rows are train rows like any other, and valid is empty.

    Raises:
        NotAvailable: a table is missing or unchecked.
        ContractError: see `ratings_of`.
    """
    splits = run.read(SPLITS).select(_SPLIT_COLUMNS)
    if valid_is_train:
        splits = _with_valid_in_train(splits)
    semantics = run.read(ITEM_SEMANTICS)
    users, items = _user_ids(splits), semantics["item_id"].combine_chunks()
    train, valid = (ratings_of(splits, split, users, items) for split in ("train", "valid"))
    groups = semantics["content_key"].combine_chunks().dictionary_encode().indices.to_numpy()
    vectors = as_matrix(semantics["vector"])
    codes = None
    if config.profile == "codes" and (wants_profiles or wants_history):
        codes = _codes(run, items)
    return Night(
        users=users,
        items=items,
        train=train,
        valid=valid,
        semantics=vectors,
        groups=groups.astype(np.int64),
        space=(semantics.schema.metadata or {}).get(b"space"),
        profiles=_profiles(config, splits, train, len(users), vectors, codes)
        if wants_profiles
        else None,
        history=_history(run.read(HISTORIES), splits, users, items, vectors, codes)
        if wants_history
        else None,
    )


def _with_valid_in_train(splits: pa.Table) -> pa.Table:
    names = splits["split"]
    joined = pc.if_else(pc.equal(names, "valid"), pa.scalar("train", names.type), names)
    return splits.set_column(splits.column_names.index("split"), "split", joined)


def _profiles(
    config: EvidenceConfig,
    splits: pa.Table,
    train: Ratings,
    n_users: int,
    semantics: Floats,
    codes: Codes | None,
) -> Floats:
    rows = _requests(splits, "train", train.users, train.items)
    weights = ProfileConfig(dislike_weight=config.dislike_weight, decay_days=config.decay_days)
    labelled = Labelled(rows, train.labels)
    if codes is None:
        return content_targets(labelled, n_users, semantics, weights)
    return code_targets(labelled, n_users, codes, weights)


def _history(
    lists: pa.Table,
    splits: pa.Table,
    users: pa.Array,
    items: pa.Array,
    semantics: Floats,
    codes: Codes | None,
) -> HistoryEvidence:
    everybody = lists["user_id"].combine_chunks()
    histories = histories_of(lists, items)
    numbers = pc.index_in(splits["user_id"], value_set=everybody).combine_chunks()
    if numbers.null_count:
        missing = splits["user_id"].filter(pc.is_null(numbers))[0]
        raise ContractError(f"{HISTORIES.name} has no row of user {missing}, whom splits have")
    of_rows = numbers.to_numpy().astype(np.int64)
    parts = {}
    for split in ("train", "valid"):
        of_split = pc.equal(splits["split"], split).to_numpy()
        parts[split] = _requests(splits, split, of_rows[of_split], of_rows[of_split])
    labels = splits.filter(pc.equal(splits["split"], "train"))["label"].to_numpy()
    train = Labelled(parts["train"], labels.astype(np.float32))
    owners = pc.index_in(users, value_set=everybody).to_numpy().astype(np.int64)
    votes = semantics if codes is None else one_hot(codes)
    return history_evidence(votes, train, parts["valid"], histories, owners)


def histories_of(lists: pa.Table, items: pa.Array) -> Histories:
    """Histories by the rows of `items`; without times, which nothing here asks for.

    Raises:
        ContractError: an item of a history is not among them, or ids are of two types.
    """
    column = lists["item_ids"].combine_chunks()
    flat, lengths = column.flatten(), pc.list_value_length(column).to_numpy()
    if flat.type != items.type:
        raise ContractError(
            f"{HISTORIES.name} has items as {flat.type}, {ITEM_SEMANTICS.name} as {items.type}"
        )
    places = pc.index_in(flat, value_set=items)
    if places.null_count:
        missing = flat.filter(pc.is_null(places))[0]
        raise ContractError(
            f"{HISTORIES.name}: item {missing} is not in {ITEM_SEMANTICS.name}; distil the whole "
            "catalogue"
        )
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(places.to_numpy().astype(np.int64), np.zeros(starts[-1], np.int64), starts)


def _requests(splits: pa.Table, split: str, users: Ints, items: Ints) -> Requests:
    rows = splits.filter(pc.equal(splits["split"], split))
    times = rows["rated_at"].cast(pa.int64()).to_numpy()
    return Requests(users, items, times, rows["history_end"].to_numpy().astype(np.int64))


def _codes(run: Run, items: pa.Array) -> Codes:
    """The night's codebook by the rows of `items`."""
    rows, codebook = run.read(ITEM_CODES), run.read(CODEBOOK)
    places = pc.index_in(items, value_set=rows["item_id"].combine_chunks())
    if places.null_count:
        missing = items.filter(pc.is_null(places))[0]
        raise ContractError(
            f"{ITEM_CODES.name} has no row of item {missing}, which {ITEM_SEMANTICS.name} has; "
            "run codebook again"
        )
    about = about_codes(rows)
    shape = (about["n_levels"], about["n_codes"], -1)
    lifted = as_matrix(codebook["lifted"]).reshape(shape)  # rows are sorted by level and code
    return Codes(codes_matrix(rows["codes"].take(places)), lifted)


def ratings_of(splits: pa.Table, split: str, users: pa.Array, items: pa.Array) -> Ratings:
    """The rows of one split as row numbers of `users` and `items`, the two tables' ids.

    A user who is not in `users` becomes UNKNOWN.

    Raises:
        ContractError: an item is not in `items`, or ids are of two types.
    """
    rows = splits.filter(pc.equal(splits["split"], split))
    places = {}
    for name, ids in (("user_id", users), ("item_id", items)):
        if rows[name].type != ids.type:
            raise ContractError(
                f"{SPLITS.name}.{name} is {rows[name].type}, the table of factors has {ids.type}"
            )
        found = pc.fill_null(pc.index_in(rows[name], value_set=ids), UNKNOWN)
        places[name] = found.to_numpy().astype(np.int64)
    missing = np.flatnonzero(places["item_id"] == UNKNOWN)
    if len(missing):
        raise ContractError(
            f"{SPLITS.name}: {len(missing)} {split} rows have an item that {ITEM_SEMANTICS.name} "
            f"lacks, for instance {rows['item_id'][int(missing[0])]}; distil the whole catalogue"
        )
    labels = rows["label"].to_numpy().astype(np.float32)
    return Ratings(places["user_id"], places["item_id"], labels)


def _user_ids(splits: pa.Table) -> pa.Array:
    """Ids of the users in train, ascending."""
    train = splits.filter(pc.equal(splits["split"], "train"))
    return train["user_id"].combine_chunks().unique().sort()


def factor_tables(night: Night, factors: Factors) -> tuple[pa.Table, pa.Table]:
    """USER_FACTORS and ITEM_FACTORS."""
    return (
        _factor_table(
            "user_id", night.users, factors.user_factors, factors.user_biases, night.train.users
        ),
        _factor_table(
            "item_id", night.items, factors.item_factors, factors.item_biases, night.train.items
        ),
    )


def _factor_table(
    key: str, ids: pa.Array, factors: Floats, biases: Floats, rows_of_events: Ints
) -> pa.Table:
    n_events = np.bincount(rows_of_events, minlength=len(ids)).astype(np.int32)
    return pa.table(
        {key: ids, "factor": as_column(factors), "bias": pa.array(biases), "n_events": n_events}
    )
