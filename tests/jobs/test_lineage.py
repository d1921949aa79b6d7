"""OpenLineage events: what they say, that the client's own types take them, and where they go."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import attr
import pyarrow as pa
import pytest
from openlineage.client import event_v2, facet_v2
from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality
from openlineage.client.facet_v2 import input_statistics_input_dataset as read
from openlineage.client.facet_v2 import output_statistics_output_dataset as written

from jobs import lineage
from jobs.datasets import ITEM_TEXTS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Outcome, Run, execute, mark_checked
from tests.conftest import DAY

# Each facet that is used: the client's own type of it.
TYPES = {
    "parent": facet_v2.parent_run.ParentRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "outputStatistics": written.OutputStatisticsOutputDatasetFacet,
    "inputStatistics": read.InputStatisticsInputDatasetFacet,
    "dataQualityAssertions": quality.DataQualityAssertionsDatasetFacet,
}
OWN = "tidemark"
SCHEDULER = {
    "AIRFLOW_CTX_DAG_ID": "nightly_embeddings",
    "AIRFLOW_CTX_TASK_ID": "distil",
    "AIRFLOW_CTX_DAG_RUN_ID": "scheduled__2026-03-02T04:00:00+00:00",
    "AIRFLOW_CTX_TRY_NUMBER": "2",
}


@pytest.fixture(autouse=True)
def no_server_and_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("OPENLINEAGE", "AIRFLOW_CTX")):
            monkeypatch.delenv(name)


def texts(config: Config, run: Run) -> None:
    run.write(ITEM_TEXTS, pa.table({"item_id": [1, 2], "title": ["a", "b"], "text": ["A", "B"]}))


def failing(config: Config, run: Run) -> None:
    run.read(ITEM_TEXTS)
    raise JobError("item 2: no tokens; mend its title")


def run_texts(home: Home, source: Path | None = None) -> Outcome:
    return execute(
        "item_texts", Config(), DAY, home, texts, sources=lambda *_: [source] if source else []
    )


def events(home: Home) -> list[dict[str, Any]]:
    lines = lineage.file_of(home, DAY).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# -- the client's own types take what is said ------------------------------------------------------


def as_typed(said: dict[str, Any]) -> event_v2.RunEvent:
    """The event by the constructors of openlineage-python, which check names, ids and times."""
    run, job = said["run"], said["job"]
    event = event_v2.RunEvent(
        eventTime=said["eventTime"],
        producer=said["producer"],
        eventType=event_v2.RunState(said["eventType"]),
        run=event_v2.Run(run["runId"], facets(run["facets"])),
        job=event_v2.Job(job["namespace"], job["name"], facets(job["facets"])),
        inputs=[
            event_v2.InputDataset(
                each["namespace"],
                each["name"],
                facets(each.get("inputFacets", {})),
                facets=facets(each["facets"]),
            )
            for each in said["inputs"]
        ],
        outputs=[
            event_v2.OutputDataset(
                each["namespace"],
                each["name"],
                facets(each.get("outputFacets", {})),
                facets=facets(each["facets"]),
            )
            for each in said["outputs"]
        ],
    )
    assert event.schemaURL == said["schemaURL"]
    return event


def facets(said: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, facet in said.items():
        if name == OWN:
            assert set(facet) == {"_producer", "_schemaURL", "day", "status"}
            continue
        values = {key: value for key, value in facet.items() if not key.startswith("_")}
        typed = TYPES[name](**values, producer=facet["_producer"])  # refuses a name it has not
        required = {each.name for each in attr.fields(TYPES[name]) if each.default is attr.NOTHING}
        assert required <= set(values)
        assert typed._schemaURL == facet["_schemaURL"]
        found[name] = typed
    return found


def test_every_event_is_one_that_the_openlineage_client_would_make(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SCHEDULER.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "items.csv").write_text("id")
    run_texts(home, tmp_path / "items.csv")
    run_texts(home, tmp_path / "items.csv")
    mark_checked(home, ITEM_TEXTS, DAY)
    with pytest.raises(JobError):
        execute("distil", Config(), DAY, home, failing)
    said = events(home)
    assert [each["eventType"] for each in said] == [
        *("START", "COMPLETE"),
        *("START", "COMPLETE"),
        *("START", "FAIL"),
    ]
    for each in said:
        as_typed(each)
    used = {name for each in said for name in (*each["run"]["facets"], *each["job"]["facets"])}
    assert used == {OWN, "parent", "errorMessage", "nominalTime", "processing_engine", "jobType"}


# -- what is said ----------------------------------------------------------------------------------


def test_a_run_names_the_tables_it_made_with_columns_rows_bytes_and_version(home: Home) -> None:
    outcome = run_texts(home)
    start, end = events(home)
    assert start["run"]["runId"] == end["run"]["runId"]
    assert (start["inputs"], start["outputs"]) == ([], [])
    (made,) = end["outputs"]
    assert (made["namespace"], made["name"]) == ("tidemark", "item_texts")
    columns = [field["name"] for field in made["facets"]["schema"]["fields"]]
    assert columns == ["item_id", "title", "text"]
    artifact = outcome.manifest.outputs[0]
    assert made["facets"]["version"]["datasetVersion"] == f"{DAY}:{artifact.sha256[:16]}"
    statistics = made["outputFacets"]["outputStatistics"]
    assert statistics["rowCount"] == 2
    assert statistics["size"] == home.output(ITEM_TEXTS, DAY).stat().st_size


def test_a_run_with_nothing_to_do_still_names_its_tables(home: Home) -> None:
    run_texts(home)
    run_texts(home)
    end = events(home)[-1]
    assert [each["name"] for each in end["outputs"]] == ["item_texts"]
    assert end["run"]["facets"]["tidemark"] == {
        **end["run"]["facets"]["tidemark"],
        "status": "unchanged",
        "day": str(DAY),
    }


def test_raw_files_are_named_by_their_folder(home: Home, tmp_path: Path) -> None:
    for name in ("1.csv", "2.csv"):
        (tmp_path / name).write_text("abc")
    execute(
        "item_texts", Config(), DAY, home, texts, sources=lambda *_: sorted(tmp_path.glob("*.csv"))
    )
    (folder,) = events(home)[-1]["inputs"]
    assert (folder["namespace"], folder["name"]) == ("file", str(tmp_path))
    statistics = folder["inputFacets"]["inputStatistics"]
    assert (statistics["fileCount"], statistics["size"]) == (2, 6)


def test_a_failed_run_says_why_and_what_it_had_read(home: Home) -> None:
    run_texts(home)
    mark_checked(home, ITEM_TEXTS, DAY)
    with pytest.raises(JobError):
        execute("distil", Config(), DAY, home, failing)
    end = events(home)[-1]
    assert end["eventType"] == "FAIL"
    message = end["run"]["facets"]["errorMessage"]["message"]
    assert message == "item 2: no tokens; mend its title"
    assert [each["name"] for each in end["inputs"]] == ["item_texts"]
    assert end["outputs"] == []


def test_the_parent_is_the_task_of_airflow_and_the_root_its_run(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SCHEDULER.items():
        monkeypatch.setenv(name, value)
    run_texts(home)
    run_texts(home)
    first, again = (events(home)[n]["run"]["facets"]["parent"] for n in (0, 2))
    assert first["job"] == {"namespace": "tidemark", "name": "nightly_embeddings.distil"}
    assert first["root"]["job"]["name"] == "nightly_embeddings"
    assert first == again  # made from the names: two jobs of one task name one parent
    monkeypatch.setenv("AIRFLOW_CTX_TRY_NUMBER", "3")
    run_texts(home)
    retried = events(home)[-1]["run"]["facets"]["parent"]
    assert retried["run"] != first["run"]
    assert retried["root"] == first["root"]


def test_a_parent_that_is_given_is_taken(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = "01890af0-6d8c-7a6a-9d3e-0123456789ab"
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", f"default/nightly.distil/{run_id}")
    run_texts(home)
    parent = events(home)[0]["run"]["facets"]["parent"]
    assert parent["run"] == {"runId": run_id}
    assert parent["job"] == {"namespace": "default", "name": "nightly.distil"}


# -- where it goes ---------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, dict[str, str], dict[str, Any]]]]]:
    """A server that takes events: its address, and what came."""
    came: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Taking) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", came
        listening.shutdown()
        thread.join()


def test_events_go_to_the_server_that_is_named_and_to_no_file(
    home: Home,
    server: tuple[str, list[tuple[str, dict[str, str], dict[str, Any]]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, came = server
    monkeypatch.setenv("OPENLINEAGE_URL", url + "/")
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "shop")
    run_texts(home)
    assert [(path, said["eventType"]) for path, _, said in came] == [
        ("/api/v1/lineage", "START"),
        ("/api/v1/lineage", "COMPLETE"),
    ]
    assert came[0][1]["Authorization"] == "Bearer secret"
    assert came[1][2]["outputs"][0]["namespace"] == "shop"
    assert not lineage.file_of(home, DAY).exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "file:///etc/passwd", "http://[bad"])
def test_a_server_that_takes_nothing_fails_no_job_and_loses_no_event(
    home: Home, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    assert run_texts(home).status == "done"
    assert [each["eventType"] for each in events(home)] == ["START", "COMPLETE"]
    assert "lineage goes to a file" in "".join(capsys.readouterr())


def test_a_server_that_does_not_answer_costs_seconds_and_no_job(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "TIMEOUT_S", 0.2)
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as silent:  # accepts, never reads
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{silent.server_port}")
        assert run_texts(home).status == "done"
    assert len(events(home)) == 2


def test_a_file_that_cannot_be_written_fails_no_job(home: Home) -> None:
    lineage.file_of(home, DAY).mkdir(parents=True)
    assert run_texts(home).status == "done"


def test_nothing_is_said_where_lineage_is_switched_off(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    run_texts(home)
    assert not lineage.file_of(home, DAY).exists()


def test_a_line_that_a_killed_process_left_half_written_spoils_no_other(home: Home) -> None:
    path = lineage.file_of(home, DAY)
    lineage.append({"n": 1}, path)
    with path.open("ab") as file:
        file.write(b'{"n": 2, "cut')
    lineage.append({"n": 3}, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(lines[place]) for place in (0, 2)] == [{"n": 1}, {"n": 3}]


def test_many_writers_leave_whole_lines(home: Home) -> None:
    path = lineage.file_of(home, DAY)

    def write(writer: int) -> None:
        for number in range(20):
            lineage.append({"writer": writer, "number": number, "long": "x" * 5_000}, path)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted((each["writer"], each["number"]) for each in found) == [
        (writer, number) for writer in range(4) for number in range(20)
    ]
