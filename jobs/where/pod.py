"""A job in a Kubernetes pod, as arguments of Airflow's pod operator. Standard library only."""

from __future__ import annotations

from typing import Any

from jobs.where.carried import (
    FIXED,
    HOME,
    OF_AIRFLOW,
    check_store,
    folder_of,
    ours_that_are_set,
    value_of,
)
from jobs.where.checks import PlacesError
from jobs.where.places import Pod

ANSWER_VARIABLE = "TIDEMARK_ANSWER"
ANSWER = "/airflow/xcom/return.json"  # where the operator's sidecar looks for the XCom
_CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def operator_arguments(place: Pod, job: str) -> dict[str, Any]:
    """Keyword arguments of `@task.kubernetes_cmd` or KubernetesPodOperator, all but the command.

    The pod is a plain dict, so that a DAG file imports no client of Kubernetes to be parsed. A
    retry finds the pod of a task that was killed and goes on watching it (`durable`, the
    operator's default).

    Raises:
        PlacesError: a variable or a folder that the place asks for is not there.
    """
    return {
        "kubernetes_conn_id": place.connection,
        "namespace": place.namespace,
        "name": f"tidemark-{job.replace('_', '-')}",
        "pod_template_dict": _pod(place, job),
        "startup_timeout_seconds": place.start_s,
        "get_logs": True,
        "log_events_on_failure": True,  # why a pod was not scheduled, or was evicted
        "on_finish_action": "delete_pod",  # its log is the task's log
        "do_xcom_push": True,
        "xcom_sidecar_container_security_context": _CONFINED,
    }


def _pod(place: Pod, job: str) -> dict[str, Any]:
    uid, gid = (int(part) for part in place.user.split(":"))
    folders = _folders(place)
    spec: dict[str, Any] = {
        "restartPolicy": "Never",  # Airflow retries, and counts
        "activeDeadlineSeconds": place.deadline_s,
        "terminationGracePeriodSeconds": place.stop_s,
        "automountServiceAccountToken": False,  # no job talks to the cluster
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": uid,
            "runAsGroup": gid,
            "fsGroup": gid,
            # Else each start changes the owner of every file of the warehouse.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": _volumes(place),
        "containers": [
            {
                "name": "base",
                "image": place.image,
                "env": _variables(place, folders),
                "resources": _resources(place),
                "securityContext": _CONFINED,
                "volumeMounts": _mounts(place, folders),
            }
        ],
        **_scheduling(place),
    }
    labels = {"app.kubernetes.io/name": "tidemark", "tidemark.job": job}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": labels}, "spec": spec}


def _scheduling(place: Pod) -> dict[str, Any]:
    """What decides on the node; keys that the place leaves out are left out."""
    said = {
        "nodeSelector": dict(place.node_selector),
        "tolerations": [dict(each) for each in place.tolerations],
        "imagePullSecrets": [{"name": name} for name in place.image_pull_secrets],
        "serviceAccountName": place.service_account,
        "runtimeClassName": place.runtime_class,
        "priorityClassName": place.priority_class,
    }
    return {key: value for key, value in said.items() if value}


def _resources(place: Pod) -> dict[str, dict[str, str]]:
    memory = f"{round(place.memory_gib * 1024)}Mi"
    gpus = {place.gpu_resource: str(place.gpus)} if place.gpus else {}
    # No limit on CPU: a job that waits for nobody may use what is free.
    return {
        "requests": {"cpu": f"{round(place.cpus * 1000)}m", "memory": memory, **gpus},
        "limits": {"memory": memory, **gpus},
    }


def _folders(place: Pod) -> dict[str, str]:
    if HOME not in place.claims:
        raise PlacesError(
            f"place '{place.name}' names no volume claim for {HOME}; add it: "
            f'claims = {{ {HOME} = "tidemark-home" }}'
        )
    folders = {name: folder_of(name, place.name) for name in place.claims}
    check_store(folders.values(), place.name, online=True)
    return folders


def _volume_name(variable: str) -> str:
    return "claim-" + variable.lower().replace("_", "-").strip("-")


def _volumes(place: Pod) -> list[dict[str, Any]]:
    claims = {name: {"claimName": claim} for name, (claim, _) in place.claims.items()}
    scratch = {"sizeLimit": f"{round(place.scratch_gib * 1024)}Mi"}
    shared = {"medium": "Memory", "sizeLimit": f"{round(place.shared_memory_gib * 1024)}Mi"}
    return [
        {"name": "scratch", "emptyDir": scratch},
        {"name": "shared-memory", "emptyDir": shared},
        *({"name": _volume_name(n), "persistentVolumeClaim": c} for n, c in claims.items()),
    ]


def _mounts(place: Pod, folders: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
        *(
            {"name": _volume_name(name), "mountPath": folders[name], "readOnly": is_read_only}
            for name, (_, is_read_only) in place.claims.items()
        ),
    ]


def _variables(place: Pod, folders: dict[str, str]) -> list[dict[str, Any]]:
    asked = dict.fromkeys([*folders, *place.environment])
    # What comes from a secret of the cluster never stands beside it as plain text.
    ours = ours_that_are_set([*asked, *place.secrets])
    plain = {
        **FIXED,
        **OF_AIRFLOW,
        ANSWER_VARIABLE: ANSWER,
        **{name: value_of(name, place.name) for name in [*asked, *ours]},
    }
    secret = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": where, "key": key}}}
        for name, (where, key) in place.secrets.items()
    ]
    return [{"name": name, "value": value} for name, value in plain.items()] + secret
