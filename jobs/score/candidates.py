"""Candidates: the pairs of user and item that a version is to score for a day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from embedding_store.errors import StoreError
from embedding_store.search import SearchableVersion
from embedding_store.store import EmbeddingStore
from jobs.datasets import (
    CANDIDATES,
    DOMAINS,
    HISTORIES,
    ITEM_FACTORS,
    SPLITS,
    USER_FACTORS,
)
from jobs.errors import JobError, NotAvailable, SourceError
from jobs.home import Home
from jobs.job import Config, Declared, Run, main
from jobs.score.ctr_scores import is_of_the_same_version
from jobs.score.factors import MatrixFactorisation

PROPOSED = "top_k"  # the split of rows that an index proposed
_KNOWN_SPLITS = ("train", "valid", "test")
_AT_ONCE = 4_000_000  # neighbours of the users that are searched for together

Ints = NDArray[np.int64]


class CandidatesConfig(Config):
    """Rows of splits, whose labels are known, or the best items of users by the version's index."""

    version: int = Field(
        gt=0, description="version of the embedding store, by number", examples=[1]
    )
    of: Literal["rows", "top_k"] = Field(
        default="rows",
        description="rows: of splits. top_k: users and the items whose factors suit them best",
    )
    splits: str = Field(default="valid,test", description="of rows: of train, valid, test")
    k: int = Field(default=20, gt=0, description="of top_k: items of a user")
    n_users: int = Field(
        default=0, ge=0, description="of top_k: users drawn at random among all; 0 takes all"
    )
    users: Path | None = Field(
        default=None, description="of top_k: a Parquet file whose column user_id names the users"
    )
    exclude_seen: bool = Field(
        default=True, description="of top_k: leave out what a user has events with"
    )
    exact: bool = Field(
        default=False, description="of top_k: look at every item though there is an index"
    )
    seed: int = Field(default=0, ge=0, description="of the draw of users")


# -- rows of splits --------------------------------------------------------------------------------


def wanted_splits(splits: str) -> list[str]:
    """The splits that "valid,test" names.

    Raises:
        JobError: there is no such split, or none is named.
    """
    wanted = [name.strip() for name in splits.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in _KNOWN_SPLITS]:
        there = ", ".join(_KNOWN_SPLITS)
        raise JobError(f"--splits {splits}: there is no split '{unknown[0]}', but {there}")
    if not wanted:
        raise JobError("--splits names no split; give some of " + ", ".join(_KNOWN_SPLITS))
    return wanted


def rows_of(splits: pa.Table, wanted: list[str], version: int) -> pa.Table:
    """CANDIDATES: all rows of some splits, as they are."""
    rows = splits.filter(pc.is_in(splits["split"], value_set=pa.array(wanted)))
    return _table({name: rows[name] for name in rows.column_names}, rows.num_rows, version)


def _table(columns: dict[str, pa.Array | pa.ChunkedArray], n: int, version: int) -> pa.Table:
    columns["version"] = pa.repeat(pa.scalar(version, pa.int64()), n)
    return pa.table({name: columns[name] for name in CANDIDATES.columns or ()})


# -- the best items of users -----------------------------------------------------------------------


def asked_users(everybody: pa.Array, named: pa.Array | None, n_users: int, seed: int) -> pa.Array:
    """Whose candidates are wanted, ascending.

    Args:
        everybody: users of HISTORIES.
        named: those of a list; None: all.
        n_users: so many of them, drawn at random; 0: all.
        seed: of the draw.

    Raises:
        NotAvailable: a user of the list has no history that day.
    """
    users = everybody if named is None else pc.unique(named)
    if users.type != everybody.type:
        raise NotAvailable(
            f"the list has user ids as {users.type}, the warehouse as {everybody.type}"
        )
    missing = users.filter(pc.invert(pc.is_in(users, value_set=everybody)))
    if len(missing):
        raise NotAvailable(
            f"{len(missing)} of {len(users)} users of the list are unknown that day, for instance "
            f"{missing[0].as_py()!r}; leave them out, or give a later --day"
        )
    users = users.take(pc.sort_indices(users))
    if n_users and n_users < len(users):
        drawn = np.random.default_rng(seed).permutation(len(users))[:n_users]
        users = users.take(pa.array(np.sort(drawn)))
    return users


