"""The years before the window: order without time, numbering, histories, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.evidence import BenchRows
from jobs.bench.protocols import as_of_midnight
from jobs.bench.warehouse_years import COMPLETE_AFTER, FILE, latest_times, with_earlier_years
from jobs.errors import ContractError, NotAvailable
from tests.bench.conftest import made_of

NAN = float("nan")
DAY_S = 86_400
FIRST = 20_000  # day of the window, long after the file is complete


def window() -> BenchRows:
    """Users 0 and 1; day, user, item, label, split."""
    days = [(0, 0, 0, 1, 0), (1, 1, 1, 1, 0), (2, 0, 2, 0, 1), (3, 0, 3, 1, 2)]
    return made_of(np.array([(FIRST + day, *rest) for day, *rest in days], dtype=np.int64))


# user, place in the user's order, item, label, unix seconds
Event = tuple[int, int, int, int, float | None]
EARLIER: tuple[Event, ...] = (
    (0, 2, 3, 1, 900.0 * DAY_S),
    (0, 1, 1, 0, None),
    (0, 3, 2, 0, None),
    (7, 1, 0, 1, 800.0 * DAY_S),
    (0, 4, 0, 1, (FIRST + 0.5) * DAY_S),  # inside the window: there already
)


def written(folder: Path, events: tuple[Event, ...] = EARLIER, **other: Any) -> Path:
    names = ("user_id", "seq_pos", "item_id", "label_ge4", "ts")
    columns = dict(zip(names, map(list, zip(*events, strict=True)), strict=True))
    table = pa.table(columns | other)
    types = {"user_id": pa.int32(), "item_id": pa.int32(), "label_ge4": pa.int8()}
    for name, kind in types.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, table[name].cast(kind))
    pq.write_table(table, folder / FILE)
    return folder


def test_an_unknown_time_is_the_next_known_one_of_its_user() -> None:
    users = np.array([0, 0, 0, 1, 1])
    times = np.array([NAN, NAN, 500.0, NAN, 700.0])
    np.testing.assert_array_equal(latest_times(users, times), [500, 500, 500, 700, 700])


def test_an_unknown_time_is_never_later_than_the_file_is_complete() -> None:
    users = np.array([0, 0, 1, 2])
    times = np.array([NAN, COMPLETE_AFTER + 9.0, NAN, 3.0])
    np.testing.assert_array_equal(
        latest_times(users, times), [COMPLETE_AFTER, COMPLETE_AFTER + 9, COMPLETE_AFTER, 3]
    )


def test_earlier_events_are_train_rows_in_their_order_and_the_window_stays(tmp_path: Path) -> None:
    rows, found = window(), with_earlier_years(window(), written(tmp_path))
    assert found.user_ids.to_pylist() == [0, 1, 7]
    assert found.catalogue.n_users == 3
    earlier = found.rows.at(found.numbers < 0)
    assert earlier.requests.users.tolist() == [0, 0, 0, 2]
    assert earlier.requests.items.tolist() == [1, 3, 2, 0]
    assert earlier.labels.tolist() == [0, 1, 0, 1]
    seconds = (earlier.requests.times / 1e6).tolist()
    assert seconds == [900 * DAY_S, 900 * DAY_S, COMPLETE_AFTER, 800 * DAY_S]
    for split in ("valid", "test"):
        old, new = rows.of(split).requests, found.of(split).requests
        np.testing.assert_array_equal(old.items, new.items)
        np.testing.assert_array_equal(old.times, new.times)
    assert len(found.of("train")) == 4 + 2
    assert found.fingerprint != rows.fingerprint


def test_histories_begin_with_the_earlier_positives_and_rows_see_them(tmp_path: Path) -> None:
    found = with_earlier_years(window(), written(tmp_path))
    starts = found.histories.starts
    lists = [found.histories.items[a:b].tolist() for a, b in pairwise(starts)]
    assert lists == [[3, 0, 3], [1], [0]]
    test = found.of("test").requests
    assert test.history_ends.tolist() == [2]
    assert found.rows.at(found.numbers < 0).requests.history_ends.tolist() == [0, 0, 1, 0]
    np.testing.assert_array_equal(
        as_of_midnight(found).of("test").requests.history_ends, test.history_ends
    )


def test_the_absent_file_a_lost_column_and_an_unknown_item_are_one_line_each(
    tmp_path: Path,
) -> None:
    with pytest.raises(NotAvailable, match=FILE):
        with_earlier_years(window(), tmp_path)
    folder = written(tmp_path, (*EARLIER, (0, 9, 55, 1, 1.0)))
    with pytest.raises(ContractError, match="for instance 55"):
        with_earlier_years(window(), folder)
    table = pq.read_table(folder / FILE).drop_columns(["seq_pos"])
    pq.write_table(table, folder / FILE)
    with pytest.raises(ContractError, match="seq_pos"):
        with_earlier_years(window(), folder)


def test_every_event_of_movielens_1m_without_a_time_is_before_the_window(ml_1m: Path) -> None:
    table = pq.read_table(ml_1m / FILE, columns=["user_id", "seq_pos", "ts", "label_ge4"])
    table = table.sort_by([("user_id", "ascending"), ("seq_pos", "ascending")])
    known = table["ts"].to_numpy(zero_copy_only=False).astype(float)
    users, is_unknown = table["user_id"].to_numpy(), np.isnan(known)
    times = latest_times(users, known)
    assert is_unknown.sum() == 337_147
    assert times[is_unknown].max() <= COMPLETE_AFTER < 991_353_600  # 2001-06-01
    assert table["label_ge4"].to_numpy()[is_unknown].max() == 0
    is_same_user = users[1:] == users[:-1]
    assert (np.diff(times)[is_same_user] >= 0).all()
