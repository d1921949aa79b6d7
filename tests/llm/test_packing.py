"""Every packing gives each row the score that a prompt of its own gives it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM, xLSTMConfig, xLSTMForCausalLM

from jobs.errors import JobError
from jobs.llm.answers import AnswerTokens, answer_logits, answer_tokens
from jobs.llm.attention import BLOCK, attention_mask, block_mask, suit_attention
from jobs.llm.backbone import DEFAULT_BACKBONE, Backbone, load, resolve
from jobs.llm.events import Events, events_of
from jobs.llm.packing import (
    Blocks,
    LastTitles,
    PackedSequence,
    Packing,
    RowPacking,
    StreamPacking,
    TreePacking,
    Window,
    batches,
    collate,
    visible,
)
from jobs.llm.prompts import PromptTokens, SoftKind, load_template, prompt_tokens
from jobs.report.metrics import auc
from tests.llm.tables import Warehouse, random_warehouse, warehouse
from tests.tiny_backbone import HIDDEN, write_tiny_backbone

TOLERANCE = 1e-4
TITLES = {1: "Toy Story (1995)", 2: "Emma", 3: "The Lord of the Rings (2001)", 4: "Heat"}


def prepared(
    made: Warehouse, backbone: Backbone, template: str = "ctr_titles"
) -> tuple[PromptTokens, AnswerTokens]:
    chosen = load_template(template)
    answers = answer_tokens(backbone.tokenizer, chosen)
    return prompt_tokens(chosen, backbone.tokenizer, made.title_list, answers.ids), answers


def events_in(made: Warehouse, **kwargs: Any) -> Events:
    return events_of(made.splits, made.histories, made.item_ids, **kwargs)


def scores(
    packing: Packing,
    events: Events,
    prompt: PromptTokens,
    backbone: Backbone,
    answers: AnswerTokens,
    batch_tokens: int = 512,
) -> dict[int, float]:
    """Score of each row of the table."""
    found: dict[int, float] = {}
    sequences = list(packing.pack(events, prompt))
    with torch.inference_mode():
        for batch in batches(sequences, batch_tokens, pad_id=1):
            logits = answer_logits(backbone.model, batch, answers)
            for row, logit in zip(batch.answer_row.tolist(), logits.tolist(), strict=True):
                assert row not in found
                found[row] = logit
    return found


def begin_of(window: Window, lengths: list[int], end: int) -> int:
    """Where a row's history begins, written down once more and slowly."""
    if isinstance(window, LastTitles):
        begin = max(0, end - (end if window.n is None else window.n))
        while sum(lengths[begin:end]) > window.max_tokens:
            begin += 1
        return begin
    assert isinstance(window, Blocks)
    begin = 0
    for now in range(end + 1):
        if sum(lengths[begin:now]) > window.max_tokens:
            while sum(lengths[begin:now]) > window.kept_tokens:
                begin += 1
    return begin


def prompt_of_row(
    row: int, made: Warehouse, prompt: PromptTokens, window: Window, end: int | None = None
) -> list[int]:
    """The tokens of a row's own prompt: prefix, what its history shows, question."""
    one = made.splits.slice(row, 1).to_pylist()[0]
    histories = dict(
        zip(
            made.histories["user_id"].to_pylist(),
            made.histories["item_ids"].to_pylist(),
            strict=True,
        )
    )
    place = {item: number for number, item in enumerate(made.item_ids.to_pylist())}
    entries = [prompt.entries_yes[place[item]] for item in histories[one["user_id"]]]
    end = one["history_end"] if end is None else end
    begin = begin_of(window, [len(entry) for entry in entries], end)
    history = [token for entry in entries[begin:end] for token in entry.ids]
    if begin == end:
        history = list(prompt.no_history.ids)
    return [*prompt.prefix.ids, *history, *prompt.questions[place[one["item_id"]]].ids]


def plain_score(tokens: list[int], backbone: Backbone, answers: AnswerTokens) -> float:
    """l_yes - l_no at the end of a prompt, as anybody would ask the model for it."""
    with torch.inference_mode():
        model: Any = backbone.model
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]
    return float(logits[answers.yes] - logits[answers.no])


