"""Shards: what is done stays done, whoever dies, and two processes make what one makes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.datasets import ITEM_SEMANTICS, ITEM_TEXTS
from jobs.errors import JobError
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import Config, Run, execute, mark_checked
from jobs.llm import new_texts
from jobs.llm.distil import DistilConfig, job, sources
from jobs.llm.shards import Shards
from tests.conftest import DAY, ROOT

N, SIZE = 60, 8
TITLES = {n: f"Film {n} of the {n * 7919 % 1000} nights" for n in range(N)} | {N: "Film 0 of the 0"}


def write_texts(home: Home, titles: dict[int, str] = TITLES) -> None:
    table = {
        "item_id": pa.array(titles, pa.int64()),
        "title": list(titles.values()),
        "text": [f"Movie: {title}" for title in titles.values()],
    }
    with Run("item_texts", DAY, Config(), home) as run:
        run.write(ITEM_TEXTS, pa.table(table))
    mark_checked(home, ITEM_TEXTS, DAY)


def config(folder: Path, **settings: Any) -> DistilConfig:
    given = {"model": str(folder), "device": "cpu", "shard_items": SIZE, "n_components": 1}
    return DistilConfig(**(given | settings))


def run_distil(home: Home, folder: Path, **settings: Any) -> str:
    execute("distil", config(folder, **settings), DAY, home, job, sources=sources)
    return sha256_file(home.output(ITEM_SEMANTICS, DAY))


def shards_of(home: Home) -> Path:
    return home.run("distil", DAY) / "shards"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> str:
    """sha256 of the table that a run without trouble writes."""
    home = Home(tmp_path_factory.mktemp("undisturbed"))
    write_texts(home)
    return run_distil(home, tiny_folder)


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each shard sent through the model, which does its work."""
    calls: list[int] = []
    real = new_texts.distil

    def counting(tokens: Any, *arguments: Any, **named: Any) -> np.ndarray:
        calls.append(len(tokens))
        return real(tokens, *arguments, **named)

    monkeypatch.setattr(new_texts, "distil", counting)
    return calls


def test_a_shard_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    shards = Shards(tmp_path / "shards", ["a", "b", "c"], 2, 4, "how")
    raw = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert (len(shards), shards.read(0)) == (2, None)
    shards.write(0, raw)
    assert np.array_equal(shards.read(0), raw)
    content = shards.path(0).read_bytes()
    for damaged in (content[:-5], b"", raw.tobytes()):
        shards.path(0).write_bytes(damaged)
        assert shards.read(0) is None
    shards.write(1, raw)  # two rows for one key
    assert shards.read(1) is None


def test_a_shard_is_known_by_its_texts_and_by_how_they_are_read(tmp_path: Path) -> None:
    def path(keys: list[str], how: str) -> Path:
        return Shards(tmp_path, keys, 2, 4, how).path(0)

    same = path(["a", "b", "c"], "x")
    assert same == path(["a", "b"], "x")
    assert len({same, path(["a", "c"], "x"), path(["b", "a"], "x"), path(["a", "b"], "y")}) == 4


def test_what_belongs_to_other_texts_is_removed(tmp_path: Path) -> None:
    old, new = (Shards(tmp_path, keys, 1, 2, "how") for keys in (["a", "b"], ["b", "c"]))
    for number in (0, 1):
        old.write(number, np.zeros((1, 2), np.float32))
    (tmp_path / ".half.safetensors.77").write_bytes(b"half")
    new.forget_others()
    assert [path.name for path in tmp_path.iterdir()] == [new.path(0).name]


def test_a_finished_run_leaves_no_shards(home: Home, tiny_folder: Path, undisturbed: str) -> None:
    write_texts(home)
    assert run_distil(home, tiny_folder) == undisturbed
    assert not shards_of(home).exists()


