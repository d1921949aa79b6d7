"""`tidemark backtest` on the sample warehouse, with a backbone of two random layers."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from embedding_store import EmbeddingStore
from embedding_store.lookup import open_version
from jobs.bench.backtest.beside import fit_beside
from jobs.bench.backtest.figures import BacktestFigures, json_schema, judged
from jobs.bench.backtest.outcomes import between, find_outcomes
from jobs.bench.backtest.page import render
from jobs.bench.backtest.plan import Folder, Plan
from jobs.bench.backtest.replay import backtest, known_systems
from jobs.bench.backtest.scores import MODEL, Known, KnowsTheDay, score_days
from jobs.bench.backtest.worker import pass_over
from jobs.datasets import SPLITS
from jobs.errors import JobError
from jobs.home import Home
from jobs.prepare.sample import write_sample
from jobs.score.ctr_scores import score_rows
from tests.conftest import ROOT
from tests.report.test_page_in_chromium import CHROMIUM, opened
from tests.tiny_backbone import write_tiny_backbone

FIRST, SECOND, THIRD = date(2026, 1, 20), date(2026, 1, 21), date(2026, 1, 22)
KNOWN_BY = date(2026, 1, 25)  # two days for late rows
DAYS = ("--from", str(FIRST), "--to", str(THIRD), "--known-by", str(KNOWN_BY), "--valid-days", "4")
PATIENCE_S = 400


@dataclass(frozen=True)
class Warehouse:
    """A source, a backbone and a home, on which `tidemark backtest` is run."""

    source: Path
    backbone: Path
    home: Home

    @property
    def folder(self) -> Folder:
        """Of the only backtest that was run here."""
        (found,) = (self.home.root / "backtests").iterdir()
        return Folder(found)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TIDEMARK_HOME": str(self.home.root),
            "TIDEMARK_STORE": str(self.home.root / "production"),
        }

    def words(self, *flags: str) -> list[str]:
        given = ["--source", str(self.source), "--model", str(self.backbone), *(flags or DAYS)]
        given += ["--set", "align.max_epochs=2"]
        return [sys.executable, "-m", "jobs.cli", "backtest", *given]

    def run(self, *flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*flags),
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def figures(self) -> dict[str, Any]:
        return json.loads(self.folder.result.read_text(encoding="utf-8"))


Make = Callable[[Path], Warehouse]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "sample"
    write_sample(folder)
    return folder


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    backbone = write_tiny_backbone(tmp_path_factory.mktemp("tiny") / "backbone")
    cache = tmp_path_factory.mktemp("cache")

    def warehouse(source: Path) -> Warehouse:
        home = Home(tmp_path_factory.mktemp("home"))
        home.cache.symlink_to(cache)
        return Warehouse(source, backbone, home)

    return warehouse


@pytest.fixture(scope="module")
def replayed(raw: Path, make: Make) -> Warehouse:
    """Three nights, without a disturbance."""
    warehouse = make(raw)
    done = warehouse.run()
    assert done.returncode == 0, done.stderr[-4000:]
    assert "AUC so far" in done.stderr
    assert "min left" in done.stderr
    assert "The nightly version" in done.stdout
    return warehouse


@pytest.fixture(scope="module")
def shuffled(raw: Path, make: Make, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """The same nights from a source in which the ratings of the second day are dealt out anew."""
    source = tmp_path_factory.mktemp("shuffled") / "sample"
    shutil.copytree(raw, source)
    path = source / "ratings" / f"{SECOND}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    mine = [
        line
        for line in lines
        if len(line) == 4 and line[2] in "12345" and line[3].startswith(str(SECOND))
    ]
    ratings = [line[2] for line in mine]
    random.Random(0).shuffle(ratings)
    for line, rating in zip(mine, ratings, strict=True):
        line[2] = rating
    path.write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")
    assert len(mine) > 50
    warehouse = make(source)
    done = warehouse.run()
    assert done.returncode == 0, done.stderr[-4000:]
    return warehouse


def without_code(figures: dict[str, Any]) -> dict[str, Any]:
    """The tree may be worked on while a test runs."""
    return {**figures, "code_version": None}


def without_seconds(figures: dict[str, Any]) -> dict[str, Any]:
    nights = [
        {name: value for name, value in night.items() if not name.startswith("seconds")}
        for night in figures["nights"]
    ]
    return {**without_code(figures), "nights": nights, "plan": None}


def labels_of(folder: Folder) -> dict[int, int]:
    rows = pq.read_table(folder.outcomes.output(SPLITS, KNOWN_BY), partitioning=None)
    rows = rows.filter(pa.compute.equal(rows["split"], "test"))
    return dict(zip(rows["row"].to_pylist(), rows["label"].to_pylist(), strict=True))


# -- what is replayed ------------------------------------------------------------------------------


def test_each_day_is_scored_by_the_version_of_its_own_midnight(replayed):
    folder = replayed.folder
    for night in (FIRST, SECOND, THIRD):
        scores = pq.read_table(folder.scores(night))
        record = json.loads(folder.record(night).read_text(encoding="utf-8"))
        assert set(scores["version"].to_pylist()) == {record["serving"]}
        assert {each.date() for each in scores["rated_at"].to_pylist()} == {night}
    days = replayed.figures()["days"]
    assert [day["day"] for day in days] == [str(FIRST), str(SECOND), str(THIRD)]
    assert [day["version"] for day in days] == [1, 2, 3]


def test_a_night_trains_up_to_its_midnight_and_tests_on_nothing(replayed):
    home = replayed.folder.nights
    splits = pq.read_table(home.output(SPLITS, THIRD), partitioning=None)
    assert set(splits["split"].unique().to_pylist()) == {"train", "valid"}
    last = max(splits["rated_at"].to_pylist())
    assert datetime(2026, 1, 21, 12, tzinfo=UTC) < last.replace(tzinfo=UTC)
    assert last.date() == SECOND


def test_a_version_is_fitted_to_valid_too_for_the_passes_that_valid_chose(replayed):
    home = replayed.folder.nights
    splits = pq.read_table(home.output(SPLITS, THIRD), partitioning=None)
    users, counts = np.unique(splits["user_id"].to_numpy(), return_counts=True)
    with open_version(home.store, 3) as version:
        fitted = version["user_factors"].table(["user_id", "n_events"]).sort_by("user_id")
    assert fitted["user_id"].to_pylist() == users.tolist()
    assert fitted["n_events"].to_pylist() == counts.tolist()
    metrics = replayed.figures()["nights"][-1]["metrics"]
    assert 0 < metrics["valid_auc"] < 1
    assert metrics["n_epochs"] == metrics["best_epoch"]


def test_all_events_of_a_day_are_scored_late_ones_too(replayed, raw):
    events = pq.read_table(raw / "truth" / "events.parquet").to_pylist()
    happened = {
        (each["user_id"], each["item_id"], each["rated_at"])
        for each in events
        if each["rated_at"].date() == SECOND and each["delivered_on"] < KNOWN_BY
    }
    late = [
        each
        for each in events
        if each["rated_at"].date() == SECOND and SECOND < each["delivered_on"] < KNOWN_BY
    ]
    scores = pq.read_table(replayed.folder.scores(SECOND)).to_pylist()
    assert late
    assert {(each["user_id"], each["item_id"], each["rated_at"]) for each in scores} == happened


def test_the_figures_are_those_of_sklearn_on_scores_and_labels(replayed):
    folder, figures = replayed.folder, replayed.figures()
    labels = labels_of(folder)
    tables = [pq.read_table(folder.scores(night)) for night in (FIRST, SECOND, THIRD)]
    for day, table in zip(figures["days"], tables, strict=True):
        y = [labels[row] for row in table["row"].to_pylist()]
        assert day["n_rows"] == len(y)
        assert day["auc"][MODEL] == pytest.approx(
            roc_auc_score(y, table[MODEL].to_numpy()), abs=1e-6
        )
    whole = pa.concat_tables(tables)
    y = np.array([labels[row] for row in whole["row"].to_pylist()])
    for name in (MODEL, "item_mean", "item_user_mean"):
        expected = roc_auc_score(y, whole[name].to_numpy())
        (quality,) = (q for q in figures["quality"] if (q["system"], q["slice"]) == (name, "all"))
        assert quality["auc"]["value"] == pytest.approx(expected, abs=1e-6)
        assert figures["days"][-1]["auc_so_far"][name] == pytest.approx(expected, abs=1e-6)
        assert quality["auc"]["low"] < expected < quality["auc"]["high"]


def test_the_controls_know_what_the_night_knew(replayed):
    known = pq.read_table(replayed.folder.nights.output(SPLITS, THIRD), partitioning=None)
    scores = pq.read_table(replayed.folder.scores(THIRD)).to_pylist()
    items, labels = known["item_id"].to_numpy(), known["label"].to_numpy()
    for row in scores[:20]:
        of_item = labels[items == row["item_id"]]
        expected = (of_item.sum() + 5 * labels.mean()) / (len(of_item) + 5)
        assert row["item_mean"] == pytest.approx(expected)
        assert row["n_of_item"] == len(of_item)


def test_whoever_the_version_does_not_know_gets_what_the_product_gives(replayed):
    home, nobody = replayed.folder.nights, 10**9
    with open_version(home.store, 3) as version:
        item, bias = (
            column[0].as_py()
            for column in version["item_factors"].table(["item_id", "bias"]).columns
        )
        mu = version.attributes["global_bias"]
    requests = pa.table(
        {
            "row": pa.array([0, 1], pa.int32()),
            "user_id": [nobody, nobody],
            "item_id": [item, nobody],
            "rated_at": pa.array(
                [datetime(2026, 1, 22), datetime(2026, 1, 22)], pa.timestamp("us")
            ),
        }
    )
    scores = score_days(requests, Known.of(home, THIRD), home, 3)
    assert scores[MODEL].to_pylist() == pytest.approx([mu + bias, mu], abs=1e-6)
    assert scores["n_of_user"].to_pylist() == [0, 0]


def test_nothing_outside_of_its_own_folder_is_touched(replayed):
    assert {each.name for each in replayed.home.root.iterdir()} == {"backtests", "cache"}


def test_tables_and_versions_that_no_later_night_needs_are_gone(replayed):
    home = replayed.folder.nights
    assert [each.name for each in (home.root / "tables" / "splits").iterdir()] == [f"day={THIRD}"]
    assert {each.state for each in EmbeddingStore(home.store).versions()[:1]} == {"deleted"}
    assert EmbeddingStore(home.store).aliases() == {"production": 3}


def test_a_backtest_that_is_done_runs_no_night_again(replayed):
    before = replayed.figures()
    done = replayed.run()
    assert done.returncode == 0, done.stderr
    assert "AUC so far" not in done.stderr
    assert "The nightly version" in done.stdout
    assert without_code(replayed.figures()) == without_code(before)


def test_the_schema_in_the_docs_is_that_of_the_figures(replayed):
    assert (ROOT / "docs" / "backtest.schema.json").read_text(encoding="utf-8") == json_schema()
    BacktestFigures.model_validate(replayed.figures())


def test_a_system_of_the_bench_beside_knows_what_the_night_knew(replayed):
    """Its item mean orders the rows as the control's does, which is taken from the tables."""
    home = replayed.folder.nights
    scores = pq.read_table(replayed.folder.scores(THIRD))
    stranger = pa.table(
        {
            "row": pa.array([10**6], pa.int32()),
            "user_id": [10**9],
            "item_id": [10**9],
            "rated_at": scores["rated_at"][:1],
        }
    )
    asked = pa.concat_tables([scores.select(stranger.column_names), stranger])
    (system,) = fit_beside(("item_mean",), home, THIRD, asked).scores(asked)
    assert system.title == "Item mean"
    known = system.scores[:-1]
    order = np.argsort(scores["item_mean"].to_numpy(), kind="stable")
    assert (np.diff(known[order]) >= -1e-6).all()
    labels = pq.read_table(home.output(SPLITS, THIRD), partitioning=None)["label"].to_numpy()
    assert system.probabilities[-1] == pytest.approx(labels.mean(), abs=1e-3)