# -- equality with one prompt a row --------------------------------------------------------------

PACKINGS = [
    RowPacking(LastTitles(3)),
    RowPacking(LastTitles(None, 40)),
    RowPacking(Blocks(60, 20)),
    TreePacking(LastTitles(3), max_tokens=90),
    TreePacking(Blocks(60, 0), max_tokens=400),
    StreamPacking(Blocks(60, 20), max_tokens=120),
    StreamPacking(Blocks(45, 44), max_tokens=60),
    StreamPacking(Blocks(1_000, 500), max_tokens=70),
    StreamPacking(Blocks(1_000, 0), max_tokens=2_000),
    StreamPacking(LastTitles(2), max_tokens=200),
]


@pytest.mark.parametrize("template", ["ctr_titles", "ctr_question"])
@pytest.mark.parametrize("packing", PACKINGS, ids=str)
def test_scores_are_those_of_one_plain_prompt_a_row(packing, template, tiny):
    for seed in range(3):
        made = random_warehouse(seed)
        prompt, answers = prepared(made, tiny, template)
        found = scores(packing, events_in(made), prompt, tiny, answers, 100 + 150 * seed)
        assert sorted(found) == list(range(made.splits.num_rows))
        for row, score in found.items():
            tokens = prompt_of_row(row, made, prompt, packing.window)
            assert score == pytest.approx(plain_score(tokens, tiny, answers), abs=TOLERANCE)


def test_random_users_chunks_and_paddings_change_no_score(tiny):
    random = np.random.default_rng(0)
    for seed in range(10, 22):
        made = random_warehouse(seed, n_users=3, most=24)
        prompt, answers = prepared(made, tiny)
        window = Blocks(int(random.integers(20, 200)), int(random.integers(0, 20)))
        rows = scores(RowPacking(window), events_in(made), prompt, tiny, answers)
        packing = StreamPacking(window, int(random.integers(30, 400)))
        budget = int(random.integers(1, 900))
        found = scores(packing, events_in(made), prompt, tiny, answers, budget)
        assert found == pytest.approx(rows, abs=TOLERANCE)


def test_smollm2_scores_a_stream_as_it_scores_a_prompt_a_row(backbone_cache):
    backbone = load(resolve(DEFAULT_BACKBONE, backbone_cache), "cpu", "float32")
    made = random_warehouse(5, n_users=2, most=8)
    prompt, answers = prepared(made, backbone)
    packing = StreamPacking(Blocks(60, 20), max_tokens=100)
    found = scores(packing, events_in(made), prompt, backbone, answers)
    assert len(found) == made.splits.num_rows > 5
    for row, score in found.items():
        tokens = prompt_of_row(row, made, prompt, packing.window)
        assert score == pytest.approx(plain_score(tokens, backbone, answers), abs=TOLERANCE)


def test_a_score_does_not_depend_on_which_other_rows_are_scored(tiny):
    made = random_warehouse(3, n_users=5)
    prompt, answers = prepared(made, tiny)
    packing = StreamPacking(Blocks(60, 20), max_tokens=90)
    everything = scores(packing, events_in(made), prompt, tiny, answers)
    alone = scores(packing, events_in(made, wanted=["test"]), prompt, tiny, answers)
    assert 0 < len(alone) < len(everything)
    assert alone == pytest.approx({row: everything[row] for row in alone}, abs=TOLERANCE)


def test_the_order_of_the_table_changes_no_score(tiny):
    made = random_warehouse(4)
    prompt, answers = prepared(made, tiny)
    order = np.random.default_rng(0).permutation(made.splits.num_rows)
    shuffled = made._replace(splits=made.splits.take(pa.array(order)))
    found = scores(StreamPacking(), events_in(made), prompt, tiny, answers)
    again = scores(StreamPacking(), events_in(shuffled), prompt, tiny, answers)
    assert {int(order[row]): s for row, s in again.items()} == pytest.approx(found, abs=TOLERANCE)


