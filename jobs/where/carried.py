"""Variables and folders that a job takes along into a container or a pod. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from jobs.where.checks import PlacesError

HOME, STORE = "TIDEMARK_HOME", "TIDEMARK_STORE"
# Known to every job; taken along where they are set.
OURS = (
    STORE,
    "TIDEMARK_LOG",
    "TIDEMARK_MEMORY_LIMIT",
    "TIDEMARK_THREADS",
    "TIDEMARK_SPILL",
    "OPENLINEAGE_DISABLED",
    "OPENLINEAGE_ENDPOINT",
    "OPENLINEAGE_NAMESPACE",
    "OPENLINEAGE_URL",
    "HF_HUB_OFFLINE",
    "OMP_NUM_THREADS",
)
FIXED = {
    "HOME": "/tmp",  # a read-only root has no other
    "USER": "tidemark",  # torch asks for a name, and a number from outside has none in the image
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve each other
    "TOKENIZERS_PARALLELISM": "false",
}
# What Airflow tells a task's shell about itself, for logs and lineage.
# A pod has it from templates instead.
OF_AIRFLOW = {
    "AIRFLOW_CTX_DAG_ID": "{{ dag.dag_id }}",
    "AIRFLOW_CTX_TASK_ID": "{{ ti.task_id }}",
    "AIRFLOW_CTX_DAG_RUN_ID": "{{ run_id }}",
    "AIRFLOW_CTX_TRY_NUMBER": "{{ ti.try_number }}",
}


def value_of(name: str, place: str) -> str:
    """Value of a variable that the place asks for; unset or empty is an error that says so."""
    value = os.environ.get(name)
    if not value:
        raise PlacesError(
            f"place '{place}' takes {name} along, and it is not set here; set it for the "
            "scheduler and the dag processor, or take it out of the places file"
        )
    if any(mark in value for mark in ("{{", "{%", "{#")) or not value.isprintable():
        # Airflow renders commands and pods as templates once more; a line break ends a line of log.
        raise PlacesError(
            f"place '{place}': {name} holds a template mark or a control character; "
            "it would not arrive as it is"
        )
    return value


def folder_of(name: str, place: str) -> str:
    """An absolute folder, the same inside and outside: so every path in a manifest stays true."""
    value = value_of(name, place)
    path = PurePosixPath(value)
    if not path.is_absolute() or ".." in path.parts or path == PurePosixPath("/"):
        raise PlacesError(
            f"place '{place}' mounts {name}={value}; it has to be an absolute path, without '..', "
            "to a folder below the root"
        )
    return str(path)


def check_store(mounted: Iterable[str], place: str, *, online: bool) -> None:
    """The store is reachable from inside: below a mounted folder, or by a network.

    Raises:
        PlacesError: it is neither.
    """
    store = os.environ.get(STORE)
    if not store:
        return  # below the home
    if "://" in store:
        if not online:
            raise PlacesError(
                f"{STORE}={store} needs a network, and place '{place}' has none; "
                'give it one: network = "bridge"'
            )
        return
    value_of(STORE, place)
    if not any(PurePosixPath(store).is_relative_to(folder) for folder in mounted):
        raise PlacesError(
            f"place '{place}' does not mount {STORE}={store}; add it beside {HOME}, or unset it: "
            f"the store is then below {HOME}"
        )


def ours_that_are_set(asked: Collection[str]) -> list[str]:
    """Names of variables of ours that are set here and not among `asked`."""
    return [name for name in OURS if os.environ.get(name) and name not in asked]
