"""Features end to end: the known answers of MovieLens-1M, and that nothing comes from later."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.datasets import (
    ITEM_FEATURES,
    ITEMS,
    ROW_FEATURES,
    SPLITS,
    USER_FEATURES,
)
from jobs.home import Home
from jobs.manifest import Manifest
from jobs.prepare import features
from jobs.query import query
from jobs.report.controls import smoothed_mean
from jobs.report.metrics import auc, uauc
from tests.prepare.conftest import Night

Nights = Callable[..., Night]

DAY = date(2026, 3, 2)
AFTER_ARCHIVE = date(2003, 3, 1)


def featured(tonight: Night, source: Path) -> Manifest:
    """Ingest, split and features, each checked."""
    tonight.ingest(source)
    tonight.split()
    return tonight.run("features", features.FeaturesConfig(), features.job)


def row_features(splits: pa.Table) -> pa.Table:
    parameters = {"smoothing": 5.0, "popularity_days": 30, "sampled_negatives": False}
    return query("prepare/row_features", {"splits": splits}, **parameters)


def of_paper(splits: pa.Table, items: pa.Table) -> dict[str, list[dict[str, object]]]:
    """Item and user features under the protocol that knows train alone."""
    parameters = {"smoothing": 5.0, "sampled_negatives": False}
    found = {
        "items": query(
            "prepare/item_features",
            {"splits": splits, "items": items},
            **parameters,
            popularity_days=30,
            day=DAY,
        ),
        "users": query("prepare/user_features", {"splits": splits}, **parameters),
    }
    return {
        name: table.filter(pc.equal(table["protocol"], "paper")).to_pylist()
        for name, table in found.items()
    }


@pytest.fixture(scope="module")
def splits_of_sample(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    tonight = Night(Home(tmp_path_factory.mktemp("split") / "home"), DAY)
    tonight.ingest(sample)
    tonight.split()
    return tonight.table(SPLITS)


def with_column(splits: pa.Table, name: str, values: pa.ChunkedArray | pa.Array) -> pa.Table:
    return splits.set_column(splits.schema.get_field_index(name), splits.schema.field(name), values)


def test_the_known_answers_of_movielens_come_out_of_the_table(ml_1m: Path, night: Nights) -> None:
    """Item mean .7094/.6816, item and user mean .7317/.6816 over 224 users: train labels, k = 5."""
    tonight = night(AFTER_ARCHIVE)
    featured(tonight, ml_1m)
    splits, rows = tonight.table(SPLITS), tonight.table(ROW_FEATURES)
    assert rows.num_rows == splits.num_rows == 51_623
    assert rows.select(["split", "row"]).equals(splits.select(["split", "row"]))
    is_test = pc.equal(splits["split"], "test")
    splits, rows = splits.filter(is_test), rows.filter(is_test)
    users, labels = splits["user_id"].to_numpy(), splits["label"].to_numpy()
    item, both = (
        rows["item_mean"].to_numpy(),
        pc.add(rows["item_mean"], rows["user_mean"]).to_numpy(),
    )
    assert auc(labels, item) == pytest.approx(0.7094, abs=5e-5)
    assert uauc(users, labels, item) == (pytest.approx(0.6816, abs=5e-5), 224)
    assert auc(labels, both) == pytest.approx(0.7317, abs=5e-5)
    assert uauc(users, labels, both)[0] == pytest.approx(0.6816, abs=5e-5)


def test_valid_and_test_rows_have_the_means_of_the_reports_controls(
    sample: Path, night: Nights
) -> None:
    tonight = night(DAY)
    assert featured(tonight, sample).metrics["rows"] == tonight.table(SPLITS).num_rows
    splits, rows = tonight.table(SPLITS), tonight.table(ROW_FEATURES)
    is_train = pc.equal(splits["split"], "train").to_numpy()
    labels = splits["label"].to_numpy()[is_train]
    for key in ("item", "user"):
        keys = splits[f"{key}_id"].to_numpy()
        expected = smoothed_mean(keys[is_train], labels, keys[~is_train])
        found = rows[f"{key}_mean"].to_numpy()[~is_train]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_items_and_users_have_one_row_each_under_either_protocol(
    sample: Path, night: Nights
) -> None:
    tonight = night(DAY)
    metrics = featured(tonight, sample).metrics
    items, users = tonight.table(ITEM_FEATURES), tonight.table(USER_FEATURES)
    assert metrics["items"] == tonight.table(ITEMS).num_rows == items.num_rows / 2
    assert metrics["users"] == len(tonight.table(SPLITS)["user_id"].unique()) == users.num_rows / 2
    assert items["protocol"].unique().to_pylist() == ["nightly", "paper"]


def test_labels_of_valid_and_test_rows_change_no_feature(splits_of_sample: pa.Table) -> None:
    """Nor do their users and items change a feature of another row."""
    splits, random = splits_of_sample, np.random.default_rng(0)
    is_train = pc.equal(splits["split"], "train").to_numpy()
    labels = splits["label"].to_numpy().copy()
    labels[~is_train] = random.permutation(1 - labels[~is_train])
    shuffled = with_column(splits, "label", pa.array(labels))
    assert shuffled["label"] != splits["label"]
    assert row_features(shuffled) == row_features(splits)
    items = splits.select(["item_id"]).group_by("item_id").aggregate([])
    assert of_paper(shuffled, items) == of_paper(splits, items)


def test_no_feature_of_a_row_depends_on_its_users_other_evaluated_rows(
    splits_of_sample: pa.Table,
) -> None:
    """Not even on how many there are: that alone would rank a user's rows (methods.md 2)."""
    splits = splits_of_sample
    full = row_features(splits)
    is_train = pc.equal(splits["split"], "train").to_numpy()
    kept = np.random.default_rng(1).permutation(np.flatnonzero(~is_train))[:5]
    for place in kept:
        alone = np.sort(np.append(np.flatnonzero(is_train), place))
        (row,) = (
            row
            for row in row_features(splits.take(pa.array(alone))).to_pylist()
            if row["split"] != "train"
        )
        assert row == full.slice(int(place), 1).to_pylist()[0]


