"""The nightly chain as one process after the other: without Airflow, or through its DAGs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.errors import JobError
from jobs.home import Home
from jobs.launch import NIGHTLY, arguments
from jobs.manifest import load_manifest
from jobs.night_flags import NightFlags

DAGS = ("nightly_features", "nightly_embeddings", "offline_scoring")  # of a night, in turn
ADAPTATION = "weekly_adapt"  # a night without an adapter begins with it
_STARTING = re.compile(r"\[DAG TEST\] starting task_id=(\w+)")
_JOB_LOGGER = "SubprocessHook"  # what a @task.bash prints goes through it
_HOOKS_OWN = ("Tmp dir root", "Running command", "Output:", "Command exited")


class StepFailed(JobError):
    """A job of the chain ended with an error, which it has already said on stderr."""


def _environment(home: Home) -> dict[str, str]:
    """For child processes: where the state is, and threads that sleep while they wait."""
    defaults = {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    return {**defaults, **os.environ, "TIDEMARK_HOME": str(home.root)}


# -- without Airflow -----------------------------------------------------------------------------


def _run_job(words: list[str], home: Home) -> dict[str, Any]:
    """Run one job; its last line on stdout is its answer."""
    done = subprocess.run(
        words, env=_environment(home), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise StepFailed(
            f"{' '.join(words[1:])} ended with status {done.returncode}; why is said above, and "
            "the same command goes on from there"
        )
    return json.loads(done.stdout.splitlines()[-1])


def run_chain(
    day: date, home: Home, console: Console, *, source: str, model: str, tokens: int, force: bool
) -> None:
    """Run `jobs.launch.NIGHTLY` in order, each job followed by the checks of its tables.

    Args:
        day: the as-of day.
        home: where the state is.
        console: told what runs.
        source: of `ingest`.
        model: the backbone.
        tokens: that each stage of tuning reads; 0 leaves the tuning out.
        force: redo what did not change.

    Raises:
        StepFailed: a job or a check failed; it has said why.
    """
    previous = _run_job(arguments("previous", day=day), home)
    night = NightFlags.of_chain(day, previous, source=source, model=model, tokens=tokens)
    version: int | None = None
    for number, job in enumerate(NIGHTLY, start=1):
        console.print(f"[bold]{number}/{len(NIGHTLY)} {job}[/]")
        if why := night.why_left_out(job):
            console.print(f"    left out: {why}", markup=False)
            continue
        started = time.monotonic()
        words = arguments(job, **night.of(job, version), force=force or None, day=day)
        said = _run_job(words, home)
        _run_job(arguments("check", producer=job, day=day), home)
        if job == "publish":
            version = said["version"]
        console.print(f"    {said['status']} in {time.monotonic() - started:.1f} s")
        if why := said.get("why"):
            console.print(f"    not promoted: {why}", style="yellow", markup=False)


# -- through Airflow -----------------------------------------------------------------------------


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
            "AIRFLOW__LOGGING__JSON_LOGS": "True",
        }


def _told(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """("task", name) and ("job", line) out of Airflow's own log, which is ten times as long."""
    for line in lines:
        try:
            record = json.loads(line)
            event, logger = str(record["event"]), str(record.get("logger", ""))
        except (ValueError, KeyError, TypeError):
            continue
        if starting := _STARTING.match(event):
            yield "task", starting[1]
        elif logger.endswith(_JOB_LOGGER) and not event.startswith(_HOOKS_OWN):
            yield "job", event


def _airflow(words: list[str], environment: dict[str, str], log: Path, console: Console) -> None:
    """Run one airflow command: everything into `log`, tasks and what jobs say to the console."""
    started = time.monotonic()
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            [sys.executable, "-m", "airflow", *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for kind, text in _told(_copied(process.stdout, file)):
            if kind == "task":
                seconds = time.monotonic() - started
                console.print(f"[bold]{text}[/] [dim]after {seconds:.0f} s[/]", highlight=False)
            else:
                console.print(
                    f"    {text}", style="dim", markup=False, highlight=False, soft_wrap=True
                )
    if process.returncode:
        raise StepFailed(
            f"airflow {' '.join(words[:3])} ended with status {process.returncode}; "
            f"the last task above failed, everything is in {log}"
        )


def _copied(lines: Iterable[str], file: Any) -> Iterator[str]:
    for line in lines:
        file.write(line)
        yield line


def run_through_airflow(
    day: date, home: Home, console: Console, *, dags: Path, source: str, model: str, tokens: int
) -> None:
    """The same chain as the DAGs of a night in turn, by `airflow dags test`.

    Raises:
        StepFailed: a task failed.
    """
    for name in (*DAGS, ADAPTATION):
        if not (dags / f"{name}.py").is_file():
            raise JobError(
                f"{dags / name}.py is not there; run from the project's folder or give --dags"
            )
    log = home.root / "runs" / f"airflow-{day}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    features, embeddings, scoring = DAGS
    with _throwaway_airflow(dags, home) as environment:

        def test(dag: str, **params: object) -> None:
            console.print(f"[bold]{dag}[/]", highlight=False)
            words = ["dags", "test", dag, str(day), "--conf", json.dumps(params)]
            _airflow(words, environment, log, console)

        console.print("setting up a throwaway Airflow", style="dim")
        _airflow(["db", "migrate"], environment, log, console)
        test(features, source=source)
        night = {"model": model, "full_tokens": tokens}
        adapter = _run_job(arguments("previous", day=day), home)["adapter"] if tokens else None
        if adapter == str(day):
            test(ADAPTATION, **night, tokens=tokens)
        test(embeddings, **night, tokens=tokens, adapter=adapter)
        test(scoring, model=model, tokens=tokens, version=_published(home, day))


def _published(home: Home, day: date) -> int:
    """The version that the day's `publish` made, promoted or not."""
    manifest = load_manifest(home, "publish", day)
    assert manifest is not None  # its task has succeeded
    return int(manifest.result["version"])