def test_in_bfloat16_batch_mates_move_the_auc_by_a_thousandth_at_most(tmp_path):
    files = resolve(str(write_tiny_backbone(tmp_path / "tiny")), tmp_path / "cache")
    backbone = load(files, "cpu", "bfloat16")
    made = random_warehouse(9, n_users=40, most=30)
    prompt, answers = prepared(made, backbone)
    found = [
        scores(StreamPacking(Blocks(100, 40), most), events_in(made), prompt, backbone, answers, b)
        for most, b in ((1_000, 1), (150, 4_000))
    ]
    labels = made.splits["label"].to_pylist()
    aucs = [auc(labels, [each[row] for row in range(len(labels))]) for each in found]
    assert len(labels) > 500
    assert aucs[0] == pytest.approx(aucs[1], abs=1e-3)


def test_gradients_are_those_of_one_prompt_a_row(tiny):
    made = random_warehouse(6, n_users=2)
    prompt, answers = prepared(made, tiny)
    labels = torch.tensor(made.splits["label"].to_pylist(), dtype=torch.float32)
    model: Any = tiny.model
    weight = model.get_decoder().layers[0].self_attn.k_proj.weight
    window = Blocks(60, 20)

    def gradient(packing: Packing) -> torch.Tensor:
        weight.requires_grad_(True)
        weight.grad = None
        batch = collate(list(packing.pack(events_in(made), prompt)))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            answer_logits(model, batch, answers), labels[batch.answer_row]
        )
        loss.backward()
        weight.requires_grad_(False)
        return weight.grad

    rows = gradient(RowPacking(window))
    assert rows.abs().max() > 1e-3
    torch.testing.assert_close(gradient(StreamPacking(window, 90)), rows, rtol=1e-4, atol=1e-6)


# -- who sees what -------------------------------------------------------------------------------


def test_what_each_token_sees_in_a_stream_worked_out_by_hand(tiny):
    # 1 liked, 2 not, 3 liked: the second is a leaf.
    made = warehouse([(7, 0, 1, 1), (7, 1, 2, 0), (7, 2, 3, 1)], TITLES)
    prompt, _ = prepared(made, tiny)
    (sequence,) = StreamPacking().pack(events_in(made), prompt)
    n = [len(prompt.prefix), len(prompt.entries_yes[0]), len(prompt.questions[1])]
    n.append(len(prompt.entries_yes[2]))
    assert sequence.event.tolist() == np.repeat([0, 1, 2, 3], n).tolist()
    assert sequence.is_shown.tolist() == np.repeat([True, True, False, True], n).tolist()
    begins = [0, n[0], n[0] + n[1], n[0] + n[1]]  # the leaf moves nothing
    expected = np.concatenate([b + np.arange(m) for b, m in zip(begins, n, strict=True)])
    assert sequence.position_ids.tolist() == expected.tolist()
    ends = np.cumsum(n)
    tail = len(prompt.entries_yes[0]) - len(prompt.questions[0])
    assert sequence.answer_at.tolist() == [ends[1] - tail - 1, ends[2] - 1, ends[3] - tail - 1]
    assert sequence.answer_row.tolist() == [0, 1, 2]
    allowed = visible(collate([sequence]))[0, 0].numpy()
    for q in range(len(sequence)):
        for k in range(len(sequence)):
            leaf = sequence.event[k] == 2 and sequence.event[q] != 2
            assert allowed[q, k] == (k <= q and not leaf)


def test_rows_of_one_second_do_not_see_each_other(tiny):
    events = [(7, 0, 1, 1), (7, 5, 2, 1), (7, 5, 3, 1), (7, 9, 4, 1)]
    found = []
    for title in ("Emma", "Another film altogether"):
        made = warehouse(events, {**TITLES, 2: title})
        prompt, answers = prepared(made, tiny)
        found.append(scores(StreamPacking(), events_in(made), prompt, tiny, answers))
    assert found[0][2] == pytest.approx(found[1][2], abs=1e-6)
    assert abs(found[0][3] - found[1][3]) > 1e-3  # the later row sees both


