"""MovieLens-1M through the real jobs: known figures; and figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from jobs.bench.config import BenchConfig
from jobs.bench.entries import Entry, NotMeasuredEntry, Published, TableEntry
from jobs.bench.evaluate import Judge
from jobs.bench.evidence import BenchRows, bench_rows
from jobs.bench.one_fit import of_protocol
from jobs.bench.protocols import Protocol, first_occasion, nights
from jobs.bench.runs import SeedRun, SystemRuns
from jobs.collab.baselines.registry import system_of
from jobs.home import Home
from tests.bench.conftest import made_of, random_events
from tests.in_process import run_job
from tests.tiny_backbone import write_tiny_backbone

DAY = date(2003, 3, 1)


def a_bench(control: str = "item_mean") -> BenchConfig:
    return BenchConfig(
        name="known",
        title="Known answers",
        day=DAY,
        protocol=Protocol.PAPER,
        control=control,
        n_resamples=100,
        systems=(Entry(name="other", system="item_mean"),),
    )


def runs_of(name: str, rows: BenchRows) -> SystemRuns:
    """A system of means, fitted and scored as the bench does it."""
    asked = first_occasion(rows, Protocol.PAPER)
    fitted = system_of(name, {}).fit(asked.evidence, 0)
    valid, test = (
        fitted.score(each.requests, each.histories).astype(np.float64) for each in asked.scorings
    )
    run = SeedRun(0, {"valid": valid, "test": test}, None)
    return SystemRuns(Entry(name=name, system=name), name, {}, (run,), None)


@pytest.fixture(scope="module")
def movies(ml_1m: Path, tmp_path_factory: pytest.TempPathFactory) -> BenchRows:
    folder = tmp_path_factory.mktemp("ml-1m")
    home = Home(folder / "home")
    run_job("ingest", home, DAY, source=str(ml_1m))
    for job in ("splits", "item_texts"):
        run_job(job, home, DAY)
    run_job("distil", home, DAY, model=str(write_tiny_backbone(folder / "model")))
    return bench_rows(home, DAY)


def test_the_means_have_their_published_figures(movies: BenchRows) -> None:
    judge = Judge(a_bench(), movies)
    item, both = (
        judge.figures(runs_of(name, movies), None) for name in ("item_mean", "item_user_mean")
    )
    item_test, both_test = item.find("test"), both.find("test")
    assert item_test is not None
    assert item_test.auc is not None
    assert item_test.uauc is not None
    assert both_test is not None
    assert both_test.auc is not None
    assert round(item_test.auc.mean, 4) == 0.7094
    assert round(item_test.uauc.mean, 4) == 0.6816
    assert item_test.n_users_counted == 224
    assert round(both_test.auc.mean, 4) == 0.7317
    warm = item.find("test", "warm")
    assert warm is not None
    assert (warm.n_rows, item_test.n_rows) == (4153, 7331)


def test_the_window_has_the_rows_users_and_items_of_the_papers(movies: BenchRows) -> None:
    assert [len(movies.of(split)) for split in ("train", "valid", "test")] == [33891, 10401, 7331]
    assert movies.catalogue.n_users == 838
    assert movies.catalogue.n_items == 3883  # the catalogue, rated in the window or not
    assert sum(len(night.days) for night in nights(movies, 7)) == len(nights(movies))


def test_the_years_before_are_train_rows_and_no_later_row_moves(
    movies: BenchRows, ml_1m: Path
) -> None:
    whole = of_protocol(movies, Protocol.WAREHOUSE, str(ml_1m))
    asked = first_occasion(whole, Protocol.WAREHOUSE)
    assert len(asked.evidence.train) > 900_000
    assert len(asked.evidence.valid) == 10401
    (valid,) = asked.scorings
    assert valid.requests.times.tolist() == movies.of("valid").requests.times.tolist()
    of_train = asked.evidence.train.requests
    assert of_train.times.max() < valid.requests.times.min()
    assert (np.diff(of_train.times) >= 0).all()
    lengths = np.diff(whole.histories.starts)
    assert (whole.rows.requests.history_ends <= lengths[whole.rows.requests.users]).all()


def test_spread_difference_and_tolerance_by_hand() -> None:
    rows = made_of(random_events(20, seed=5))
    labels = rows.of("test").labels.astype(np.float64)
    noise = np.random.default_rng(0).random(len(labels))
    base = runs_of("item_mean", rows)
    valid = base.runs[0].scores["valid"]

    def runs(name: str, *tests: np.ndarray) -> SystemRuns:
        made = (SeedRun(k, {"valid": valid, "test": each}, None) for k, each in enumerate(tests))
        published = Published(auc=0.75, source="by hand")
        entry = Entry(name=name, system="item_mean", published=published)
        return replace(base, entry=entry, runs=tuple(made))

    constant = np.zeros(len(labels))
    found = runs("other", labels, constant)  # AUC 1 and one half
    control = runs("item_mean", constant)
    figures = Judge(a_bench(), rows).figures(found, control)
    test = figures.find("test")
    assert test is not None
    assert test.auc is not None
    assert test.auc.by_seed == [1.0, 0.5]
    assert test.auc.mean == 0.75
    assert test.auc.sd == pytest.approx(np.sqrt(0.125), abs=1e-6)
    assert test.of_mean_auc is not None
    assert test.of_mean_auc.value == 1.0  # the averaged scores still rank perfectly
    assert figures.within_tolerance is True
    against = figures.difference("test")
    assert against is not None
    assert against.auc is not None
    assert (against.auc.value, against.auc.low, against.auc.high) == (0.5, 0.5, 0.5)
    seeds = [figures.difference("test", "all", seed) for seed in (0, 1)]
    assert [each.auc.value for each in seeds if each and each.auc] == [0.5, 0.0]
    far = Judge(a_bench(), rows).figures(runs("other", noise), control)
    assert far.within_tolerance is False
    assert Judge(a_bench(), rows).figures(control, control).against_control == []


def test_scores_from_elsewhere_are_judged_frozen_too_and_against_every_system_to_beat() -> None:
    rows = made_of(random_events(20, seed=5))
    labels = rows.of("test").labels.astype(np.float64)
    constant, control = np.zeros(len(labels)), runs_of("item_mean", rows)
    valid = control.runs[0].scores["valid"]
    entry = TableEntry(name="llm", system="table", title="LLM", scores=("a",), backbone="tiny")
    run = SeedRun(0, {"valid": valid, "test": constant}, None, frozen=labels)
    llm = SystemRuns(entry, "LLM", {}, (run,), None)
    oracle = replace(control, entry=Entry(name="oracle", system="item_mean"), runs=(
        SeedRun(0, {"valid": valid, "test": labels}, None),))  # fmt: skip
    figures = Judge(a_bench(), rows).figures(llm, control, [oracle])
    assert figures.backbone == "tiny"
    assert figures.frozen is not None
    assert figures.frozen.auc is not None
    assert (figures.frozen.auc.mean, figures.frozen.n_rows) == (1.0, len(labels))
    test = figures.find("test")
    assert test is not None
    assert test.auc is not None
    assert test.auc.mean == 0.5
    lost = figures.difference_from("oracle", "test")
    assert lost is not None
    assert lost.auc is not None
    assert lost.auc.value == -0.5
    # What is fitted here is compared with the control alone.
    assert Judge(a_bench(), rows).figures(oracle, control, [oracle]).against_others == {}


def test_what_is_not_measured_has_its_reason_and_no_figure() -> None:
    rows = made_of(random_events(20, seed=5))
    published = Published(auc=0.76, uauc=0.74, source="by hand")
    entry = NotMeasuredEntry(
        name="big", system="not_measured", title="Big", why="no GPU", published=published
    )
    found = SystemRuns(entry, "Big", {}, (), None, entry.why)
    figures = Judge(a_bench(), rows).figures(found, runs_of("item_mean", rows))
    assert (figures.not_measured, figures.error, figures.slices) == ("no GPU", None, [])
    assert figures.published == published
    assert figures.within_tolerance is None
