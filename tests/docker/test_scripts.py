"""The scripts of docker/: secrets, health, requirements. Each is the standard library alone."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conftest import ROOT

NAMES = {
    *("postgres_password", "database_url", "fernet_key"),
    *("api_secret_key", "jwt_secret", "admin_passwords"),
}


def script(name: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(ROOT / "docker" / name), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=more, timeout=120
    )


def test_secrets_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "with a space" / "secrets"
    first = script("make_secrets.py", str(folder))
    assert first.stdout.endswith(f"export TIDEMARK_SECRETS={folder}\n")
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(made) == NAMES
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}

    again = script("make_secrets.py", TIDEMARK_SECRETS=str(folder))
    assert again.stdout.startswith("made: nothing")
    assert {path.name: path.read_text() for path in folder.iterdir()} == made


def test_secrets_are_long_random_and_never_shown(tmp_path: Path) -> None:
    said = [script("make_secrets.py", str(tmp_path / name)).stdout for name in ("a", "b")]
    one, other = (
        {name: (tmp_path / folder / name).read_text() for name in NAMES} for folder in ("a", "b")
    )
    assert all(one[name] != other[name] for name in NAMES)
    assert all(len(value) >= 32 for value in one.values())
    assert not any(value in text for value in one.values() for text in said)
    assert len(base64.urlsafe_b64decode(one["fernet_key"])) == 32
    assert one["database_url"].startswith(
        f"postgresql+psycopg2://airflow:{one['postgres_password']}@"
    )
    assert len(json.loads(one["admin_passwords"])["admin"]) >= 24


class Airflow(BaseHTTPRequestHandler):
    """Answers as the API server does."""

    said: ClassVar[dict[str, Any]] = {
        "metadatabase": {"status": "healthy"},
        "scheduler": {"status": "unhealthy", "latest_scheduler_heartbeat": "2026-03-02"},
        "triggerer": {"status": None},
        "dag_processor": {"status": "healthy"},
    }

    def do_GET(self) -> None:
        assert self.path == "/api/v2/monitor/health"
        body = json.dumps(self.said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *words: Any) -> None:
        """Nothing: a test has no log."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Airflow) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("component", "said"),
    [
        ("metadatabase", ""),
        ("dag_processor", ""),
        ("scheduler", "scheduler is unhealthy\n"),
        ("triggerer", "triggerer is not there\n"),
        ("worker", "knows no worker; it knows metadatabase, scheduler, triggerer, dag_processor\n"),
    ],
)
def test_health_is_what_the_api_server_says_of_the_component(
    url: str, component: str, said: str
) -> None:
    done = script("health.py", component, AIRFLOW_URL=url)
    assert (done.returncode == 0) is (said == "")
    assert done.stderr.endswith(said)


def test_health_of_a_server_that_is_gone_is_no_traceback() -> None:
    done = script("health.py", "scheduler", AIRFLOW_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("http://127.0.0.1:9 does not answer: ")


def test_requirements_are_those_of_the_project_and_of_the_extras() -> None:
    pyproject = str(ROOT / "pyproject.toml")
    lines = script("requirements.py", pyproject, "gpu", "objects").stdout.splitlines()
    names = {line.partition(">")[0].partition("=")[0] for line in lines}
    assert {"torch", "transformers", "obstore", "pyarrow", "pydantic"} <= names
    assert not names & {"duckdb", "faiss-cpu", "apache-airflow", "dask[distributed]"}
    done = script("requirements.py", pyproject, "gpus")
    assert done.returncode == 1
    assert "no extra gpus; there are: store," in done.stderr
