"""Looking into a backbone: figures that can be worked out in another way, on both shapes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs.check import check
from jobs.datasets import LLM_DIAGNOSTICS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import execute
from jobs.llm.answers import answer_logits, answer_tokens
from jobs.llm.backbone import Backbone
from jobs.llm.diagnostics import diagnostics_table, drawn
from jobs.llm.probing import (
    Figure,
    Probe,
    Prompts,
    attention_mass,
    knockouts,
    logit_lens,
    windows,
)
from jobs.llm.prompts import load_template, prompt_tokens
from jobs.llm.reading import Reader, ReadingConfig
from jobs.llm.sequences import collate, visible
from jobs.llm.token_kinds import QuestionShape, TokenKind, token_kinds
from jobs.report.metrics import auc, uauc
from jobs.tokens.diagnostics import DiagnosticsConfig, job, sources
from tests.conftest import DAY, ROOT
from tests.llm.tables import commit, random_warehouse
from tests.tiny_backbone import LAYERS

ROWS = ReadingConfig(packing="rows", max_titles=4)


def reader_of(backbone: Backbone, template: str = "ctr_titles") -> Reader:
    made = random_warehouse(5, n_users=6, most=12)
    import pyarrow as pa

    texts = pa.table({"item_id": made.item_ids, "title": made.title_list})
    config = ROWS.model_copy(update={"template": template})
    return Reader(made.splits, made.histories, texts, "Movie", backbone.tokenizer, config)


def prompts_of(backbone: Backbone, template: str = "ctr_titles") -> tuple[Prompts, Probe]:
    reader = reader_of(backbone, template)
    rows = reader.rows("train")
    shape = QuestionShape.of(reader.template, backbone.tokenizer, reader.answers)
    kinds = [token_kinds(sequence, shape) for sequence in rows.sequences]
    prompts = Prompts(rows.sequences, kinds, rows.labels, rows.users)
    return prompts, Probe(backbone.model, reader.answers, batch_tokens=300)


def value(figures: list[Figure], measure: str, kind: str, layer: int, figure: str) -> float:
    (found,) = (
        each.value
        for each in figures
        if (each.measure, each.kind, each.first_layer, each.figure)
        == (measure, kind, layer, figure)
    )
    return found


# -- kinds of tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["ctr_titles", "ctr_question", "ctr_soft", "ctr_soft_events"])
def test_the_titles_tokens_are_those_of_the_candidate(tiny: Backbone, template: str) -> None:
    reader = reader_of(tiny, template)
    shape = QuestionShape.of(reader.template, tiny.tokenizer, reader.answers)
    made = random_warehouse(5, n_users=6, most=12)
    asked = dict(enumerate(made.splits["item_id"].to_pylist()))
    rows = reader.rows("train").sequences
    for sequence in rows:
        kinds = token_kinds(sequence, shape)
        title = tiny.tokenizer.decode(sequence.input_ids[kinds == TokenKind.TITLE])
        assert title.strip() == made.titles[asked[int(sequence.answer_row[0])]]
        assert kinds[0] == TokenKind.SINK
        assert (kinds == TokenKind.HISTORY).any() == (len(set(sequence.event.tolist())) > 2)
        soft = kinds[sequence.soft_at].tolist()
        assert soft == sequence.soft_kind.tolist()
        assert (kinds <= TokenKind.WARM).sum() == len(soft)
    assert any((token_kinds(s, shape) == TokenKind.HISTORY).any() for s in rows)
    assert any(not (token_kinds(s, shape) == TokenKind.HISTORY).any() for s in rows)


def test_the_shape_of_a_question_is_that_of_its_template(tiny: Backbone) -> None:
    template = load_template("ctr_titles")
    answers = answer_tokens(tiny.tokenizer, template)
    shape = QuestionShape.of(template, tiny.tokenizer, answers)
    question = prompt_tokens(template, tiny.tokenizer, ["Toy Story"], answers.ids).questions[0]
    title = question.ids[shape.n_before : len(question.ids) - shape.n_after]
    assert tiny.tokenizer.decode(title).strip() == "Toy Story"


# -- attention mass ------------------------------------------------------------------------------


def test_the_mass_is_that_of_the_models_own_attention_weights(tiny: Backbone) -> None:
    prompts, probe = prompts_of(tiny)
    model: Any = tiny.model
    figures = attention_mass(probe, prompts)
    sums = np.zeros((LAYERS, len(TokenKind)))
    free, shares = np.zeros_like(sums), np.zeros(len(TokenKind))
    model.set_attn_implementation("eager")
    for sequence, kinds in zip(prompts.sequences, prompts.kinds, strict=True):
        batch = collate([sequence])
        allowed = torch.zeros(visible(batch).shape).masked_fill(~visible(batch), -1e30)
        with torch.inference_mode():
            attentions = model(
                input_ids=batch.input_ids,
                attention_mask=allowed,
                position_ids=batch.position_ids,
                output_attentions=True,
            ).attentions
        for layer, weights in enumerate(attentions):
            row = weights[0, :, -1].numpy()
            by_kind = np.stack([row[:, kinds == kind].sum(axis=1) for kind in TokenKind], axis=1)
            sums[layer] += by_kind.mean(axis=0)
            free[layer] += (by_kind / (1 - by_kind[:, [TokenKind.SINK]])).mean(axis=0)
        shares += [(kinds == kind).mean() for kind in TokenKind]
    model.set_attn_implementation("sdpa")
    n = len(prompts.sequences)
    for layer in range(LAYERS):
        for kind in (TokenKind.SINK, TokenKind.INSTRUCTION, TokenKind.HISTORY, TokenKind.TITLE):
            name = kind.name.lower()
            mass = value(figures, "mass", name, layer, "mass")
            assert mass == pytest.approx(sums[layer, kind] / n, abs=1e-5)
            lift = value(figures, "mass", name, layer, "lift")
            assert lift == pytest.approx(sums[layer, kind] / shares[kind], rel=1e-4)
            if kind is not TokenKind.SINK:
                sink_free = value(figures, "mass", name, layer, "sink_free")
                assert sink_free == pytest.approx(free[layer, kind] / n, abs=1e-4)


def test_masses_of_a_layer_add_up_to_one_and_the_attention_is_put_back(tiny: Backbone) -> None:
    prompts, probe = prompts_of(tiny)
    model: Any = tiny.model
    before = model.config._attn_implementation
    figures = attention_mass(probe, prompts)
    for layer in range(LAYERS):
        total = sum(f.value for f in figures if (f.first_layer, f.figure) == (layer, "mass"))
        assert total == pytest.approx(1, abs=1e-5)
    assert model.config._attn_implementation == before


def test_steering_moves_the_mass_of_soft_tokens_by_the_odds(tiny: Backbone) -> None:
    prompts, plain = prompts_of(tiny, "ctr_soft")
    bias = torch.zeros(LAYERS, 1, 3)
    bias[0] = 30.0  # so much that the soft tokens take all that the first layer has
    steered = Probe(plain.model, plain.answers, bias, batch_tokens=300)
    before, after = (attention_mass(probe, prompts) for probe in (plain, steered))

    def soft(figures: list[Figure]) -> float:
        names = [kind.name.lower() for kind in prompts.present() if kind <= TokenKind.WARM]
        return sum(value(figures, "mass", name, 0, "mass") for name in names)

    assert soft(after) > 0.99 > soft(before)


# -- knockout and lens ---------------------------------------------------------------------------


def test_windows_are_a_seventh_of_the_layers_and_reach_the_last() -> None:
    assert windows(2) == [range(0, 1), range(1, 2)]
    found = windows(28)
    assert found[:3] == [range(0, 4), range(2, 6), range(4, 8)]
    assert found[-1] == range(24, 28)
    assert all(window.stop <= 30 for window in windows(30))
    assert windows(30)[-1] == range(26, 30)


def test_a_knockout_is_the_loss_of_removing_the_keys_in_that_layer(tiny: Backbone) -> None:
    prompts, probe = prompts_of(tiny)
    model: Any = tiny.model
    figures = knockouts(probe, prompts, [TokenKind.HISTORY])
    assert {f.kind for f in figures} == {"history"}
    rows, plain, without = [], [], []
    for sequence, kinds in zip(prompts.sequences, prompts.kinds, strict=True):
        batch = collate([sequence])
        plain.append(float(answer_logits(model, batch, probe.answers).detach()))
        allowed = visible(batch)
        hidden = torch.from_numpy(kinds == TokenKind.HISTORY)[None, None, None]
        own = torch.eye(len(sequence), dtype=torch.bool)
        layer = model.get_decoder().layers[1]
        hook = layer.self_attn.register_forward_pre_hook(
            lambda _, given, named, mask=allowed & (~hidden | own): (
                given,
                {**named, "attention_mask": mask},
            ),
            with_kwargs=True,
        )
        without.append(float(answer_logits(model, batch, probe.answers).detach()))
        hook.remove()
        rows.append(int(sequence.answer_row[0]))
    labels, users = prompts.labels[rows], prompts.users[rows]
    whole, cut = auc(labels, plain), auc(labels, without)
    assert whole is not None
    assert cut is not None
    assert value(figures, "knockout", "history", 1, "auc") == pytest.approx(cut, abs=1e-6)
    found = value(figures, "knockout", "history", 1, "delta_auc")
    assert found == pytest.approx(cut - whole, abs=1e-6)
    by_user = uauc(users, labels, without)[0]
    assert value(figures, "knockout", "history", 1, "uauc") == pytest.approx(by_user, abs=1e-6)


def test_the_last_layers_lens_is_the_models_answer(tiny: Backbone) -> None:
    prompts, probe = prompts_of(tiny)
    figures = logit_lens(probe, prompts)
    logits = [
        float(answer_logits(tiny.model, collate([sequence]), probe.answers).detach())
        for sequence in prompts.sequences
    ]
    rows = [int(sequence.answer_row[0]) for sequence in prompts.sequences]
    last = auc(prompts.labels[rows], logits)
    assert value(figures, "lens", "answer", LAYERS - 1, "auc") == pytest.approx(last, abs=1e-6)
    assert {f.first_layer for f in figures} == set(range(LAYERS))


def test_rows_of_one_class_have_no_auc_and_the_rest_is_there(tiny: Backbone) -> None:
    prompts, probe = prompts_of(tiny)
    ones = Prompts(prompts.sequences, prompts.kinds, np.ones_like(prompts.labels), prompts.users)
    assert logit_lens(probe, ones) == []
    assert knockouts(probe, ones, [TokenKind.TITLE]) == []
    assert diagnostics_table(attention_mass(probe, ones)).num_rows > 0


# -- the job -------------------------------------------------------------------------------------


def test_the_job_writes_a_table_that_passes_its_check(home: Home, tiny_folder: Path) -> None:
    commit(random_warehouse(5, n_users=6, most=12), home)
    config = DiagnosticsConfig(model=str(tiny_folder), split="train", device="cpu", max_titles=4)
    outcome = execute("diagnostics", config, DAY, home, job, sources=sources)
    check("diagnostics", DAY, home)
    table = pq.read_table(home.output(LLM_DIAGNOSTICS, DAY), partitioning=None)
    assert set(table["measure"].to_pylist()) == {"mass", "knockout", "lens"}
    kinds = {"sink", "instruction", "history", "title", "answer"}
    assert set(table["kind"].to_pylist()) == kinds  # no soft tokens in this template
    assert outcome.manifest.metrics["n_rows"] > 0
    again = execute("diagnostics", config, DAY, home, job, sources=sources)
    assert again.status == "unchanged"


def test_rows_are_drawn_over_users_and_none_has_them_all(tiny: Backbone) -> None:
    reader = reader_of(tiny)
    rows = reader.rows("train")
    every = drawn(rows, 10_000, 0)
    counts = np.bincount([rows.users[s.answer_row[0]] for s in every])
    assert len({int(s.answer_row[0]) for s in every}) == len(every)
    assert counts.max() <= 10
    some = drawn(rows, 7, 0)
    assert [s.answer_row[0] for s in some] == [s.answer_row[0] for s in every[:7]]
    assert [s.answer_row[0] for s in some] != [s.answer_row[0] for s in drawn(rows, 7, 1)]


def test_a_split_without_rows_is_an_error(home: Home, tiny_folder: Path) -> None:
    made = random_warehouse(5, n_users=6, most=12)
    import pyarrow.compute as pc

    train = made.splits.filter(pc.equal(made.splits["split"], "train"))
    commit(made._replace(splits=train), home)
    config = DiagnosticsConfig(model=str(tiny_folder), split="test", device="cpu")
    with pytest.raises(JobError, match="--split test: splits of 2026-03-02 has no such rows"):
        execute("diagnostics", config, DAY, home, job, sources=sources)


def test_the_command_explains_itself_with_an_example() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.tokens.diagnostics", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "example: python -m jobs.tokens.diagnostics --day 2026-03-02" in done.stdout
    assert "--knockout-rows" in done.stdout
