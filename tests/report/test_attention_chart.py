"""The picture of LLM_DIAGNOSTICS: an SVG that needs nothing from outside."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.report.attention_chart import attention_chart, standalone
from tests.conftest import ROOT

SCHEMA = pa.schema(
    [
        ("measure", pa.string()),
        ("kind", pa.string()),
        ("first_layer", pa.int16()),
        ("last_layer", pa.int16()),
        ("figure", pa.string()),
        ("value", pa.float64()),
    ]
)


def diagnostics(kinds: tuple[str, ...] = ("history", "title", "instruction")) -> pa.Table:
    rows: list[tuple[Any, ...]] = []
    for layer in range(4):
        for number, kind in enumerate(kinds):
            rows.append(
                ("mass", kind, layer, layer, "sink_free", 0.1 + 0.1 * number + 0.05 * layer)
            )
            rows.append(("knockout", kind, layer, layer, "delta_auc", -0.01 * (layer + number)))
        rows.append(("lens", "answer", layer, layer, "auc", 0.5 + 0.03 * layer))
    columns = list(zip(*rows, strict=True))
    return pa.table([list(column) for column in columns], schema=SCHEMA)


def no_network(*_: object, **__: object) -> None:
    raise AssertionError("a chart may not open a connection")


def test_the_chart_renders_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", no_network)
    chart = attention_chart(diagnostics())
    assert chart is not None
    assert "http" not in chart.svg
    for title in ("Attention without the first token", "Change of AUC without it", "own answer"):
        assert title in chart.svg


def test_the_words_beside_it_name_the_layers_that_count() -> None:
    chart = attention_chart(diagnostics())
    assert chart is not None
    said = re.search(r'aria-label="([^"]*)"', chart.svg)
    assert said is not None
    assert "title at most 35% in layer 4" in said[1]
    assert "The answer is best in layer 4: AUC 0.590." in said[1]


def test_soft_tokens_are_drawn_where_there_are_some() -> None:
    with_soft = attention_chart(diagnostics(("user", "item", "history")))
    without = attention_chart(diagnostics())
    assert with_soft is not None
    assert without is not None
    assert "var(--model)" in with_soft.svg
    assert "var(--model)" not in without.svg


def test_an_empty_table_has_no_chart_and_one_measure_has_one() -> None:
    assert attention_chart(SCHEMA.empty_table()) is None
    lens = diagnostics().slice(6, 1)
    assert lens["measure"].to_pylist() == ["lens"]
    assert attention_chart(lens) is not None


def test_a_file_of_its_own_is_well_formed_and_brings_its_colours(tmp_path: Path) -> None:
    pq.write_table(diagnostics(), tmp_path / "data.parquet")
    command = [sys.executable, "-m", "jobs.report.attention_chart"]
    made = subprocess.run(
        [*command, str(tmp_path / "data.parquet"), str(tmp_path / "one.svg")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    used = set(re.findall(r"var\((--[a-z]+)\)", text))
    assert used <= set(re.findall(r"(--[a-z]+):", text))
    chart = attention_chart(diagnostics())
    assert chart is not None
    assert standalone(chart) == text


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "jobs.report.attention_chart", str(tmp_path / "no"), "x.svg"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 2
    assert f"there is no table at {tmp_path / 'no'}" in made.stderr
