"""Scores of a published version by its tuned LLM are those that training ended with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.datasets import (
    CALIBRATION,
    CANDIDATES,
    CONTROL_LOGITS,
    CTR_SCORES,
    DOMAINS,
    HISTORIES,
    ITEM_TEXTS,
    ITEMS,
    LLM_DIAGNOSTICS,
    SPLITS,
    TUNE_VALID,
    Dataset,
)
from jobs.errors import JobError, NotAvailable
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import Config, Outcome, Run, mark_checked
from jobs.llm.events import events_of
from jobs.llm.scoring import Scorer
from jobs.score.llm_logits import DayTables, asked_of, control_offsets, with_proposed
from tests.conftest import DAY
from tests.in_process import run_job
from tests.llm.tastes import tables
from tests.tiny_backbone import write_tiny_backbone
from tests.tokens.conftest import QUICK, commit_control

SMALL = {"shard_tokens": 300, "batch_tokens": 500, "dtype": "float32"}


def read(home: Home, dataset: Dataset) -> pa.Table:
    return pq.read_table(home.output(dataset, DAY), partitioning=None)


@pytest.fixture(scope="module")
def published_home(
    aligned_home: Home, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Home:
    """Soft tokens and LoRA tuned together, steered; calibrated and published as version 1."""
    home = Home(tmp_path_factory.mktemp("published") / "home")
    shutil.copytree(aligned_home.root, home.root)
    with_items(home)
    quick = QUICK | {"epochs": 1}
    run_job("tune", home, model=str(tiny_folder), adapter=str(DAY), preset="sailrec", **quick)
    run_job("project", home, model=str(tiny_folder))
    run_job("calibrate", home)
    run_job("publish", home)
    return home


def with_items(home: Home) -> None:
    """The catalogue, beside what ingest has left."""
    texts = read(home, ITEM_TEXTS)
    columns = {"item_id": texts["item_id"], "title": texts["title"]}
    columns["first_row"] = pa.nulls(texts.num_rows, pa.int64())
    domains = read(home, DOMAINS)
    with Run("ingest", DAY, Config(), home) as run:
        run.write(DOMAINS, domains)
        run.write(ITEMS, pa.table(columns))
    for dataset in (DOMAINS, ITEMS):
        mark_checked(home, dataset, DAY)


@pytest.fixture
def night(published_home: Home, tmp_path: Path) -> Home:
    """A copy of `published_home`."""
    copy = Home(tmp_path / "published")
    shutil.copytree(published_home.root, copy.root)
    return copy


def score(home: Home, folder: Path, **fields: Any) -> Outcome:
    return run_job("score", home, version=1, backbone=str(folder), **{**SMALL, **fields})


def logits_of(home: Home, model: str) -> dict[int, float]:
    scores = read(home, CTR_SCORES)
    scores = scores.filter(pc.equal(scores["model"], model))
    return dict(zip(scores["row"].to_pylist(), scores["logit"].to_pylist(), strict=True))


# -- the scores ------------------------------------------------------------------------------------


def test_a_score_from_the_store_is_the_score_at_the_end_of_training(night, tiny_folder):
    run_job("candidates", night, version=1, splits="valid")
    outcome = score(night, tiny_folder)
    kept = read(night, TUNE_VALID)
    found = logits_of(night, "llm")
    assert found.keys() == set(kept["row"].to_pylist())
    wanted = dict(zip(kept["row"].to_pylist(), kept["logit"].to_pylist(), strict=True))
    assert max(abs(found[row] - wanted[row]) for row in wanted) < 1e-4
    assert outcome.manifest.result["models"] == ["mf", "llm", "fused"]
    assert outcome.manifest.metrics["n_shards"] > 3
    scores = read(night, CTR_SCORES)
    assert scores.num_rows == 3 * len(found)
    assert set(scores["version"].to_pylist()) == {1}


def test_the_models_of_a_version_are_scored_alone_if_that_is_asked(night, tiny_folder):
    run_job("candidates", night, version=1, splits="valid")
    score(night, tiny_folder, model="mf")
    assert set(read(night, CTR_SCORES)["model"].to_pylist()) == {"mf"}


def test_another_backbone_than_the_version_s_is_refused(night, tiny_folder, tmp_path):
    run_job("candidates", night, version=1, splits="valid")
    other = write_tiny_backbone(tmp_path / "other", seed=1)
    with pytest.raises(NotAvailable, match=r"tuned in backbone tiny-llama .* not in other"):
        score(night, other)
    with pytest.raises(NotAvailable, match=r"not found by that name .*--backbone"):
        run_job("score", night, version=1, **SMALL)


# -- shards ----------------------------------------------------------------------------------------


class PulledPlug(Exception):
    """The power went."""


def test_a_killed_run_repeats_one_shard_and_changes_no_byte(night, tiny_folder, monkeypatch):
    run_job("candidates", night, version=1, splits="valid")
    outcome = score(night, tiny_folder)
    first, n_shards = (
        sha256_file(night.output(CTR_SCORES, DAY)),
        outcome.manifest.metrics["n_shards"],
    )
    assert score(night, tiny_folder).status == "unchanged"
    night.output(CTR_SCORES, DAY).unlink()
    done: list[int] = []
    honest = Scorer.score

    def until_the_plug(self: Scorer, sequences: Any, *more: Any) -> Any:
        if len(done) == 2:
            raise PulledPlug
        done.append(len(sequences))
        return honest(self, sequences, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "score", until_the_plug)
        with pytest.raises(PulledPlug):
            score(night, tiny_folder)
    assert not night.output(CTR_SCORES, DAY).exists()
    again: list[int] = []

    def counted(self: Scorer, sequences: Any, *more: Any) -> Any:
        again.append(len(sequences))
        return honest(self, sequences, *more)

    monkeypatch.setattr(Scorer, "score", counted)
    score(night, tiny_folder)
    assert len(again) == n_shards - 2
    assert sha256_file(night.output(CTR_SCORES, DAY)) == first
    assert not (night.run("score", DAY) / "shards").exists()


# -- candidates that an index proposed -------------------------------------------------------------


def test_proposed_candidates_are_scored_over_all_that_the_day_knows(night, tiny_folder):
    run_job("candidates", night, version=1, of="top_k", k=2, n_users=3, exclude_seen=False)
    score(night, tiny_folder)
    proposed = read(night, CANDIDATES)
    found = logits_of(night, "llm")
    assert len(found) == proposed.num_rows == 6
    # As rows of another warehouse in which each is the next thing that happens.
    later = tables()
    splits = later[SPLITS.name]
    rows = {name: proposed[name] for name in splits.column_names}
    rows |= {"split": pa.repeat("valid", 6), "label": pa.array([0] * 6, pa.int8())}
    numbers = pc.add(proposed["row"], pa.scalar(splits.num_rows, pa.int32()))
    rows["row"] = numbers
    with Run("splits", DAY, Config(), night) as run:
        run.write(SPLITS, pa.concat_tables([splits, pa.table(rows).cast(splits.schema)]))
        run.write(HISTORIES, later[HISTORIES.name])
    for dataset in (SPLITS, HISTORIES):
        mark_checked(night, dataset, DAY)
    run_job("candidates", night, version=1, splits="valid")
    score(night, tiny_folder)
    as_rows = logits_of(night, "llm")
    for row, number in zip(proposed["row"].to_pylist(), numbers.to_pylist(), strict=True):
        assert found[row] == pytest.approx(as_rows[number], abs=1e-4)


@pytest.mark.parametrize("shown", ["positives", "labelled"])
def test_a_proposed_row_sees_its_user_s_whole_chain_and_no_other_proposal(shown):
    made = tables(n_users=4)
    histories, splits = made[HISTORIES.name], made[SPLITS.name]
    n = 6
    candidates = pa.table(
        {
            "split": ["top_k"] * n,
            "row": pa.array(range(n), pa.int32()),
            "user_id": [0, 0, 0, 2, 2, 3],
            "item_id": [1, 2, 3, 1, 4, 5],
            "label": pa.nulls(n, pa.int8()),
            "rated_at": pa.repeat(pa.scalar(10**17, pa.timestamp("us")), n),
            "history_end": pc.list_value_length(histories["item_ids"]).take([0, 0, 0, 2, 2, 3]),
            "is_warm": [True] * n,
        }
    )
    item_ids = made[ITEM_TEXTS.name]["item_id"].combine_chunks()
    before = events_of(splits, histories, item_ids, shown=shown)
    known = with_proposed(splits, candidates)
    assert known.num_rows == splits.num_rows + n
    events = events_of(known, histories, item_ids, wanted=("test",), shown=shown)
    assert sorted(events.rows.tolist()) == list(range(splits.num_rows, splits.num_rows + n))
    for each in events.by_user():
        chain = before.chain_items[
            before.chain_starts[each.user] : before.chain_starts[each.user + 1]
        ]
        assert each.chain_items[: each.ends[0]].tolist() == chain.tolist()
        assert len(set(each.ends.tolist())) == 1


# -- a control's logits ----------------------------------------------------------------------------


def test_a_control_s_logits_reach_the_rows_that_they_belong_to():
    splits = tables(n_users=2)[SPLITS.name]
    valid = splits.filter(pc.equal(splits["split"], "valid"))
    control = valid.select(["split", "row"]).append_column(
        "logit", pa.array(np.arange(valid.num_rows), pa.float32())
    )
    offsets = control_offsets(splits, valid, control.take(np.arange(valid.num_rows)[::-1]))
    is_valid = np.array(splits["split"].to_pylist()) == "valid"
    assert offsets[is_valid].tolist() == valid["row"].to_pylist()
    assert not offsets[~is_valid].any()
    with pytest.raises(NotAvailable, match=f"{CONTROL_LOGITS.name} has no logit of 1 candidates"):
        control_offsets(splits, valid, control.slice(1))


def test_an_llm_on_top_of_a_control_is_scored_with_the_weight_that_it_is_worth(
    aligned_home: Home, tiny_folder: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(aligned_home.root, home.root)
    with_items(home)
    splits = read(home, SPLITS)
    noise = np.random.default_rng(0).normal(0, 1, splits.num_rows)
    control = (0.5 * np.asarray(splits["label"]) + noise).astype(np.float32)
    commit_control(home, splits, control)
    tune = QUICK | {"preset": "sella", "offset": "control"}
    run_job("tune", home, model=str(tiny_folder), adapter=str(DAY), **tune)
    run_job("project", home, model=str(tiny_folder))
    run_job("calibrate", home)
    run_job("publish", home)
    weight = json.loads(home.output(CALIBRATION, DAY).read_text())["beside_control"]
    assert weight not in (0, 1)
    run_job("candidates", home, version=1, splits="valid")
    score(home, tiny_folder)
    found = logits_of(home, "llm")
    kept = read(home, TUNE_VALID)
    wanted = kept["offset"].to_numpy() + weight * kept["logit"].to_numpy()
    by_row = dict(zip(kept["row"].to_pylist(), wanted.tolist(), strict=True))
    assert found == pytest.approx(by_row, abs=1e-4)


def test_proposed_rows_of_an_llm_on_top_of_a_control_are_refused():
    candidates = pa.table({"split": ["top_k"]})
    day = DayTables(pa.table({}), pa.table({}), pa.table({}), "Movie")
    with pytest.raises(JobError, match="take candidates --of rows"):
        asked_of(candidates, None, day, np.zeros(1, np.float32))


def test_diagnostics_look_into_a_published_version(night: Home, tiny_folder: Path) -> None:
    few = {"n_rows": 12, "knockout_rows": 0, "dtype": "float32"}
    run_job("diagnostics", night, model=str(tiny_folder), version=1, **few)
    table = read(night, LLM_DIAGNOSTICS)
    kinds = pc.unique(table.filter(pc.equal(table["measure"], "intervention"))["kind"])
    assert set(kinds.to_pylist()) == {"user", "item", "all"}