def test_shards_of_any_size_give_the_same_vectors_but_for_rounding(
    home: Home, tiny_folder: Path, embedded: list[int]
) -> None:
    import pyarrow.parquet as pq

    write_texts(home)
    found = []
    for size in (1, 7, 1_000):
        run_distil(home, tiny_folder, shard_items=size)
        table = pq.read_table(home.output(ITEM_SEMANTICS, DAY), partitioning=None)
        found.append(np.stack(table["raw"].to_numpy()))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-4)
    assert embedded == [1] * 61 + [7] * 8 + [5] + [61]


def test_a_run_that_failed_goes_on_at_the_shard_where_it_stopped(
    home: Home,
    tiny_folder: Path,
    undisturbed: str,
    monkeypatch: pytest.MonkeyPatch,
    embedded: list[int],
) -> None:
    write_texts(home)
    counting = new_texts.distil

    def failing(tokens: Any, *arguments: Any, **named: Any) -> np.ndarray:
        if len(embedded) == 3:
            raise JobError("the machine is on fire")
        return counting(tokens, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(new_texts, "distil", failing)
        with pytest.raises(JobError, match="on fire"):
            run_distil(home, tiny_folder)
    assert len(list(shards_of(home).iterdir())) == 3
    assert run_distil(home, tiny_folder) == undisturbed
    assert embedded == [8] * 3 + [8] * 4 + [5]


def test_a_damaged_shard_is_made_again(
    home: Home, tiny_folder: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(home)
    monkeypatch.setattr(Run, "discard", lambda run, folder: None)
    run_distil(home, tiny_folder)
    some = sorted(shards_of(home).iterdir())[2]
    some.write_bytes(some.read_bytes()[:100])
    execute("distil", config(tiny_folder), DAY, home, job, sources=sources, force=True)
    assert sha256_file(home.output(ITEM_SEMANTICS, DAY)) == undisturbed


# -- processes that are killed -------------------------------------------------------------------


def command(home: Home, folder: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    line = [sys.executable, "-m", "jobs.llm.distil", "--day", str(DAY), "--model", str(folder)]
    line += ["--device", "cpu", "--shard-items", str(SIZE), "--n-components", "1", *words]
    return line, {**os.environ, "TIDEMARK_HOME": str(home.root), "OMP_NUM_THREADS": "1"}


def test_twenty_kills_at_random_moments_leave_the_same_bytes_in_the_end(
    tmp_path: Path, tiny_folder: Path, undisturbed: str
) -> None:
    home, trial = Home(tmp_path / "home"), Home(tmp_path / "trial")
    for each in (home, trial):
        write_texts(each)
    line, environment = command(home, tiny_folder)
    driver = [sys.executable, "-m", "tests.llm.killed_at_random", "jobs.llm.distil"]
    driver += [str(home.root), str(trial.root), "20", "7", "--", *line[3:]]
    done = subprocess.run(
        driver, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["killed"] >= 5  # those after a finished run have nothing to do
    assert sha256_file(trial.output(ITEM_SEMANTICS, DAY)) == undisturbed
    assert sha256_file(home.output(ITEM_SEMANTICS, DAY)) == undisturbed
    assert not shards_of(home).exists()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
def test_two_processes_share_the_shards_and_write_what_one_writes(
    home: Home, tiny_folder: Path, undisturbed: str
) -> None:
    write_texts(home)
    line, environment = command(home, tiny_folder)
    shared = environment | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(free_port())
    processes = [
        subprocess.Popen(
            line,
            cwd=ROOT,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert json.loads(said[0][0])["status"] == "done"
    assert said[1][0] == ""
    assert sha256_file(home.output(ITEM_SEMANTICS, DAY)) == undisturbed


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(
    home: Home, tiny_folder: Path
) -> None:
    write_texts(home)
    line, environment = command(home, tiny_folder, "--dry-run")
    done = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said["status"] == "dry run"
    assert (said["items"], said["items_to_embed"], said["distinct_texts"]) == (61, 61, 61)
    assert 0 < said["tokens_computed"] < said["tokens"]
    assert said["shards"] == 8
    assert said["computed_tokens_per_s"] > 0
    assert said["peak_memory_mb"] > 0
    assert not home.output(ITEM_SEMANTICS, DAY).exists()
    assert not home.run("distil", DAY).exists()