def test_a_system_that_the_bench_does_not_have_is_refused():
    with pytest.raises(JobError, match="there is no system 'oracle'"):
        known_systems(["oracle"])
    with pytest.raises(JobError, match="it is a control of every backtest"):
        known_systems(["item_mean"])


# -- leaks -----------------------------------------------------------------------------------------


def test_shuffled_labels_of_a_day_change_no_score_of_that_day(replayed, shuffled):
    one, other = replayed.folder, shuffled.folder
    assert labels_of(one) != labels_of(other)
    for night in (FIRST, SECOND):
        assert one.scores(night).read_bytes() == other.scores(night).read_bytes()
    assert one.scores(THIRD).read_bytes() != other.scores(THIRD).read_bytes()


def test_a_planted_leak_changes_scores_of_the_day_and_is_refused(replayed, shuffled):
    """The version of the third night has seen the second day; its scores of it tell."""
    leaked = []
    for warehouse in (replayed, shuffled):
        folder = warehouse.folder
        rows = pq.read_table(folder.outcomes.output(SPLITS, KNOWN_BY), partitioning=None)
        rows = between(rows, SECOND, THIRD)
        with open_version(folder.nights.store, 3) as version:
            leaked.append(score_rows(rows, version)[0]["logit"].to_pylist())
        requests = between(pq.read_table(folder.requests), SECOND, THIRD)
        known = Known.of(folder.nights, THIRD)
        with pytest.raises(KnowsTheDay, match=r"version 3 knows everything before 2026-01-22"):
            score_days(requests, known, folder.nights, 3)
    assert leaked[0] != leaked[1]


