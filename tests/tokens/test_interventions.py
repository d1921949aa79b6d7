"""Looking into a tuned system: what its soft tokens say, what hiding and changing them costs."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.check import check
from jobs.command_line import parse
from jobs.datasets import LLM_DIAGNOSTICS, SPLITS, TUNE_VALID, Dataset
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, execute
from jobs.llm.answers import answer_logits
from jobs.llm.probing import Figure, Prompts, answered, attention_mass, knockouts, logit_lens
from jobs.llm.prompts import SoftKind
from jobs.llm.sequences import PackedSequence, collate
from jobs.llm.steering import FreeBias, soft_kinds, steerable, steering
from jobs.llm.token_kinds import TokenKind
from jobs.tokens.diagnostics import DiagnosticsConfig, System, job, sources, tuned_system
from jobs.tokens.interventions import (
    deranged,
    interventions,
    mean_tokens,
    planned,
    shuffled,
    soft_probe,
    users_swapped,
)
from tests.conftest import DAY
from tests.in_process import run_job
from tests.llm.tastes import N_ITEMS
from tests.tiny_backbone import HEADS, LAYERS
from tests.tokens.conftest import QUICK

SOFT = ("user", "item", "warm")


def read(home: Home, dataset: Dataset) -> pa.Table:
    return pq.read_table(home.output(dataset, DAY), partitioning=None)


def config_of(folder: Path, **changed: Any) -> DiagnosticsConfig:
    given = {"model": str(folder), "tuned": True, "device": "cpu", "dtype": "float32"}
    return DiagnosticsConfig(**{**given, "n_rows": 96, "batch_tokens": 2_000, **changed})


@pytest.fixture(scope="module")
def tuned_home(
    aligned_home: Home, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Home:
    """Three kinds of tokens, tuned with steering on a LoRA that knows titles."""
    home = Home(tmp_path_factory.mktemp("looked-into") / "home")
    shutil.copytree(aligned_home.root, home.root)
    run_job(
        "tune",
        home,
        model=str(tiny_folder),
        adapter=str(DAY),
        preset="sella",
        steering="suppress",
        suppress=0.5,
        **(QUICK | {"epochs": 1}),
    )
    return home


@pytest.fixture
def system(tuned_home: Home, tiny_folder: Path) -> System:
    """A test may change its weights."""
    return tuned_system(config_of(tiny_folder), Run("probe", DAY, Config(), tuned_home))


class Planted(torch.nn.Module):
    """Item tokens that say whether an item is liked, and nothing else: plus or minus a vector."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first = torch.randn(width, generator=torch.Generator().manual_seed(2))
        self.vector = torch.nn.Parameter(first)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs[:, :1] * self.vector)[:, None]


