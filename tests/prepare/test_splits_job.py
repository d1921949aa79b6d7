"""Splits end to end: the published split in all its rows, and the sample's windows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from jobs.datasets import EVENTS, HISTORIES, SPLITS
from jobs.errors import NotAvailable
from jobs.job import execute
from jobs.prepare import splits
from tests.conftest import DATA, ROOT
from tests.prepare.conftest import Night

Nights = Callable[..., Night]

DAY = date(2026, 3, 2)
AFTER_ARCHIVE = date(2003, 3, 1)


def mapping(path: Path) -> dict[int, int]:
    table = csv.read_csv(path)
    return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))


def expect_the_published_split(tonight: Night, ml_1m: Path) -> None:
    """Users, items, labels, times, order, histories and warm flags of all 51,623 rows."""
    reference = pq.read_table(ml_1m / "reference_split.parquet").sort_by(
        [("split", "ascending"), ("row", "ascending")]
    )
    made = tonight.table(SPLITS)
    assert made.num_rows == reference.num_rows == 51_623
    user_of, item_of = (mapping(ml_1m / f"{name}_id_map.csv") for name in ("user", "item"))
    for name in ("split", "row", "label", "is_warm"):
        assert made[name].to_pylist() == reference[name].to_pylist(), name
    assert made["user_id"].to_pylist() == [user_of[u] for u in reference["user_id"].to_pylist()]
    assert made["item_id"].to_pylist() == [item_of[i] for i in reference["item_id"].to_pylist()]
    seconds = pc.divide(made["rated_at"].cast(pa.int64()), 1_000_000)
    assert seconds.to_pylist() == reference["timestamp"].to_pylist()

    histories = tonight.table(HISTORIES)
    positives = dict(
        zip(histories["user_id"].to_pylist(), histories["item_ids"].to_pylist(), strict=True)
    )
    rows = zip(
        made["user_id"].to_pylist(),
        made["history_end"].to_pylist(),
        reference["history"].to_pylist(),
        strict=True,
    )
    assert all(positives[user][:end] == [item_of[i] for i in seen] for user, end, seen in rows)


def test_the_published_split_is_rebuilt_from_the_parquet_copy(ml_1m: Path, night: Nights) -> None:
    tonight = night(AFTER_ARCHIVE)
    assert tonight.ingest(ml_1m).metrics["events"] == 200_042
    tonight.split()
    expect_the_published_split(tonight, ml_1m)


def test_the_published_split_is_rebuilt_from_the_original_form(
    ml_1m: Path, night: Nights, tmp_path: Path
) -> None:
    """All 1,000,209 lines of ratings.dat; what is not known of a rating is left a question mark.

    Those lines are quarantined, and still settle each movie's first appearance.
    """
    lines = duckdb.execute(
        """select concat_ws('::', user_id, item_id, coalesce(rating::varchar, '?'),
                            coalesce(ts::varchar, '?')) as line
           from read_parquet(?) order by file_row""",
        [str(ml_1m / "ratings_all_partial.parquet")],
    ).fetchall()
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "ratings.dat").write_text("".join(f"{line}\n" for (line,) in lines))
    (folder / "movies.dat").write_bytes((ml_1m / "movies.dat").read_bytes())
    tonight = night(AFTER_ARCHIVE)
    metrics = tonight.ingest(folder, max_quarantined_share=0.4).metrics
    assert metrics["rows_in"] == 1_000_209
    assert metrics["quarantined"] == metrics["quarantined: unparsable rating"] == 337_147
    tonight.split()
    expect_the_published_split(tonight, ml_1m)


def test_the_samples_split_is_days_1_to_40_41_to_50_and_51_to_60(
    sample: Path, night: Nights
) -> None:
    tonight = night(DAY)
    tonight.ingest(sample)
    tonight.split()
    made = tonight.table(SPLITS)
    assert made.num_rows == tonight.table(EVENTS).num_rows
    windows = made.group_by("split").aggregate([("rated_at", "min"), ("rated_at", "max")])
    ends = {
        w["split"]: (w["rated_at_min"].date(), w["rated_at_max"].date())
        for w in windows.to_pylist()
    }
    assert ends == {
        "train": (date(2026, 1, 1), date(2026, 2, 9)),
        "valid": (date(2026, 2, 10), date(2026, 2, 19)),
        "test": (date(2026, 2, 20), date(2026, 3, 1)),
    }


def test_a_samples_row_sees_all_its_users_earlier_positives_and_nothing_of_its_second(
    sample: Path, night: Nights
) -> None:
    tonight = night(DAY)
    tonight.ingest(sample)
    tonight.split()
    rows = tonight.table(SPLITS).to_pylist()
    histories = {r["user_id"]: r["item_ids"] for r in tonight.table(HISTORIES).to_pylist()}
    positives: dict[int, list[tuple[datetime, int]]] = {}
    for row in rows:
        if row["label"]:
            positives.setdefault(row["user_id"], []).append((row["rated_at"], row["item_id"]))
    for row in rows:
        earlier = {i for at, i in positives.get(row["user_id"], []) if at < row["rated_at"]}
        assert set(histories[row["user_id"]][: row["history_end"]]) == earlier


def split_on_dask(tonight: Night) -> dict[str, str]:
    """Bytes of the tables when the same night is split again, on two processes."""
    config = splits.SplitsConfig(engine="dask")
    again = execute("splits", config, tonight.day, tonight.home, splits.job)
    assert again.status == "unchanged"  # where the work is done redoes nothing
    execute("splits", config, tonight.day, tonight.home, splits.job, force=True)
    return tonight.sha256("splits")


def ingest_on_dask(source: Path, tonight: Night, night: Nights) -> dict[str, str]:
    """Bytes of the tables when another home ingests the same source, on two processes."""
    other = night(tonight.day, "on-dask")
    other.ingest(source, engine="dask")
    return other.sha256("ingest")


def test_dask_writes_the_samples_tables_to_the_byte(sample: Path, night: Nights) -> None:
    tonight = night(DAY)
    tonight.ingest(sample)
    assert tonight.sha256("ingest") == ingest_on_dask(sample, tonight, night)
    tonight.split()
    assert tonight.sha256("splits") == split_on_dask(tonight)


def test_dask_writes_movielens_tables_to_the_byte(ml_1m: Path, night: Nights) -> None:
    tonight = night(AFTER_ARCHIVE)
    tonight.ingest(ml_1m)
    assert tonight.sha256("ingest") == ingest_on_dask(ml_1m, tonight, night)
    tonight.split()
    assert tonight.sha256("splits") == split_on_dask(tonight)


@pytest.mark.slow
def test_dask_writes_online_retails_tables_to_the_byte(tmp_path: Path, night: Nights) -> None:
    """String ids, sampled negatives, minutes with dozens of rows: three quarters of a million."""
    folder = DATA / "online-retail"
    if not folder.is_dir():
        pytest.skip(f"Online Retail is not at {folder}")
    mapping = ROOT / "docs" / "examples" / "online-retail.yaml"
    here = tmp_path / "online-retail.yaml"
    here.write_text(f"{mapping.read_text(encoding='utf-8')}root: {folder}\n", encoding="utf-8")
    tonight = night(date(2011, 12, 10))
    tonight.ingest(here)
    assert tonight.sha256("ingest") == ingest_on_dask(here, tonight, night)
    metrics = tonight.split().metrics
    assert metrics["negatives_missing"] < 100
    assert metrics["rows: train"] > 1_000_000
    assert tonight.sha256("splits") == split_on_dask(tonight)


def test_what_was_put_aside_is_gone_when_the_job_ends(sample: Path, night: Nights) -> None:
    tonight = night(DAY)
    tonight.ingest(sample)
    tonight.split()
    left = {path.name for path in tonight.home.run("splits", DAY).rglob("*") if path.is_file()}
    assert left == {"manifest.json", "attempt.json", "lock", "splits.json", "histories.json"}


def test_a_second_home_gives_the_same_bytes(sample: Path, night: Nights) -> None:
    day = date(2026, 1, 25)
    one, two = night(day, "one"), night(day, "two")
    for tonight in (one, two):
        tonight.ingest(sample)
        tonight.split()
    assert one.sha256("splits") == two.sha256("splits")


def test_an_archive_that_ends_before_valid_and_test_is_all_train(
    archive: Path, night: Nights
) -> None:
    tonight = night(date(2002, 1, 1))
    tonight.ingest(archive)
    metrics = tonight.split().metrics
    assert metrics["rows: train"] == 2
    assert tonight.table(SPLITS)["split"].unique().to_pylist() == ["train"]
    assert tonight.table(HISTORIES).to_pylist() == [{"user_id": 1, "item_ids": [10]}]


def test_the_earliest_night_of_a_backfill_has_one_day_to_train_on(
    sample: Path, night: Nights
) -> None:
    tonight = night(date(2026, 1, 22))
    tonight.ingest(sample)
    assert tonight.split().metrics["rows: train"] > 50


def test_a_night_with_nothing_to_train_on_says_when_there_is(sample: Path, night: Nights) -> None:
    tonight = night(date(2026, 1, 15))
    tonight.ingest(sample)
    with pytest.raises(NotAvailable, match=r"train is empty: .* last 20 days .*--valid-days"):
        tonight.split()
    assert tonight.split(valid_days=3, test_days=3).metrics["rows: train"] > 50


def test_an_archive_before_the_published_window_says_where_it_is(
    archive: Path, night: Nights
) -> None:
    with (archive / "ratings.dat").open("ab") as file:
        file.write(b"1::10::4::978300760\n")
    tonight = night(date(2001, 1, 1))
    tonight.ingest(archive)
    with pytest.raises(NotAvailable, match=r"1 events from 2000-12-31 .* is 2001-06 to 2002-03"):
        tonight.split()
