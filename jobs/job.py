"""The job contract: a frozen config, `job(config, run)`, and a manifest written last."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load_file, save_file

from jobs.answer import answer
from jobs.attempt import Told, named
from jobs.command_line import parse
from jobs.committed import is_checked as is_checked
from jobs.committed import is_whole, required, source_artifacts
from jobs.committed import mark_checked as mark_checked
from jobs.contract import Conforming, RowGroups, conform
from jobs.datasets import BY_NAME, Dataset, Format
from jobs.decision import Asked, Intact, Reason, reasons
from jobs.errors import JobError, NotAvailable
from jobs.failures import EXIT_BUSY as EXIT_BUSY
from jobs.failures import EXIT_FAILED as EXIT_FAILED
from jobs.failures import told
from jobs.files import sha256_file, sync_directory, sync_file, write_atomically
from jobs.home import Home
from jobs.launch import MODULES
from jobs.lock import take_lock
from jobs.logs import configure_logs
from jobs.manifest import Artifact, Manifest, code_version, peak_memory_bytes
from jobs.manifest import load_manifest as load_manifest

_ROW_GROUP = 65_536


class Config(BaseModel):
    """What decides a job's output, apart from its inputs and its day. Unknown keys are errors.

    A field that is declared with `Field(..., json_schema_extra=DEPLOYMENT)` says where the work is
    done (an engine, an address): it goes into the manifest, but another value redoes nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


DEPLOYMENT: dict[str, Any] = {"decides_output": False}


def deployment_fields(config: Config) -> frozenset[str]:
    """Fields that say where the work is done and decide nothing about its output."""
    fields = type(config).model_fields.items()
    return frozenset(name for name, field in fields if field.json_schema_extra == DEPLOYMENT)


C = TypeVar("C", bound=Config)
Job = Callable[[C, "Run"], None]
Estimate = Callable[[C, "Run"], dict[str, Any]]
Sources = Callable[[C, date, Home], Iterable[Path | Artifact]]


