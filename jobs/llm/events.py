"""Rows to score and what each may see, as offsets into one chain of entries a user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.errors import JobError

Ints = NDArray[np.int64]
SPLIT_ORDER = ("train", "valid", "test")
Shown = Literal["positives", "labelled"]
History = Literal["online", "frozen"]


@dataclass(frozen=True)
class UserEvents:
    """One user: the chain that histories are cut from, and the rows to score.

    Attributes:
        user: place in `Events.user_ids`.
        chain_items: (c,) items of the chain's entries, oldest first, as places in item_ids.
        chain_liked: (c,) bool.
        rows: (m,) rows of the caller's table.
        items: (m,) places in item_ids.
        ends: (m,) ascending; the row may see chain entries [0, end).
        places: (m,) where the row's own event is in the chain; -1 if nowhere.
    """

    user: int
    chain_items: Ints
    chain_liked: NDArray[np.bool_]
    rows: Ints
    items: Ints
    ends: Ints
    places: Ints


@dataclass(frozen=True)
class Events:
    """Rows to score, grouped by user, and each user's chain.

    Attributes:
        user_ids: ids of the users, ascending.
        item_ids: ids of the items, in the order of the titles given.
        chain_starts: (n_users + 1,); user u's chain is [chain_starts[u], chain_starts[u + 1]).
        chain_items: (c,) places in item_ids.
        chain_liked: (c,) bool; the answer that an entry shows.
        rows: (r,) rows of the caller's table, by user, then by end.
        users, items, ends, places: (r,), see `UserEvents`.
    """

    user_ids: pa.Array
    item_ids: pa.Array
    chain_starts: Ints
    chain_items: Ints
    chain_liked: NDArray[np.bool_]
    rows: Ints
    users: Ints
    items: Ints
    ends: Ints
    places: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def by_user(self) -> Iterator[UserEvents]:
        """Each user that has rows to score."""
        bounds = np.flatnonzero(np.diff(self.users, prepend=-1, append=-1))
        for start, stop in pairwise(bounds):
            user = int(self.users[start])
            chain = slice(self.chain_starts[user], self.chain_starts[user + 1])
            some = slice(start, stop)
            yield UserEvents(
                user,
                self.chain_items[chain],
                self.chain_liked[chain],
                self.rows[some],
                self.items[some],
                self.ends[some],
                self.places[some],
            )


class _Chains(NamedTuple):
    starts: Ints
    items: Ints
    liked: NDArray[np.bool_]
    ends: Ints  # of each row of the table
    places: Ints


def events_of(
    splits: pa.Table,
    histories: pa.Table,
    item_ids: pa.Array,
    *,
    wanted: Sequence[str] = SPLIT_ORDER,
    shown: Shown = "positives",
    history: History = "online",
) -> Events:
    """The rows of SPLITS as events.

    Args:
        splits: SPLITS, all of it: earlier splits place a row in its user's stream.
        histories: HISTORIES.
        item_ids: items that have a prompt; ITEM_TEXTS.item_id.
        wanted: splits whose rows are scored.
        shown: what a history holds. `positives` is the published information set; `labelled` adds
            the user's negatives, each with its answer, strictly earlier in time: another protocol.
        history: `online` as HISTORIES and `history_end` say, up to the row. `frozen`: a valid row
            sees train alone, a test row train and valid, so that a growing list cannot tell how far
            its user has come in the window; train rows see what they see online.

    Returns:
        Events whose `rows` are row numbers of `splits`.

    Raises:
        JobError: a row or a history names an item that is not in `item_ids`, or a user has no
            history.
    """
    user_ids = histories["user_id"].combine_chunks()
    order = np.asarray(pc.sort_indices(user_ids))
    histories = histories.take(pa.array(order))
    user_ids = histories["user_id"].combine_chunks()
    users = _found(user_ids, splits["user_id"], "user", "histories")
    items = _found(item_ids, splits["item_id"], "item", "item texts")
    split = _split_numbers(splits)
    if shown == "positives":
        chains = _positives(splits, histories, item_ids, users, items, split)
    else:
        chains = _labelled(splits, users, items, split, len(user_ids))
    ends = chains.ends if history == "online" else _frozen(splits, chains, users, split)
    chosen = np.flatnonzero(np.isin(split, [SPLIT_ORDER.index(name) for name in wanted]))
    # Of the rows that end at the same entry, the one that is that entry comes last: the others
    # must not see it.
    is_entry = chains.places[chosen] == ends[chosen]
    chosen = chosen[np.lexsort((chosen, is_entry, ends[chosen], users[chosen]))]
    return Events(
        user_ids=user_ids,
        item_ids=item_ids,
        chain_starts=chains.starts,
        chain_items=chains.items,
        chain_liked=chains.liked,
        rows=chosen,
        users=users[chosen],
        items=items[chosen],
        ends=ends[chosen],
        places=chains.places[chosen],
    )


def _found(known: pa.Array, wanted: pa.ChunkedArray, what: str, where: str) -> Ints:
    """Places of `wanted` among the `known` ids, which need not be sorted; all must be there."""
    ids = wanted.combine_chunks() if isinstance(wanted, pa.ChunkedArray) else wanted
    if ids.type != known.type:
        raise JobError(f"{what} ids are {ids.type} in the rows and {known.type} in the {where}")
    places = pc.index_in(ids, value_set=known)
    if places.null_count:
        row = pc.index(pc.is_null(places), True).as_py()
        raise JobError(
            f"{what} {ids[row].as_py()} of row {row} is not among the {where}; "
            "make both tables of the same day again"
        )
    return np.asarray(places, dtype=np.int64)


def _split_numbers(splits: pa.Table) -> Ints:
    numbers = pc.index_in(splits["split"], value_set=pa.array(SPLIT_ORDER))
    if numbers.null_count:
        row = pc.index(pc.is_null(numbers), True).as_py()
        raise JobError(f"row {row}: there is no split '{splits['split'][row].as_py()}'")
    return np.asarray(numbers, dtype=np.int64)


def _in_stream_order(splits: pa.Table, users: Ints, split: Ints) -> Ints:
    """Row numbers by user, then in the order in which the user's events happened."""
    return np.lexsort((np.asarray(splits["row"], dtype=np.int64), split, users))