def test_what_a_user_did_not_like_is_seen_only_where_histories_show_it(tiny):
    events = [(7, 0, 1, 1), (7, 5, 2, 0), (7, 9, 3, 1)]
    found: dict[str, list[float]] = {"positives": [], "labelled": []}
    for title in ("Emma", "Another film altogether"):
        made = warehouse(events, {**TITLES, 2: title})
        prompt, answers = prepared(made, tiny)
        for shown in found:
            some = events_in(made, shown=shown)
            found[shown].append(scores(StreamPacking(), some, prompt, tiny, answers)[2])
    assert found["positives"][0] == pytest.approx(found["positives"][1], abs=1e-6)
    assert abs(found["labelled"][0] - found["labelled"][1]) > 1e-3


def test_a_labelled_history_shows_each_answer_strictly_earlier(tiny):
    made = warehouse([(7, 0, 1, 1), (7, 5, 2, 0), (7, 5, 4, 1), (7, 9, 3, 1)], TITLES)
    prompt, answers = prepared(made, tiny)
    some = events_in(made, shown="labelled")
    assert some.ends.tolist() == [0, 1, 1, 3]
    found = scores(StreamPacking(), some, prompt, tiny, answers)
    entries = [prompt.entries_yes[0], prompt.entries_no[1], prompt.entries_yes[3]]
    tokens = [t for part in (prompt.prefix, *entries, prompt.questions[2]) for t in part.ids]
    assert found[3] == pytest.approx(plain_score(tokens, tiny, answers), abs=TOLERANCE)


def test_a_history_with_negatives_needs_a_template_that_tells_them_apart(tiny):
    made = warehouse([(7, 0, 1, 1), (7, 5, 2, 0), (7, 9, 3, 1)], TITLES)
    prompt, _ = prepared(made, tiny, "ctr_question")
    with pytest.raises(JobError, match=r"--shown labelled needs a template whose entry holds"):
        list(RowPacking().pack(events_in(made, shown="labelled"), prompt))


def test_a_frozen_history_ends_where_the_rows_split_begins(tiny):
    events = [(7, second, item, 1) for second, item in enumerate([1, 2, 3, 4])]
    made = warehouse(events, TITLES, borders=(1, 3))  # one train row, two valid, one test
    prompt, answers = prepared(made, tiny)
    frozen = events_in(made, history="frozen")
    by_row = dict(zip(frozen.rows.tolist(), frozen.ends.tolist(), strict=True))
    names = made.splits["split"].to_pylist()
    assert [(names[row], by_row[row]) for row in range(4)] == [
        ("test", 3),
        ("train", 0),
        ("valid", 1),
        ("valid", 1),
    ]
    window = Blocks()
    for packing in (StreamPacking(window), TreePacking(window)):
        for row, score in scores(packing, frozen, prompt, tiny, answers).items():
            tokens = prompt_of_row(row, made, prompt, window, by_row[row])
            assert score == pytest.approx(plain_score(tokens, tiny, answers), abs=TOLERANCE)


def test_a_row_sees_the_last_ten_titles_and_no_more(tiny):
    titles = {item: f"Movie {item}" for item in range(14)}
    made = warehouse([(7, item, item, 1) for item in range(14)], titles)
    prompt, _ = prepared(made, tiny)
    sequences = {int(s.answer_row[0]): s for s in RowPacking().pack(events_in(made), prompt)}
    assert [int(sequences[row].event.max()) for row in (0, 1, 10, 13)] == [1, 2, 11, 11]
    last = [*prompt.prefix.ids]
    for item in range(3, 13):
        last += prompt.entries_yes[item].ids
    assert sequences[13].input_ids.tolist() == [*last, *prompt.questions[13].ids]


# -- windows and sizes ---------------------------------------------------------------------------


def test_a_block_begins_anew_with_what_it_keeps():
    lengths = np.full(12, 10)
    begins = Blocks(max_tokens=50, kept_tokens=20).begins(lengths)
    # Five entries fit; the sixth opens a block that keeps two, and so on.
    assert begins.tolist() == [0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8]


