"""`python -m jobs.where`: which place each job has, and what would be started there."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

from jobs.launch import MODULES, command
from tests.jobs.places import DOCKER, KUBERNETES, UsePlaces


def where(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.where", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_where_lists_the_place_of_every_job(use: UsePlaces) -> None:
    use(KUBERNETES + 'ingest = "local"\n')
    lines = where().stdout.splitlines()
    assert len(lines) == len(MODULES)
    assert "ingest         local" in lines
    assert "distil         cluster  gpu" in lines


def test_where_shows_a_pod_that_runs_without_airflow(use: UsePlaces) -> None:
    use(KUBERNETES)
    pod = json.loads(where("distil", "--day", "2026-03-02").stdout)
    assert pod["metadata"]["namespace"] == "tidemark"
    assert pod["metadata"]["generateName"] == "tidemark-distil-"
    (container,) = pod["spec"]["containers"]
    assert container["command"][-4:] == ["-m", "jobs.llm.distil", "--day", "2026-03-02"]
    assert "{{" not in json.dumps(pod)
    assert "TIDEMARK_ANSWER" not in json.dumps(pod)


def test_where_shows_a_line_that_a_shell_reads_back(use: UsePlaces) -> None:
    use(DOCKER)
    shown = where("distil", "--model", "/srv/my models").stdout
    assert shlex.split(shown) == shlex.split(command("distil", model="/srv/my models"))


def test_where_says_what_is_wrong_in_one_line(use: UsePlaces) -> None:
    path = use(DOCKER.replace("image", "imgae"))
    done = where("distil")
    assert done.returncode == 1
    assert done.stderr.startswith(f"where: {path}, [places.gpu-box]: there is no key 'imgae'")
    assert done.stderr.count("\n") == 1
