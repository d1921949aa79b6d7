"""What a wrong places file or a missing variable says: the value, the place and the way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.errors import JobError
from jobs.launch import MODULES, command, pod_arguments
from jobs.where.checks import PlacesError
from tests.jobs.places import DOCKER, KUBERNETES, UsePlaces


def place_distil() -> None:
    if pod_arguments("distil") is None:
        command("distil", day="2026-03-02")


def refused() -> str:
    """What is said of `distil`, which both files place."""
    with pytest.raises(PlacesError) as caught:
        place_distil()
    assert isinstance(caught.value, JobError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("imgae", "image", "[places.gpu-box]: there is no key 'imgae'; did you mean 'image'?"),
        ("[place.gpu-box]", "[places.gpu-box]", "no key 'place'; did you mean 'places'?"),
        ('"dokcer"', '"docker"', "kind 'dokcer' is none of docker, kubernetes"),
        ('gpu = "gpu-bux"', 'gpu = "gpu-box"', "no place 'gpu-bux'; did you mean 'gpu-box'?"),
        ('distill = "gpu-box"', 'gpu = "gpu-box"', "did you mean 'distil'? There are: all, gpu,"),
        ("gpus = -1", "gpus = 1", ".gpus: -1 is not a whole number of 0 or more"),
        ("gpus = true", "gpus = 1", ".gpus: True is not a whole number of 0 or more"),
        ("gpus = 0.5", "gpus = 1", ".gpus: 0.5 is not a whole number"),
        ('memory_gib = "32g"', "memory_gib = 32", ".memory_gib: '32g' is not a number"),
        ("memory_gib = inf", "memory_gib = 32", ".memory_gib: inf is not a number"),
        ('"tidemark-gpu:latest"', '"tidemark-gpu:0.1.0"', "give it a version or a digest"),
        ('"tidemark-gpu"', '"tidemark-gpu:0.1.0"', "'tidemark-gpu:0.1.0'"),
        ('"--privileged"', '"tidemark-gpu:0.1.0"', "'--privileged' is not an image"),
        ('"a; rm -rf /:1"', '"tidemark-gpu:0.1.0"', "'a; rm -rf /:1' is not an image"),
        ('"{{ conf }}:1"', '"tidemark-gpu:0.1.0"', "is not an image"),
        ('"0:0"', '"10001:10001"', "'0:0' is not a user and a group by number, and not root"),
        ('"root"', '"10001:10001"', "'root' is not a user"),
        ('["--privileged"]', '["HF_TOKEN"]', "'--privileged' is not the name of an environment"),
        ('["HF_TOKEN=hf_s3"]', '["HF_TOKEN"]', "is not the name of an environment variable"),
        ('"HF_TOKEN"\n', '["HF_TOKEN"]\n', "'HF_TOKEN' is not a list"),
        ('= "rx"', '= "ro"', "mounts.TIDEMARK_MODELS: 'rx' is none of rw, ro"),
        ('network = "host"', "gpus = 1", "'host' opens every port of this machine"),
        ('network = "container:x"', "gpus = 1", "is not the name of a Docker network"),
        ("deadline_s = 0", "gpus = 1", ".deadline_s: 0 is not a whole number of 1 or more"),
        ("[places.local]", "[places.gpu-box]", "'local' is this machine"),
        ("gpus = ", "gpus = 1", "is not TOML"),
    ],
)
def test_a_wrong_container_is_refused_by_name(
    use: UsePlaces, wrong: str, right: str, said: str
) -> None:
    assert right in DOCKER
    path = use(DOCKER.replace(right, wrong))
    message = refused()
    assert said in message
    assert message.startswith(str(path))


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("name_space", "namespace", "no key 'name_space'; did you mean 'namespace'?"),
        ("# ", "namespace", "the key 'namespace' is missing"),
        ('"Tidemark"', '"tidemark"', "'Tidemark' is not a name as Kubernetes has it"),
        ('"huggingface"', '"huggingface/token"', "is not where a secret lies: 'secret-name/key'"),
        ('"hf_s3cret"', '"huggingface/token"', "The value itself never stands in this file"),
        ('["AWS_SECRET_ACCESS_KEY"]', '["WANDB_MODE"]', "secrets = { AWS_SECRET_ACCESS_KEY ="),
        ('"models:rw"', '"models:ro"', "is not a volume claim: 'models' or 'models:ro'"),
        ('"../models"', '"models:ro"', "is not a volume claim"),
        ('"a b"', '"NVIDIA-A100-SXM4-80GB"', "is not a label as Kubernetes has it"),
        ('"{{ x }}"', '"NVIDIA-A100-SXM4-80GB"', "is not a label as Kubernetes has it"),
        ('"Exist"', '"Exists"', "'Exist' is none of Exists, Equal"),
        ('opeartor = "Exists"', 'operator = "Exists"', "did you mean 'operator'?"),
        ("TIDEMARK_HUME =", "TIDEMARK_HOME =", "names no volume claim for TIDEMARK_HOME"),
    ],
)
def test_a_wrong_pod_is_refused_by_name(
    use: UsePlaces, monkeypatch: pytest.MonkeyPatch, wrong: str, right: str, said: str
) -> None:
    monkeypatch.setenv("TIDEMARK_HUME", "/srv/tidemark")
    assert right in KUBERNETES
    use(KUBERNETES.replace(right, wrong))
    assert said in refused()


def test_the_whole_file_is_checked_whichever_job_asks(use: UsePlaces) -> None:
    use(DOCKER + "\n[places.never-used]\nkind = 'docker'\n")
    with pytest.raises(PlacesError, match=r"\[places.never-used\]: the key 'image' is missing"):
        command("ingest", day="2026-03-02")


def test_a_file_that_is_not_there_is_named(
    scheduler_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "places.toml"
    monkeypatch.setenv("TIDEMARK_PLACES", str(path))
    assert refused() == f"TIDEMARK_PLACES={path}: cannot be read (No such file or directory)"


@pytest.mark.parametrize("text", [DOCKER, KUBERNETES.replace('"WANDB_MODE"', '"HF_HOME"')])
def test_a_variable_that_is_not_set_is_named_with_the_way_out(
    use: UsePlaces, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    use(text)
    name = "HF_TOKEN" if text == DOCKER else "HF_HOME"
    assert f"takes {name} along, and it is not set here; set it" in refused()


@pytest.mark.parametrize("text", [DOCKER, KUBERNETES])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TIDEMARK_HOME", ".tidemark", "it has to be an absolute path"),
        ("TIDEMARK_HOME", "/", "to a folder below the root"),
        ("TIDEMARK_HOME", "/srv/../etc", "without '..'"),
        ("TIDEMARK_HOME", "/srv/{{ conf }}", "holds a template mark"),
        ("TIDEMARK_HOME", "/srv/a\nb", "or a control character"),
        ("TIDEMARK_MODELS", "", "takes TIDEMARK_MODELS along, and it is not set here"),
        ("TIDEMARK_STORE", "/mnt/store", "does not mount TIDEMARK_STORE=/mnt/store"),
    ],
)
def test_a_folder_that_would_not_arrive_is_refused(
    use: UsePlaces, monkeypatch: pytest.MonkeyPatch, text: str, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    use(text)
    assert said in refused()


def test_docker_cannot_mount_a_comma(use: UsePlaces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMARK_HOME", "/srv/a,readonly=false")
    use(DOCKER)
    assert "with a comma or a quote in its name" in refused()


def test_a_store_in_a_bucket_needs_a_network(
    use: UsePlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMARK_STORE", "s3://warehouse/vectors")
    use(DOCKER)
    assert 'give it one: network = "bridge"' in refused()
    use(DOCKER.replace("gpus = 1", 'network = "bridge"'))
    assert "--network bridge" in command("distil")
    assert "--env TIDEMARK_STORE" in command("distil")
    use(KUBERNETES)
    assert pod_arguments("distil")


def test_root_is_told_to_name_a_user(use: UsePlaces) -> None:
    use(DOCKER.replace('user = "10001:10001"\n', ""))
    if os.getuid() == 0:
        assert 'name the owner of TIDEMARK_HOME: user = "10001:10001"' in refused()
    else:
        assert f"--user {os.getuid()}:{os.getgid()}" in command("distil")


def test_every_job_can_be_placed_by_name(use: UsePlaces) -> None:
    for job in MODULES:
        use(DOCKER.replace("gpu =", f"{job} ="))
        assert command(job).startswith("exec docker run")
