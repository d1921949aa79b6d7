"""OpenLineage run events of a job, from its manifest. Standard library only; never fails a job.

They go to OPENLINEAGE_URL where it is set, else to one file a day below the home; what a server
does not take goes to the file too.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from jobs.datasets import BY_NAME, EMBEDDING_VERSIONS_URI, Dataset
from jobs.home import Home

Kind = Literal["START", "COMPLETE", "FAIL", "ABORT"]
Event = dict[str, Any]

SPEC = "https://openlineage.io/spec"
EVENT_SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
# Of each facet that is used here, the version of its schema.
FACETS = {
    "ParentRunFacet": "1-2-0",
    "ErrorMessageRunFacet": "1-0-1",
    "NominalTimeRunFacet": "1-0-1",
    "ProcessingEngineRunFacet": "1-1-1",
    "JobTypeJobFacet": "2-0-4",
    "SchemaDatasetFacet": "1-2-0",
    "DatasetVersionDatasetFacet": "1-0-1",
    "OutputStatisticsOutputDatasetFacet": "1-0-2",
    "InputStatisticsInputDatasetFacet": "1-0-0",
    "DataQualityAssertionsDatasetFacet": "1-1-0",
}
TIMEOUT_S = 2.0  # for a server to take one event
_FAMILY = uuid.UUID("8a6e0804-2bd0-4672-b79d-d97027f9071a")  # of ids made from a scheduler's names


class Made(Protocol):
    """An artifact of a manifest."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as in jobs.manifest
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def n_rows(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class Facts:
    """What an event says of an execution.

    Attributes:
        job: its name.
        day: the as-of day.
        run: its id.
        status: running, done, unchanged or failed.
        code: version of the code.
        sources: files from outside the home.
        inputs: tables that were read; of a failed run, up to then.
        outputs: tables that now stand.
        versions: of the store that were read.
        version: of the store that was published.
        error: one line, of a run that failed.
        checked: of a run of checks, whether each table passed.
    """

    job: str
    day: date
    run: str
    status: str
    code: str
    sources: Sequence[Made] = ()
    inputs: Sequence[Made] = ()
    outputs: Sequence[Made] = ()
    versions: Sequence[int] = ()
    version: int | None = None
    error: str | None = None
    checked: dict[str, bool] | None = None


# -- what is said ----------------------------------------------------------------------------------


def event(kind: Kind, facts: Facts, home: Home) -> Event:
    """A run event as the OpenLineage specification 2-0-2 has it."""
    says = _Says(facts, home)
    return {
        "eventType": kind,
        "eventTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "producer": says.producer,
        "schemaURL": EVENT_SCHEMA,
        "run": {"runId": facts.run, "facets": says.run_facets()},
        "job": {"namespace": namespace(), "name": facts.job, "facets": says.job_facets()},
        "inputs": says.inputs(),
        "outputs": says.outputs(),
    }


def namespace() -> str:
    """Tells one deployment from another: OPENLINEAGE_NAMESPACE, `tidemark` without it."""
    return os.environ.get("OPENLINEAGE_NAMESPACE") or "tidemark"


class _Says:
    def __init__(self, facts: Facts, home: Home) -> None:
        self._facts, self._home = facts, home
        self.producer = f"urn:tidemark:{facts.code}"

    def _facet(self, kind: str, **values: Any) -> dict[str, Any]:
        url = f"{SPEC}/facets/{FACETS[kind]}/{kind}.json#/$defs/{kind}"
        return {"_producer": self.producer, "_schemaURL": url, **values}

    # -- run and job -----------------------------------------------------------------------------

    def run_facets(self) -> dict[str, Any]:
        facts = self._facts
        midnight = f"{facts.day}T00:00:00Z"
        facets = {
            "nominalTime": self._facet("NominalTimeRunFacet", nominalStartTime=midnight),
            "processing_engine": self._facet(
                "ProcessingEngineRunFacet", name="tidemark", version=facts.code
            ),
            # Of our own: a plain run facet with two more words.
            "tidemark": {
                "_producer": self.producer,
                "_schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunFacet",
                "day": str(facts.day),
                "status": facts.status,
            },
        }
        if facts.error:
            facets["errorMessage"] = self._facet(
                "ErrorMessageRunFacet", message=facts.error, programmingLanguage="python"
            )
        if parent := self._parent():
            facets["parent"] = parent
        return facets

    def job_facets(self) -> dict[str, Any]:
        return {
            "jobType": self._facet(
                "JobTypeJobFacet", processingType="BATCH", integration="TIDEMARK", jobType="JOB"
            )
        }

    def _parent(self) -> dict[str, Any] | None:
        """The scheduler's task: OPENLINEAGE_PARENT_ID where it is given, else Airflow's names."""
        given = (os.environ.get("OPENLINEAGE_PARENT_ID") or "").split("/")
        if len(given) == 3 and _is_uuid(given[2]):
            run, job = {"runId": given[2]}, {"namespace": given[0], "name": given[1]}
            return self._facet("ParentRunFacet", run=run, job=job)
        names = [os.environ.get(f"AIRFLOW_CTX_{each}") for each in ("DAG_ID", "DAG_RUN_ID")]
        task = os.environ.get("AIRFLOW_CTX_TASK_ID")
        if not all(names) or not task:
            return None
        dag, dag_run = (str(each) for each in names)
        attempt = os.environ.get("AIRFLOW_CTX_TRY_NUMBER", "1")
        root = {"namespace": namespace(), "name": dag}
        return self._facet(
            "ParentRunFacet",
            run={"runId": _made_id(dag, dag_run, task, attempt)},
            job={"namespace": namespace(), "name": f"{dag}.{task}"},
            root={"run": {"runId": _made_id(dag, dag_run)}, "job": root},
        )

    # -- datasets --------------------------------------------------------------------------------

    def inputs(self) -> list[dict[str, Any]]:
        facts = self._facts
        tables = [self._input(each) for each in facts.inputs]
        versions = [self._store_version(each) for each in facts.versions]
        return [*self._source_folders(facts.sources), *tables, *versions]

    def outputs(self) -> list[dict[str, Any]]:
        made = [self._output(each) for each in self._facts.outputs]
        version = self._facts.version
        return made if version is None else [*made, self._store_version(version)]

    def _input(self, made: Made) -> dict[str, Any]:
        facets = {"inputStatistics": self._statistics("InputStatisticsInputDatasetFacet", made)}
        checked = self._facts.checked or {}
        if made.name in checked:
            check = {"assertion": f"sql/checks/{made.name}.sql", "success": checked[made.name]}
            facets["dataQualityAssertions"] = self._facet(
                "DataQualityAssertionsDatasetFacet", assertions=[check]
            )
        return {**self._table(made), "inputFacets": facets}

    def _output(self, made: Made) -> dict[str, Any]:
        statistics = self._statistics("OutputStatisticsOutputDatasetFacet", made)
        return {**self._table(made), "outputFacets": {"outputStatistics": statistics}}

    def _table(self, made: Made) -> dict[str, Any]:
        facets = {"version": self._version(f"{self._facts.day}:{made.sha256[:16]}")}
        dataset = BY_NAME.get(made.name)
        if dataset is not None and dataset.columns is not None:
            facets["schema"] = self._facet("SchemaDatasetFacet", fields=_fields(dataset))
        return {"namespace": namespace(), "name": made.name, "facets": facets}

    def _version(self, said: str) -> dict[str, Any]:
        return self._facet("DatasetVersionDatasetFacet", datasetVersion=said)

    def _statistics(self, kind: str, made: Made) -> dict[str, Any]:
        known = {"rowCount": made.n_rows, "size": _size(self._home.root / made.path)}
        given = {name: value for name, value in known.items() if value is not None}
        return self._facet(kind, **given, fileCount=1)

    def _store_version(self, number: int) -> dict[str, Any]:
        name = EMBEDDING_VERSIONS_URI.rpartition("/")[2]
        return {
            "namespace": namespace(),
            "name": name,
            "facets": {"version": self._version(str(number))},
        }

    def _source_folders(self, sources: Iterable[Made]) -> list[dict[str, Any]]:
        """Raw files by their folder: a source may have thousands."""
        folders: dict[str, list[str]] = {}
        for each in sources:
            folders.setdefault(str(Path(each.path).parent), []).append(each.path)
        return [self._source(folder, paths) for folder, paths in folders.items()]

    def _source(self, folder: str, paths: list[str]) -> dict[str, Any]:
        sizes = [_size(Path(path)) for path in paths]
        known = {} if None in sizes else {"size": sum(size or 0 for size in sizes)}
        kind = "InputStatisticsInputDatasetFacet"
        return {
            "namespace": "file",
            "name": folder if len(paths) > 1 else paths[0],
            "facets": {},
            "inputFacets": {"inputStatistics": self._facet(kind, fileCount=len(paths), **known)},
        }


def _fields(dataset: Dataset) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in (dataset.columns or {}).items()]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _made_id(*names: str) -> str:
    return str(uuid.uuid5(_FAMILY, "\n".join(names)))


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