def seen_pairs(splits: pa.Table, feedback: str) -> pa.Table:
    """Users and items that have met: rows of SPLITS, without the negatives that were drawn."""
    rows = splits if feedback != "implicit" else splits.filter(pc.equal(splits["label"], 1))
    return rows.select(["user_id", "item_id"])


def best_items(
    version: SearchableVersion,
    users: pa.Table,
    histories: pa.Table,
    k: int,
    *,
    seen: pa.Table | None,
    exact: bool = False,
) -> pa.Table:
    """The k items of each user with the highest logit of the version's factors.

    A user whom the version does not know is searched for by the factor that his history gives, as
    he is scored.

    Args:
        version: with an index of the items, or without: then every item is looked at.
        users: `user_id`, ascending, and `history_end`.
        histories: HISTORIES of the day.
        k: fewer come back where the version has fewer items that are not seen.
        seen: pairs that are left out; None: nothing is.
        exact: look at every item.

    Returns:
        user_id and item_id, by user, the best item first.
    """
    factors = MatrixFactorisation.of_version(version)
    places = factors.users.places(users["user_id"].combine_chunks())
    is_cold = places < 0
    vectors = factors.cold_factors(users, is_cold, histories)
    vectors[~is_cold] = factors.users.vectors[places[~is_cold]]
    n_items = len(factors.items.ids)
    numbers, items = _seen_places(users["user_id"], factors.items.ids, seen)
    n_seen = np.bincount(numbers, minlength=users.num_rows)
    pairs = np.sort(numbers * n_items + items)
    found: list[tuple[Ints, pa.Array]] = []
    # Users with as many seen items go together: each search asks for that many more.
    order = np.argsort(n_seen, kind="stable")
    for some in _together(order, n_seen + k):
        n_more = int(n_seen[some].max())
        asked = version[ITEM_FACTORS.name].search(
            vectors[some], k + n_more, bias="bias", exact=exact
        )
        owners = some[asked["query"].to_numpy()]
        proposed = factors.items.places(asked["id"].combine_chunks())
        kept = _first_unseen(owners, owners * n_items + proposed, pairs, k)
        found.append((owners[kept], asked["id"].combine_chunks().take(pa.array(kept))))
    return _by_user(users["user_id"].combine_chunks(), found, factors.items.ids.type)


def _together(order: Ints, sizes: Ints) -> Iterator[Ints]:
    """Parts of `order`, each as long as what it asks for stays within `_AT_ONCE`."""
    start = 0
    while start < len(order):
        # Sizes ascend in this order: the last of a part is its largest.
        counts = np.arange(1, len(order) - start + 1)
        fits = counts * sizes[order[start:]] <= _AT_ONCE
        stop = start + max(1, int(fits.sum()))
        yield order[start:stop]
        start = stop


def _seen_places(
    users: pa.ChunkedArray, item_ids: pa.Array, seen: pa.Table | None
) -> tuple[Ints, Ints]:
    """Pairs of a user's number and an item's place, of what both sides know."""
    if seen is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    numbers = pc.index_in(seen["user_id"], value_set=users.combine_chunks())
    items = pc.index_in(seen["item_id"], value_set=item_ids)
    both = pa.table({"user": numbers, "item": items}).drop_null()
    pairs = both.group_by(["user", "item"]).aggregate([])
    owners, places = (pairs[name].to_numpy().astype(np.int64) for name in ("user", "item"))
    return owners, places


def _first_unseen(owners: Ints, proposed: Ints, seen: Ints, k: int) -> Ints:
    """Rows of a search that stay: of each user the first k that he has not seen.

    Args:
        owners: (n,) number of the user of each row, a user's rows together, the best first.
        proposed: (n,) number of the pair of user and item.
        seen: (m,) ascending numbers of the pairs that are seen.
        k: how many stay.
    """
    at = np.searchsorted(seen, proposed)
    is_seen = np.append(seen, -1)[at] == proposed
    fresh = np.flatnonzero(~is_seen)
    if not len(fresh):
        return fresh
    begins = np.flatnonzero(np.diff(owners[fresh], prepend=-1))
    rank = np.arange(len(fresh)) - np.repeat(begins, np.diff(begins, append=len(fresh)))
    return fresh[rank < k]