def test_the_last_titles_stay_within_their_tokens():
    assert LastTitles(2).begins(np.full(4, 10)).tolist() == [0, 0, 0, 1, 2]
    assert LastTitles(3, max_tokens=25).begins(np.array([10, 20, 5, 5])).tolist() == [0, 0, 1, 1, 2]
    assert LastTitles(None).begins(np.full(4, 10)).tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("window", [Blocks(70, 30), Blocks(25, 0), LastTitles(3, 30)], ids=str)
def test_windows_agree_with_their_definition(window):
    random = np.random.default_rng(1)
    for _ in range(20):
        lengths = random.integers(1, 40, size=int(random.integers(0, 30)))
        found = window.begins(lengths)
        slow = [begin_of(window, lengths.tolist(), end) for end in range(len(lengths) + 1)]
        assert found.tolist() == slow


def test_a_block_that_keeps_all_it_holds_is_refused():
    with pytest.raises(JobError, match="keeps 50 tokens"):
        Blocks(50, 50)


def test_a_stream_stays_within_its_tokens_and_needs_far_fewer(tiny):
    titles = {item: f"Movie {item}" for item in range(60)}
    made = warehouse([(7, item, item, int(item % 3 > 0)) for item in range(60)], titles)
    prompt, _ = prepared(made, tiny)

    def sizes(packing: Packing) -> list[int]:
        return [len(sequence) for sequence in packing.pack(events_in(made), prompt)]

    stream = sizes(StreamPacking(Blocks(200, 60), max_tokens=400))
    assert max(stream) <= 400
    assert sum(sizes(RowPacking())) > 5 * sum(stream)


def test_candidates_of_one_history_share_it(tiny):
    titles = {item: f"Movie {item}" for item in range(30)}
    events = [(7, 0, 0, 1), (7, 1, 1, 1), *((7, 2, item, 0) for item in range(2, 30))]
    made = warehouse(events, titles)
    prompt, _ = prepared(made, tiny)
    sequences = list(TreePacking(max_tokens=2_000).pack(events_in(made), prompt))
    assert [len(sequence.answer_row) for sequence in sequences] == [1, 1, 28]


# -- kernels -------------------------------------------------------------------------------------


def some_batch(tiny: Backbone, seed: int = 2, **kwargs: Any) -> Any:
    made = random_warehouse(seed, n_users=3, most=30)
    prompt, answers = prepared(made, tiny)
    packed = StreamPacking(Blocks(150, 60), max_tokens=300).pack(events_in(made), prompt)
    return collate(list(packed), **kwargs), answers


@pytest.mark.parametrize("block", [16, 32, BLOCK])
@pytest.mark.parametrize("multiple", [1, BLOCK])
def test_the_block_mask_is_the_dense_one(tiny, block, multiple):
    batch, _ = some_batch(tiny, multiple=multiple)
    allowed = visible(batch)[:, 0]
    b, n, _ = allowed.shape
    made = block_mask(batch, block)
    whole, parts = torch.zeros(2, b, n, n, dtype=torch.bool)
    columns = (made.full_kv_num_blocks, made.full_kv_indices, made.kv_num_blocks, made.kv_indices)
    full_counts, full, counts, some = (column[:, 0] for column in columns)
    for s in range(b):
        for q in range(full.shape[1]):
            rows = slice(q * block, (q + 1) * block)
            for k in full[s, q, : full_counts[s, q]].tolist():
                whole[s, rows, k * block : (k + 1) * block] = True
            for k in some[s, q, : counts[s, q]].tolist():
                parts[s, rows, k * block : (k + 1) * block] = True
    assert not (whole & parts).any()
    assert (allowed | ~whole).all()  # whole blocks are seen by all
    assert torch.equal(allowed & (whole | parts), allowed)  # and nothing that is seen is left out
    at = torch.arange(n)
    sample, q, k = at.new_tensor(range(b))[:, None, None], at[None, :, None], at[None, None, :]
    assert torch.equal(made.mask_mod(sample, sample * 0, q, k), allowed)
    if block < BLOCK:
        assert whole.any()
        assert not (whole | parts).tril().all(dim=0).all()  # leaves spare whole blocks


