"""The job contract: a frozen config, `job(config, run)`, and a manifest written last."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import load_file, save_file

from jobs.command_line import parse
from jobs.contract import Conforming, RowGroups, conform
from jobs.datasets import BY_NAME, Dataset, Format
from jobs.errors import AlreadyRunning, JobError, NotAvailable, SourceError
from jobs.files import sha256_file, sync_directory, sync_file, write_atomically
from jobs.home import Home
from jobs.lock import take_lock
from jobs.logs import configure_logs
from jobs.manifest import Artifact, Manifest, code_version, peak_memory_bytes

EXIT_FAILED, EXIT_BUSY = 1, 75  # 75: EX_TEMPFAIL, try again later
_ROW_GROUP = 65_536


class Config(BaseModel):
    """What decides a job's output, apart from its inputs and its day. Unknown keys are errors.

    A field that is declared with `Field(..., json_schema_extra=DEPLOYMENT)` says where the work is
    done (an engine, an address): it goes into the manifest, but another value redoes nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


DEPLOYMENT: dict[str, Any] = {"decides_output": False}


def _decides_output(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of `values` (a config, of now or of a manifest) that decides the output."""
    aside = {n for n, f in type(config).model_fields.items() if f.json_schema_extra == DEPLOYMENT}
    return {name: value for name, value in values.items() if name not in aside}


C = TypeVar("C", bound=Config)
Job = Callable[[C, "Run"], None]
Estimate = Callable[[C, "Run"], dict[str, Any]]
Sources = Callable[[C, date, Home], Iterable[Path | Artifact]]
Intact = Callable[[Manifest, Home], bool]


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
        self.sources = tuple(sorted(sources, key=_place_of_source))
        self.log = structlog.get_logger().bind(job=job, day=str(day))
        self.result: dict[str, Any] = {}
        self._wait_s = wait_s
        self._folder = home.run(job, day)
        self._staging = self._folder / "staging"
        self._metrics: dict[str, float] = {}
        self._inputs: dict[str, Artifact] = {}
        self._outputs: dict[str, Artifact] = {}
        self._lock: IO[str] | None = None
        self._hashed_sources: list[Artifact] | None = None
        self._discarded: list[Path] = []

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Take the lock of this job and day and clear what a killed run left behind."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(self._folder / "lock", self._wait_s, self.log)
        shutil.rmtree(self._staging, ignore_errors=True)
        self._started = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit on success, discard on failure, release the lock in any case."""
        try:
            if kind is None and self._outputs:
                self._commit()
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            assert self._lock is not None
            self._lock.close()  # the kernel drops the lock with the last descriptor, also on kill

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
            self._hashed_sources = [_source_artifact(path) for path in self.sources]
        return self._hashed_sources

    def unchanged(self, intact: Intact | None = None) -> Manifest | None:
        """The manifest of an earlier run with this config and these inputs, if its outputs stand.

        The code's version is recorded but not compared: a deploy alone redoes nothing.
        """
        last = load_manifest(self.home, self.job, self.day)
        if last is None or not self._has_config(last.config):
            return None
        if last.sources != self._source_artifacts():
            return None
        if any(_current(self.home, self.day, name=i.name) != i.sha256 for i in last.inputs):
            return None
        if any(not _is_whole(self.home.root / o.path, o.sha256) for o in last.outputs):
            return None
        return last if intact is None or intact(last, self.home) else None

    def _has_config(self, values: Mapping[str, Any]) -> bool:
        mine = self.config.model_dump(mode="json")
        return _decides_output(self.config, values) == _decides_output(self.config, mine)

    # -- reading ---------------------------------------------------------------------------------

    def locate(self, dataset: Dataset) -> Path:
        """Path of the day's snapshot of `dataset`, verified and recorded as an input.

        Raises:
            NotAvailable: no manifest names it, its bytes are not the manifest's, or its checks
                have not passed.
        """
        artifact = _committed(self.home, dataset, self.day)
        path = self.home.root / artifact.path
        if not _is_whole(path, artifact.sha256):
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
                raise JobError(f"{dataset.name}: tensor '{name}' holds NaN or infinity")
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
        """Record a figure in the manifest and the log."""
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


# -- what is committed ---------------------------------------------------------------------------


def load_manifest(home: Home, job: str, day: date) -> Manifest | None:
    """The manifest of a job's last good run on a day; None if there is none."""
    try:
        text = home.manifest(job, day).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return Manifest.model_validate_json(text)


def _committed(home: Home, dataset: Dataset, day: date) -> Artifact:
    manifest = load_manifest(home, dataset.producer, day)
    artifact = manifest.output(dataset.name) if manifest else None
    if artifact is None:
        raise NotAvailable(
            f"{dataset.name} of {day} does not exist: job '{dataset.producer}' has not run for "
            f"that day in {home.root}"
        )
    return artifact


def _current(home: Home, day: date, *, name: str) -> str | None:
    manifest = load_manifest(home, BY_NAME[name].producer, day)
    artifact = manifest.output(name) if manifest else None
    return artifact.sha256 if artifact else None


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256


def is_checked(home: Home, dataset: Dataset, day: date) -> bool:
    """Whether the committed bytes of `dataset` are those that passed `sql/checks`."""
    try:
        mark = json.loads(home.check_mark(dataset, day).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    return mark["sha256"] == _current(home, day, name=dataset.name)


def mark_checked(home: Home, dataset: Dataset, day: date) -> None:
    """Write down that the committed bytes of `dataset` have passed."""
    sha256 = _committed(home, dataset, day).sha256
    write_atomically(home.check_mark(dataset, day), json.dumps({"sha256": sha256}))


def _parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=[f.name for f in schema if pa.types.is_string(f.type)],
        write_page_checksum=True,
    )


def _place_of_source(source: Path | Artifact) -> str:
    return source.path if isinstance(source, Artifact) else str(source)


def _source_artifact(path: Path | Artifact) -> Artifact:
    if isinstance(path, Artifact):
        return path
    try:
        return Artifact(name=path.name, path=str(path), sha256=sha256_file(path))
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error


# -- command -------------------------------------------------------------------------------------


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
    """Run a job unless its last run still stands; see `main` for the arguments."""
    files = sources(config, day, home) if sources else ()
    with Run(name, day, config, home, sources=files, wait_s=wait_s) as run:
        if not force and (last := run.unchanged(intact)):
            run.log.info("nothing to do: same inputs, config and day", since=last.code_version)
            return Outcome("unchanged", last)
        job(config, run)
    manifest = load_manifest(home, name, day)
    if manifest is None:
        raise JobError(f"job '{name}' wrote nothing")
    run.log.info("done", seconds=manifest.seconds)
    return Outcome("done", manifest)


def main(
    name: str,
    config_class: type[C],
    job: Job[C],
    *,
    sources: Sources[C] | None = None,
    intact: Intact | None = None,
    estimate: Estimate[C] | None = None,
) -> None:
    """Command line of a job. The last line on stdout is a small JSON for the scheduler.

    Args:
        name: the job's name.
        config_class: each field becomes a flag.
        job: the work.
        sources: names the files outside the home that the job reads, so that a changed source
            is noticed before the job runs.
        intact: whether an effect outside the tables (a published version) still stands.
        estimate: what the work would cost, for --dry-run; reads, and writes nothing.
    """
    asked = parse(name, config_class, sys.argv[1:], can_estimate=estimate is not None)
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
                job,
                sources=sources,
                intact=intact,
                force=asked.force,
                wait_s=asked.wait_s,
            )
            said |= {"status": outcome.status, **outcome.manifest.result}
    except JobError as error:
        sys.stderr.write(f"{name} {asked.day}: {error}\n")
        sys.exit(EXIT_BUSY if isinstance(error, AlreadyRunning) else EXIT_FAILED)
    sys.stdout.write(json.dumps(said) + "\n")
