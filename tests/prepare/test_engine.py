"""Engines run tasks in order, on one machine or a cluster, and a dead worker's tasks once more."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from threading import Thread

import pytest
from distributed import LocalCluster

from jobs.errors import JobError, NotAvailable
from jobs.job import Config
from jobs.prepare.arrivals.ahead import ahead
from jobs.prepare.engine import EngineConfig, open_engine
from jobs.query import Limits

ON_DASK = EngineConfig(engine="dask")
ENGINES = [EngineConfig(), ON_DASK]


def doubled(n: int) -> int:
    return 2 * n


def refused(n: int) -> int:
    raise ValueError(f"not {n}")


def text_of(path: Path) -> str:
    return path.read_text()


def pid_of(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def slowly_doubled(task: tuple[Path, int]) -> int:
    """Says in a file who works on it, so that a test knows whom to kill, and when."""
    folder, n = task
    (folder / f"{n}-{os.getpid()}").touch()
    time.sleep(0.2)
    return 2 * n


@pytest.mark.parametrize("config", ENGINES, ids=lambda c: c.engine)
def test_results_come_in_the_order_of_the_items(config: EngineConfig) -> None:
    with open_engine(config) as engine:
        assert list(engine.map(doubled, range(30))) == list(range(0, 60, 2))
        assert list(engine.map(doubled, [])) == []


@pytest.mark.parametrize("config", ENGINES, ids=lambda c: c.engine)
def test_what_a_task_raises_is_raised(config: EngineConfig) -> None:
    with open_engine(config) as engine, pytest.raises(ValueError, match="not 3"):
        list(engine.map(refused, [3]))


def test_dask_works_in_two_processes_and_neither_is_this_one() -> None:
    with open_engine(ON_DASK) as engine:
        pids = set(engine.map(pid_of, range(40)))
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_a_cluster_is_used_by_its_address() -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        config = EngineConfig(engine="dask", dask_address=cluster.scheduler_address)
        with open_engine(config) as engine:
            assert list(engine.map(doubled, [4])) == [8]


def test_no_scheduler_at_the_address_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.prepare.engine._TIMEOUT_S", 1)
    config = EngineConfig(engine="dask", dask_address="tcp://127.0.0.1:9")
    with pytest.raises(NotAvailable, match=r"tcp://127\.0\.0\.1:9.*--dask-address"):
        open_engine(config).__enter__()


def test_a_worker_that_does_not_see_the_home_says_so(tmp_path: Path) -> None:
    with (
        open_engine(ON_DASK) as engine,
        pytest.raises(JobError, match=r"nowhere.*TIDEMARK_HOME must be a folder that all workers"),
    ):
        list(engine.map(text_of, [tmp_path / "nowhere"]))


def test_a_killed_workers_tasks_are_done_again(tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_the_first() -> None:
        while not (started := list(tmp_path.iterdir())):
            time.sleep(0.01)
        pid = int(started[0].name.split("-")[1])
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    with open_engine(ON_DASK) as engine:
        list(engine.map(doubled, [0]))  # both workers are up
        killer = Thread(target=kill_the_first)
        killer.start()
        found = list(engine.map(slowly_doubled, [(tmp_path, n) for n in range(8)]))
        killer.join()
    assert found == [2 * n for n in range(8)]
    assert killed != [os.getpid()]
    starts = [file.name.split("-")[0] for file in tmp_path.iterdir()]
    assert len(starts) > len(set(starts))  # what the dead worker had begun began once more


def test_memory_and_threads_are_shared_out_among_tasks() -> None:
    with open_engine(EngineConfig(), Limits("4GiB", 2)) as engine:
        assert engine.scan_limits == Limits("4GiB", 2)
        assert engine.limits == Limits(f"{2 << 30} B", 1)


def test_where_the_work_is_done_redoes_nothing() -> None:
    """`Run.unchanged` leaves fields aside that are declared so."""
    aside = {
        name
        for name, field in EngineConfig.model_fields.items()
        if field.json_schema_extra == {"decides_output": False}
    }
    assert aside == EngineConfig.model_fields.keys() - Config.model_fields.keys()


class TestAhead:
    def test_items_come_in_order(self) -> None:
        assert list(ahead(range(100))) == list(range(100))
        assert list(ahead([])) == []

    def test_what_the_source_raises_is_raised_in_its_place(self) -> None:
        items = ahead(1 // n for n in (1, 0))
        assert next(items) == 1
        with pytest.raises(ZeroDivisionError):
            next(items)

    def test_the_rest_can_be_left(self) -> None:
        items = ahead(iter(range(1_000_000)))
        assert next(items) == 0
        items.close()
