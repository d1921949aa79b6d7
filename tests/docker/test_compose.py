"""compose.yaml by rules, without an engine; its environment, read by Airflow itself."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.docker.compose import complaints, load
from tests.docker.dockerfile import targets

FOLDER = ROOT / "docker"


@pytest.fixture
def compose() -> dict[str, Any]:
    return load(FOLDER / "compose.yaml", {"TIDEMARK_SECRETS": "/secrets"})


def test_every_rule_is_kept(compose: dict[str, Any]) -> None:
    assert complaints(compose["services"]) == []


def test_airflow_has_all_its_parts(compose: dict[str, Any]) -> None:
    commands = {name: str(each.get("command")) for name, each in compose["services"].items()}
    assert set(commands) == {
        *("postgres", "migrate", "api-server", "scheduler", "dag-processor", "triggerer"),
    }
    for part in ("api-server", "scheduler", "dag-processor", "triggerer"):
        assert "airflow" in commands[part]
        assert part in commands[part]


def _set(*keys: str, to: Any) -> Any:
    def spoil(services: dict[str, Any]) -> None:
        place = services["scheduler"]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return spoil


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_set("user", to="root"), "runs as root"),
        (_set("user", to="0:0"), "runs as 0:0"),
        (_set("privileged", to=True), "has privileges"),
        (_set("cap_add", to=["SYS_ADMIN"]), "has privileges"),
        (_set("cap_drop", to=[]), "keeps capabilities"),
        (_set("security_opt", to=[]), "may gain privileges"),
        (_set("read_only", to=False), "may write into its image"),
        (_set("network_mode", to="host"), "shares network_mode"),
        (_set("healthcheck", to={}), "has no health check"),
        (_set("restart", to="always"), "does not start again"),
        (_set("image", to="tidemark-worker:latest"), "has no version"),
        (_set("image", to="tidemark-worker"), "has no version"),
        (_set("init", to=False), "no init to stop"),
        (_set("ports", to=["8080:8080"]), "port 8080:8080 is not on loopback"),
        (_set("ports", to=["0.0.0.0:8080:8080"]), "is not on loopback"),
        (_set("volumes", to=["/var/run/docker.sock:/var/run/docker.sock"]), "that is root"),
        (_set("volumes", to=["/etc:/etc"]), "writes to /etc of the machine"),
        (_set("environment", "DB_PASSWORD", to="x"), "DB_PASSWORD holds a secret"),
        (_set("secrets", to=["database_url"]), "names the secret jwt_secret, which"),
    ],
)
def test_each_rule_sees_what_it_is_for(compose: dict[str, Any], spoil: Any, said: str) -> None:
    services = copy.deepcopy(compose["services"])
    spoil(services)
    found = complaints(services)
    assert any(each.startswith("scheduler ") and said in each for each in found), found


def test_what_is_named_exists(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for key, declared in (("networks", "networks"), ("secrets", "secrets")):
            assert set(service.get(key, [])) <= set(compose[declared]), name
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
            assert source in compose["volumes"] or (FOLDER / source).is_dir(), source
        for config in service.get("configs", []):
            assert (FOLDER / compose["configs"][config["source"]]["file"]).is_file()
        if build := service.get("build"):
            file = FOLDER / build["context"] / build["dockerfile"]
            assert build["target"] in [each.name for each in targets(file.read_text())]
            assert service["image"] == f"tidemark-{build['target']}:0.1.0"


def test_the_images_carry_the_version_of_the_project(compose: dict[str, Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ours = [each["image"] for each in compose["services"].values() if "tidemark" in each["image"]]
    assert {image.partition(":")[2] for image in ours} == {version}


def test_only_the_scheduler_reaches_the_warehouse_and_only_the_api_server_the_outside(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    reach = {name: json.dumps(each.get("volumes", [])) for name, each in services.items()}
    assert [name for name, volumes in reach.items() if "/srv/tidemark" in volumes] == ["scheduler"]
    assert [name for name, each in services.items() if "ports" in each] == ["api-server"]
    assert compose["networks"]["inside"]["internal"] is True
    outside = [n for n, each in services.items() if set(each["networks"]) != {"inside"}]
    assert outside == ["api-server"]


OVER = ["compose.gpu.yaml", "compose.online.yaml", "compose.kubernetes.yaml"]


@pytest.mark.parametrize("name", OVER)
def test_what_is_laid_over_it_changes_services_that_are_there(
    compose: dict[str, Any], name: str
) -> None:
    asked = ("TIDEMARK_KUBECONFIG", "TIDEMARK_NFS_SERVER", "TIDEMARK_NFS_PATH")
    over = load(FOLDER / name, dict.fromkeys(asked, "/x"))
    assert set(over["services"]) <= set(compose["services"])
    for service in over["services"].values():
        assert set(service) <= {"deploy", "networks", "secrets", "environment"}
        for key in ("networks", "secrets"):
            known = {*compose[key], *over.get(key, {})}
            assert set(service.get(key, [])) <= known
    assert set(over.get("volumes", {})) <= set(compose["volumes"])


def test_every_compose_file_is_in_a_test() -> None:
    assert {path.name for path in FOLDER.glob("compose*.yaml")} == {"compose.yaml", *OVER}


def test_without_secrets_compose_says_how_to_make_them() -> None:
    with pytest.raises(KeyError, match=r"make them with docker/make_secrets\.py"):
        load(FOLDER / "compose.yaml", {})


def test_the_places_file_that_comes_with_it_runs_everything_beside_the_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jobs.launch import MODULES, place

    monkeypatch.setenv("TIDEMARK_PLACES", str(FOLDER / "places.toml"))
    assert all(place(job) is None for job in MODULES)


# Airflow configures logging and a database when it is imported: a process of its own.
READ = """
import json
from airflow.configuration import conf
print("CONF" + json.dumps({
    "database": conf.get("database", "sql_alchemy_conn"),
    "fernet": conf.get("core", "fernet_key"),
    "jwt": conf.get("api_auth", "jwt_secret"),
    "key": conf.get("api", "secret_key"),
    "executor": conf.get("core", "executor"),
    "execution": conf.get("core", "execution_api_server_url"),
    "users": conf.get("core", "simple_auth_manager_users"),
    "logs": conf.get("logging", "base_log_folder"),
}))
"""


def test_airflow_takes_its_secrets_from_the_files(compose: dict[str, Any], tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    make = [sys.executable, str(FOLDER / "make_secrets.py"), str(secrets)]
    subprocess.run(make, check=True, capture_output=True)
    given = compose["services"]["scheduler"]["environment"]
    ours = {key: str(value).replace("/run/secrets", str(secrets)) for key, value in given.items()}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", READ],
        env={**kept, **ours, "AIRFLOW_HOME": str(tmp_path / "airflow")},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("CONF"))
    said = json.loads(line.removeprefix("CONF"))
    assert said == {
        "database": (secrets / "database_url").read_text(),
        "fernet": (secrets / "fernet_key").read_text(),
        "jwt": (secrets / "jwt_secret").read_text(),
        "key": (secrets / "api_secret_key").read_text(),
        "executor": "LocalExecutor",
        "execution": "http://api-server:8080/execution/",
        "users": "admin:admin",
        "logs": "/srv/airflow-logs",
    }
