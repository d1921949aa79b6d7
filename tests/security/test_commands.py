"""Parameters of a run that are commands: each reaches its job as one argument, or is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jobs.command_line import EXIT_USAGE, parse
from jobs.launch import command
from jobs.prepare.ingest import IngestConfig
from tests.conftest import ROOT

COMMANDS = [
    "x; touch {canary}",
    "x && touch {canary}",
    "x | tee {canary}",
    "x > {canary}",
    "x & touch {canary}",
    "$(touch {canary})",
    "`touch {canary}`",
    "x\ntouch {canary}\n",
    "x' ; touch {canary} ; '",
    'x" ; touch {canary} ; "',
    "x \\' ; touch {canary} #",
    "$IFS$(touch {canary})",
    "<(touch {canary})",
    "x\rtouch {canary}",
    "\u2028touch {canary}",
    "~root",
    "*",
    "!!",
]
TEMPLATES = ["{{ 7 * 7 }}", "{% raw %}", "{# x #}", "}}", "{{ var.value.secret }}"]

# Stands where the interpreter of the jobs does, and says what it was given.
LISTENER = """#!{python} -I
import json, sys
with open({heard!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
print(json.dumps({{"version": 1, "promoted": True, "adapter": None}}))
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "the-command-ran"


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the jobs were called with, a line each."""
    listener, heard = tmp_path / "listener", tmp_path / "heard"
    listener.write_text(LISTENER.format(python=sys.executable, heard=str(heard)))
    listener.chmod(0o755)
    monkeypatch.setenv("JOBS_PYTHON", str(listener))
    return heard


def arguments_of(heard: Path) -> list[list[str]]:
    return [json.loads(line) for line in heard.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("text", COMMANDS)
def test_a_command_in_a_parameter_is_one_argument(text: str, canary: Path, heard: Path) -> None:
    """Through the shell that a scheduler's task starts."""
    value = text.format(canary=canary)
    line = command("ingest", source=value, model=value, day="2026-03-02")
    subprocess.run(["bash", "-c", line], check=True, capture_output=True, cwd=canary.parent)
    (words,) = arguments_of(heard)
    assert words[2:] == ["--source", value, "--model", value, "--day", "2026-03-02"]
    assert not canary.exists()


def test_a_flag_in_a_parameter_is_not_taken_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("ingest", IngestConfig, ["--source", "--restate", "--day", "2026-03-02"])
    assert ended.value.code == EXIT_USAGE
    assert "--source" in capsys.readouterr().err


# -- through Airflow -------------------------------------------------------------------------------

# Airflow configures logging, warnings and a database when it is imported.
ASKED = """
import json, sys
from pathlib import Path
from airflow.dag_processing.dagbag import BundleDagBag
values = json.loads(sys.argv[2])
found = {}
bag = BundleDagBag(sys.argv[1], bundle_path=Path(sys.argv[1]), bundle_name="tidemark")
for name, dag in bag.dags.items():
    for key in dag.params:
        param = dag.params.get_param(key)
        if "string" not in (param.schema.get("type") or ""):
            continue
        for value in values:
            try:
                param.resolve(value=value)
            except Exception as error:
                if type(error).__name__ != "ParamValidationError":
                    raise
                continue
            found.setdefault(f"{name}.{key}", []).append(value)
print("FOUND" + json.dumps(found))
"""


def airflow_environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "TIDEMARK_HOME": str(home / "home"),
    }


def test_no_dag_takes_a_template_for_a_parameter(tmp_path: Path) -> None:
    """Airflow renders the command once more: what is in braces would be evaluated there."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED, str(ROOT / "dags"), json.dumps([*TEMPLATES, "plain"])],
        env=airflow_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    found: dict[str, Any] = json.loads(line.removeprefix("FOUND"))
    assert found["nightly_features.source"] == ["plain"]
    assert {name: values for name, values in found.items() if set(values) - {"plain"}} == {}


def test_a_run_whose_parameter_is_a_command_runs_no_command(
    tmp_path: Path, canary: Path, heard: Path
) -> None:
    """One task of the real DAG, through the real Airflow; all others are only marked as done."""
    # What Airflow renders has one kind of line end; as an argument it stays one argument.
    value = " ".join(text.format(canary=canary) for text in COMMANDS).replace("\r", "\n")
    run = ["dags", "test", "nightly_features", "2026-03-02"]
    run += ["--conf", json.dumps({"source": value}), "--mark-success-pattern", r"^(?!ingest$)"]
    for words in (["db", "migrate"], run):
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words],
            env=airflow_environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
    assert heard.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
    said = [words for words in arguments_of(heard) if words[1] == "jobs.prepare.ingest"]
    assert [words[words.index("--source") + 1] for words in said] == [value]
    assert not canary.exists()
