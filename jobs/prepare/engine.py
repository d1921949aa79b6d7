"""Where the tasks of a job run: in this process, or on a Dask cluster. The answer is the same."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import duckdb
from pydantic import Field

from jobs.errors import JobError, NotAvailable
from jobs.job import DEPLOYMENT, Config
from jobs.query import Limits

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T")
R = TypeVar("R")

_LOCAL_WORKERS = 2
_RETRIES = 3  # of one task, whether its worker died or its network did
_AHEAD = 4  # tasks that a worker may have waiting
_TIMEOUT_S = 10  # to find a cluster by its address
_START = "3 minutes"  # a busy machine imports slowly


class EngineConfig(Config):
    """Fields of every job whose work can be spread over a cluster."""

    engine: Literal["duckdb", "dask"] = Field(
        "duckdb",
        json_schema_extra=DEPLOYMENT,
        description="duckdb: in this process; dask: on a cluster, by default one of two processes",
    )
    dask_address: str | None = Field(
        None,
        json_schema_extra=DEPLOYMENT,
        description="scheduler of a Dask cluster whose workers see the same TIDEMARK_HOME",
    )


class Engine(ABC):
    """Runs one function over many items. A task may run twice, so it must be repeatable.

    Attributes:
        limits: what the DuckDB of one task may use beside others.
        n_scans: into how many tasks a scan of all events is best cut.
        scan_limits: what the DuckDB of each of them may use.
    """

    limits: Limits
    n_scans: int
    scan_limits: Limits

    @abstractmethod
    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """`task(item)` for every item, in the order of `items`.

        `task` is a function of a module, items and results are small: paths and numbers, not rows.
        """


class InProcess(Engine):
    """As many tasks at once as there are threads; a scan is one task with all of them."""

    n_scans = 1

    def __init__(self, limits: Limits) -> None:
        self._n_threads = limits.threads or os.cpu_count() or 1
        self.limits, self.scan_limits = limits.shared(self._n_threads), limits

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """See `Engine.map`."""
        with ThreadPoolExecutor(self._n_threads) as pool:
            yield from pool.map(task, items)


class OnDask(Engine):
    """Tasks go to the workers of a cluster; what a dead worker had is done again by another."""

    def __init__(self, client: Client, limits: Limits) -> None:
        self._client = client
        self._n_workers = len(client.scheduler_info(n_workers=-1)["workers"])
        self.n_scans = self._n_workers * _AHEAD
        self.limits = self.scan_limits = replace(limits, threads=1)

    def map(self, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """See `Engine.map`."""
        waiting: deque[Future[Any]] = deque()
        for item in items:
            waiting.append(self._client.submit(task, item, pure=False, retries=_RETRIES))
            if len(waiting) >= self._n_workers * _AHEAD:
                yield self._result(waiting.popleft())
        while waiting:
            yield self._result(waiting.popleft())

    def _result(self, future: Future[Any]) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            raise JobError(
                f"dask: {error} If it was memory, give TIDEMARK_MEMORY_LIMIT less than a worker has"
            ) from error
        except (FileNotFoundError, duckdb.IOException) as error:
            raise JobError(
                f"dask worker: {error}; TIDEMARK_HOME must be a folder that all workers see"
            ) from error


@contextmanager
def open_engine(config: EngineConfig, limits: Limits | None = None) -> Iterator[Engine]:
    """The engine that `config` asks for.

    Args:
        config: `engine`, and `dask_address` of a running scheduler; without an address, a cluster
            of two processes is started on this machine and ends with the context.
        limits: what one machine may use; from the environment by default.

    Raises:
        NotAvailable: no scheduler answers at the address, or Dask is not installed.
    """
    limits = limits or Limits.from_environment()
    if config.engine == "duckdb":
        yield InProcess(limits)
        return
    try:
        import distributed  # noqa: F401  (only this engine needs it, and it takes a second)
    except ImportError as error:
        raise NotAvailable(
            'engine dask is not installed: pip install "tidemark[prepare]"'
        ) from error
    if config.dask_address:
        with _client_of(config.dask_address) as client:
            yield OnDask(client, limits)
        return
    with _local_client() as client:
        yield OnDask(client, limits.shared(_LOCAL_WORKERS))


@contextmanager
def _client_of(address: str) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(address, timeout=_TIMEOUT_S, set_as_default=False)  # type: ignore[no-untyped-call]
        client.wait_for_workers(1, timeout=_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise NotAvailable(
            f"no Dask scheduler with a worker answers at '{address}' within {_TIMEOUT_S} s "
            f"(--dask-address, for instance tcp://host:8786): {error}"
        ) from error
    with client:
        yield client


@contextmanager
def _local_client() -> Iterator[Client]:
    """Two processes on this machine, on loopback and without a dashboard: nobody else is meant.

    The memory limit is DuckDB's, not the nanny's, which kills what it could have let spill.
    """
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set({"distributed.comm.timeouts.connect": _START}):
        try:
            cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=_LOCAL_WORKERS,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,
            )
        except (RuntimeError, TimeoutError) as error:
            raise NotAvailable(
                f"no Dask cluster of {_LOCAL_WORKERS} processes started here within {_START}: "
                f"{error}; is the machine too busy? --engine duckdb needs none"
            ) from error
        with cluster, Client(cluster, set_as_default=False) as client:  # type: ignore[no-untyped-call]
            yield client