def _earlier_in_user(users: Ints, counted: Ints) -> Ints:
    """Sum of `counted` over the earlier rows of the same user; rows are grouped by user."""
    before = np.cumsum(counted) - counted
    first = np.flatnonzero(np.diff(users, prepend=-1))
    return before - np.repeat(before[first], np.diff(first, append=len(users)))


def _positives(
    splits: pa.Table,
    histories: pa.Table,
    item_ids: pa.Array,
    users: Ints,
    items: Ints,
    split: Ints,
) -> _Chains:
    """Chains as HISTORIES holds them, ends as SPLITS does."""
    lists = histories["item_ids"].combine_chunks()
    lengths = np.asarray(pc.list_value_length(lists), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    chain = _found(item_ids, pc.list_flatten(lists), "item", "item texts")
    liked = np.asarray(splits["label"]).astype(np.int64)
    order = _in_stream_order(splits, users, split)
    places = np.empty(len(order), np.int64)
    places[order] = _earlier_in_user(users[order], liked[order])
    places[liked == 0] = -1
    # Only where the chain really holds the row's item: any other row is asked apart.
    at = starts[users] + places
    is_there = (places >= 0) & (places < lengths[users])
    is_there[is_there] = chain[at[is_there]] == items[is_there]
    ends = np.asarray(splits["history_end"], dtype=np.int64)
    if (too_far := ends > lengths[users]).any():
        row = int(np.argmax(too_far))
        raise JobError(
            f"row {row}: history_end {ends[row]} lies past the user's {lengths[users[row]]} "
            "positives; make splits and histories again"
        )
    return _Chains(
        starts, chain, np.ones(len(chain), np.bool_), ends, np.where(is_there, places, -1)
    )


def _labelled(splits: pa.Table, users: Ints, items: Ints, split: Ints, n_users: int) -> _Chains:
    """Chains of all labelled rows; a row sees those of strictly earlier moments."""
    order = _in_stream_order(splits, users, split)
    ordered = users[order]
    starts = np.searchsorted(ordered, np.arange(n_users + 1)).astype(np.int64)
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order)) - starts[ordered]
    moments = np.asarray(splits["rated_at"]).astype("datetime64[us]").astype(np.int64)[order]
    is_new = (np.diff(ordered, prepend=-1) != 0) | (np.diff(moments, prepend=-1) != 0)
    group = np.flatnonzero(is_new)
    first = np.repeat(group, np.diff(group, append=len(order)))
    ends = np.empty(len(order), np.int64)
    ends[order] = first - starts[ordered]
    liked = np.asarray(splits["label"])[order] == 1
    return _Chains(starts, items[order], liked, ends, places)


def _frozen(splits: pa.Table, chains: _Chains, users: Ints, split: Ints) -> Ints:
    """Ends of valid and test rows moved back to where their split begins."""
    ends = chains.ends.copy()
    in_chain = chains.places >= 0
    for number in range(1, len(SPLIT_ORDER)):
        earlier = users[in_chain & (split < number)]
        boundary = np.bincount(earlier, minlength=len(chains.starts) - 1)
        here = split == number
        ends[here] = np.minimum(ends[here], boundary[users[here]])
    return ends
