from __future__ import annotations

import pytest

from embedding_store.lookup import open_version
from embedding_store.manifest import GateEntry
from jobs.datasets import SPLITS
from jobs.job import Config, Run
from jobs.report.gates import auc_change, gates, vector_drift
from jobs.score.ctr_gate import click_through_gates, last_labelled_rows
from tests.conftest import DAY
from tests.report import tiny_night


def entry(name: str, value: float | None = 1.0, *, passed: bool = True) -> GateEntry:
    return GateEntry(name=name, passed=passed, value=value, at_least=0.5, says="so")


def test_failed_gates_come_first_and_those_without_a_value_last() -> None:
    found = gates(
        [
            entry("coverage.items", None),
            entry("finite.items"),
            entry("auc"),
            entry("recall.items", passed=False),
            entry("brand_new.items"),
        ]
    )
    assert [gate.name for gate in found] == [
        "recall.items",
        "auc",
        "finite.items",
        "brand_new.items",
        "coverage.items",
    ]
    assert (found[1].about, found[2].about) == ("", "items")
    assert found[3].title == "brand_new"  # a gate that this page has no words for


def test_the_change_of_auc_is_read_as_the_gate_writes_it(home) -> None:
    truth, one = tiny_night.prepare(home, DAY)
    other = tiny_night.publish(
        home, DAY, tiny_night.blurred(truth, 1, 0.5), as_text=False, run_key="two"
    )
    splits = Run("report", DAY, Config(), home).read(SPLITS)
    made = list(
        click_through_gates(
            last_labelled_rows(splits, 200),
            open_version(home.store, other),
            open_version(home.store, one),
            min_auc=0.5,
            max_auc_loss=0.01,
        )
    )
    change, rows = auc_change(made)
    assert change is not None
    assert change.low is not None
    assert change.low < change.value < 0
    assert change.high == pytest.approx(made[1].value, abs=1e-4)
    assert rows.endswith("against version 1")


def test_a_publication_that_compared_nothing_says_why() -> None:
    alone = GateEntry(
        name="auc_change", passed=True, at_least=-0.01, says="no version to compare with"
    )
    assert auc_change([alone]) == (None, "no version to compare with")
    assert auc_change([]) == (None, "the publication compared no AUC")


def test_drift_of_vectors_names_the_tables_that_were_compared() -> None:
    entries = [
        entry("overlap.item_semantics", 0.9),
        entry("mean_shift.item_semantics", 0.1),
        entry("overlap.user_factors", None),
    ]
    (found,) = vector_drift(entries)
    assert (found.table, found.overlap, found.mean_shift) == ("item_semantics", 0.9, 0.1)
    assert found.norm_shift is None
