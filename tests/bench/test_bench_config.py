"""A bench file that cannot be run ends in one line: file, line, key, and what may stand there."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from jobs.bench.config import BenchConfigError, load_bench
from jobs.bench.entries import FusionEntry, NotMeasuredEntry, TableEntry
from jobs.bench.protocols import Protocol
from jobs.collab.baselines.registry import SYSTEMS
from tests.conftest import ROOT

GOOD = """\
name: mine
title: Mine
day: 2026-03-02
protocol: paper
control: item_mean
systems:
  - name: mf
    system: mf_biases
    settings: {n_factors: 8}
  - name: llm
    system: table
    title: LLM
    scores: [a.parquet, b.parquet]
    tokens: 5
  - name: both
    system: fusion
    of: [mf, llm]
  - name: big
    system: not_measured
    title: Big
    why: needs a GPU
    published: {auc: 0.7606, source: theirs}
"""


def said_of(tmp_path: Path, old: str, new: str) -> str:
    """What is said of the good file with one thing changed; the path is left out."""
    path = tmp_path / "mine.yaml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(BenchConfigError) as raised:
        load_bench(path, SYSTEMS)
    said = str(raised.value)
    assert "\n" not in said
    return said.replace(str(path), "FILE")


def test_a_good_file_gives_its_systems(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD, encoding="utf-8")
    bench = load_bench(path, SYSTEMS)
    assert bench.day == date(2026, 3, 2)
    assert bench.protocol is Protocol.PAPER
    assert [entry.name for entry in bench.systems] == ["mf", "llm", "both", "big"]
    assert isinstance(bench.systems[1], TableEntry)
    assert isinstance(bench.systems[2], FusionEntry)
    assert isinstance(bench.systems[3], NotMeasuredEntry)
    assert load_bench(path, SYSTEMS, seeds=(7,), day=None).seeds == (7,)


def test_an_unknown_setting_is_named_with_its_line_and_the_closest_one(tmp_path: Path) -> None:
    said = said_of(tmp_path, "n_factors", "n_factor")
    assert said.startswith(
        "FILE, line 9: systems[0].settings.n_factor: unknown key; did you mean 'n_factors'? "
        "known here: "
    )
    assert "learning_rate" in said


def test_an_unknown_system_is_named_with_those_there_are(tmp_path: Path) -> None:
    said = said_of(tmp_path, "mf_biases", "mf_biased")
    assert said.startswith(
        "FILE, line 8: systems[0].system: 'mf_biased': did you mean 'mf_biases'? known here: "
    )
    assert said.endswith("table, fusion, not_measured")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: Mine", "titel: Mine", "FILE, line 2: titel: unknown key; did you mean 'title'?"),
        ("protocol: paper", "protocol: papers", "FILE, line 4: protocol: 'papers': Input should"),
        ("n_factors: 8", "n_factors: -1", "FILE, line 9: systems[0].settings.n_factors: '-1': "),
        ("tokens: 5", "token: 5", "FILE, line 14: systems[1].token: unknown key; did you mean 't"),
        (
            "tokens: 5",
            "frozen_scores: [c.parquet]",
            "FILE, line 10: systems[1]: frozen_scores: 1 f",
        ),
        ("of: [mf, llm]", "of: [mf]", "FILE, line 17: systems[2].of: Tuple should have at least 2"),
        ("of: [mf, llm]", "of: [mf, lm]", "FILE: systems: 'both' is of 'lm': did you mean 'llm'?"),
        ("of: [mf, llm]", "of: [mf, both]", "FILE: systems: 'both' is of 'both': known here: item"),
        ("of: [mf, llm]", "of: [mf, mf]", "FILE: systems: 'both' names 'mf' twice"),
        ("why: needs", "whi: needs", "FILE, line 21: systems[3].whi: unknown key; did you mean 'w"),
        ("auc: 0.7606", "acu: 0.76", "FILE, line 22: systems[3].published.acu: unknown key; did "),
        ("control: item_mean", "control: big", "FILE: control: 'big' is not measured; it compares"),
        ("control: item_mean", "control: mf\nalso_against: [x]", "FILE: also_against: 'x': known"),
        ("control: item_mean", "control: lgbm", "FILE: control: 'lgbm': known here: item_mean, "),
        ("name: llm", "name: mf", "FILE: systems: the name 'mf' stands twice"),
        ("protocol: paper", "protocol: nightly", "FILE: systems: 'llm' reads scores, which join"),
        ("name: mine", "name: [mine", "FILE, line 2: no YAML"),
    ],
)
def test_each_mistake_has_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said_of(tmp_path, old, new).startswith(said)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchConfigError, match=r"none\.yaml: cannot be read"):
        load_bench(tmp_path / "none.yaml", SYSTEMS)


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "configs").glob("*.yaml")), ids=str)
def test_every_bench_of_the_project_can_be_run(path: Path) -> None:
    assert load_bench(path, SYSTEMS).day is not None
