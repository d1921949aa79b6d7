"""LoRA on the click-through task, end to end on a two-layer backbone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jobs.datasets import ADAPT_CURVE, ADAPTER, ADAPTER_CONFIG, SPLITS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Run, load_manifest
from jobs.llm.adapt import AdaptConfig, Prepared, prepare
from jobs.llm.adapters import find_adapter
from jobs.llm.course import Course, Point
from jobs.llm.lora import AdapterError
from jobs.llm.processes import Processes
from jobs.llm.schedule import Step
from jobs.llm.training import Rows, Trainer
from tests.conftest import DAY, ROOT
from tests.in_process import run_job
from tests.llm.conftest import QUICK_ADAPT
from tests.llm.tastes import commit, tables
from tests.tiny_backbone import write_tiny_backbone


class _Log:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **figures: Any) -> None:
        self.said.append((event, figures))


@pytest.fixture
def home(tastes_home: Home, tmp_path: Path) -> Home:
    """A home of one's own."""
    shutil.copytree(tastes_home.root, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture
def prepared(home: Home, tiny_folder: Path) -> Callable[..., tuple[AdaptConfig, Prepared]]:
    def made(**fields: Any) -> tuple[AdaptConfig, Prepared]:
        config = AdaptConfig(model=str(tiny_folder), **{**QUICK_ADAPT, **fields})
        return config, prepare(config, Run("adapt", DAY, config, home))

    return made


def whole(rows: Rows, number: int = 1) -> Step:
    """One step of all sequences."""
    return Step(number, 0, np.arange(len(rows.sequences)), sum(rows.lengths))


def after_steps(trainer: Trainer, rows: Rows, n: int = 2) -> dict[str, torch.Tensor]:
    for number in range(1, n + 1):
        trainer.step(whole(rows, number), rows, 0.01)
    return trainer.weights()


def assert_equal(
    some: dict[str, torch.Tensor], others: dict[str, torch.Tensor], atol: float
) -> None:
    for name, weight in some.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=atol)


# -- what is learned -----------------------------------------------------------------------------


def test_the_backbone_learns_what_the_titles_tell(adapted: Home) -> None:
    manifest = load_manifest(adapted, "adapt", DAY)
    assert manifest is not None
    assert manifest.metrics["valid_auc_before"] < 0.8
    assert manifest.metrics["valid_auc"] > 0.95
    curve = pq.read_table(adapted.output(ADAPT_CURVE, DAY), partitioning=None).to_pylist()
    assert curve[0]["step"] == curve[0]["tokens"] == 0
    assert curve[-1]["train_loss"] < 0.1 < curve[1]["train_loss"]
    assert max(point["valid_auc"] for point in curve[1:]) == manifest.metrics["valid_auc"]
    best = {point["step"]: point["valid_auc"] for point in curve}[manifest.metrics["best_step"]]
    assert best == manifest.metrics["valid_auc"]


def test_the_outputs_say_what_they_are_of(adapted: Home, tiny_folder: Path) -> None:
    manifest = load_manifest(adapted, "adapt", DAY)
    assert manifest is not None
    found = find_adapter(str(DAY), adapted)
    assert found.fingerprint == manifest.result["adapter"]
    assert (found.rank, found.scale) == (8, 4.0)
    said = json.loads(adapted.output(ADAPTER_CONFIG, DAY).read_text(encoding="utf-8"))
    assert said["tidemark"]["template"]["name"] == "ctr_titles.movie"
    assert said["tidemark"]["backbone"]["name"] == tiny_folder.name
    assert all(tensor.dtype == np.float32 for tensor in found.tensors().values())


def test_a_second_run_has_nothing_to_do_and_a_forced_one_does_all_again(
    adapted: Home, tiny_folder: Path, tmp_path: Path
) -> None:
    fields = {"model": str(tiny_folder), **QUICK_ADAPT}
    assert run_job("adapt", adapted, **fields).status == "unchanged"
    home = Home(tmp_path / "copy")
    shutil.copytree(adapted.root, home.root)
    words = [f"--{k.replace('_', '-')}={v}" for k, v in fields.items()]
    forced = command(home, [*words, "--force"])
    assert forced.returncode == 0, forced.stderr
    assert "going on from a checkpoint" not in forced.stderr
    assert (
        load_file(home.output(ADAPTER, DAY)).keys()
        == load_file(adapted.output(ADAPTER, DAY)).keys()
    )
    assert home.output(ADAPTER, DAY).read_bytes() == adapted.output(ADAPTER, DAY).read_bytes()


