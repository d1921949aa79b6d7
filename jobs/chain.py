"""The nightly chain as one process after the other, with or without Airflow around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.errors import JobError
from jobs.home import Home
from jobs.launch import NIGHTLY, arguments

DAG = "nightly_embeddings"


class StepFailed(JobError):
    """A job of the chain ended with an error, which it has already said on stderr."""


def _environment(home: Home) -> dict[str, str]:
    """For child processes: where the state is, and threads that sleep when they wait."""
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    return {**defaults, **os.environ, "TIDEMARK_HOME": str(home.root)}


def _run_job(words: list[str], home: Home) -> dict[str, Any]:
    """Run one job; its last line on stdout is its answer."""
    done = subprocess.run(
        words, env=_environment(home), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise StepFailed(f"{' '.join(words[1:])} ended with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def run_chain(
    day: date, home: Home, console: Console, *, source: str, model: str, force: bool
) -> None:
    """Run `jobs.launch.NIGHTLY` in order, each job followed by the checks of its tables."""
    flags: dict[str, dict[str, object]] = {
        "ingest": {"source": source},
        "distil": {"model": model},
        "project": {"model": model},
    }
    for number, job in enumerate(NIGHTLY, start=1):
        console.print(f"[bold]{number}/{len(NIGHTLY)} {job}[/]")
        started = time.monotonic()
        words = arguments(job, **flags.get(job, {}), force=force or None, day=day)
        said = _run_job(words, home)
        _run_job(arguments("check", producer=job, day=day), home)
        if job == "publish":
            flags["score"] = flags["report"] = {"version": said["version"]}
        console.print(f"    {said['status']} in {time.monotonic() - started:.1f} s")


@contextmanager
def _throwaway_airflow(dags: Path, home: Home) -> Iterator[dict[str, str]]:
    """Environment of an Airflow that lives in a temporary folder, with SQLite and no examples."""
    with tempfile.TemporaryDirectory(prefix="tidemark-airflow-") as folder:
        yield {
            **_environment(home),
            "AIRFLOW_HOME": folder,
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags.absolute()),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        }


def _airflow(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-m", "airflow", *words], env=environment, check=False)
    if done.returncode:
        raise StepFailed(f"airflow {' '.join(words[:3])} ended with status {done.returncode}")


def run_through_airflow(
    day: date, home: Home, console: Console, *, dags: Path, source: str, model: str
) -> None:
    """The same chain as the DAG `nightly_embeddings`, by `airflow dags test`.

    Raises:
        StepFailed: a task failed; its log is on the terminal.
    """
    if not (dags / f"{DAG}.py").is_file():
        raise JobError(
            f"{dags / DAG}.py is not there; run from the project's folder or give --dags"
        )
    with _throwaway_airflow(dags, home) as environment:
        console.print("[bold]airflow[/] setting up a throwaway scheduler database")
        _airflow(["db", "migrate"], environment)
        conf = json.dumps({"source": source, "model": model})
        _airflow(["dags", "test", DAG, str(day), "--conf", conf], environment)
