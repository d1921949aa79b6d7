"""What is written down of an execution, and who can tell whose line a log holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
import structlog

from jobs import lineage
from jobs.attempt import Attempt, load_attempt
from jobs.datasets import ITEM_TEXTS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, execute
from tests.conftest import DAY

SCRIPT = textwrap.dedent("""
    import logging, sys, time, warnings
    import pyarrow as pa
    from jobs.datasets import ITEM_TEXTS
    from jobs.job import Config, Declared, main
    from jobs.progress import progress

    class TextsConfig(Config):
        '''A job that others speak in.'''
        pause_s: float = 0.0
        version: int = 41

    def job(config, run):
        warnings.warn("a library warns")
        logging.getLogger("some.library").warning("a library logs")
        with progress("distil", 10, "tokens") as advance:
            advance(10, loss=0.5)
        run.write(ITEM_TEXTS, pa.table({"item_id": [1], "title": ["a"], "text": ["b"]}))
        sys.stdout.write("staged\\n")
        sys.stdout.flush()
        time.sleep(config.pause_s)

    main(Declared("item_texts", TextsConfig, job))
""")


def start(home: Home, *flags: str) -> subprocess.Popen[str]:
    names = {"AIRFLOW_CTX_DAG_RUN_ID": "scheduled__1", "AIRFLOW_CTX_TRY_NUMBER": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "--day", str(DAY), *flags],
        env={**os.environ, **names, "TIDEMARK_HOME": str(home.root), "TIDEMARK_LOG": "json"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def texts(config: Config, run: Run) -> None:
    run.write(ITEM_TEXTS, pa.table({"item_id": [1], "title": ["a"], "text": ["A"]}))


def failing(config: Config, run: Run) -> None:
    raise JobError("item 7: no title; give it one")


def last(home: Home) -> Attempt:
    found = load_attempt(home, "item_texts", DAY)
    assert found is not None
    return found


def events(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lineage.file_of(home, DAY).read_text().splitlines()]


def test_each_way_to_end_is_counted_and_the_last_success_kept(home: Home) -> None:
    execute("item_texts", Config(), DAY, home, texts)
    first = last(home)
    assert (first.status, first.ends, first.error) == ("done", {"done": 1}, None)
    assert first.last_success_at == first.ended_at
    now = datetime.now(UTC).timestamp()
    assert abs(datetime.fromisoformat(first.started_at).timestamp() - now) < 300
    execute("item_texts", Config(), DAY, home, texts)
    second = last(home)
    assert (second.status, second.ends) == ("unchanged", {"done": 1, "unchanged": 1})
    assert second.run != first.run
    with pytest.raises(JobError):
        execute("item_texts", Config(), DAY, home, failing, force=True)
    third = last(home)
    assert (third.status, third.ends["failed"]) == ("failed", 1)
    assert third.error == "item 7: no title; give it one"
    assert third.last_success_at == second.ended_at


def test_a_record_that_is_damaged_or_cannot_be_written_fails_no_job(home: Home) -> None:
    execute("item_texts", Config(), DAY, home, texts)
    home.attempt("item_texts", DAY).write_text("{")
    assert load_attempt(home, "item_texts", DAY) is None
    assert execute("item_texts", Config(), DAY, home, texts).status == "unchanged"
    home.attempt("item_texts", DAY).unlink()
    home.attempt("item_texts", DAY).mkdir()
    assert execute("item_texts", Config(), DAY, home, texts).status == "unchanged"


def test_names_of_a_run_are_on_no_later_line(home: Home) -> None:
    execute("item_texts", Config(), DAY, home, texts)
    assert structlog.contextvars.get_contextvars() == {}


def test_a_killed_run_is_counted_and_aborted_by_the_next_one(home: Home) -> None:
    slow = start(home, "--pause-s", "600")
    assert slow.stdout is not None
    assert slow.stdout.readline() == "staged\n"
    killed = last(home)
    assert killed.status == "running"
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    execute("item_texts", Config(), DAY, home, texts)
    assert last(home).ends == {"killed": 1, "done": 1}
    said = [(each["eventType"], each["run"]["runId"] == killed.run) for each in events(home)]
    assert said == [("START", True), ("ABORT", True), ("START", False), ("COMPLETE", False)]


def test_every_line_for_a_collector_names_run_job_day_and_version(home: Home) -> None:
    began = time.time()
    _, log = start(home).communicate(timeout=300)
    lines = [json.loads(line) for line in log.splitlines()]
    told = [line["event"] for line in lines]
    assert {"progress", "staged", "done", "a library logs"} <= set(told)
    assert any("a library warns" in event for event in told)
    run = last(home).run
    assert uuid.UUID(run)
    for line in lines:
        names = {name: line[name] for name in ("run", "job", "day", "version", "dag_run", "try")}
        assert names == {
            "run": run,
            "job": "item_texts",
            "day": str(DAY),
            "version": 41,
            "dag_run": "scheduled__1",
            "try": "2",
        }, line
        assert datetime.fromisoformat(line["timestamp"]).timestamp() >= began - 1
        assert line["level"] in ("info", "warning")
    (shown,) = [line for line in lines if line["event"] == "progress"]
    assert (shown["what"], shown["done"], shown["total"], shown["loss"]) == ("distil", 10, 10, 0.5)