def test_training_goes_on_from_an_adapter_of_any_alpha(
    adapted: Home, tiny_folder: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "copy")
    shutil.copytree(adapted.root, home.root)
    before = load_manifest(home, "adapt", DAY)
    assert before is not None
    folder = tmp_path / "kept"
    folder.mkdir()
    shutil.copy(home.output(ADAPTER_CONFIG, DAY), folder / "adapter_config.json")
    shutil.copy(home.output(ADAPTER, DAY), folder / "adapter_model.safetensors")
    fields = {**QUICK_ADAPT, "epochs": 1, "alpha": 4.0, "init_adapter": str(folder)}
    manifest = run_job("adapt", home, model=str(tiny_folder), **fields).manifest
    assert manifest.metrics["valid_auc_before"] == before.metrics["valid_auc"]
    assert len(manifest.sources) == 4
    with pytest.raises(AdapterError, match="of another rank or another backbone"):
        run_job("adapt", home, model=str(tiny_folder), **{**fields, "rank": 2})
    other = write_tiny_backbone(tmp_path / "other", seed=7)
    with pytest.raises(AdapterError, match="was trained in backbone tiny-llama"):
        run_job("adapt", home, model=str(other), **fields)


def test_training_stops_when_valid_auc_has_not_become_better_for_long_enough() -> None:
    course = Course()
    for step, auc in ((0, 0.9), (10, 0.6), (20, 0.7), (30, 0.7), (40, 0.65)):
        course.judge(Point(step, step, 0.0, 0.0, 0.5, auc, None), {"w": torch.tensor(step)})
    assert (course.best_step, course.best_auc, course.n_worse) == (20, 0.7, 2)
    assert course.best["w"] == 20
    assert len(course.curve) == 5


def test_patience_ends_the_run(home: Home, tiny_folder: Path) -> None:
    fields = {**QUICK_ADAPT, "eval_steps": 1, "patience": 2, "learning_rate": 1e-12, "epochs": 9}
    manifest = run_job("adapt", home, model=str(tiny_folder), **fields).manifest
    assert manifest.metrics["n_steps"] <= 10


# -- the step ------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_mean_loss_over_single_prompts(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    """Packed into streams, cut into batches: the same step as one prompt a row."""
    window = {"block_tokens": 4_000, "kept_tokens": 0, "max_titles": 1_000}
    ways = (
        {"packing": "stream", "batch_tokens": 100_000, "sequence_tokens": 4_000},
        {"packing": "stream", "batch_tokens": 300, "sequence_tokens": 150},
        {"packing": "tree", "batch_tokens": 900},
        {"packing": "rows", "batch_tokens": 5_000},
    )
    weights = []
    for way in ways:
        config, ready = prepared(**window, **way)
        weights.append(after_steps(ready.trainer(config, _Log()), ready.train, n=1))
    for other in weights[1:]:
        assert_equal(weights[0], other, atol=2e-4)


