"""OpenMetrics text, read back by Prometheus's own parser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as as_node_exporter

from jobs.attempt import load_attempt
from jobs.datasets import ITEM_TEXTS, PUBLICATIONS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, execute
from jobs.open_metrics import Family, exposition
from tests.conftest import DAY

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def texts(config: Config, run: Run) -> None:
    run.write(ITEM_TEXTS, pa.table({"item_id": [1, 2], "title": ["a", "b"], "text": ["A", "B"]}))
    run.metric('odd "name"\\', 1.5)
    run.metric("n_tokens", 12)


def failing(config: Config, run: Run) -> None:
    raise JobError("no")


def refused(config: Config, run: Run) -> None:
    row = {"version": [4], "run_key": ["k"], "alias": ["production"], "promoted": [False]}
    run.write(PUBLICATIONS, pa.table(row))
    run.metric("n_gates_failed", 2)
    run.result = {"version": 4, "promoted": False, "alias": "production", "why": "auc"}


def parsed(text: str) -> Samples:
    found: Samples = {}
    families: Any = text_string_to_metric_families
    for family in families(text):
        for sample in family.samples:
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


def value(found: Samples, name: str, **labels: Any) -> float:
    return found[name, frozenset(labels.items())]


def test_figures_of_a_job_are_those_of_its_manifest_and_attempts(home: Home) -> None:
    outcome = execute("item_texts", Config(), DAY, home, texts)
    execute("item_texts", Config(), DAY, home, texts)
    with pytest.raises(JobError):
        execute("item_texts", Config(), DAY, home, failing, force=True)
    found = parsed(exposition(home, 7))
    of = {"job": "item_texts", "day": str(DAY)}
    assert value(found, "tidemark_job_duration_seconds", **of) == outcome.manifest.seconds
    assert value(found, "tidemark_job_output_rows", **of) == 2
    assert value(found, "tidemark_job_tokens", **of) == 12
    memory = value(found, "tidemark_job_peak_memory_bytes", **of)
    assert memory == outcome.manifest.peak_memory_bytes
    assert value(found, "tidemark_job_figure", **of, figure='odd "name"\\') == 1.5
    assert value(found, "tidemark_job_last_run", **of, status="failed") == 1
    runs = {
        end: value(found, "tidemark_job_runs_total", **of, status=end)
        for end in ("done", "unchanged", "failed", "killed")
    }
    assert runs == {"done": 1, "unchanged": 1, "failed": 1, "killed": 0}
    success = value(found, "tidemark_job_last_success_timestamp_seconds", **of)
    last = load_attempt(home, "item_texts", DAY)
    assert last is not None
    assert last.last_success_at is not None
    assert success == datetime.fromisoformat(last.last_success_at).timestamp()
    assert abs(success - datetime.now(UTC).timestamp()) < 300


def test_a_version_that_was_not_promoted_is_seen(home: Home) -> None:
    execute("publish", Config(), DAY, home, refused)
    found = parsed(exposition(home, 7))
    assert value(found, "tidemark_promotion_refused", day=str(DAY)) == 1
    assert value(found, "tidemark_gates_failed", day=str(DAY)) == 2
    assert not any(name == "tidemark_alias_version" for name, _ in found)


def test_only_the_latest_days_are_told(home: Home) -> None:
    for n_days in (0, 1, 5):
        execute("item_texts", Config(), DAY - timedelta(days=n_days), home, texts)
    found = parsed(exposition(home, 2))
    days = {dict(labels)["day"] for _, labels in found if "day" in dict(labels)}
    assert days == {str(DAY), str(DAY - timedelta(days=1))}


def test_an_empty_home_tells_which_code_is_installed_and_nothing_else(home: Home) -> None:
    found = parsed(exposition(home, 7))
    assert [name for name, _ in found] == ["tidemark_build_info"]


def test_the_collector_of_text_files_reads_it_too(home: Home) -> None:
    # It reads Prometheus's older text format, in which what OpenMetrics adds are comments.
    execute("item_texts", Config(), DAY, home, texts)
    names = {s.name for f in as_node_exporter(exposition(home, 7)) for s in f.samples}
    assert {"tidemark_job_duration_seconds", "tidemark_job_runs_total"} <= names


def test_labels_are_escaped_and_numbers_kept_exactly() -> None:
    family = Family("a_figure", "gauge", "Of a test.")
    family.add(0.1, place='C:\\ "x"\n')
    family.add(float(2**60), place="large")
    family.add(None, place="unknown")
    text = "\n".join([*family.lines(), "# EOF", ""])
    found = parsed(text)
    assert value(found, "a_figure", place='C:\\ "x"\n') == 0.1
    assert value(found, "a_figure", place="large") == 2**60
    assert len(found) == 2


def test_the_command_replaces_a_file_whole(home: Home, tmp_path: Path) -> None:
    import subprocess
    import sys

    execute("item_texts", Config(), DAY, home, texts)
    target = tmp_path / "collector" / "tidemark.prom"
    words = [sys.executable, "-m", "jobs.cli", "metrics", "--output", str(target)]
    environment = {"TIDEMARK_HOME": str(home.root), "PATH": "/usr/bin:/bin"}
    subprocess.run(words, env=environment, check=True, timeout=300)
    assert parsed(target.read_text(encoding="utf-8"))
    assert [path.name for path in target.parent.iterdir()] == ["tidemark.prom"]