class Run:
    """One job on one day: reads, staged writes, the lock and the manifest.

    Use as a context manager. Leaving it normally gives the staged outputs their names and writes
    the manifest; leaving it by an exception leaves the outputs of the last good run as they were.

    Args:
        job: name in `jobs.launch.MODULES`.
        day: the as-of day; the day itself is the future.
        config: goes into the manifest whole.
        home: root of all state.
        sources: files from outside the home that the job will read; hashed as inputs, unless
            they come as artifacts, whose hash is known.
        wait_s: how long to wait for another run of this job and day before refusing.
    """

    def __init__(
        self,
        job: str,
        day: date,
        config: Config,
        home: Home,
        *,
        sources: Iterable[Path | Artifact] = (),
        wait_s: float = 0.0,
    ) -> None:
        self.job, self.day, self.config, self.home = job, day, config, home
        self._sources = tuple(sources)
        self.log = structlog.get_logger().bind(job=job, day=str(day))
        self.result: dict[str, Any] = {}
        self._wait_s = wait_s
        self._folder = home.run(job, day)
        self._staging = self._folder / "staging"
        self._metrics: dict[str, float] = {}
        self._inputs: dict[str, Artifact] = {}
        self._outputs: dict[str, Artifact] = {}
        self._lock: IO[str] | None = None
        self._told: Told | None = None
        self._standing: Manifest | None = None
        self._hashed_sources: list[Artifact] | None = None
        self._discarded: list[Path] = []

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Take the lock of this job and day and clear what a killed run left behind."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self._folder / "lock", self._wait_s, self.log)
        shutil.rmtree(self._staging, ignore_errors=True)
        self._remove_damaged_manifest()
        self._started = time.monotonic()
        return self

    def _remove_damaged_manifest(self) -> None:
        """A manifest that rotted on the disk is none: the work is done again, and says so."""
        try:
            load_manifest(self.home, self.job, self.day)
        except NotAvailable as error:
            self.log.warning("removed: no manifest means no output", why=str(error))
            self.home.manifest(self.job, self.day).unlink()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit on success, discard on failure, release the lock in any case."""
        failure = error
        try:
            if kind is None and self._outputs:
                self._commit()
        except BaseException as raised:
            failure = raised
            raise
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            if failure is not None:
                failure.add_note(f"it had read: {', '.join(self._inputs) or 'nothing'}")
            self._tell(failure)
            assert self._lock is not None
            self._lock.close()  # the kernel drops the lock with the last descriptor, also on kill

    def _tell(self, failure: BaseException | None) -> None:
        if self._told is None:
            return
        standing = self._standing
        made = None if failure else standing or load_manifest(self.home, self.job, self.day)
        self._told.end(failure, made, "unchanged" if standing else "done")

    def _commit(self) -> None:
        """Outputs first, manifest last; between the two there is no output, never half of one."""
        manifest = self.home.manifest(self.job, self.day)
        for name in self._outputs:
            sync_file(self._staged(BY_NAME[name]))
        manifest.unlink(missing_ok=True)
        sync_directory(self._folder)
        for name in self._outputs:
            target = self.home.output(BY_NAME[name], self.day)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._staged(BY_NAME[name]).replace(target)
            sync_directory(target.parent)
        write_atomically(manifest, self._manifest().model_dump_json(indent=2))
        for folder in self._discarded:
            shutil.rmtree(folder, ignore_errors=True)

    def _manifest(self) -> Manifest:
        return Manifest(
            job=self.job,
            day=str(self.day),
            config=self.config.model_dump(mode="json"),
            code_version=code_version(),
            seed=getattr(self.config, "seed", None),
            sources=self._source_artifacts(),
            inputs=self.inputs,
            outputs=list(self._outputs.values()),
            metrics=self._metrics,
            result=self.result,
            seconds=round(time.monotonic() - self._started, 3),
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _source_artifacts(self) -> list[Artifact]:
        if self._hashed_sources is None:
            self._hashed_sources = source_artifacts(self._sources)
        return self._hashed_sources

    def unchanged(self, intact: Intact | None = None) -> Manifest | None:
        """The manifest of an earlier run with this config and these inputs, if its outputs stand.

        The code's version is recorded but not compared: a deploy alone redoes nothing.
        """
        last = load_manifest(self.home, self.job, self.day)
        return None if self.reasons(last, intact) else last

    def reasons(self, last: Manifest | None, intact: Intact | None = None) -> list[Reason]:
        """Why the work has to be done in spite of `last`; nothing if it has not."""
        asked = Asked(
            job=self.job,
            day=self.day,
            config=self.config.model_dump(mode="json"),
            aside=deployment_fields(self.config),
            sources=self._source_artifacts,
            intact=intact,
        )
        return list(reasons(last, asked, self.home))

    def comes_from(self, sources: Iterable[Path | Artifact]) -> None:
        """Which files from outside the home the job will read, as `sources` of the class."""
        self._sources = tuple(sources)

    def ends_with(self, teller: Told) -> None:
        """Who is to tell how this run ends."""
        self._told = teller

    def standing(self, intact: Intact | None = None) -> Manifest | None:
        """As `unchanged`; where nothing is to do, the run ends so."""
        self._standing = self.unchanged(intact)
        return self._standing

    @property
    def has_written(self) -> bool:
        """Whether anything is staged."""
        return bool(self._outputs)

    # -- reading ---------------------------------------------------------------------------------

    def locate(self, dataset: Dataset) -> Path:
        """Path of the day's snapshot of `dataset`, verified and recorded as an input.

        Raises:
            NotAvailable: no manifest names it, its bytes are not the manifest's, or its checks
                have not passed.
        """
        artifact = required(self.home, dataset, self.day)
        path = self.home.root / artifact.path
        if not is_whole(path, artifact.sha256):
            raise NotAvailable(
                f"{path} is not the file that the manifest of job '{dataset.producer}' names "
                f"(sha256 {artifact.sha256[:12]}...); run that job again for {self.day}"
            )
        if dataset.format is Format.PARQUET and not is_checked(self.home, dataset, self.day):
            raise NotAvailable(
                f"{dataset.name} of {self.day} has not passed its checks; "
                f"run: python -m jobs.check --producer {dataset.producer} --day {self.day}"
            )
        self._inputs[dataset.name] = artifact
        return path

    @property
    def inputs(self) -> list[Artifact]:
        """What has been read so far."""
        return list(self._inputs.values())

    def read(self, dataset: Dataset) -> pa.Table:
        """The day's snapshot of a table; raises as `locate` does."""
        return pq.read_table(self.locate(dataset), partitioning=None, memory_map=True)

    def read_tensors(self, dataset: Dataset) -> dict[str, np.ndarray]:
        """The day's snapshot of a set of weights; raises as `locate` does."""
        return load_file(self.locate(dataset))

    # -- writing ---------------------------------------------------------------------------------

    def write(self, dataset: Dataset, table: pa.Table) -> None:
        """Stage a table that meets its contract, sorted by key.

        Raises:
            ContractError: see `jobs.contract.conform`.
        """
        table = conform(dataset, table)
        with _parquet_writer(self._stage(dataset, Format.PARQUET), table.schema) as writer:
            if table.num_rows:  # no row group without rows, as in a stream
                writer.write_table(table, row_group_size=_ROW_GROUP)
        self._record(dataset, table.num_rows)

    def write_stream(
        self, dataset: Dataset, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
    ) -> int:
        """Stage a table that is larger than memory, given in the order of its key.

        The bytes are those of `write` with the same rows, however they are cut into batches.

        Args:
            dataset: what the table is.
            schema: of every batch.
            batches: rows in ascending order of the key.

        Returns:
            How many rows were written.

        Raises:
            ContractError: see `jobs.contract.Conforming`.
        """
        conforming, rows = Conforming(dataset, schema), RowGroups(_ROW_GROUP)
        with _parquet_writer(self._stage(dataset, Format.PARQUET), schema) as writer:
            for batch in batches:
                for group in rows.add(conforming.checked(batch)):
                    writer.write_table(group, row_group_size=_ROW_GROUP)
            for group in rows.rest():
                writer.write_table(group, row_group_size=_ROW_GROUP)
        self._record(dataset, conforming.n_rows)
        return conforming.n_rows

    def write_tensors(self, dataset: Dataset, tensors: Mapping[str, np.ndarray]) -> None:
        """Stage a set of weights as safetensors."""
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                raise JobError(
                    f"{dataset.name}: tensor '{name}' holds NaN or infinity: training has "
                    "diverged; try a lower rate of learning, or --dtype float32"
                )
        save_file(dict(tensors), self._stage(dataset, Format.SAFETENSORS))
        self._record(dataset, None)

    def write_text(self, dataset: Dataset, text: str) -> None:
        """Stage a JSON or HTML document."""
        self._stage(dataset, dataset.format).write_text(text, encoding="utf-8")
        self._record(dataset, None)

    def staged(self, dataset: Dataset) -> Path:
        """Where a table lies that this run has written, for a query over what follows from it."""
        if dataset.name not in self._outputs:
            raise ValueError(f"job '{self.job}' has not written {dataset.name} yet")
        return self._staged(dataset)

    def workspace(self) -> Path:
        """An empty folder for what a job larger than memory puts aside; gone when the run ends.

        It lies below the home, so the workers of a cluster see it too.
        """
        folder = self._staging / "workspace"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def metric(self, name: str, value: float) -> None:
        """Record a figure in the manifest and the log; one that is no number only in the log."""
        if not math.isfinite(value):  # the manifest would say null, and be damaged for its readers
            self.log.warning("no figure", name=name, value=str(value))
            return
        self._metrics[name] = float(value)
        self.log.info("metric", name=name, value=round(float(value), 5))

    def discard(self, folder: Path) -> None:
        """Remove a folder of half-way results once the manifest makes them needless."""
        self._discarded.append(folder)

    def _staged(self, dataset: Dataset) -> Path:
        return self._staging / f"{dataset.name}.{dataset.format.value}"

    def _stage(self, dataset: Dataset, given: Format) -> Path:
        if dataset.producer != self.job or dataset.format is not given:
            raise ValueError(f"job '{self.job}' may not write {dataset.name} as {given.value}")
        self._staging.mkdir(parents=True, exist_ok=True)
        return self._staged(dataset)

    def _record(self, dataset: Dataset, n_rows: int | None) -> None:
        target = self.home.output(dataset, self.day)
        self._outputs[dataset.name] = Artifact(
            name=dataset.name,
            path=target.relative_to(self.home.root).as_posix(),
            sha256=sha256_file(self._staged(dataset)),
            n_rows=n_rows,
        )
        self.log.info("staged", dataset=dataset.name, rows=n_rows)


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=[f.name for f in schema if pa.types.is_string(f.type)],
        write_page_checksum=True,
    )


