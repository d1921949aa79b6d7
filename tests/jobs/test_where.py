"""Where a job runs: the rendered container and pod, and what a wrong file or environment says."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.answer import answer
from jobs.launch import GPU, MODULES, arguments, command, place, pod_arguments, pod_command
from jobs.where.checks import PlacesError
from jobs.where.places import Container
from tests.jobs.places import DOCKER, KUBERNETES, UsePlaces

GIB = 1 << 30


# -- which place ---------------------------------------------------------------------------------


def test_without_a_file_every_job_runs_on_this_machine(scheduler_environment: None) -> None:
    assert all(place(job) is None for job in MODULES)
    assert command("distil", day="2026-03-02") == (
        f"exec {shlex.quote(sys.executable)} -m jobs.llm.distil --day 2026-03-02"
    )
    assert pod_arguments("distil") is None


def test_the_job_itself_comes_before_its_group_and_the_group_before_all(use: UsePlaces) -> None:
    second = DOCKER.split("[jobs]")[0].replace("gpu-box", "cpu-box")
    use(second + DOCKER + 'all = "cpu-box"\nscore = "local"\n')
    places = {job: place(job) for job in MODULES}
    assert places["score"] is None
    on = {job: each.name for job, each in places.items() if isinstance(each, Container)}
    assert {job for job, name in on.items() if name == "gpu-box"} == set(GPU) - {"score"}
    assert on["ingest"] == on["previous"] == on["check"] == "cpu-box"


def test_flags_are_the_same_words_in_every_place(use: UsePlaces) -> None:
    flags: dict[str, object] = {
        "model": "/srv/my models/$(reboot); `x`",
        "force": True,
        "cache": False,
        "adapter": None,
        "batch_tokens": 512,
        "day": "2026-03-02",
    }
    said = ["--model", "/srv/my models/$(reboot); `x`", "--force", "--no-cache"]
    said += ["--batch-tokens", "512", "--day", "2026-03-02"]
    job = ["-m", "jobs.llm.distil", *said]
    assert arguments("distil", **flags) == [sys.executable, *job]
    use(DOCKER)
    inside = ["timeout", "--kill-after=30", "43200", "python", *job]
    assert arguments("distil", **flags)[-len(inside) + 1 :] == inside[1:]
    assert shlex.split(command("distil", **flags))[-len(inside) :] == inside
    use(KUBERNETES)
    assert pod_command("distil", **flags) == inside


# -- a container ---------------------------------------------------------------------------------


def test_a_container_is_a_user_with_nothing_but_its_folders_and_its_card(use: UsePlaces) -> None:
    use(DOCKER)
    assert shlex.split(command("distil", day="2026-03-02")) == [
        *("exec", "docker", "run", "--rm", "--init", "--label", "tidemark.job=distil"),
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--user", "10001:10001", "--network", "none"),
        *("--pids-limit", "4096", "--shm-size", str(GIB)),
        *("--tmpfs", f"/tmp:rw,nosuid,nodev,mode=1777,size={2 * GIB}"),
        *("--gpus", "1", "--cpus", "8"),
        *("--memory", str(32 * GIB), "--memory-swap", str(32 * GIB)),
        *("--mount", "type=bind,source=/srv/tidemark,target=/srv/tidemark"),
        *("--mount", "type=bind,source=/srv/my models,target=/srv/my models,readonly"),
        *("--env", "HOME=/tmp", "--env", "USER=tidemark", "--env", "OMP_WAIT_POLICY=PASSIVE"),
        *("--env", "TOKENIZERS_PARALLELISM=false"),
        *("--env", "TIDEMARK_HOME", "--env", "TIDEMARK_MODELS", "--env", "HF_TOKEN"),
        *("--env", "AIRFLOW_CTX_DAG_ID", "--env", "AIRFLOW_CTX_TASK_ID"),
        *("--env", "AIRFLOW_CTX_DAG_RUN_ID", "--env", "AIRFLOW_CTX_TRY_NUMBER"),
        *("--stop-signal", "SIGTERM", "--stop-timeout", "30"),
        *("--entrypoint", "sh", "tidemark-gpu:0.1.0", "-c", 'exec "$@" 2>&1', "sh"),
        *("timeout", "--kill-after=30", "43200"),
        *("python", "-m", "jobs.llm.distil", "--day", "2026-03-02"),
    ]


def test_the_value_of_a_secret_is_in_no_command_and_in_no_pod(use: UsePlaces) -> None:
    use(DOCKER)
    assert "s3cret" not in command("distil", day="2026-03-02")
    use(KUBERNETES)
    assert "s3cret" not in json.dumps(pod_arguments("distil"))


def _inside(words: list[str]) -> list[str]:
    """What Docker would start: the entry point and the words after the image."""
    entry, image = words.index("--entrypoint"), words.index("tidemark-gpu:0.1.0")
    return [words[entry + 1], *words[image + 1 :]]


def test_what_docker_starts_ends_with_the_answer_and_stops_at_sigterm(
    use: UsePlaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine: the very words that the container would run, run here."""
    monkeypatch.setenv("TIDEMARK_HOME", str(tmp_path))
    use(
        DOCKER.replace('gpu = "gpu-box"', 'all = "gpu-box"').replace(
            "gpus = 1", f'python = "{sys.executable}"'
        )
    )
    words = _inside(shlex.split(command("previous", day="2026-03-02")))
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    assert done.stderr == ""  # all in one stream, in order
    assert json.loads(done.stdout.splitlines()[-1])["version"] is None

    wrapped = words[: words.index("-m")]
    sleeping = [*wrapped, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    with subprocess.Popen(sleeping, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        started = time.monotonic()
        process.terminate()
        assert process.wait(timeout=120) != 0
        assert time.monotonic() - started < 25  # the signal, not the grace of 30 s


def test_a_job_of_a_killed_task_ends_at_its_deadline(use: UsePlaces) -> None:
    use(DOCKER.replace("gpus = 1", f'python = "{sys.executable}"\ndeadline_s = 1\nstop_s = 1'))
    words = _inside(shlex.split(command("distil")))
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    done = subprocess.run([*words[: words.index("-m")], "-c", stubborn], timeout=120, check=False)
    assert done.returncode in {124, 137, -9}


# -- a pod ---------------------------------------------------------------------------------------


def variable(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}


CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"labels": {"app.kubernetes.io/name": "tidemark", "tidemark.job": "llm_scores"}},
    "spec": {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 43200,
        "terminationGracePeriodSeconds": 30,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "serviceAccountName": "tidemark-jobs",
        "imagePullSecrets": [{"name": "registry"}],
        "priorityClassName": "nightly",
        "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": "2048Mi"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Mi"}},
            {
                "name": "claim-tidemark-home",
                "persistentVolumeClaim": {"claimName": "tidemark-home"},
            },
            {"name": "claim-tidemark-models", "persistentVolumeClaim": {"claimName": "models"}},
        ],
        "containers": [
            {
                "name": "base",
                "image": "registry.example.org/tidemark-gpu:0.1.0",
                "env": [
                    variable("HOME", "/tmp"),
                    variable("USER", "tidemark"),
                    variable("OMP_WAIT_POLICY", "PASSIVE"),
                    variable("TOKENIZERS_PARALLELISM", "false"),
                    variable("AIRFLOW_CTX_DAG_ID", "{{ dag.dag_id }}"),
                    variable("AIRFLOW_CTX_TASK_ID", "{{ ti.task_id }}"),
                    variable("AIRFLOW_CTX_DAG_RUN_ID", "{{ run_id }}"),
                    variable("AIRFLOW_CTX_TRY_NUMBER", "{{ ti.try_number }}"),
                    variable("TIDEMARK_ANSWER", "/airflow/xcom/return.json"),
                    variable("TIDEMARK_HOME", "/srv/tidemark"),
                    variable("TIDEMARK_MODELS", "/srv/my models"),
                    variable("WANDB_MODE", "offline"),
                    {
                        "name": "HF_TOKEN",
                        "valueFrom": {"secretKeyRef": {"name": "huggingface", "key": "token"}},
                    },
                ],
                "resources": {
                    "requests": {"cpu": "8000m", "memory": "49152Mi", "nvidia.com/gpu": "1"},
                    "limits": {"memory": "49152Mi", "nvidia.com/gpu": "1"},
                },
                "securityContext": CONFINED,
                "volumeMounts": [
                    {"name": "scratch", "mountPath": "/tmp"},
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                    {
                        "name": "claim-tidemark-home",
                        "mountPath": "/srv/tidemark",
                        "readOnly": False,
                    },
                    {
                        "name": "claim-tidemark-models",
                        "mountPath": "/srv/my models",
                        "readOnly": True,
                    },
                ],
            }
        ],
    },
}


