"""The alert of a run that misses its deadline: one line, and one call where somebody listens."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from jobs import late

CONTEXT: dict[str, Any] = {
    "dag_run": {
        "dag_id": "nightly_embeddings",
        "dag_run_id": "asset_triggered__1",
        "partition_key": "2026-03-02",
        "logical_date": None,
        "state": "running",
    },
    "deadline": {"id": "1", "deadline_time": "2026-03-02T10:00:00Z"},
}


def tell() -> None:
    asyncio.run(late.tell(context=CONTEXT, do="look at align"))


def test_it_says_what_is_late_and_what_to_do(caplog, monkeypatch):
    monkeypatch.delenv(late.VARIABLE, raising=False)
    with caplog.at_level(logging.ERROR):
        tell()
    said = json.loads(caplog.messages[0].removeprefix("deadline missed: "))
    assert said["dag"] == "nightly_embeddings"
    assert said["day"] == "2026-03-02"
    assert said["run"] == "asset_triggered__1"
    assert said["do"] == "look at align"


def test_a_run_by_the_clock_is_named_by_its_logical_date():
    run = {"partition_key": None, "logical_date": "2026-03-02T04:00:00Z"}
    assert late.message({"dag_run": run}, "")["day"] == "2026-03-02"


def test_an_address_gets_the_same_as_json(monkeypatch):
    got: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing to stderr."""

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv(late.VARIABLE, f"http://127.0.0.1:{server.server_port}/alerts")
        tell()
    assert got[0]["alert"] == "deadline missed"


def test_a_receiver_that_is_away_costs_only_itself(monkeypatch, caplog):
    monkeypatch.setenv(late.VARIABLE, "http://127.0.0.1:9/")
    tell()
    assert "did not take the alert" in caplog.messages[-1]


def test_a_file_is_no_address(monkeypatch, caplog):
    monkeypatch.setenv(late.VARIABLE, "file:///etc/passwd")
    tell()
    assert "no http address" in caplog.messages[-1]