def test_flex_attention_under_the_block_mask_is_sdpa_under_the_dense_one(tiny):
    from torch.nn.attention.flex_attention import flex_attention

    batch, _ = some_batch(tiny)
    shape = (batch.event.shape[0], 2, batch.event.shape[1], 16)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible(batch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that it is slow when not compiled
        sparse = flex_attention(q, k, v, block_mask=block_mask(batch))
    torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-5)


def test_eager_attention_gives_the_same_scores(tiny):
    batch, answers = some_batch(tiny)
    model: Any = tiny.model
    with torch.inference_mode():
        expected = answer_logits(model, batch, answers)
        model.set_attn_implementation("eager")
        try:
            assert attention_mask(batch, model).dtype == torch.float32
            found = answer_logits(model, batch, answers)
        finally:
            model.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_a_cpu_keeps_sdpa_with_a_boolean_mask(tiny):
    assert suit_attention(tiny.model) == 1
    batch, _ = some_batch(tiny)
    mask = attention_mask(batch, tiny.model)
    assert mask.dtype == torch.bool
    assert mask.shape == (batch.event.shape[0], 1, *batch.event.shape[1:] * 2)


def test_a_model_with_layers_that_take_no_mask_is_refused():
    convolving = Lfm2Config(
        vocab_size=10,
        hidden_size=8,
        num_hidden_layers=2,
        intermediate_size=8,
        num_attention_heads=2,
        num_key_value_heads=2,
        layer_types=["full_attention", "conv"],
    )
    with pytest.raises(JobError, match="Lfm2ForCausalLM has layers of kind 'conv' that take no"):
        suit_attention(Lfm2ForCausalLM(convolving))
    recurrent = xLSTMConfig(vocab_size=10, hidden_size=64, num_hidden_layers=1, num_heads=2)
    with pytest.raises(JobError, match="xLSTMForCausalLM has layers that take no attention mask"):
        suit_attention(xLSTMForCausalLM(recurrent))


# -- soft tokens ---------------------------------------------------------------------------------


def soft_vectors(batch: Any) -> torch.Tensor:
    """A vector for each (kind, owner), the same wherever it occurs."""
    rows = [
        torch.randn(HIDDEN, generator=torch.Generator().manual_seed(1_000 * kind + owner))
        for kind, owner in zip(batch.soft_kind.tolist(), batch.soft_of.tolist(), strict=True)
    ]
    return torch.stack(rows)


def soft_scores(packing: Packing, made: Warehouse, tiny: Backbone) -> dict[int, float]:
    prompt, answers = prepared(made, tiny, "ctr_soft")
    batch = collate(list(packing.pack(events_in(made), prompt)))
    with torch.inference_mode():
        logits = answer_logits(tiny.model, batch, answers, soft=soft_vectors(batch))
    return dict(zip(batch.answer_row.tolist(), logits.tolist(), strict=True))


def test_soft_tokens_mean_the_same_in_every_packing(tiny):
    made = random_warehouse(8)
    rows = soft_scores(RowPacking(Blocks(80, 30)), made, tiny)
    assert soft_scores(StreamPacking(Blocks(80, 30), 150), made, tiny) == pytest.approx(
        rows, abs=TOLERANCE
    )
    assert soft_scores(TreePacking(Blocks(80, 30), 150), made, tiny) == pytest.approx(
        rows, abs=TOLERANCE
    )


def test_soft_tokens_sit_where_the_template_puts_them(tiny):
    made = warehouse([(5, 0, 2, 1), (7, 0, 1, 1), (7, 1, 3, 0)], TITLES)
    prompt, _ = prepared(made, tiny, "ctr_soft")
    first, second = StreamPacking().pack(events_in(made), prompt)
    kinds = [SoftKind.USER, SoftKind.ITEM, SoftKind.WARM, SoftKind.ITEM, SoftKind.WARM]
    assert first.soft_kind.tolist() == kinds[:3]
    assert second.soft_kind.tolist() == kinds
    assert first.soft_of.tolist() == [0, 1, 1]  # user 5, item 2
    assert second.soft_of.tolist() == [1, 0, 0, 2, 2]  # user 7, items 1 and 3
    assert (second.input_ids[second.soft_at] == prompt.placeholder).all()
    assert second.soft_nth.tolist() == [0] * 5