def test_a_pod_is_a_user_with_nothing_but_its_claims_its_secrets_and_its_card(
    use: UsePlaces,
) -> None:
    use(KUBERNETES)
    assert pod_arguments("llm_scores") == {
        "kubernetes_conn_id": "kubernetes_default",
        "namespace": "tidemark",
        "name": "tidemark-llm-scores",
        "pod_template_dict": POD,
        "startup_timeout_seconds": 900,
        "get_logs": True,
        "log_events_on_failure": True,
        "on_finish_action": "delete_pod",
        "do_xcom_push": True,
        "xcom_sidecar_container_security_context": CONFINED,
    }
    assert pod_arguments("ingest") is None


def test_a_small_pod_asks_for_no_card_and_no_node(use: UsePlaces) -> None:
    use(
        '[places.small]\nkind = "kubernetes"\nimage = "tidemark-jobs:0.1.0"\nnamespace = "t"\n'
        'cpus = 0.5\nmemory_gib = 0.25\nclaims = { TIDEMARK_HOME = "home" }\n'
        '[jobs]\nall = "small"\n'
    )
    given = pod_arguments("ingest")
    assert given is not None
    spec = given["pod_template_dict"]["spec"]
    assert "nodeSelector" not in spec
    assert "tolerations" not in spec
    assert spec["containers"][0]["resources"] == {
        "requests": {"cpu": "500m", "memory": "256Mi"},
        "limits": {"memory": "256Mi"},
    }