def test_a_train_rows_features_do_not_change_when_later_rows_change(
    splits_of_sample: pa.Table,
) -> None:
    splits, random = splits_of_sample, np.random.default_rng(2)
    days = splits["rated_at"].to_numpy().astype("datetime64[D]")
    cut = days.min() + np.timedelta64(25, "D")
    is_later = days >= cut
    changed = splits
    for name in ("label", "item_id", "user_id"):
        values = splits[name].to_numpy().copy()
        values[is_later] = random.permutation(values[is_later])
        changed = with_column(changed, name, pa.array(values))
    assert changed["label"] != splits["label"]
    before, after = row_features(splits), row_features(changed)
    is_kept = pa.array(~is_later)
    assert pc.sum(is_kept).as_py() > 1_000
    assert after.filter(is_kept) == before.filter(is_kept)
    of_the_day_itself = pa.array(days == cut)
    both = [rows.filter(of_the_day_itself)["global_mean"] for rows in (before, after)]
    assert both[0] == both[1]  # they know the days before the change, all of which stand


def test_a_second_home_gives_the_same_bytes(sample: Path, night: Nights) -> None:
    one, two = night(DAY, "one"), night(DAY, "two")
    for tonight in (one, two):
        featured(tonight, sample)
    assert one.sha256("features") == two.sha256("features")


LEFT_OUT = """\
domain: plays
events:
  files: [plays.csv]
  format: csv
  columns: {user_id: who, item_id: what, at: at, rating: stars}
  user_id: {type: string}
  item_id: {type: string}
  at: {form: date}
feedback: {kind: rating, minimum: 1, maximum: 5, positive_from: 4}
items: {from: events, title: what}
split: {protocol: leave-one-out}
"""


def test_with_the_last_left_out_each_row_knows_the_train_rows_of_the_days_before_it(
    tmp_path: Path, night: Nights
) -> None:
    """Ada's test row comes before all train rows of Bob, and knows none of them."""
    plays = ["ada,x,2026-01-01,5", "ada,y,2026-01-02,5", "ada,z,2026-01-03,5"]
    plays += [f"bob,{item},2026-02-0{n},5" for n, item in enumerate("zyxw", start=1)]
    (tmp_path / "plays.csv").write_text("\n".join(["who,what,at,stars", *plays, ""]))
    (tmp_path / "tidemark.yaml").write_text(LEFT_OUT)
    tonight = night(DAY)
    featured(tonight, tmp_path)
    splits, rows = tonight.table(SPLITS).to_pylist(), tonight.table(ROW_FEATURES).to_pylist()
    found = {
        (row["user_id"], row["item_id"]): (row["split"], of["item_count"], of["user_count"])
        for row, of in zip(splits, rows, strict=True)
    }
    assert found == {
        ("ada", "x"): ("train", 0, 0),
        ("ada", "y"): ("valid", 0, 1),
        ("ada", "z"): ("test", 0, 1),
        ("bob", "z"): ("train", 0, 0),
        ("bob", "y"): ("train", 0, 1),
        ("bob", "x"): ("valid", 1, 2),
        ("bob", "w"): ("test", 0, 2),
    }