# -- command -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Declared(Generic[C]):
    """All that there is to know of a job before it runs: one in each job's file.

    Attributes:
        name: in `jobs.launch.MODULES`.
        config_class: each field becomes a flag.
        job: the work.
        sources: names the files outside the home that the job reads, so that a changed source
            is noticed before the job runs.
        intact: whether an effect outside the tables (a published version) still stands.
        estimate: what the work would cost, for --dry-run; reads, and writes nothing.
        refuses: why the job would stop at once, if it can be seen beforehand, for a plan.
    """

    name: str
    config_class: type[C]
    job: Job[C]
    sources: Sources[C] | None = None
    intact: Intact | None = None
    estimate: Estimate[C] | None = None
    refuses: Callable[[C, date, Home], str | None] | None = None


def declared_by(job: str) -> Declared[Any]:
    """What a job of `jobs.launch.MODULES` says of itself; imports its module."""
    found: Declared[Any] = import_module(MODULES[job]).DECLARED
    return found


@dataclass(frozen=True)
class Outcome:
    """How an execution ended: whether work was done, and the manifest that now stands."""

    status: str  # "done" or "unchanged"
    manifest: Manifest


def execute(
    name: str,
    config: C,
    day: date,
    home: Home,
    job: Job[C],
    *,
    sources: Sources[C] | None = None,
    intact: Intact | None = None,
    force: bool = False,
    wait_s: float = 0.0,
) -> Outcome:
    """Run a job unless its last run still stands; see `Declared` for the arguments."""
    run = Run(name, day, config, home, wait_s=wait_s)
    with named(run) as run_id:
        with run:
            run.ends_with(Told(run, run_id))
            if sources:  # under the lock: as they are after the wait for it; a failure is told too
                run.comes_from(sources(config, day, home))
            if not force and (last := run.standing(intact)):
                run.log.info("nothing to do: same inputs, config and day", since=last.code_version)
                return Outcome("unchanged", last)
            job(config, run)
            if not run.has_written:
                raise JobError(f"job '{name}' wrote nothing, which is a defect; report it")
        manifest = load_manifest(home, name, day)
        assert manifest is not None
        run.log.info("done", seconds=manifest.seconds)
    return Outcome("done", manifest)


def main(declared: Declared[C]) -> None:
    """Command line of a job. The last line on stdout is a small JSON for the scheduler."""
    name, estimate = declared.name, declared.estimate
    asked = parse(name, declared.config_class, sys.argv[1:], can_estimate=estimate is not None)
    configure_logs()
    home = Home.from_environment()
    said: dict[str, Any] = {"job": name, "day": str(asked.day)}
    try:
        if estimate is not None and asked.dry_run:
            # Not entered: a run that only reads needs no lock.
            said |= {"status": "dry run"}
            said |= estimate(asked.config, Run(name, asked.day, asked.config, home))
        else:
            outcome = execute(
                name,
                asked.config,
                asked.day,
                home,
                declared.job,
                sources=declared.sources,
                intact=declared.intact,
                force=asked.force,
                wait_s=asked.wait_s,
            )
            said |= {"status": outcome.status, **outcome.manifest.result}
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(told(f"{name} {asked.day}", error, home))
    answer(said)