def plant(system: System) -> None:
    """Item tokens tell the label, as titles do; all users, and all warm tokens, are alike."""
    soft = system.soft
    assert soft is not None
    planted_items = Planted(soft.unknown["item"].shape[1])
    with torch.no_grad():
        for kind in ("user", "warm"):
            for name, weight in soft.mappers[kind].named_parameters():
                if name.endswith("output.weight"):
                    weight.zero_()
        soft.tables["item"][:, 0] = torch.tensor([1.0, -1.0]).repeat(N_ITEMS // 2)
    for kind in SOFT:
        soft.get_buffer(f"knows_{kind}").fill_(True)
    soft.mappers["item"] = planted_items
    batch = collate(system.prompts.sequences[:48])
    labels = torch.from_numpy(system.prompts.labels)[batch.answer_row]
    optimiser = torch.optim.Adam(planted_items.parameters(), lr=0.3)
    for _ in range(40):
        logits = answer_logits(
            system.probe.model, batch, system.probe.answers, soft=soft.soft(batch)
        )
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    planted_items.requires_grad_(False)


@pytest.fixture(scope="module")
def figures(tuned_home: Home, tiny_folder: Path) -> list[Figure]:
    """Of all interventions in a system whose item tokens carry the label."""
    found = tuned_system(config_of(tiny_folder), Run("probe", DAY, Config(), tuned_home))
    assert found.soft is not None
    found.soft.bias = None
    plant(found)
    probe = soft_probe(found.probe.model, found.probe.answers, found.soft, 2_000)
    made = interventions(probe, found.soft, planned(probe, found.prompts, found.soft))
    assert found.soft.intervention is None
    return made


def value(figures: list[Figure], kind: str, figure: str) -> float:
    (found,) = (each.value for each in figures if (each.kind, each.figure) == (kind, figure))
    return found


def logits_of(system: System, prompts: Prompts | None = None) -> np.ndarray:
    with steerable(system.probe.model):
        return answered(system.probe, prompts or system.prompts)[1]


def places_of(sequence: PackedSequence, *kinds: SoftKind) -> np.ndarray:
    return np.isin(sequence.soft_kind, kinds)


# -- the tuned system as it is ---------------------------------------------------------------------


def test_one_prompt_a_row_scores_what_tuning_ended_with(system: System, tuned_home: Home) -> None:
    with steerable(system.probe.model):
        rows, logits = answered(system.probe, system.prompts)
    kept = read(tuned_home, TUNE_VALID)
    by_row = dict(zip(kept["row"].to_pylist(), kept["logit"].to_pylist(), strict=True))
    numbers = read(tuned_home, SPLITS)["row"].to_numpy()[rows]
    np.testing.assert_allclose(logits, [by_row[number] for number in numbers], atol=1e-4)
    unsteered = replace(system, probe=replace(system.probe, bias=None))
    assert np.abs(logits_of(unsteered) - logits).max() > 1e-2


def test_soft_tokens_are_marked_at_their_places_in_history_and_question(system: System) -> None:
    for sequence, kinds in zip(system.prompts.sequences, system.prompts.kinds, strict=True):
        n_events = len(set(sequence.event.tolist()) - {0})
        counts = [int((kinds == kind).sum()) for kind in TokenKind if kind <= TokenKind.WARM]
        assert counts == [n_events] * len(SOFT)


def test_a_bias_of_each_head_and_kind_is_applied_as_in_training(system: System) -> None:
    bias = FreeBias(torch.zeros(LAYERS), HEADS)
    with torch.no_grad():
        bias.values.normal_(generator=torch.Generator().manual_seed(1))
    probe = replace(system.probe, bias=bias.values.detach())
    some = system.prompts.first(4)
    wanted = []
    with torch.no_grad(), steerable(probe.model):
        for sequence in sorted(some.sequences, key=lambda each: int(each.answer_row[0])):
            batch = collate([sequence])
            shape = (1, len(sequence))
            kinds = soft_kinds(shape, batch.soft_sequence, batch.soft_at, batch.soft_kind)
            given = {"soft": probe.soft(batch), "steering": steering(bias, kinds)}
            wanted.append(float(answer_logits(probe.model, batch, probe.answers, **given)))
    np.testing.assert_allclose(logits_of(replace(system, probe=probe), some), wanted, atol=1e-5)


def without(sequence: PackedSequence, kind: SoftKind) -> PackedSequence:
    """The sequence with tokens of a kind cut out; the others stay at their positions."""
    gone = sequence.soft_at[sequence.soft_kind == kind]
    kept = np.setdiff1d(np.arange(len(sequence)), gone)
    moved = np.cumsum(np.isin(np.arange(len(sequence)), kept)) - 1
    changed: dict[str, Any] = {
        name: getattr(sequence, name)[kept]
        for name in ("input_ids", "position_ids", "event", "is_shown")
    }
    changed["answer_at"] = moved[sequence.answer_at].astype(np.int32)
    others = sequence.soft_kind != kind
    for field in fields(sequence):
        if field.name.startswith("soft_"):
            changed[field.name] = getattr(sequence, field.name)[others]
    changed["soft_at"] = moved[changed["soft_at"]].astype(np.int32)
    return replace(sequence, **changed)


@pytest.mark.parametrize("kind", [SoftKind.USER, SoftKind.ITEM])
def test_hiding_a_kind_in_all_layers_is_to_cut_its_tokens_out(
    system: System, kind: SoftKind
) -> None:
    some = system.prompts.first(8)
    with steerable(system.probe.model):
        hidden = answered(system.probe, some, ((TokenKind(kind),), range(LAYERS)))[1]
    cut = [without(sequence, kind) for sequence in some.sequences]
    gone = [kinds[kinds != kind] for kinds in some.kinds]
    np.testing.assert_allclose(
        hidden, logits_of(system, replace(some, sequences=cut, kinds=gone)), atol=1e-5
    )


def test_mass_knockouts_and_lens_see_the_soft_tokens_and_the_bias(system: System) -> None:
    some = system.prompts.first(16)
    mass = {
        (each.kind, each.first_layer): each.value
        for each in attention_mass(system.probe, some)
        if each.figure == "mass"
    }
    plain = replace(system.probe, bias=None)
    unsteered = {
        (each.kind, each.first_layer): each.value
        for each in attention_mass(plain, some)
        if each.figure == "mass"
    }
    soft = [sum(masses[kind, 0] for kind in SOFT) for masses in (mass, unsteered)]
    assert soft[0] < soft[1]  # suppressed in the first layer
    lens = {each.figure: each.value for each in logit_lens(system.probe, some)}
    found = knockouts(system.probe, some, [TokenKind.ITEM])
    assert lens["auc"] == pytest.approx(found[0].value - found[2].value, abs=1e-6)
    assert {(each.first_layer, each.last_layer) for each in found} == {(0, 0), (1, 1)}


# -- other rows' users and items -------------------------------------------------------------------


def test_a_derangement_gives_no_place_its_own_id() -> None:
    chance = np.random.default_rng(3)
    for n_ids in (2, 3, 40):
        ids = np.repeat(np.arange(n_ids), 3)
        order = deranged(ids, chance)
        assert sorted(order.tolist()) == list(range(len(ids)))
        assert (ids[order] != ids).all()
    most = np.array([7, 7, 7, 1])
    assert (most[deranged(most, chance)] != most).sum() <= 2
    assert deranged(np.array([5, 5]), chance).shape == (2,)


def test_shuffled_items_change_places_with_their_like(system: System) -> None:
    own = system.prompts.sequences
    other = shuffled(own, ["item", "warm"], seed=4)
    given: dict[bool, list[list[int]]] = {True: [[], []], False: [[], []]}
    for before, after in zip(own, other, strict=True):
        items = places_of(before, SoftKind.ITEM, SoftKind.WARM)
        assert (after.soft_of[items] != before.soft_of[items]).all()
        assert np.array_equal(after.soft_of[~items], before.soft_of[~items])
        pair = [after.soft_of[after.soft_kind == kind] for kind in (SoftKind.ITEM, SoftKind.WARM)]
        assert np.array_equal(*pair)
        for place, (was, now) in enumerate(
            zip(before.soft_of[items], after.soft_of[items], strict=True)
        ):
            is_shown = bool(before.is_shown[before.soft_at[items][place]])
            given[is_shown][0].append(int(was))
            given[is_shown][1].append(int(now))
        for field in ("input_ids", "soft_at", "soft_kind", "soft_nth", "soft_end"):
            assert np.array_equal(getattr(before, field), getattr(after, field))
    for was_all, now_all in given.values():
        assert sorted(was_all) == sorted(now_all)  # the same tokens, as often as before
    alone = shuffled(own, ["item"], seed=4)
    for one, both in zip(alone, other, strict=True):
        at = places_of(one, SoftKind.ITEM)
        assert np.array_equal(one.soft_of[at], both.soft_of[at])
    again, differently = shuffled(own, ["item"], seed=4), shuffled(own, ["item"], seed=5)
    assert all(np.array_equal(a.soft_of, b.soft_of) for a, b in zip(alone, again, strict=True))
    assert not all(
        np.array_equal(a.soft_of, b.soft_of) for a, b in zip(alone, differently, strict=True)
    )


@pytest.mark.parametrize("swaps", [False, True])
def test_a_row_gets_another_user_as_of_no_later_than_its_place(system: System, swaps: bool) -> None:
    own = system.prompts.sequences
    other = users_swapped(own, 0) if swaps else shuffled(own, ["user"], 0)
    partners: dict[int, set[int]] = {}
    for before, after in zip(own, other, strict=True):
        users = places_of(before, SoftKind.USER)
        (user,), (given,) = set(before.soft_of[users]), set(after.soft_of[users])
        assert given != user
        partners.setdefault(int(user), set()).add(int(given))
        assert (after.soft_end <= before.soft_end).all()
        assert np.array_equal(after.soft_of[~users], before.soft_of[~users])
    assert any(len(given) > 1 for given in partners.values()) != swaps
    if swaps:
        assert set.union(*partners.values()) == set(partners)


# -- what it costs ---------------------------------------------------------------------------------


def test_shuffling_costs_more_than_the_mean(figures: list[Figure]) -> None:
    assert value(figures, "all", "none_auc") > 0.8
    for kind in ("item", "all"):
        for metric, sign in (("auc", -1), ("log_loss", 1)):
            mean = sign * value(figures, kind, f"mean_delta_{metric}")
            cost = sign * value(figures, kind, f"shuffled_delta_{metric}")
            assert cost > mean, (kind, metric)
            between = sign * value(figures, kind, f"shuffled_less_mean_{metric}")
            assert between == pytest.approx(cost - mean, abs=1e-9)
    low, high = (value(figures, "item", f"shuffled_less_mean_auc_{end}") for end in ("low", "high"))
    assert low < value(figures, "item", "shuffled_less_mean_auc") < high


def test_figures_are_those_of_their_definition_and_each_has_one_row(figures: list[Figure]) -> None:
    keys = [(each.kind, each.figure) for each in figures]
    assert len(set(keys)) == len(keys)
    assert {each.measure for each in figures} == {"intervention"}
    assert {(each.first_layer, each.last_layer) for each in figures} == {(0, LAYERS - 1)}
    for kind in (*SOFT, "all"):
        for name in ("mean", "unknown", "shuffled", "hidden"):
            for metric in ("auc", "uauc", "log_loss"):
                change = value(figures, kind, f"{name}_delta_{metric}")
                before = value(figures, "all", f"none_{metric}")
                assert change == pytest.approx(
                    value(figures, kind, f"{name}_{metric}") - before, abs=1e-9
                )
    swapped = {kind for kind, figure in keys if figure == "users_swapped_auc"}
    assert swapped == {"user"}


def test_a_kind_that_says_nothing_costs_nothing(figures: list[Figure]) -> None:
    for kind, names in (
        ("user", ("mean", "shuffled", "users_swapped")),
        ("warm", ("mean", "shuffled")),
    ):
        for name in names:
            for metric in ("auc", "uauc", "log_loss"):
                assert value(figures, kind, f"{name}_delta_{metric}") == pytest.approx(0, abs=1e-6)


def test_the_mean_token_is_the_mean_over_the_rows_of_each_token(system: System) -> None:
    soft = system.soft
    assert soft is not None
    some = system.prompts.first(12)
    batch = collate(some.sequences)
    with torch.no_grad():
        vectors = soft.soft(batch).numpy()
    means = mean_tokens(replace(system.probe, batch_tokens=200), some, soft)
    for kind, number in zip(SOFT, SoftKind, strict=True):
        for nth, found in enumerate(means[kind].numpy()):
            at = (batch.soft_kind.numpy() == number) & (batch.soft_nth.numpy() == nth)
            np.testing.assert_allclose(found, vectors[at].mean(axis=0), rtol=1e-4, atol=1e-4)


def test_unknown_items_are_those_of_which_nothing_is_known(system: System) -> None:
    soft = system.soft
    assert soft is not None
    passes = planned(system.probe, system.prompts, soft)
    (unknown,) = (each for each in passes if (each.kind, each.name) == ("item", "unknown"))
    with steerable(system.probe.model):
        found = unknown.answers(system.probe, soft)[1]
    as_they_are = logits_of(system)
    soft.get_buffer("knows_item").fill_(False)
    np.testing.assert_allclose(found, logits_of(system), atol=1e-6)
    assert np.abs(found - as_they_are).max() > 1e-3


def test_rows_of_one_user_have_nobody_to_change_with(system: System) -> None:
    assert system.soft is not None
    users = system.prompts.users
    first = users[system.prompts.sequences[0].answer_row[0]]
    kept = [
        number
        for number, sequence in enumerate(system.prompts.sequences)
        if users[sequence.answer_row[0]] == first
    ]
    one = replace(
        system.prompts,
        sequences=[system.prompts.sequences[number] for number in kept],
        kinds=[system.prompts.kinds[number] for number in kept],
    )
    names = {(each.kind, each.name) for each in planned(system.probe, one, system.soft)}
    assert ("user", "shuffled") not in names
    assert ("user", "users_swapped") not in names
    assert ("item", "shuffled") in names


# -- the job ---------------------------------------------------------------------------------------


def test_the_job_looks_into_the_days_tuned_system(tuned_home: Home, tiny_folder: Path) -> None:
    config = config_of(tiny_folder, n_rows=40, knockout_rows=10, intervention_rows=20)
    outcome = execute("diagnostics", config, DAY, tuned_home, job, sources=sources)
    check("diagnostics", DAY, tuned_home)
    table = read(tuned_home, LLM_DIAGNOSTICS)
    measures = {"mass", "knockout", "lens", "intervention"}
    assert set(table["measure"].to_pylist()) == measures
    kinds = {"sink", "instruction", "history", "title", "answer", "all", *SOFT}
    assert set(table["kind"].to_pylist()) == kinds
    assert "token_weights" in {each.name for each in outcome.manifest.inputs}
    again = execute("diagnostics", config, DAY, tuned_home, job, sources=sources)
    assert again.status == "unchanged"


def test_the_command_line_looks_into_a_tuned_system() -> None:
    """A command line sets every field of a config, those that nobody gave too."""
    asked = parse("diagnostics", DiagnosticsConfig, ["--day", str(DAY), "--tuned"]).config
    assert asked.is_of_tuned
    assert asked.of_text is None
    words = ["--day", str(DAY), "--tuned", "--max-titles", "4"]
    assert parse("diagnostics", DiagnosticsConfig, words).config.of_text == "max_titles"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"version": 3}, "--tuned and --version 3: give one of them"),
        ({"adapter": "x"}, "--adapter x: a tuned system is read as it was tuned"),
        ({"max_titles": 4}, "--max-titles 4: a tuned system is read as it was tuned"),
        ({"tuned": False, "version": 3}, "no embedding store at"),
    ],
)
def test_what_does_not_go_together_is_refused(
    flags: dict[str, Any], said: str, home: Home, tiny_folder: Path
) -> None:
    config = config_of(tiny_folder, **flags)
    with pytest.raises(JobError, match=said), Run("diagnostics", DAY, config, home) as run:
        job(config, run)
