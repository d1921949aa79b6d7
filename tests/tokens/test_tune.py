"""The job `tune`: soft tokens learn, are kept, and are the same system when they are used again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from jobs.datasets import (
    ADAPTER,
    DOMAINS,
    HISTORIES,
    ITEM_TEXTS,
    SPLITS,
    TOKEN_CONFIG,
    TOKEN_WEIGHTS,
    TUNE_CURVE,
    TUNE_VALID,
    TUNED_ADAPTER,
    Dataset,
)
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run
from jobs.llm.backbone import load, resolve
from jobs.llm.packing import RowPacking
from jobs.tokens.tune_config import PRESETS, TuneConfig
from jobs.tokens.tuned import Tuned, TunedFiles
from tests.conftest import DAY
from tests.in_process import run_job
from tests.tokens.conftest import QUICK, commit_control


def read(home: Home, dataset: Dataset) -> pa.Table:
    return pq.read_table(home.output(dataset, DAY), partitioning=None)


def tuned_of(home: Home, folder: Path) -> tuple[Tuned, Run]:
    run = Run("probe", DAY, Config(), home)
    return Tuned(TunedFiles.of_run(run), load(resolve(str(folder), home.cache))), run


def reader_of(tuned: Tuned, run: Run):
    splits, histories, texts, domains = map(run.read, (SPLITS, HISTORIES, ITEM_TEXTS, DOMAINS))
    return tuned.reader(splits, histories, texts, domains["item_noun"][0].as_py())


@pytest.fixture(scope="module")
def sella_home(
    aligned_home: Home, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Home:
    """Soft tokens tuned as SeLLa-Rec does, on a stage-1 adapter."""
    home = Home(tmp_path_factory.mktemp("sella") / "home")
    shutil.copytree(aligned_home.root, home.root)
    run_job("tune", home, model=str(tiny_folder), adapter=str(DAY), preset="sella", **QUICK)
    return home


@pytest.fixture(scope="module")
def sailrec_home(
    aligned_home: Home, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Home:
    """Soft tokens and LoRA tuned together, steered."""
    home = Home(tmp_path_factory.mktemp("sailrec") / "home")
    shutil.copytree(aligned_home.root, home.root)
    run_job("tune", home, model=str(tiny_folder), adapter=str(DAY), preset="sailrec", **QUICK)
    return home


def test_soft_tokens_of_a_frozen_llm_learn_what_the_titles_say(sella_home: Home) -> None:
    curve = read(sella_home, TUNE_CURVE).to_pylist()
    assert curve[0]["valid_auc"] < 0.9
    assert max(point["valid_auc"] for point in curve) > 0.95
    assert curve[-1]["train_loss"] < np.log(2)


def test_the_frozen_adapter_is_kept_as_it_was_and_a_joint_one_has_moved(
    sella_home: Home, sailrec_home: Home, aligned_home: Home
) -> None:
    first = load_file(aligned_home.output(ADAPTER, DAY))
    frozen = load_file(sella_home.output(TUNED_ADAPTER, DAY))
    moved = load_file(sailrec_home.output(TUNED_ADAPTER, DAY))
    assert frozen.keys() == moved.keys() == first.keys()
    assert all(np.array_equal(frozen[name], first[name]) for name in first)
    assert not all(np.array_equal(moved[name], first[name]) for name in first)


@pytest.mark.parametrize("which", ["sella_home", "sailrec_home"])
def test_scores_in_use_equal_those_at_the_end_of_training(
    which: str, tiny_folder: Path, request: pytest.FixtureRequest
) -> None:
    home: Home = request.getfixturevalue(which)
    tuned, run = tuned_of(home, tiny_folder)
    reader = reader_of(tuned, run)
    valid = reader.rows("valid")
    with tuned.scorer(reader, 700) as scorer:
        rows, logits = scorer.score(valid.sequences)
    kept = read(home, TUNE_VALID)
    by_row = dict(zip(kept["row"].to_pylist(), kept["logit"].to_pylist(), strict=True))
    assert len(rows) == len(by_row)
    wanted = [by_row[int(valid.numbers[row])] for row in rows]
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


def test_stream_packing_equals_one_prompt_a_row_of_the_same_history(
    sella_home: Home, tiny_folder: Path
) -> None:
    tuned, run = tuned_of(sella_home, tiny_folder)
    reader = reader_of(tuned, run)
    stream = reader.rows("valid")
    window = tuned.files.reading.chosen_packing().window
    alone = reader.rows("valid", packing=RowPacking(window)).sequences
    with tuned.scorer(reader, 400) as scorer:
        packed = dict(zip(*scorer.score(stream.sequences), strict=True))
        single = dict(zip(*scorer.score(alone), strict=True))
    assert packed.keys() == single.keys()
    assert max(abs(packed[row] - single[row]) for row in packed) < 1e-4


def test_two_runs_write_the_same_bytes(sella_home: Home, home: Home, tiny_folder: Path) -> None:
    run_job("tune", home, model=str(tiny_folder), adapter=str(DAY), preset="sella", **QUICK)
    for dataset in (TOKEN_WEIGHTS, TOKEN_CONFIG, TUNED_ADAPTER, TUNE_VALID):
        assert (
            home.output(dataset, DAY).read_bytes() == sella_home.output(dataset, DAY).read_bytes()
        )


def test_steering_is_kept_with_the_weights(sailrec_home: Home, sella_home: Home) -> None:
    bias = load_file(sailrec_home.output(TOKEN_WEIGHTS, DAY))["steering"]
    assert bias.shape == (2, 1, 1)
    assert bias.reshape(-1).tolist() == [-2, 1]
    assert not load_file(sella_home.output(TOKEN_WEIGHTS, DAY))["steering"].any()
    said = json.loads(sailrec_home.output(TOKEN_CONFIG, DAY).read_text())
    assert said["kinds"]["user"]["n_tokens"] == 3
    assert said["steering"]["schedule"] == "suppress-enhance"


@pytest.mark.parametrize("bias", ["signed", "free"])
def test_a_learned_bias_moves_and_is_used_again(bias: str, home: Home, tiny_folder: Path) -> None:
    quick = QUICK | {"epochs": 1, "steering_bias": bias}
    run_job("tune", home, model=str(tiny_folder), preset="sailrec", profiles="none", **quick)
    found = load_file(home.output(TOKEN_WEIGHTS, DAY))["steering"]
    start = np.array([-2.0, 1.0], np.float32).reshape(2, 1, 1)
    assert found.shape == ((2, 1, 1) if bias == "signed" else (2, 4, 3))
    assert not np.allclose(found, np.broadcast_to(start, found.shape), atol=1e-6)
    tuned, run = tuned_of(home, tiny_folder)
    reader = reader_of(tuned, run)
    valid = reader.rows("valid")
    with tuned.scorer(reader, 700) as scorer:
        rows, logits = scorer.score(valid.sequences)
    kept = read(home, TUNE_VALID)
    by_row = dict(zip(kept["row"].to_pylist(), kept["logit"].to_pylist(), strict=True))
    np.testing.assert_allclose(logits, [by_row[int(valid.numbers[row])] for row in rows], atol=1e-4)


def test_the_offset_link_learns_on_top_of_the_control(home: Home, tiny_folder: Path) -> None:
    """A control that knows everything leaves nothing to learn: the loss is small at once."""
    splits = read(home, SPLITS)
    logits = np.where(np.asarray(splits["label"]) == 1, 8.0, -8.0).astype(np.float32)
    commit_control(home, splits, logits)
    quick = QUICK | {"epochs": 1, "learning_rate": 1e-4}
    run_job("tune", home, model=str(tiny_folder), offset="control", **quick)
    curve = read(home, TUNE_CURVE).to_pylist()
    assert curve[0]["valid_auc"] == 1.0
    assert curve[1]["train_loss"] < 0.1
    assert set(np.abs(read(home, TUNE_VALID)["offset"].to_numpy())) == {np.float32(8)}


def test_a_control_that_lacks_rows_is_refused(home: Home, tiny_folder: Path) -> None:
    splits = read(home, SPLITS).slice(3)
    commit_control(home, splits, np.zeros(splits.num_rows, np.float32))
    with pytest.raises(JobError, match="run the job `control` again"):
        run_job("tune", home, model=str(tiny_folder), offset="control", **QUICK)


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.toml")))
def test_every_preset_is_a_config(preset: str) -> None:
    config = TuneConfig(preset=preset)
    assert config.preset == preset
    assert set(config.kinds) <= {"user", "item", "warm"}


def test_a_given_flag_wins_over_the_preset() -> None:
    assert TuneConfig(preset="sailrec").steering == "suppress-enhance"
    assert TuneConfig(preset="sailrec", steering="none").steering == "none"


def test_an_unknown_preset_or_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"there is: .*sailrec"):
        TuneConfig(preset="sellla")
    with pytest.raises(ValidationError, match="there is no such preset"):
        TuneConfig(preset="../presets/sella")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('token = "user"\n')
    with pytest.raises(ValidationError, match="did you mean 'tokens'"):
        TuneConfig(preset=str(wrong))
    with pytest.raises(ValidationError, match="expected some of user, item, warm"):
        TuneConfig(tokens="user,user")


def test_another_backbone_than_the_tuned_one_is_refused(
    sella_home: Home, tiny_folder: Path
) -> None:
    run = Run("probe", DAY, Config(), sella_home)
    files = TunedFiles.of_run(run)
    stated = {**files.config, "backbone": {**files.config["backbone"], "fingerprint": "f" * 64}}
    backbone = load(resolve(str(tiny_folder), sella_home.cache))
    with pytest.raises(JobError, match="tuned in backbone"):
        Tuned(replace(files, config=stated), backbone)


def test_tuning_goes_on_from_earlier_tokens(sella_home: Home, tiny_folder: Path) -> None:
    """Where it begins is as good as where the other ended."""
    home = Home(sella_home.root.parent / "later")
    shutil.copytree(sella_home.root, home.root)
    kept = home.root / "kept"
    kept.mkdir()
    for dataset in (TOKEN_WEIGHTS, TOKEN_CONFIG):
        path = sella_home.output(dataset, DAY)
        shutil.copy(path, kept / f"{dataset.name}{path.suffix}")
    quick = QUICK | {"epochs": 1, "init_tokens": str(kept), "learn": "warm"}
    run_job("tune", home, model=str(tiny_folder), adapter=str(DAY), preset="sella", **quick)
    curve = read(home, TUNE_CURVE).to_pylist()
    assert curve[0]["valid_auc"] > 0.9
    before, after = (load_file(each.output(TOKEN_WEIGHTS, DAY)) for each in (sella_home, home))
    assert np.array_equal(before["user.output.weight"], after["user.output.weight"])
    assert not np.array_equal(before["warm.output.weight"], after["warm.output.weight"])


def test_tokens_of_another_shape_are_no_beginning(
    sella_home: Home, home: Home, tiny_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(JobError, match="there are no soft tokens"):
        run_job("tune", home, model=str(tiny_folder), init_tokens=str(tmp_path), **QUICK)
    for dataset in (TOKEN_WEIGHTS, TOKEN_CONFIG):
        path = sella_home.output(dataset, DAY)
        shutil.copy(path, tmp_path / f"{dataset.name}{path.suffix}")
    quick = QUICK | {"user_tokens": 3, "init_tokens": str(tmp_path)}
    with pytest.raises(JobError, match="begin anew"):
        run_job("tune", home, model=str(tiny_folder), **quick)
