"""docs/where-jobs-run.md: its examples work, and it names every key and every file."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
import yaml

from jobs.launch import command, place, pod_arguments
from jobs.where.carried import OURS
from jobs.where.places import Container, Pod
from tests.conftest import ROOT
from tests.jobs.places import UsePlaces

PAGE = (ROOT / "docs" / "where-jobs-run.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_places_file_on_the_page_places_the_gpu_jobs(use: UsePlaces, text: str) -> None:
    use(text)
    found = place("distil")
    assert found is not None
    assert pod_arguments("distil") if isinstance(found, Pod) else command("distil")
    assert place("ingest") is None


def test_every_key_is_in_the_table_with_its_kind_and_its_default() -> None:
    told = {
        name: [cell.strip() for cell in line.split("|")]
        for line in PAGE.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    keys = {"docker": Container, "kubernetes": Pod}
    for kind, made in keys.items():
        for key in fields(made)[1:]:  # the first is the name of the place
            cells = told[key.name]
            assert cells[2] in (kind, "both"), key.name
            if isinstance(key.default, int | float | str) and key.default:
                default = key.default if isinstance(key.default, str) else f"{key.default:.0f}"
                assert default in cells[4], key.name
    assert set(told) <= {key.name for made in keys.values() for key in fields(made)}


def test_every_variable_that_is_taken_along_is_named() -> None:
    assert [name for name in OURS if f"`{name}`" not in PAGE] == []


def _manifests() -> list[dict[str, Any]]:
    return [each for block in blocks("yaml") for each in yaml.safe_load_all(block)]


def test_airflow_may_do_in_the_cluster_what_its_operator_does_and_no_more() -> None:
    (role,) = [each for each in _manifests() if each["kind"] == "Role"]
    verbs = {rule["resources"][0]: set(rule["verbs"]) for rule in role["rules"]}
    assert verbs == {
        "pods": {"create", "get", "list", "watch", "patch", "delete"},
        "pods/log": {"get"},
        "pods/exec": {"create", "get"},
        "events": {"get", "list", "watch"},
    }
    assert all(rule["apiGroups"] == [""] for rule in role["rules"])


def test_manifests_and_places_speak_of_the_same_things(use: UsePlaces) -> None:
    use(blocks("toml")[-1])
    given = pod_arguments("distil")
    assert given is not None
    pod = given["pod_template_dict"]
    by_kind = {each["kind"]: each for each in _manifests()}
    assert by_kind["Namespace"]["metadata"]["name"] == given["namespace"]
    claims = [each.get("persistentVolumeClaim", {}) for each in pod["spec"]["volumes"]]
    assert {"claimName": by_kind["PersistentVolumeClaim"]["metadata"]["name"]} in claims
    selected = by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= pod["metadata"]["labels"].items()


def test_every_file_that_the_page_names_is_there() -> None:
    for name in set(re.findall(r"docker/[\w.]+\w", PAGE)):
        assert (ROOT / name).exists(), name
