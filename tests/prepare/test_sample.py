"""The sample warehouse: repeatable, dirty as planted, and true to its truth."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.errors import SourceError
from jobs.prepare.sample import write_sample
from jobs.prepare.sample_titles import TOPICS, titles
from jobs.prepare.sample_truth import POSITIVE_SHARE

FIRST_DAY = date(2026, 1, 1)


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def truth(folder: Path, name: str) -> pa.Table:
    return pq.read_table(folder / "truth" / f"{name}.parquet")


def day_of(events: pa.Table) -> np.ndarray:
    return (
        events["rated_at"].to_numpy().astype("datetime64[D]") - np.datetime64(FIRST_DAY)
    ).astype(int)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ranks = np.argsort(np.argsort(scores)) + 1.0
    n_positive = labels.sum()
    below = ranks[labels == 1].sum() - n_positive * (n_positive + 1) / 2
    return float(below / (n_positive * (len(labels) - n_positive)))


# -- the files -------------------------------------------------------------------------------------


def test_the_same_parameters_give_the_same_bytes(sample: Path, tmp_path: Path) -> None:
    assert write_sample(tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(sample)


def test_another_seed_gives_another_sample(sample: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "other", seed=2)
    equal = hashes(tmp_path / "other").items() & hashes(sample).items()
    # Only the last deliveries can agree: late rows alone, and now and then none.
    assert all(name.startswith("ratings/2026-03") for name, _ in equal)


def test_an_equal_sample_is_left_alone(sample: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sample.rglob("*")}
    assert not write_sample(sample)
    assert {path: path.stat().st_mtime_ns for path in sample.rglob("*")} == before


def test_a_sample_of_other_parameters_is_not_overwritten(sample: Path) -> None:
    with pytest.raises(SourceError, match=r"holds a sample of scale 1, seed 1; asked for scale 2"):
        write_sample(sample, scale=2)


def test_a_folder_with_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SourceError, match="something that is no sample"):
        write_sample(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_filled_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert write_sample(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_fails_on_the_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write_sample(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", [0, -1, 10_000])
def test_an_impossible_scale_is_refused(scale: int, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"scale {scale}: expected a whole number from 1"):
        write_sample(tmp_path / "new", scale=scale)


def test_the_command_says_in_one_line_what_it_did(sample: Path) -> None:
    command = [sys.executable, "-m", "jobs.prepare.sample", "--folder", str(sample)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"sample": str(sample), "status": "unchanged"}
    failed = subprocess.run([*command, "--seed", "9"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"sample: {sample} holds a sample of scale 1, seed 1")
    assert failed.stderr.count("\n") == 1


# -- the deliveries --------------------------------------------------------------------------------


def test_every_event_is_in_exactly_one_good_line_of_its_delivery(sample: Path) -> None:
    dirt = {(r["source_file"], r["line"]): r["raw"] for r in truth(sample, "dirt").to_pylist()}
    good = []
    for path in sorted((sample / "ratings").glob("*.csv")):
        header, *rows = path.read_text().splitlines()
        assert header == "user_id,item_id,rating,rated_at"
        for line, raw in enumerate(rows, 2):
            if (planted := dirt.pop((f"ratings/{path.name}", line), None)) is None:
                good.append(f"{path.stem},{raw}")
            else:
                assert raw == planted
    assert not dirt
    assert sorted(good) == sorted(
        f"{e['delivered_on']},{e['user_id']},{e['item_id']},{e['rating']},{e['rated_at']}"
        for e in truth(sample, "events").to_pylist()
    )


def test_some_events_are_delivered_days_late_and_none_early(sample: Path) -> None:
    events = truth(sample, "events")
    delivered = events["delivered_on"].to_numpy().astype("datetime64[D]")
    late = (delivered - events["rated_at"].to_numpy().astype("datetime64[D]")).astype(int)
    assert late.min() == 0
    assert late.max() == 5
    assert 0.02 < (late > 0).mean() < 0.04


def test_dirt_of_every_kind_is_in_every_part_of_the_time(sample: Path) -> None:
    dirt = truth(sample, "dirt").to_pylist()
    kinds = {row["reason"] for row in dirt}
    assert len(kinds) == 13
    for third in range(3):
        first = FIRST_DAY + timedelta(days=20 * third)
        files = {f"ratings/{first + timedelta(days=n)}.csv" for n in range(20)}
        assert {row["reason"] for row in dirt if row["source_file"] in files} == kinds


# -- the truth -------------------------------------------------------------------------------------


def test_scale_one_is_8000_events_of_300_users_on_400_items_in_60_days(sample: Path) -> None:
    assert truth(sample, "users").num_rows == 300
    assert truth(sample, "items").num_rows == 400
    events = truth(sample, "events")
    assert events.num_rows == 8_000
    assert pc.min(events["rated_at"]).as_py() >= datetime(2026, 1, 1)
    assert pc.max(events["rated_at"]).as_py() < datetime(2026, 3, 2)
    assert set(events["rating"].to_pylist()) == {1, 2, 3, 4, 5}


def test_scale_multiplies_users_items_and_events(tmp_path: Path) -> None:
    write_sample(tmp_path / "twice", scale=2)
    sizes = [truth(tmp_path / "twice", name).num_rows for name in ("users", "items", "events")]
    assert sizes == [600, 800, 16_000]


def test_ids_are_sparse_and_say_nothing_about_arrival(sample: Path) -> None:
    for name, key in (("users", "user_id"), ("items", "item_id")):
        table = truth(sample, name)
        ids = table[key].to_numpy()
        assert len(np.unique(ids)) == len(ids)
        assert ids.max() > 10 * len(ids)
        assert abs(np.corrcoef(ids, table["first_day"].to_numpy())[0, 1]) < 0.2


def test_nobody_rates_an_item_twice_or_before_it_is_there(sample: Path) -> None:
    events, items = truth(sample, "events"), truth(sample, "items")
    pairs = events.group_by(["user_id", "item_id"]).aggregate([])
    assert pairs.num_rows == events.num_rows
    first_day = dict(zip(items["item_id"].to_pylist(), items["first_day"].to_pylist(), strict=True))
    item_of_event = events["item_id"].to_pylist()
    assert all(
        day >= first_day[item] for day, item in zip(day_of(events), item_of_event, strict=True)
    )


def test_about_a_sixth_of_the_items_is_first_rated_in_the_test_window(sample: Path) -> None:
    events, day = truth(sample, "events"), day_of(truth(sample, "events"))
    first_rated: dict[int, int] = {}
    for item, at in zip(events["item_id"].to_pylist(), day, strict=True):
        first_rated[item] = min(first_rated.get(item, 99), at)
    share = np.mean([at >= 50 for at in first_rated.values()])
    assert 0.12 < share < 0.18
    late_users = {u for u, d in zip(events["user_id"].to_pylist(), day, strict=True) if d < 40}
    assert 5 <= len(set(events["user_id"].to_pylist()) - late_users) <= 40


def test_labels_follow_the_planted_probabilities(sample: Path) -> None:
    events = truth(sample, "events")
    labels = (events["rating"].to_numpy() >= 4).astype(int)
    probability = events["probability"].to_numpy()
    assert labels.mean() == pytest.approx(POSITIVE_SHARE, abs=0.001)
    for low in np.arange(0.0, 1.0, 0.1):
        bucket = (probability >= low) & (probability < low + 0.1)
        error = np.sqrt(0.25 / bucket.sum())
        assert labels[bucket].mean() == pytest.approx(probability[bucket].mean(), abs=4 * error)
    assert auc(probability, labels) > 0.9


def test_taste_for_a_topic_says_much_about_items_that_nobody_has_rated_yet(sample: Path) -> None:
    """The ground on which alignment must beat no alignment: topic and user alone."""
    events, items, users = (truth(sample, name) for name in ("events", "items", "users"))
    day, labels = day_of(events), (events["rating"].to_numpy() >= 4).astype(int)
    item_row = {item: n for n, item in enumerate(items["item_id"].to_pylist())}
    user_row = {user: n for n, user in enumerate(users["user_id"].to_pylist())}
    i = np.array([item_row[item] for item in events["item_id"].to_pylist()])
    u = np.array([user_row[user] for user in events["user_id"].to_pylist()])
    names = [topic.name for topic in TOPICS]
    topic = np.array([names.index(name) for name in items["topic"].to_pylist()])
    taste = np.array(users["taste"].to_pylist())
    is_unseen = (day >= 50) & ~np.isin(i, i[day < 40])
    assert is_unseen.sum() > 300
    assert auc(taste[u, topic[i]][is_unseen], labels[is_unseen]) > 0.75
    assert auc(items["quality"].to_numpy()[i], labels) > 0.55
    assert auc(users["leniency"].to_numpy()[u], labels) > 0.55


def test_titles_are_unique_and_their_words_belong_to_their_topic(sample: Path) -> None:
    items = truth(sample, "items")
    assert len(set(items["title"].to_pylist())) == items.num_rows
    words = {
        topic.name: {
            word for part in (topic.nouns, topic.places, topic.adjectives) for word in part
        }
        | {pattern.split("{")[0].strip() for pattern in topic.patterns}
        for topic in TOPICS
    }
    for row in items.select(["title", "topic"]).to_pylist():
        assert any(word and word in row["title"] for word in words[row["topic"]])
        assert row["title"][-6] == "("


def test_titles_do_not_run_out_at_the_largest_scale() -> None:
    topic = np.zeros(10_000, dtype=int)  # a topic's share of 80,000 items
    assert len(set(titles(topic, np.random.default_rng(0)))) == len(topic)