# Airflow configures logging and a database when it is imported: a process of its own.
OPERATOR = """
import json
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import ApiClient
from jobs.launch import pod_arguments, pod_command
operator = KubernetesPodOperator(
    task_id="llm_scores",
    cmds=pod_command("llm_scores", day="2026-03-02"),
    **pod_arguments("llm_scores"),
)
pod = operator.build_pod_request_obj(dry_run=True)
print("POD" + json.dumps(ApiClient().sanitize_for_serialization(pod)))
"""


def _without(value: Any) -> Any:
    """A spec without the keys that the operator fills with nothing."""
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if v not in ([], {}, None)}
    return [_without(each) for each in value] if isinstance(value, list) else value


def test_the_operator_makes_of_it_the_pod_that_was_meant(use: UsePlaces, tmp_path: Path) -> None:
    """The provider drops keys that it does not know: a key spelled wrong would be missing here."""
    use(KUBERNETES)
    done = subprocess.run(
        [sys.executable, "-c", OPERATOR],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("POD"))
    made = _without(json.loads(line.removeprefix("POD")))
    base, sidecar = made["spec"].pop("containers")
    meant = _without(json.loads(json.dumps(POD["spec"])))
    (mine,) = meant.pop("containers")

    answer_mount = {"name": "xcom", "mountPath": "/airflow/xcom"}
    assert base.pop("command") == [
        *("timeout", "--kill-after=30", "43200"),
        *("python", "-m", "jobs.llm.llm_scores", "--day", "2026-03-02"),
    ]
    assert base.pop("terminationMessagePolicy") == "File"
    assert base.pop("volumeMounts") == [answer_mount, *mine.pop("volumeMounts")]
    assert base == mine
    assert sidecar["securityContext"] == CONFINED
    assert sidecar["volumeMounts"] == [answer_mount]

    assert made["metadata"]["namespace"] == "tidemark"
    assert made["metadata"]["name"].startswith("tidemark-llm-scores-")
    assert made["metadata"]["labels"]["tidemark.job"] == "llm_scores"
    assert made["spec"].pop("hostNetwork") is False
    assert made["spec"].pop("volumes")[1:] == meant.pop("volumes")
    assert made["spec"] == meant


def test_the_xcom_of_a_pod_is_the_same_text_as_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The operator reads the file as JSON; the DAGs read the text that comes out once more."""
    path = tmp_path / "return.json"
    monkeypatch.setenv("TIDEMARK_ANSWER", str(path))
    answer({"job": "publish", "version": 3, "why": 'said "no"\n'})
    last_line = capsys.readouterr().out.rstrip("\n")
    assert json.loads(path.read_text(encoding="utf-8")) == last_line
    assert json.loads(last_line) == {"job": "publish", "version": 3, "why": 'said "no"\n'}


def test_a_job_in_a_pod_writes_its_answer_where_the_sidecar_looks(
    use: UsePlaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMARK_HOME", str(tmp_path))
    monkeypatch.setenv("TIDEMARK_ANSWER", str(tmp_path / "return.json"))
    use(
        KUBERNETES.replace('gpu = "cluster"', 'all = "cluster"').replace(
            "gpus = 1", f'python = "{sys.executable}"'
        )
    )
    words = pod_command("previous", day="2026-03-02")
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    xcom = json.loads((tmp_path / "return.json").read_text(encoding="utf-8"))
    assert xcom == done.stdout.splitlines()[-1]


def test_a_job_of_a_pod_never_runs_here_by_mistake(use: UsePlaces) -> None:
    use(KUBERNETES)
    with pytest.raises(PlacesError) as caught:
        command("distil")
    assert str(caught.value) == (
        "job 'distil' runs in a pod (place 'cluster'), and this is a command line of this machine; "
        "run it by its DAG, or take TIDEMARK_PLACES out of the environment"
    )
    with pytest.raises(PlacesError, match="job 'ingest' runs in no pod"):
        pod_command("ingest")