# -- who is told -----------------------------------------------------------------------------------


def emit(said: Event, day: date, home: Home, log: Any) -> None:
    """Hand an event on; what goes wrong is a warning in the log and nothing else."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").lower() == "true":
        return
    try:
        if url := os.environ.get("OPENLINEAGE_URL"):
            if (why := _posted(url, said)) is None:
                return
            log.warning("lineage goes to a file: the server does not take it", why=why)
        append(said, file_of(home, day))
    except Exception as error:  # whatever it is, the job's own work is not lost for it
        log.warning("no lineage", why=f"{type(error).__name__}: {error}")


def file_of(home: Home, day: date) -> Path:
    """The events of one as-of day, a line each."""
    return home.root / "runs" / "lineage" / f"day={day}.jsonl"


def append(said: Event, path: Path) -> None:
    """One more line, whole or not at all; what a killed process left half-written stays a line.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(said, separators=(",", ":")).encode() + b"\n"
    with path.open("ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            if file.write(line) != len(line):
                raise OSError(f"{path}: no space left")
        except OSError:
            file.truncate(end)
            raise


def _posted(url: str, said: Event) -> str | None:
    """Why a server has not taken the event; None if it has. Waits TIMEOUT_S for all of it."""
    answer: list[str | None] = []
    # A thread, because no timeout holds for the look-up of a name.
    sender = threading.Thread(target=lambda: answer.append(_post(url, said)), daemon=True)
    sender.start()
    sender.join(TIMEOUT_S + 0.5)
    return answer[0] if answer else f"no answer in {TIMEOUT_S} s"


def _post(url: str, said: Event) -> str | None:
    endpoint = os.environ.get("OPENLINEAGE_ENDPOINT", "api/v1/lineage")
    place = f"{url.rstrip('/')}/{endpoint.lstrip('/')}"
    if not place.startswith(("http://", "https://")):
        return "OPENLINEAGE_URL has to begin with http:// or https://"
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        request = urllib.request.Request(place, json.dumps(said).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.reason}"
    except Exception as error:  # urllib raises its own, the socket's, http.client's and SSL's
        return f"{type(error).__name__}: {error}"
