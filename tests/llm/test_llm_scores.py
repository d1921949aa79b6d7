"""The job that lets the backbone answer: what it writes, what it refuses, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.check import check
from jobs.datasets import LLM_SCORES
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Outcome, Run, execute
from jobs.llm.answers import answer_tokens
from jobs.llm.backbone import load, resolve
from jobs.llm.events import events_of
from jobs.llm.llm_scores import LlmScoresConfig, estimate, job, sources
from jobs.llm.packing import Blocks, RowPacking, StreamPacking
from jobs.llm.prompts import load_template, prompt_tokens
from jobs.llm.scoring import KeptParts, Scorer, in_parts
from tests.conftest import DAY, ROOT
from tests.llm.tables import Warehouse, commit, random_warehouse, warehouse
from tests.tiny_backbone import write_tiny_backbone


@pytest.fixture(scope="module")
def made() -> Warehouse:
    return random_warehouse(1, n_users=6, most=20)


@pytest.fixture
def ready(made: Warehouse, home: Home) -> Home:
    commit(made, home)
    return home


def config(folder: Path, **fields: Any) -> LlmScoresConfig:
    small = {"block_tokens": 60, "kept_tokens": 20, "sequence_tokens": 150, "batch_tokens": 300}
    return LlmScoresConfig(**{"model": str(folder)} | small | fields)


def run(settings: LlmScoresConfig, home: Home, **kwargs: Any) -> Outcome:
    return execute("llm_scores", settings, DAY, home, job, sources=sources, **kwargs)


def scores(home: Home) -> pa.Table:
    return pq.read_table(home.output(LLM_SCORES, DAY), partitioning=None)


# -- what it writes ------------------------------------------------------------------------------


def test_every_valid_and_test_row_has_the_score_of_its_own_prompt(ready, made, tiny_folder):
    outcome = run(config(tiny_folder), ready)
    check("llm_scores", DAY, ready)
    table = scores(ready)
    wanted = [s for s in made.splits["split"].to_pylist() if s != "train"]
    assert table.num_rows == len(wanted) > 5
    backbone = load(resolve(str(tiny_folder), ready.cache))
    template = load_template("ctr_titles")
    answers = answer_tokens(backbone.tokenizer, template)
    prompt = prompt_tokens(template, backbone.tokenizer, made.title_list, answers.ids)
    events = events_of(made.splits, made.histories, made.item_ids, wanted=["valid", "test"])
    sequences = list(RowPacking(Blocks(60, 20)).pack(events, prompt))
    rows, logits = Scorer(backbone.model, answers, 1).score(sequences)
    names = made.splits.select(["split", "row"]).take(pa.array(rows)).to_pylist()
    expected = {
        (name["split"], name["row"]): logit for name, logit in zip(names, logits, strict=True)
    }
    for row in table.to_pylist():
        assert row["logit"] == pytest.approx(expected[row["split"], row["row"]], abs=1e-4)
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-row["logit"])), abs=1e-6)
    assert outcome.manifest.result["template"] == {
        "name": "ctr_titles.movie",
        "sha256": template.sha256,
    }
    assert outcome.manifest.result["answers"] == {"yes": answers.yes, "no": answers.no}
    assert outcome.manifest.metrics["n_rows"] == table.num_rows
    assert 0 <= outcome.manifest.metrics["test_auc"] <= 1


@pytest.mark.parametrize("batch_tokens", [1, 5_000])
def test_batches_change_no_score(ready, tiny_folder, batch_tokens):
    run(config(tiny_folder), ready)
    first = scores(ready)
    run(config(tiny_folder, batch_tokens=batch_tokens, part_tokens=200), ready)
    np.testing.assert_allclose(scores(ready)["logit"], first["logit"], rtol=0, atol=1e-4)


def test_only_the_splits_that_are_asked_for_are_scored(ready, tiny_folder):
    run(config(tiny_folder, splits="test", history="frozen"), ready)
    check("llm_scores", DAY, ready)
    assert set(scores(ready)["split"].to_pylist()) == {"test"}


def test_the_same_command_twice_does_nothing_and_another_template_starts_anew(ready, tiny_folder):
    run(config(tiny_folder), ready)
    before = scores(ready)["logit"].to_pylist()
    assert run(config(tiny_folder), ready).status == "unchanged"
    again = run(config(tiny_folder, template="ctr_question", packing="rows"), ready)
    assert again.status == "done"
    assert scores(ready)["logit"].to_pylist() != before


def test_bytes_do_not_depend_on_who_computed_them(ready, tiny_folder):
    first = run(config(tiny_folder), ready).manifest.outputs
    assert run(config(tiny_folder), ready, force=True).manifest.outputs == first


def test_titles_of_every_kind_are_scored(home, tiny_folder):
    odd = ["", "x" * 10_000, "שלום עולם", "👩\u200d🚀", "Emma? Yes\n<|endoftext|>", "{title}"]
    titles = dict(enumerate([*odd, "Emma"]))
    events = [(user, item, item, (user + item) % 2) for user in range(2) for item in titles]
    commit(warehouse(events, titles, borders=(2, 5)), home)
    outcome = run(config(tiny_folder, max_title_tokens=20, sequence_tokens=300), home)
    assert outcome.manifest.metrics["n_rows"] == 10
    assert outcome.manifest.metrics["n_truncated_titles"] >= 1
    assert outcome.manifest.metrics["n_items_without_title"] == 1


# -- what it refuses -----------------------------------------------------------------------------


def test_a_split_that_is_not_there_is_named(ready, tiny_folder):
    with pytest.raises(JobError, match="there is no split 'tset'"):
        run(config(tiny_folder, splits="valid,tset"), ready)


def test_a_day_without_such_rows_says_so(home, tiny_folder):
    commit(warehouse([(1, 0, 1, 1), (1, 1, 2, 0)], {1: "Emma", 2: "Heat"}), home)
    with pytest.raises(JobError, match=r"--splits valid,test: splits of 2026-03-02 has no such"):
        run(config(tiny_folder), home)


def test_a_prompt_that_the_model_cannot_read_is_refused(ready, tiny_folder):
    titles = dict.fromkeys(range(9), "word " * 60)
    events = [(1, item, item, 1) for item in range(9)]
    commit(warehouse(events, titles, borders=(0, 1)), ready)
    with pytest.raises(JobError, match=r"a prompt takes \d+ tokens, tiny-llama reads at most 512"):
        run(config(tiny_folder, block_tokens=4_000, sequence_tokens=9_000), ready)


def test_weights_that_give_nan_are_refused_with_the_row(ready, tmp_path):
    folder = write_tiny_backbone(tmp_path / "broken")
    backbone = load(resolve(str(folder), ready.cache))
    model: Any = backbone.model
    with torch.no_grad():
        model.get_decoder().norm.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    with pytest.raises(JobError, match=r"(valid|test) row \d+ \(user \d, item \d+\) is NaN"):
        run(config(folder), ready)


# -- going on ------------------------------------------------------------------------------------


def test_parts_hold_every_sequence_once(made, tiny):
    template = load_template("ctr_titles")
    answers = answer_tokens(tiny.tokenizer, template)
    prompt = prompt_tokens(template, tiny.tokenizer, made.title_list, answers.ids)
    events = events_of(made.splits, made.histories, made.item_ids)
    sequences = list(StreamPacking(Blocks(60, 20), 150).pack(events, prompt))
    parts = in_parts(sequences, 250)
    assert len(parts) > 3
    assert sorted(id(each) for part in parts for each in part) == sorted(map(id, sequences))
    assert in_parts(sequences, 10**9) == [sorted(sequences, key=len, reverse=True)]


def test_a_kept_part_of_other_rows_or_with_damage_is_done_again(tmp_path, made, tiny):
    template = load_template("ctr_titles")
    answers = answer_tokens(tiny.tokenizer, template)
    prompt = prompt_tokens(template, tiny.tokenizer, made.title_list, answers.ids)
    events = events_of(made.splits, made.histories, made.item_ids)
    sequences = list(StreamPacking().pack(events, prompt))
    rows = np.concatenate([sequence.answer_row for sequence in sequences])
    kept = KeptParts(tmp_path, "k")
    kept.keep(0, rows, np.zeros(len(rows), np.float32))
    assert kept.load(0, sequences) is not None
    assert kept.load(1, sequences) is None
    assert kept.load(0, sequences[:1]) is None
    (tmp_path / "k" / "000000.safetensors").write_bytes(b"torn")
    assert kept.load(0, sequences) is None
    KeptParts(tmp_path, "another")
    assert not (tmp_path / "k").exists()


def command(home: Home, folder: Path, *more: str) -> subprocess.Popen[str]:
    words = ["--day", str(DAY), "--model", str(folder), "--block-tokens", "60", "--kept-tokens"]
    words += ["20", "--sequence-tokens", "150", "--batch-tokens", "150", "--part-tokens", "150"]
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.llm.llm_scores", *words, *more],
        cwd=ROOT,
        env=os.environ | {"TIDEMARK_HOME": str(home.root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(home, tiny_folder):
    commit(random_warehouse(2, n_users=40, most=40), home)
    parts = home.run("llm_scores", DAY) / "parts"
    process = command(home, tiny_folder)
    deadline = time.monotonic() + 120
    while len(list(parts.glob("*/0*.safetensors"))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    n_done = len(list(parts.glob("*/0*.safetensors")))
    assert n_done >= 3
    assert not home.manifest("llm_scores", DAY).exists()
    process = command(home, tiny_folder)
    said, log = process.communicate()
    assert process.returncode == 0, log
    assert f"parts_done={n_done}" in log
    assert json.loads(said.splitlines()[-1])["status"] == "done"
    assert list(parts.iterdir()) == []
    resumed = home.output(LLM_SCORES, DAY).read_bytes()
    process = command(home, tiny_folder, "--force")
    process.communicate()
    assert home.output(LLM_SCORES, DAY).read_bytes() == resumed


def test_a_dry_run_says_what_to_expect_and_writes_nothing(ready, made, tiny_folder):
    settings = config(tiny_folder)
    said = estimate(settings, Run("llm_scores", DAY, settings, ready))
    n_rows = sum(split != "train" for split in made.splits["split"].to_pylist())
    assert said["rows"] == n_rows
    assert said["tokens"] >= said["longest_sequence"] > 0
    assert said["seconds"] > 0
    assert said["peak_memory_mb"] > 0
    assert not ready.output(LLM_SCORES, DAY).exists()
    run(settings, ready)
    assert scores(ready).num_rows == said["rows"]


def test_memory_that_falls_short_halves_the_batches_and_changes_no_score(made, tiny):
    template = load_template("ctr_titles")
    answers = answer_tokens(tiny.tokenizer, template)
    prompt = prompt_tokens(template, tiny.tokenizer, made.title_list, answers.ids)
    events = events_of(made.splits, made.histories, made.item_ids)
    sequences = list(StreamPacking(Blocks(60, 20), 150).pack(events, prompt))
    said: list[int] = []
    room = [400]

    def say(event: str, *, batch_tokens: int) -> None:
        said.append(batch_tokens)

    def refuse(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        # As a full machine would: the layers themselves run as ever.
        if kwargs["position_ids"].numel() > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    expected = dict(zip(*Scorer(tiny.model, answers, 100).score(sequences), strict=True))
    model: Any = tiny.model
    hook = model.get_decoder().register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        rows, logits = Scorer(tiny.model, answers, 3_000, say=say).score(sequences)
        room[0] = 100
        with pytest.raises(JobError, match="out of memory with one sequence"):
            Scorer(tiny.model, answers, 3_000).score(sequences)
    finally:
        hook.remove()
    assert said == sorted(said, reverse=True)
    assert len(said) > 1
    assert dict(zip(rows, logits, strict=True)) == pytest.approx(expected, abs=1e-4)