def _by_user(
    users: pa.Array, found: list[tuple[Ints, pa.Array]], item_type: pa.DataType
) -> pa.Table:
    owners = np.concatenate([np.empty(0, np.int64), *(some for some, _ in found)])
    items = pa.chunked_array([each for _, each in found], type=item_type)
    order = pa.array(np.argsort(owners, kind="stable"))
    return pa.table(
        {
            "user_id": users.take(pa.array(owners).take(order)),
            "item_id": items.take(order),
        }
    )


def proposed_rows(pairs: pa.Table, users: pa.Table, splits: pa.Table, day: date) -> pa.Table:
    """Columns of CANDIDATES but the version: nobody knows a label, and all of a history is seen.

    Args:
        pairs: user_id and item_id.
        users: user_id and history_end.
        splits: SPLITS, for who and what occurs in train.
        day: its midnight is the moment of the rows.
    """
    n = pairs.num_rows
    places = pc.index_in(pairs["user_id"], value_set=users["user_id"].combine_chunks())
    train = splits.filter(pc.equal(splits["split"], "train"))
    in_train = [
        pc.is_in(pairs[name], value_set=pc.unique(train[name])) for name in ("user_id", "item_id")
    ]
    midnight = pa.scalar(datetime.combine(day, time()), pa.timestamp("us"))
    columns = {
        "split": pa.repeat(pa.scalar(PROPOSED), n),
        "row": pa.array(np.arange(n, dtype=np.int32)),
        "label": pa.nulls(n, pa.int8()),
        "rated_at": pa.repeat(midnight, n),
        "history_end": users["history_end"].take(places),
        "is_warm": pc.and_(*in_train),
    }
    return pa.table({**dict(zip(pairs.column_names, pairs.columns, strict=True)), **columns})


# -- the job ---------------------------------------------------------------------------------------


def _proposed(config: CandidatesConfig, run: Run, version: SearchableVersion) -> pa.Table:
    splits, histories, domains = map(run.read, (SPLITS, HISTORIES, DOMAINS))
    named = None if config.users is None else _named_users(config.users)
    everybody = histories["user_id"].combine_chunks()
    wanted = asked_users(everybody, named, config.n_users, config.seed)
    lengths = pc.list_value_length(histories["item_ids"])
    ends = lengths.take(pc.index_in(wanted, value_set=everybody)).cast(pa.int32())
    users = pa.table({"user_id": wanted, "history_end": ends})
    seen = None
    if config.exclude_seen:
        seen = seen_pairs(splits, domains["feedback"][0].as_py())
    pairs = best_items(version, users, histories, config.k, seen=seen, exact=config.exact)
    run.metric("n_users", users.num_rows)
    rows = proposed_rows(pairs, users, splits, run.day)
    columns = {name: rows[name] for name in rows.column_names}
    return _table(columns, rows.num_rows, version.version)


def _named_users(path: Path) -> pa.Array:
    try:
        return pq.read_table(path, columns=["user_id"])["user_id"].combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise SourceError(
            f"{path}: no list of users can be read ({error}); it is a Parquet file with a column "
            "user_id"
        ) from error


def job(config: CandidatesConfig, run: Run) -> None:
    """Choose the day's candidates for one version."""
    wanted = wanted_splits(config.splits)
    try:
        with EmbeddingStore(run.home.store).open(config.version) as version:
            sha256 = version.manifest_sha256
            if config.of == "rows":
                rows = rows_of(run.read(SPLITS), wanted, config.version)
            else:
                lacking = [d.name for d in (USER_FACTORS, ITEM_FACTORS) if d.name not in version]
                if lacking:
                    raise NotAvailable(
                        f"version {version.version} has no table {lacking[0]}, so nothing can be "
                        "proposed from it; give --of rows"
                    )
                rows = _proposed(config, run, version)
    except StoreError as error:
        raise NotAvailable(str(error)) from error  # it names the version and those there are
    run.write(CANDIDATES, rows)
    run.metric("n_rows", rows.num_rows)
    run.result = {
        "version": config.version,
        "version_sha256": sha256,
        "of": config.of,
        "rows": rows.num_rows,
    }


def sources(config: CandidatesConfig, day: date, home: Home) -> Iterable[Path]:
    """The list of users."""
    return [] if config.users is None else [config.users]


DECLARED = Declared(
    "candidates", CandidatesConfig, job, sources=sources, intact=is_of_the_same_version
)

if __name__ == "__main__":
    main(DECLARED)
