"""The years before the window as train rows: what the warehouse protocol may know besides."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.bench.evidence import BenchRows
from jobs.collab.factors import Floats, Ints
from jobs.collab.systems import Histories, Labelled, Requests
from jobs.errors import ContractError, NotAvailable

FILE = "ratings_all_partial.parquet"
COLUMNS = ("user_id", "item_id", "label_ge4", "ts", "seq_pos")
# Unix seconds. Every rating later than this has its time in the file: one without is not later.
COMPLETE_AFTER = 975_768_738
_SECOND_US, _DAY_US = 1_000_000, 86_400_000_000
_TRAIN = 0


@dataclass(frozen=True)
class _Earlier:
    """Events before the window, by user and order; ids as in the source."""

    user_ids: pa.Array
    item_ids: pa.Array
    times: Ints  # microseconds; the latest moment that the order allows where none is known
    labels: Floats


def with_earlier_years(rows: BenchRows, folder: Path) -> BenchRows:
    """The same rows and, as train rows before them, every event of the file before the window.

    Users of the file are added to the numbering; items must be in the catalogue. Some early
    negatives have a place in their user's order and no time. Nothing is invented for them: they
    stand at the latest moment that the order and the file's completeness allow, the time of the
    user's next event of known time, and not after `COMPLETE_AFTER`. All of them are thus known to
    be before the window, nothing asks for more, and what decays with time takes them for at most
    that young.

    Args:
        rows: of a home's splits.
        folder: where `ratings_all_partial.parquet` is.

    Raises:
        NotAvailable: the file is absent.
        ContractError: columns are missing, an item is not in the catalogue, ids are of two types.
    """
    path = folder / FILE
    if not path.is_file():
        raise NotAvailable(f"{path} is absent; `earlier` names the folder that holds {FILE}")
    window = int(rows.rows.requests.times.min()) // _DAY_US * _DAY_US
    earlier = _before(_read(path), window)
    user_ids = pa.concat_arrays([rows.user_ids, earlier.user_ids.cast(rows.user_ids.type)])
    user_ids = user_ids.unique().sort()
    old_users = _places(rows.user_ids, user_ids)
    requests = replace(rows.rows.requests, users=old_users[rows.rows.requests.users])
    users = _places(earlier.user_ids.cast(user_ids.type), user_ids)
    items = _items(earlier.item_ids, rows.item_ids)
    before, earlier_lists = _as_rows(users, items, earlier, len(user_ids))
    lists = _renumbered(rows.histories, old_users, len(user_ids))
    histories = _joined(earlier_lists, lists)
    n_before = np.diff(earlier_lists.starts)
    requests = replace(requests, history_ends=requests.history_ends + n_before[requests.users])
    n = len(before)
    digest = hashlib.sha256(rows.fingerprint.encode() + path.read_bytes()).hexdigest()
    return BenchRows(
        catalogue=replace(rows.catalogue, n_users=len(user_ids)),
        histories=histories,
        rows=_stacked(before, Labelled(requests, rows.rows.labels)),
        splits=np.concatenate([np.full(n, _TRAIN, dtype=np.int8), rows.splits]),
        numbers=np.concatenate([np.arange(-n, 0), rows.numbers]),
        user_ids=user_ids,
        item_ids=rows.item_ids,
        fingerprint=digest,
    )


def latest_times(users: Ints, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unix seconds of each event, or the latest that its user's order allows.

    Args:
        users: (n,) user of each event; a user's events stand together, in their order.
        times: (n,) unix seconds; NaN where unknown.

    Returns:
        (n,) for an unknown one the next known time of the user, `COMPLETE_AFTER` at most.
    """
    places = np.where(np.isnan(times), len(times), np.arange(len(times)))
    following = np.minimum.accumulate(places[::-1])[::-1]
    is_same = following < len(times)
    is_same &= users[np.minimum(following, len(times) - 1)] == users
    bound = np.full(len(times), float(COMPLETE_AFTER))
    bound[is_same] = np.minimum(times[following[is_same]], COMPLETE_AFTER)
    return np.where(np.isnan(times), bound, times)


def _read(path: Path) -> pa.Table:
    missing = sorted(set(COLUMNS) - set(pq.read_schema(path).names))
    if missing:
        raise ContractError(f"{path}: columns are missing: {', '.join(missing)}")
    table = pq.read_table(path, columns=list(COLUMNS))
    return table.sort_by([("user_id", "ascending"), ("seq_pos", "ascending")])


def _before(table: pa.Table, window: int) -> _Earlier:
    """Events of a table by user and order that are before the moment, microseconds since 1970."""
    users = table["user_id"].to_numpy()
    known = table["ts"].to_numpy(zero_copy_only=False).astype(np.float64)
    times = (latest_times(users, known) * _SECOND_US).astype(np.int64)
    kept = table.filter(pa.array(times < window))
    return _Earlier(
        kept["user_id"].combine_chunks(),
        kept["item_id"].combine_chunks(),
        times[times < window],
        kept["label_ge4"].to_numpy().astype(np.float32),
    )


def _places(ids: pa.Array, among: pa.Array) -> Ints:
    found: Ints = pc.index_in(ids, value_set=among).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)


def _items(ids: pa.Array, catalogue: pa.Array) -> Ints:
    found = pc.index_in(ids.cast(catalogue.type), value_set=catalogue)
    if found.null_count:
        lost = ids.filter(pc.is_null(found))[0]
        raise ContractError(
            f"{FILE}: {found.null_count} events have an item that the catalogue lacks, for "
            f"instance {lost}; run the jobs item_texts and distil on the whole catalogue"
        )
    places: Ints = found.to_numpy()
    return places.astype(np.int64)


def _as_rows(
    users: Ints, items: Ints, earlier: _Earlier, n_users: int
) -> tuple[Labelled, Histories]:
    """Rows that see the positives before them in their user's order, and those positives."""
    is_positive = earlier.labels == 1
    counts = np.bincount(users[is_positive], minlength=n_users)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    n_before = np.cumsum(is_positive) - is_positive
    # Rows stand by user, and users ascend: what came before a row less what other users had.
    ends = (n_before - starts[users]).astype(np.int64)
    requests = Requests(users, items, earlier.times, ends)
    lists = Histories(items[is_positive], earlier.times[is_positive], starts)
    return Labelled(requests, earlier.labels), lists


def _renumbered(histories: Histories, users: Ints, n_users: int) -> Histories:
    """The same lists with user k called `users[k]`, ascending; the others have empty lists."""
    counts = np.zeros(n_users, dtype=np.int64)
    counts[users] = np.diff(histories.starts)
    return replace(histories, starts=np.concatenate([[0], np.cumsum(counts)]))


def _joined(first: Histories, second: Histories) -> Histories:
    """Each user's first list, then the second."""
    n_users = len(first.starts) - 1
    owners = [np.repeat(np.arange(n_users), np.diff(each.starts)) for each in (first, second)]
    order = np.argsort(np.concatenate(owners), kind="stable")
    return Histories(
        items=np.concatenate([first.items, second.items])[order],
        times=np.concatenate([first.times, second.times])[order],
        starts=first.starts + second.starts,
    )


def _stacked(first: Labelled, second: Labelled) -> Labelled:
    a, b = first.requests, second.requests
    requests = Requests(
        users=np.concatenate([a.users, b.users]),
        items=np.concatenate([a.items, b.items]),
        times=np.concatenate([a.times, b.times]),
        history_ends=np.concatenate([a.history_ends, b.history_ends]),
    )
    return Labelled(requests, np.concatenate([first.labels, second.labels]))