def test_a_gradient_reaches_the_soft_tokens_and_only_those_that_a_row_sees(tiny):
    made = warehouse([(7, 0, 1, 0), (7, 1, 3, 1)], TITLES)  # the first is a leaf
    prompt, answers = prepared(made, tiny, "ctr_soft")
    batch = collate(list(StreamPacking().pack(events_in(made), prompt)))
    soft = soft_vectors(batch).requires_grad_()
    answer_logits(tiny.model, batch, answers, soft=soft)[1].backward()
    assert batch.soft_of.tolist() == [0, 0, 0, 2, 2]
    assert soft.grad is not None
    assert (soft.grad.abs().sum(dim=1) > 0).tolist() == [True, False, False, True, True]


# -- tables that do not fit together -------------------------------------------------------------


def test_an_item_without_a_text_is_named(tiny):
    made = warehouse([(7, 0, 1, 1), (7, 1, 2, 0)], TITLES)
    with pytest.raises(JobError, match=r"item 2 of row 1 is not among the item texts"):
        events_of(made.splits, made.histories, pa.array([1, 3, 4]))


def test_a_history_that_is_too_short_is_named(tiny):
    made = warehouse([(7, 0, 1, 1), (7, 1, 2, 0)], TITLES)
    histories = pa.table({"user_id": [7], "item_ids": pa.array([[]], pa.list_(pa.int64()))})
    with pytest.raises(JobError, match=r"row 1: history_end 1 lies past the user's 0 positives"):
        events_of(made.splits, histories, made.item_ids)


def test_a_row_that_its_history_does_not_hold_is_asked_apart(tiny):
    made = warehouse([(7, 0, 1, 1), (7, 1, 2, 1)], TITLES)
    other = made.histories.set_column(1, "item_ids", pa.array([[1, 4]], pa.list_(pa.int64())))
    prompt, answers = prepared(made, tiny)
    events = events_of(made.splits, other, made.item_ids)
    assert events.places.tolist() == [0, -1]
    found = scores(StreamPacking(), events, prompt, tiny, answers)
    tokens = prompt_of_row(1, made._replace(histories=other), prompt, Blocks())
    assert found[1] == pytest.approx(plain_score(tokens, tiny, answers), abs=TOLERANCE)


def test_ids_may_be_text_and_tables_in_any_order(tiny):
    made = random_warehouse(7)
    prompt, answers = prepared(made, tiny)
    text = pa.string()
    splits = made.splits.set_column(2, "user_id", made.splits["user_id"].cast(text))
    splits = splits.set_column(3, "item_id", splits["item_id"].cast(text))
    lists = made.histories["item_ids"].cast(pa.list_(text))
    histories = pa.table({"user_id": made.histories["user_id"].cast(text), "item_ids": lists})
    histories = histories.take(pa.array(range(histories.num_rows)[::-1]))
    events = events_of(splits, histories, made.item_ids.cast(text))
    found = scores(StreamPacking(), events, prompt, tiny, answers)
    numbers = scores(StreamPacking(), events_in(made), prompt, tiny, answers)
    assert found == pytest.approx(numbers, abs=TOLERANCE)
    with pytest.raises(JobError, match="item ids are string in the rows and int64 in the item"):
        events_of(splits, histories, made.item_ids)


def test_no_rows_are_no_sequences(tiny):
    made = warehouse([(7, 0, 1, 1)], TITLES)
    prompt, _ = prepared(made, tiny)
    for packing in (RowPacking(), TreePacking(), StreamPacking()):
        empty: list[PackedSequence] = list(packing.pack(events_in(made, wanted=["test"]), prompt))
        assert empty == []
