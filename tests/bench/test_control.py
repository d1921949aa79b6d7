"""The job control: a logit for every row, held out for those that a system learns from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.bench.evidence import BenchRows
from jobs.bench.protocols import Protocol, evidence_of, first_occasion
from jobs.collab.baselines.out_of_fold import out_of_fold_logits
from jobs.collab.baselines.registry import system_of
from jobs.collab.control import ControlConfig, control_logits, control_table, frozen_requests
from jobs.collab.systems import Labelled
from jobs.datasets import CONTROL_LOGITS, SPLITS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import load_manifest
from jobs.report.metrics import auc
from tests.bench.conftest import BY_HAND, made_of, random_events
from tests.conftest import DAY
from tests.in_process import run_job

MEANS = ControlConfig(system="item_user_mean")


@pytest.fixture(scope="module")
def rows() -> BenchRows:
    """Random rows whose numbers within train do not follow their times."""
    made = made_of(random_events(20, seed=7))
    order = np.arange(len(made.rows))
    train = made.places("train")
    order[train] = np.random.default_rng(0).permutation(train)
    return replace(made, rows=made.rows.at(order))


def test_each_train_row_has_the_logit_that_is_its_own(rows: BenchRows) -> None:
    online, _ = control_logits(MEANS, rows)
    evidence = evidence_of(rows)
    held_out = out_of_fold_logits(system_of("item_user_mean", {}), evidence, 0)
    of_time = dict(zip(evidence.train.requests.times.tolist(), held_out.tolist(), strict=True))
    wanted = [of_time[time] for time in rows.of("train").requests.times.tolist()]
    assert online["train"].tolist() == wanted
    # What a fit says of its own rows flatters it, and that is what an offset must not do.
    own = system_of("item_user_mean", {}).fit(evidence, 0)
    train = rows.of("train")
    flattered = auc(train.labels, own.score(train.requests, rows.histories))
    honest = auc(train.labels, online["train"])
    assert flattered is not None
    assert honest is not None
    assert flattered > honest + 0.02


def test_valid_and_test_rows_are_scored_by_the_fit_on_train(rows: BenchRows) -> None:
    online, frozen = control_logits(MEANS, rows)
    asked = first_occasion(rows, Protocol.PAPER)
    fitted = system_of("item_user_mean", {}).fit(asked.evidence, 0)
    for split, each in zip(("valid", "test"), asked.scorings, strict=True):
        wanted = fitted.score(each.requests, each.histories)
        np.testing.assert_array_equal(online[split], wanted)
        np.testing.assert_array_equal(frozen[split], wanted)  # means read no history
    assert list(frozen) == ["valid", "test"]


def test_frozen_rows_see_the_positives_of_earlier_splits_alone() -> None:
    made = made_of(np.array(BY_HAND, dtype=np.int64))
    # User 0: positives on days 0 and 1 of train, one on day 3 of test. User 1: one of train, one of
    # valid. User 2: none before test.
    assert made.of("test").requests.users.tolist() == [0, 2, 1, 0, 2]
    assert made.of("test").requests.history_ends.tolist() == [2, 0, 2, 3, 0]
    assert frozen_requests(made, "test").history_ends.tolist() == [2, 0, 2, 2, 0]
    assert frozen_requests(made, "valid").history_ends.tolist() == [1]


def test_the_table_has_every_row_and_a_frozen_logit_where_there_is_one(rows: BenchRows) -> None:
    table = control_table(rows, *control_logits(MEANS, rows))
    assert table.num_rows == len(rows.rows)
    splits = table["split"].to_pylist()
    assert {splits[k] for k, each in enumerate(table["frozen_logit"]) if not each.is_valid} == {
        "train"
    }


def test_a_system_that_there_is_not_is_named(rows: BenchRows) -> None:
    with pytest.raises(JobError, match="there is no system 'blond'; there are item_mean, "):
        control_logits(ControlConfig(system="blond"), rows)


def test_no_train_rows_is_one_clear_error(rows: BenchRows) -> None:
    none = replace(rows, splits=np.full_like(rows.splits, 2))
    assert isinstance(none.of("train"), Labelled)
    with pytest.raises(JobError, match="no train rows"):
        control_logits(MEANS, none)


def test_the_job_writes_all_rows_of_the_splits_and_the_same_bytes_again(
    prepared: Home, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(prepared.root, home.root)
    done = run_job("control", home, system="item_user_mean")
    assert done.status == "done"
    splits, logits = (pq.read_table(home.output(each, DAY)) for each in (SPLITS, CONTROL_LOGITS))
    keys = [sorted(zip(*(t[n].to_pylist() for n in SPLITS.key), strict=True))
            for t in (splits, logits)]  # fmt: skip
    assert keys[0] == keys[1]
    manifest = load_manifest(home, "control", DAY)
    assert manifest is not None
    assert [each.name for each in manifest.inputs] == ["splits", "item_semantics", "histories"]
    assert {"train_auc", "test_frozen_uauc"} <= manifest.metrics.keys()
    first = home.output(CONTROL_LOGITS, DAY).read_bytes()
    assert run_job("control", home, system="item_user_mean").status == "unchanged"
    run_job("control", home, system="item_user_mean", seed=1)
    assert home.output(CONTROL_LOGITS, DAY).read_bytes() != first
    run_job("control", home, system="item_user_mean")
    assert home.output(CONTROL_LOGITS, DAY).read_bytes() == first