def test_the_loss_is_the_binary_cross_entropy_of_the_difference_of_logits(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    config, ready = prepared()
    trainer = ready.trainer(config, _Log())
    logits = trainer.score(ready.train)
    at = np.flatnonzero(~np.isnan(logits))
    labels = ready.train.labels[at]
    expected = np.logaddexp(0, np.where(labels == 1, -logits[at], logits[at])).sum()
    done = trainer.step(whole(ready.train), ready.train, 0.01)
    assert done.n_answers == len(at) == 384
    assert done.loss == pytest.approx(expected, rel=1e-5)


def test_frozen_weights_get_no_gradient(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    config, ready = prepared()
    model: Any = ready.backbone.model
    before = {n: p.clone() for n, p in model.named_parameters() if ".lora_" not in n}
    after_steps(ready.trainer(config, _Log()), ready.train)
    for name, parameter in model.named_parameters():
        if name in before:
            assert parameter.grad is None
            assert torch.equal(parameter, before[name])


def test_layers_that_are_computed_twice_learn_the_same(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    weights = []
    for twice in (False, True):
        config, ready = prepared(gradient_checkpointing=twice, dropout=0.2)
        weights.append(after_steps(ready.trainer(config, _Log()), ready.train))
    assert_equal(*weights, atol=1e-6)


def test_in_bfloat16_the_learned_weights_stay_float32(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config, ready = prepared(dtype=dtype)
        trainer = ready.trainer(config, _Log())
        losses[dtype] = trainer.step(whole(ready.train), ready.train, 0.01)
        assert all(w.dtype == torch.float32 for w in trainer.weights().values())
        assert not np.isnan(trainer.score(ready.valid)).all()
    assert losses["bfloat16"].loss == pytest.approx(losses["float32"].loss, rel=0.02)
    assert losses["bfloat16"].gradient_norm == pytest.approx(
        losses["float32"].gradient_norm, rel=0.1
    )


def test_dropout_is_off_where_scores_are_read(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    config, ready = prepared(dropout=0.5)
    trainer = ready.trainer(config, _Log())
    after_steps(trainer, ready.train)
    np.testing.assert_array_equal(trainer.score(ready.valid), trainer.score(ready.valid))


# -- memory --------------------------------------------------------------------------------------


def short_of_memory(model: Any, most: int) -> None:
    """The decoder raises what torch raises when more than `most` tokens come at once."""

    def refuse(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.get_decoder().register_forward_pre_hook(refuse, with_kwargs=True)


def test_where_memory_falls_short_it_goes_on_with_half_the_tokens_and_says_so(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    config, roomy = prepared(batch_tokens=4_000)
    expected = after_steps(roomy.trainer(config, _Log()), roomy.train)
    config, ready = prepared(batch_tokens=4_000)
    longest = max(ready.train.lengths)
    short_of_memory(ready.backbone.model, 2 * longest)
    log = _Log()
    trainer = ready.trainer(config, log)
    assert_equal(expected, after_steps(trainer, ready.train), atol=1e-4)
    assert longest <= trainer.batch_tokens <= 2 * longest
    budgets = [figures["batch_tokens"] for _, figures in log.said]
    assert budgets == sorted(budgets, reverse=True)
    assert {event for event, _ in log.said} == {"out of memory: going on with half the tokens"}


def test_a_sequence_that_is_too_large_by_itself_names_the_ways_out(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    config, ready = prepared()
    short_of_memory(ready.backbone.model, min(ready.train.lengths) - 1)
    with pytest.raises(JobError, match=r"one sequence of \d+ tokens; .*--gradient-checkpointing"):
        after_steps(ready.trainer(config, _Log()), ready.train)


def test_an_error_that_is_not_about_memory_is_not_swallowed(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    config, ready = prepared()

    def fail(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        raise RuntimeError("device-side assert triggered")

    ready.backbone.model.get_decoder().register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="device-side assert"):
        after_steps(ready.trainer(config, _Log()), ready.train)


# -- several processes ---------------------------------------------------------------------------


def command(home: Home, words: list[str], n: int = 1) -> subprocess.CompletedProcess[str]:
    """The job's command line, in `n` processes."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(n)] if n > 1 else []
    return subprocess.run(
        [sys.executable, *launch, "-m", "jobs.llm.adapt", "--day", str(DAY), *words],
        cwd=ROOT,
        env={**os.environ, "TIDEMARK_HOME": str(home.root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_learn_what_one_does(home: Home, tiny_folder: Path, tmp_path: Path) -> None:
    alone = Home(tmp_path / "alone")
    shutil.copytree(home.root, alone.root)
    fields = {**QUICK_ADAPT, "epochs": 1}
    run_job("adapt", alone, model=str(tiny_folder), **fields)
    words = [f"--{k.replace('_', '-')}={v}" for k, v in fields.items()]
    words += ["--model", str(tiny_folder), "--device", "cpu"]
    done = command(home, words, n=2)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "done"  # one of the two speaks
    one, two = (load_file(each.output(ADAPTER, DAY)) for each in (alone, home))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, rtol=0, atol=1e-4)
    curves = [
        pq.read_table(each.output(ADAPT_CURVE, DAY), partitioning=None) for each in (alone, home)
    ]
    for name in ("step", "tokens"):
        assert curves[0][name].to_pylist() == curves[1][name].to_pylist()
    assert json.loads(command(home, words, n=2).stdout)["status"] == "unchanged"


def test_each_process_takes_its_share_of_the_sequences(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    config, ready = prepared(batch_tokens=100_000)
    trainer = ready.trainer(config, _Log())
    shares = []
    for rank in range(3):
        trainer.processes = Processes(rank, 3, rank)
        shares.append(np.concatenate(trainer._share(ready.train.sequences, 100_000)))
    assert all(len(share) for share in shares)
    assert sorted(np.concatenate(shares)) == list(range(len(ready.train.sequences)))


# -- before, and bad input -----------------------------------------------------------------------


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(
    home: Home, tiny_folder: Path
) -> None:
    done = command(home, ["--model", str(tiny_folder), "--dry-run", "--step-tokens", "500"])
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["status"] == "dry run"
    assert (said["train_rows"], said["valid_rows"]) == (384, 192)
    assert said["train_tokens"] > 1_000
    assert min(said["seconds"], said["peak_memory_mb"], said["train_tokens_per_s"]) > 0
    assert not home.run("adapt", DAY).exists()
    assert not home.output(ADAPTER, DAY).exists()


def test_a_loss_that_is_not_a_number_names_step_and_rows(home: Home, tiny_folder: Path) -> None:
    done = command(
        home,
        ["--model", str(tiny_folder), "--learning-rate", "1e38", "--step-tokens", "500"],
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "adapt 2026-03-02: step 2: the loss is NaN or infinite at" in done.stderr
    assert "train rows (row " in done.stderr
    assert "lower --learning-rate" in done.stderr


def with_splits(made: dict[str, pa.Table], rows: Any) -> dict[str, pa.Table]:
    return {**made, SPLITS.name: made[SPLITS.name].filter(rows)}


def test_without_train_rows_there_is_nothing_to_adapt_to(tmp_path: Path, tiny_folder: Path) -> None:
    home, made = Home(tmp_path / "home"), tables()
    commit(home, with_splits(made, pc.equal(made[SPLITS.name]["split"], "valid")))
    with pytest.raises(JobError, match="no train rows to adapt to; give a later --day"):
        run_job("adapt", home, model=str(tiny_folder), **QUICK_ADAPT)


def test_one_class_alone_cannot_be_told_apart(tmp_path: Path, tiny_folder: Path) -> None:
    home, made = Home(tmp_path / "home"), tables()
    splits = made[SPLITS.name]
    ones = pa.array(np.ones(splits.num_rows, np.int8))
    place = splits.schema.get_field_index("label")
    commit(home, {**made, SPLITS.name: splits.set_column(place, "label", ones)})
    with pytest.raises(JobError, match="all 384 train rows have the label 1"):
        run_job("adapt", home, model=str(tiny_folder), **QUICK_ADAPT)


def test_without_valid_rows_it_trains_to_the_end_of_its_plan(
    tmp_path: Path, tiny_folder: Path
) -> None:
    home, made = Home(tmp_path / "home"), tables()
    commit(home, with_splits(made, pc.equal(made[SPLITS.name]["split"], "train")))
    fields = {**QUICK_ADAPT, "epochs": 1}
    manifest = run_job("adapt", home, model=str(tiny_folder), **fields).manifest
    assert manifest.metrics["best_step"] == manifest.metrics["n_steps"] > 1
    assert "valid_auc" not in manifest.metrics


def test_a_vocabulary_without_yes_is_refused_by_name(home: Home, tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path / "speechless")
    letters = Tokenizer(models.BPE())
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    letters.train_from_iterator(
        [],
        trainers.BpeTrainer(
            vocab_size=257, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    letters.save(str(folder / "tokenizer.json"))
    with pytest.raises(JobError, match="'Yes' and 'No' are no single tokens"):
        run_job("adapt", home, model=str(folder), **QUICK_ADAPT)


def test_a_subsample_of_valid_keeps_whole_users(
    prepared: Callable[..., tuple[AdaptConfig, Prepared]],
) -> None:
    _, ready = prepared(valid_rows=20)
    rows = np.concatenate([sequence.answer_row for sequence in ready.valid.sequences])
    assert len(rows) == 24  # four users of six rows
    assert len(np.unique(ready.valid.users[rows])) == 4
    _, again = prepared(valid_rows=20)
    assert again.valid.lengths == ready.valid.lengths
    assert replace(again.valid, sequences=[]).n_answers == 0
