"""The bars under the attention chart: what changing soft tokens costs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pyarrow as pa

from jobs.report.attention_chart import NARROW, attention_chart, standalone
from tests.report.test_attention_chart import SCHEMA, diagnostics


def with_interventions(kinds: tuple[str, ...] = ("user", "item", "warm", "all")) -> pa.Table:
    rows: list[tuple[Any, ...]] = []
    for number, kind in enumerate(kinds):
        for name, change in (("mean", -0.02), ("shuffled", -0.05), ("unknown", -0.03)):
            value = change * (1 + number)
            for end, off in (("", 0.0), ("_low", -0.01), ("_high", 0.01)):
                figure = f"{name}_delta_auc{end}"
                rows.append(("intervention", kind, 0, 29, figure, value + off))
    rows.append(("intervention", "user", 0, 29, "users_swapped_delta_auc", -0.01))
    columns = [list(column) for column in zip(*rows, strict=True)]
    lines = diagnostics((*kinds[:-1], "history", "title"))
    return pa.concat_tables([lines, pa.table(columns, schema=SCHEMA)])


def test_each_kind_has_a_bar_for_each_intervention_and_words_that_say_it() -> None:
    chart = attention_chart(with_interventions(), NARROW)
    assert chart is not None
    for label in ("user: swapped", "item: shuffled", "warm: averaged", "all: unknown"):
        assert f">{label}<" in chart.svg
    said = re.search(r'aria-label="([^"]*)"', chart.svg)
    assert said is not None
    assert "item: averaged -0.040, item: shuffled -0.100" in said[1]
    assert "exchanged between rows" in chart.caption


def test_the_lines_of_soft_tokens_keep_their_colours_beside_the_bars() -> None:
    chart = attention_chart(with_interventions())
    assert chart is not None
    for colour in ("--model", "--warm", "--better", "--ink"):
        assert re.search(rf'stroke="var\({colour}\)"', chart.svg)
        assert re.search(rf'fill="var\({colour}\)"', chart.svg)
    file = standalone(chart)
    assert ET.fromstring(file).tag == "{http://www.w3.org/2000/svg}svg"
    assert set(re.findall(r"var\((--[a-z]+)\)", file)) <= set(re.findall(r"(--[a-z]+):", file))


def test_bars_alone_are_a_chart_and_without_soft_tokens_there_are_none() -> None:
    table = with_interventions(("item", "all"))
    bars = attention_chart(table.slice(diagnostics(("item", "history", "title")).num_rows))
    assert bars is not None
    assert "Change of AUC with other soft tokens" in bars.svg
    plain = attention_chart(diagnostics())
    assert plain is not None
    assert "other soft tokens" not in plain.svg
