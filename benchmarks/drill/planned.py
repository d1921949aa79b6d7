"""Faults on a scheduler that have a night of their own: bad input, or a gate that refuses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from drill.faults import Kind, Seen
from drill.inputs import flip
from drill.invariants import production
from drill.mappings import GOOD, MISTAKES, NAME
from drill.on_scheduler import PART, set_slots
from drill.stage import EMBEDDINGS, FEATURES, Stage
from jobs.datasets import ITEM_TEXTS
from jobs.job import load_manifest

_TRIES = 3
MISTAKE = "misspelt key"


@contextmanager
def _own_source(stage: Stage) -> Iterator[Path]:
    source = stage.home.root.with_name("raw-of-a-bad-night")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(stage.nights.world.source, source)
    yield source
    shutil.rmtree(source)


def _failed(stage: Stage, seen: Seen, run: str, task: str, word: str) -> None:
    """The run fails after all tries of a task, and its log says why; production stays."""
    before = production(stage.home)
    stage.airflow.wait(FEATURES, run, state="failed")
    log = stage.airflow.task_log(FEATURES, run, task, _TRIES)
    seen.expect(word in log, f"the log of {task} does not say '{word}': {log[-500:]}")
    seen.expect("Traceback" not in log.split("Running command")[-1], f"a traceback: {log[-800:]}")
    seen.expect(production(stage.home) == before, "production moved")


def bad_mapping(what: str, stage: Stage) -> Seen:
    """A mistake in the mapping; mended, and the failed task cleared."""
    old, new, word = MISTAKES[what]
    seen = Seen(end=f"`{new}` for `{old}`", recovered_by="mend the line, clear the task")
    with _own_source(stage) as source:
        good = GOOD.read_text(encoding="utf-8")
        (source / NAME).write_text(good.replace(old, new, 1), encoding="utf-8")
        conf = {"source": str(source)}
        run = stage.airflow.trigger(FEATURES, day=str(stage.day), conf=conf)
        _failed(stage, seen, run, "ingest", word)
        (source / NAME).write_text(good, encoding="utf-8")
        stage.clear(FEATURES, run)
        stage.airflow.wait(FEATURES, run)
    return seen


def bad_delivery(what: str, stage: Stage) -> Seen:
    """The newest delivery has a column of another name; put right, and the failed task cleared."""
    seen = Seen(end=what, recovered_by="put the file right, clear the task")
    with _own_source(stage) as source:
        delivery = source / "ratings" / f"{stage.day - timedelta(days=1)}.csv"
        good = delivery.read_text(encoding="utf-8")
        delivery.write_text(good.replace("rated_at", "when", 1), encoding="utf-8")
        conf = {"source": str(source)}
        run = stage.airflow.trigger(FEATURES, day=str(stage.day), conf=conf)
        _failed(stage, seen, run, "ingest", delivery.name)
        delivery.write_text(good, encoding="utf-8")
        stage.clear(FEATURES, run)
        stage.airflow.wait(FEATURES, run)
    return seen


def bad_table(what: str, stage: Stage) -> Seen:
    """A bit of the texts flips before distil reads them: their job again, then distil."""
    seen = Seen(end=what, recovered_by="clear item_texts, then distil")
    airflow = stage.airflow
    set_slots(stage, 0)
    first = airflow.trigger(FEATURES, day=str(stage.day))
    airflow.wait(FEATURES, first)
    airflow.until(lambda: EMBEDDINGS in stage.runs(), "the embeddings of the day have begun")
    run = stage.runs()[EMBEDDINGS]["dag_run_id"]
    airflow.wait_for_task(EMBEDDINGS, run, "distil", ("scheduled",))
    flip(stage.home.output(ITEM_TEXTS, stage.day), stage.random)
    set_slots(stage, 1)
    airflow.wait(EMBEDDINGS, run, state="failed")
    log = airflow.task_log(EMBEDDINGS, run, "distil", _TRIES)
    seen.expect("item_texts" in log and "run that job again" in log, f"distil said {log[-500:]}")
    stage.clear(FEATURES, first, "item_texts")
    airflow.wait(FEATURES, first)
    stage.clear(EMBEDDINGS, run)
    airflow.wait(EMBEDDINGS, run)
    return seen


def dead_backbone(what: str, stage: Stage) -> Seen:
    """A night is run again with a backbone whose weights are all zero: a gate refuses.

    Run once more with the right one, it finds the version that it had published.
    """
    seen = Seen(end=what, recovered_by="the night again with the right model")
    airflow = stage.airflow
    airflow.wait(FEATURES, airflow.trigger(FEATURES, day=str(stage.day)))
    stage.wait_for_the_end(seen)
    before, day = production(stage.home), str(stage.day)
    model = _dead(stage.home.root.with_name("dead-backbone"))
    run = airflow.trigger(EMBEDDINGS, conf={"day": day, "model": str(model)})
    airflow.wait(EMBEDDINGS, run)
    states = airflow.states(EMBEDDINGS, run)
    seen.expect(states["announce_versions"] == "skipped", f"the tasks are {states}")
    seen.expect(production(stage.home) == before, f"production is {production(stage.home)}")
    said = load_manifest(stage.home, "publish", stage.day)
    seen.expect(said is not None and not said.result["promoted"], "the version was promoted")
    seen.end += f": {said.result.get('why') if said else ''}"
    airflow.wait(EMBEDDINGS, airflow.trigger(EMBEDDINGS, conf={"day": day}))
    seen.expect(production(stage.home) == before, f"production is {production(stage.home)}")
    return seen


def _dead(folder: Path) -> Path:
    from tests.tiny_backbone import write_tiny_backbone  # imports torch

    shutil.rmtree(folder, ignore_errors=True)
    write_tiny_backbone(folder)
    weights = load_file(folder / "model.safetensors")
    zeros = {name: np.zeros_like(one) for name, one in weights.items()}
    save_file(zeros, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


PLANNED = [
    Kind(
        name="bad-mapping",
        expected="the task fails after its tries and says which line is wrong; production stays",
        recovery="mend the line, clear the task",
        times={MISTAKE: 1},
        strike=bad_mapping,
        part=PART,
    ),
    Kind(
        name="corrupt-input",
        expected="the task fails after its tries and names the file; production stays",
        recovery="put the file right, clear the task",
        times={"delivery with other columns": 1},
        strike=bad_delivery,
        part=PART,
    ),
    Kind(
        name="corrupt-input",
        expected="the task fails after its tries and names the job that makes the table",
        recovery="clear that job, then the task",
        times={"table with flipped bits": 1},
        strike=bad_table,
        part=PART,
    ),
    Kind(
        name="gate-refuses",
        expected="the night succeeds, announce_versions is skipped, production stays",
        recovery="the night again with the right model",
        times={"dead backbone": 1},
        strike=dead_backbone,
        part=PART,
    ),
]
