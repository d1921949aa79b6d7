"""Dockerfiles by rules, without an engine: pinned, small, not root, and every source is there."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docker.dockerfile import Instruction, complaints, lineage, stages, targets

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def text(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text(encoding="utf-8")


def test_there_are_images_for_airflow_and_for_jobs() -> None:
    made = {path.name: [each.name for each in targets(path.read_text())] for path in FILES}
    assert made == {
        "airflow.Dockerfile": ["airflow", "worker"],
        "jobs.Dockerfile": ["gpu", "jobs"],
    }


def test_every_rule_is_kept(text: str) -> None:
    assert complaints(text) == []


GOOD = """
# --target image
FROM python:3.11.14-slim AS image
RUN apt-get update && apt-get install --yes --no-install-recommends a && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir --only-binary :all: torch==2.13.0
RUN pip install --no-cache-dir --only-binary :all: --constraint constraints.txt --requirement a.txt
ENV A=1
HEALTHCHECK CMD ["true"]
CMD ["python"]
USER 10001:10001
"""


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("python:3.11.14-slim", "python", "FROM python: no version, or latest"),
        ("python:3.11.14-slim", "python:latest", "FROM python:latest: no version"),
        ("USER 10001:10001", "", "image image: ends as user root"),
        ("USER 10001:10001", "USER 0:0", "image image: ends as user 0:0"),
        ("USER 10001:10001", "USER tidemark", "image image: ends as user tidemark"),
        ('HEALTHCHECK CMD ["true"]', "", "image image: has no HEALTHCHECK"),
        (" --no-install-recommends", "", "line 4: apt-get install without --no-install-recom"),
        (" && rm -rf /var/lib/apt/lists/*", "", "line 4: apt-get install without rm -rf"),
        ("apt-get update", "sudo apt-get update", "line 4: upgrade, apt or sudo"),
        ("torch==2.13.0", "torch", "line 5: pip installs something that is not pinned"),
        (" --only-binary :all: torch", " torch", "line 5: pip may run a setup.py"),
        (" --no-cache-dir --only-binary :all: torch", " --only-binary :all: torch", "line 5: pip"),
        (" --constraint constraints.txt", "", "line 6: pip without constraints.txt"),
        ("ENV A=1", "ENV DB_PASSWORD=x", "line 7: a secret in ENV stays in the image"),
        ("ENV A=1", "RUN curl https://x | sh", "line 7: a download goes into a pipe"),
        ("ENV A=1", "RUN chmod -R 777 /srv", "line 7: everybody may write"),
        ("ENV A=1", "ADD a.tar /", "line 7: ADD"),
        ("ENV A=1", "COPY . /srv", "line 7: copies the whole context"),
        ("ENV A=1", "WORKDIR srv", "line 7: WORKDIR is not absolute"),
        ('CMD ["python"]', "CMD python", "line 9: CMD through a shell"),
    ],
)
def test_each_rule_sees_what_it_is_for(right: str, wrong: str, said: str) -> None:
    assert complaints(GOOD) == []
    assert right in GOOD
    found = complaints(GOOD.replace(right, wrong, 1))
    assert any(each.startswith(said) for each in found), found


def _ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the context; the last pattern that fits decides."""
    is_out = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").strip()
        if not pattern or pattern.startswith("#"):
            continue
        parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
        if any(fnmatch(each, pattern.replace("**/", "*")) for each in parents):
            is_out = not line.startswith("!")
    return is_out


def _sources(each: Instruction) -> list[str]:
    words = [word for word in each.words if not word.startswith("--")]
    return words[:-1]


def test_every_file_that_is_copied_exists_and_is_in_the_context(text: str) -> None:
    copied = 0
    for stage in stages(text):
        for each in stage.all("COPY"):
            if each.value.startswith("--from="):
                continue
            for source in _sources(each):
                assert (ROOT / source).exists(), f"line {each.line}: {source}"
                assert not _ignored(source), f"line {each.line}: {source} is in .dockerignore"
                copied += 1
    assert copied > 5


def test_nothing_else_is_in_the_context() -> None:
    for name in (".git", ".tidemark", ".venv", "tests", "docker/compose.yaml", "secrets", ".env"):
        assert _ignored(name), name
    assert _ignored("jobs/__pycache__")


def test_every_stage_that_is_copied_from_is_there(text: str) -> None:
    names: set[str] = set()
    for stage in stages(text):
        for each in stage.all("COPY"):
            if found := re.match(r"--from=(\S+)", each.value):
                assert found[1] in names, f"line {each.line}"
        names.add(stage.name)


def test_no_tool_that_builds_wheels_and_no_source_is_in_an_image(text: str) -> None:
    """What is built in one stage and copied to the next keeps the images small."""
    for target in targets(text):
        for stage in lineage(target, text):
            assert not any("pip " in each.value for each in stage.all("RUN")), stage.name


def test_the_base_of_all_images_is_one_python() -> None:
    """An environment that is copied to another image needs the interpreter that made it."""
    lines = {
        line
        for path in FILES
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("ARG PYTHON_IMAGE")
    }
    assert lines == {"ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm"}