def test_the_rows_to_score_carry_no_label(replayed):
    assert pq.read_schema(replayed.folder.requests).names == [
        "row",
        "user_id",
        "item_id",
        "rated_at",
    ]


def test_the_nights_know_no_row_of_a_later_day(replayed):
    home = replayed.folder.nights
    known_days = {
        path.name.split("=")[1][:10] for path in (home.root / "tables/events").rglob("known=*")
    }
    assert known_days
    assert max(known_days) <= str(THIRD)


# -- kills and failures ----------------------------------------------------------------------------


def _wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert process.poll() is None, "the backtest ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_backtest_goes_on_at_its_night_and_ends_the_same(replayed, raw, make):
    warehouse = make(raw)
    with subprocess.Popen(
        warehouse.words(), cwd=ROOT, env=warehouse.environment, text=True, stderr=subprocess.DEVNULL
    ) as process:
        backtests = warehouse.home.root / "backtests"
        second = f"nights/runs/splits/day={SECOND}/manifest.json"
        _wait_for(lambda: any(backtests.glob(f"*/{second}")), process)
        (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert warehouse.folder.record(FIRST).is_file()
    assert not warehouse.folder.record(SECOND).is_file()
    deadline = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{worker}").exists()
    done = warehouse.run()
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"{FIRST}:" not in done.stderr  # not run again
    for night in (FIRST, SECOND, THIRD):
        same = replayed.folder.scores(night).read_bytes()
        assert warehouse.folder.scores(night).read_bytes() == same
    assert without_seconds(warehouse.figures()) == without_seconds(replayed.figures())


EARLY = ("--from", "2026-01-03", "--to", "2026-01-03", "--known-by", "2026-01-05")


def test_a_night_that_fails_is_named_with_its_reason(raw, make):
    warehouse = make(raw)
    done = warehouse.run(*EARLY, "--valid-days", "2")
    assert done.returncode == 1
    assert "the night of 2026-01-03: splits: train is empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert warehouse.figures()["n_nights_left"] == 1
    assert not warehouse.figures()["is_complete"]
    again = warehouse.run(*EARLY, "--valid-days", "2", "--keep-going")
    assert again.returncode == 0, again.stderr[-4000:]
    figures = warehouse.figures()
    assert figures["is_complete"]
    assert figures["nights"][0]["why_failed"].startswith("splits: train is empty")
    assert figures["days"][0]["version"] is None
    assert figures["n_rows"] == 0
    assert figures["n_rows_unscored"] > 0


def test_the_version_before_serves_the_days_of_a_night_that_is_passed_over(replayed, tmp_path):
    shutil.copytree(replayed.folder.root, tmp_path / "copy", symlinks=True)
    folder, fourth = Folder(tmp_path / "copy"), date(2026, 1, 23)
    longer = folder.plan().model_copy(update={"last": fourth})
    find_outcomes(longer, folder)
    record = pass_over(longer, fourth, folder, "distil: the disk is full")
    assert record.serving == 3
    scores = pq.read_table(folder.scores(fourth))
    assert set(scores["version"].to_pylist()) == {3}
    assert {each.date() for each in scores["rated_at"].to_pylist()} == {fourth}
    figures = judged(longer, folder)
    assert figures.days[-1].version == 3
    assert figures.days[-1].auc[MODEL] is not None
    assert "distil: the disk is full" in render(figures)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_opens_without_a_network_and_says_what_the_figures_say(replayed, tmp_path):
    dom, console = opened(replayed.folder.page, tmp_path / "profile")
    assert console == []
    quality = next(q for q in replayed.figures()["quality"] if q["system"] == MODEL)
    assert f"{quality['auc']['value']:.3f}" in dom
    assert 'role="img"' in dom
    assert 'aria-label="AUC by day over 3 days' in dom
    assert "prefers-color-scheme: dark" in dom


def test_a_period_without_an_event_is_refused(raw, make):
    warehouse = make(raw)
    late = Plan.of(
        source=str(raw),
        domain="sample",
        model="tiny",
        first=date(2026, 3, 10),
        last=date(2026, 3, 11),
        known_by=date(2026, 3, 12),
    )
    with pytest.raises(JobError, match="no event from 2026-03-10 to 2026-03-11"):
        backtest(late, Folder(warehouse.home.root / "bt"), warehouse.home, Console(quiet=True))
