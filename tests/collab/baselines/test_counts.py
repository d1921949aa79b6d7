"""Counts as of a midnight: known answers by hand, and those of the table that the job writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.collab.baselines.counts import (
    DAY_US,
    AsOfCounts,
    as_of_counts,
    as_of_days,
)
from jobs.collab.systems import Labelled, Requests
from jobs.datasets import ROW_FEATURES, SPLITS
from jobs.home import Home
from jobs.job import Config, Run
from jobs.prepare.sample import write_sample
from jobs.query import query
from tests.in_process import DAY, run_job

NAMES = (
    "global_mean",
    "item_mean",
    "item_count",
    "item_age_days",
    "item_recency_days",
    "item_popularity",
    "user_mean",
    "user_count",
    "user_recency_days",
)


def events(*rows: tuple[int, int, float, int]) -> Labelled:
    """Rows of (user, item, day, label)."""
    users, items, days, labels = (np.array(each) for each in zip(*rows, strict=True))
    times = (days * DAY_US).astype(np.int64)
    requests = Requests(users, items, times, np.zeros_like(users))
    return Labelled(requests, labels.astype(np.float32))


def one(user: int, item: int, day: int, known: Labelled, **settings: int) -> dict[str, float]:
    found = as_of_counts(np.array([user]), np.array([item]), np.array([day]), known, **settings)
    return {name: float(getattr(found, name)[0]) for name in NAMES}


KNOWN = events((0, 0, 10.5, 1), (0, 1, 11.5, 0), (1, 0, 12.5, 0), (1, 0, 20.5, 1))


def test_means_counts_and_ages_are_those_worked_out_by_hand() -> None:
    found = one(0, 0, 20, KNOWN, smoothing=3)
    mean = 1 / 3
    assert found == pytest.approx(
        {
            "global_mean": mean,
            "item_mean": (1 + 3 * mean) / 5,
            "item_count": 2,
            "item_age_days": 10,
            "item_recency_days": 8,
            "item_popularity": 2 / 3,
            "user_mean": (1 + 3 * mean) / 5,
            "user_count": 2,
            "user_recency_days": 9,
        }
    )


def test_the_day_itself_is_outside() -> None:
    assert one(1, 0, 20, KNOWN)["item_count"] == 2
    assert one(1, 0, 21, KNOWN)["item_count"] == 3


def test_popularity_forgets_what_is_older_than_its_days() -> None:
    assert one(0, 0, 20, KNOWN, popularity_days=8)["item_popularity"] == 1
    assert one(0, 0, 20, KNOWN, popularity_days=7)["item_popularity"] == 0


def test_who_was_never_seen_has_the_global_mean_and_no_age() -> None:
    found = one(99, 98, 20, KNOWN)
    assert found["item_mean"] == found["user_mean"] == pytest.approx(1 / 3)
    assert found["item_count"] == found["user_count"] == 0
    assert np.isnan(found["item_age_days"])
    assert np.isnan(found["user_recency_days"])


def test_before_the_first_event_every_mean_is_one_half() -> None:
    found = one(0, 0, 10, KNOWN)
    assert found["global_mean"] == found["item_mean"] == 0.5


def test_sampled_negatives_count_in_means_and_are_no_events() -> None:
    found = as_of_counts(
        np.array([0]), np.array([0]), np.array([20]), KNOWN, sampled_negatives=True
    )
    assert found.item_count[0] == 1
    assert found.item_mean[0] == pytest.approx((1 + 5 / 3) / 7)


def test_rows_of_the_evaluated_window_are_seen_at_the_midnight_that_ends_the_events() -> None:
    times = np.array([10, 20, 21, 400]) * DAY_US + DAY_US // 2
    np.testing.assert_array_equal(as_of_days(times, KNOWN), [10, 20, 21, 21])


def of_table(splits: pa.Table) -> AsOfCounts:
    """The counts of all rows of a table of splits, in its order."""
    users, items = (
        np.unique(splits[name].to_numpy(), return_inverse=True)[1].astype(np.int64)
        for name in ("user_id", "item_id")
    )
    times = splits["rated_at"].cast(pa.int64()).to_numpy()
    rows = Labelled(
        Requests(users, items, times, np.zeros_like(users)),
        splits["label"].to_numpy().astype(np.float32),
    )
    train = rows.at(pc.equal(splits["split"], "train").to_numpy())
    return as_of_counts(users, items, as_of_days(times, train), train)


def assert_is_row_features(found: AsOfCounts, splits: pa.Table, features: pa.Table) -> None:
    keys = [("split", "ascending"), ("row", "ascending")]
    order = pc.sort_indices(splits, keys).to_numpy()
    features = features.sort_by(keys)
    for name in NAMES:
        told = features[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        np.testing.assert_allclose(getattr(found, name)[order], told, rtol=1e-6, err_msg=name)


def test_on_the_sample_they_are_the_table_row_features(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample")
    home = Home(tmp_path / "home")
    run_job("ingest", home, source=str(tmp_path / "sample"))
    for job in ("splits", "features"):
        run_job(job, home)
    reader = Run("test", DAY, Config(), home)
    splits, features = reader.read(SPLITS), reader.read(ROW_FEATURES)
    assert_is_row_features(of_table(splits), splits, features)


def test_on_movielens_1m_they_are_the_table_row_features(ml_1m: Path) -> None:
    splits = pq.read_table(ml_1m / "reference_split.parquet")
    seconds = splits["timestamp"].cast(pa.timestamp("s")).cast(pa.timestamp("us"))
    splits = splits.append_column("rated_at", seconds)
    splits = splits.set_column(0, "split", splits["split"].cast(pa.string()))
    features = query(
        "prepare/row_features",
        {"splits": splits.select(["split", "row", "user_id", "item_id", "label", "rated_at"])},
        smoothing=5.0,
        popularity_days=30,
        sampled_negatives=False,
    )
    assert_is_row_features(of_table(splits), splits, features)
