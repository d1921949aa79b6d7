"""Which place each job runs in, from the file that TIDEMARK_PLACES names. Standard library only."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.where import checks
from jobs.where.checks import Check, PlacesError, nearest

VARIABLE = "TIDEMARK_PLACES"
LOCAL = "local"


@dataclass(frozen=True)
class Container:
    """A Docker container on this machine."""

    name: str
    image: str
    python: str = "python"
    gpus: int = 0
    cpus: float | None = None
    memory_gib: float | None = None
    scratch_gib: float = 2.0  # /tmp, in memory
    shared_memory_gib: float = 1.0  # /dev/shm: NCCL and data loaders
    network: str = "none"
    user: str | None = None  # the one who starts it
    mounts: Mapping[str, str] = field(default_factory=dict)  # variable -> "rw" or "ro"
    environment: tuple[str, ...] = ()
    deadline_s: int = 43_200  # no shorter than the timeouts of the DAGs
    stop_s: int = 30


@dataclass(frozen=True)
class Pod:
    """A pod of a Kubernetes cluster."""

    name: str
    image: str
    namespace: str
    python: str = "python"
    connection: str = "kubernetes_default"
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    cpus: float = 1.0
    memory_gib: float = 4.0
    scratch_gib: float = 2.0
    shared_memory_gib: float = 1.0
    user: str = "10001:10001"
    claims: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    environment: tuple[str, ...] = ()
    secrets: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, str], ...] = ()
    service_account: str | None = None
    image_pull_secrets: tuple[str, ...] = ()
    runtime_class: str | None = None
    priority_class: str | None = None
    start_s: int = 900
    deadline_s: int = 43_200  # no shorter than the timeouts of the DAGs
    stop_s: int = 30


Place = Container | Pod | None  # None: this machine


def inside_words(place: Container | Pod, module: str, flags: Sequence[str]) -> list[str]:
    """A job's argument list inside an image.

    `timeout` hands signals on, which Python as the first process of a container would not notice,
    and ends a job whose task was killed by -9 and could hand on nothing.
    """
    limit = ["timeout", f"--kill-after={place.stop_s}", str(place.deadline_s)]
    return [*limit, place.python, "-m", module, *flags]


_count, _seconds = checks.number(0, whole=True), checks.number(1, whole=True)
_size = checks.number(0.001)
_COMMON: dict[str, Check] = {
    "image": checks.image,
    "python": checks.python,
    "gpus": _count,
    "cpus": _size,
    "memory_gib": _size,
    "scratch_gib": _size,
    "shared_memory_gib": _size,
    "user": checks.user,
    "deadline_s": _seconds,
    "stop_s": _seconds,
}
_TOLERATION = checks.keys_of(
    {
        "key": checks.label,
        "operator": checks.one_of("Exists", "Equal"),
        "value": checks.label,
        "effect": checks.one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
    },
    required=["key", "operator"],
)
_KINDS: dict[str, tuple[type[Container] | type[Pod], Check]] = {
    "docker": (
        Container,
        checks.keys_of(
            {
                **_COMMON,
                "network": checks.network,
                "mounts": checks.table_of(checks.variable, checks.one_of("rw", "ro")),
                "environment": checks.list_of(checks.variable),
            },
            required=["image"],
        ),
    ),
    "kubernetes": (
        Pod,
        checks.keys_of(
            {
                **_COMMON,
                "namespace": checks.kubernetes_name,
                "connection": checks.variable,
                "gpu_resource": checks.label,
                "claims": checks.table_of(checks.variable, checks.claim),
                "environment": checks.list_of(checks.plain_variable),
                "secrets": checks.table_of(checks.variable, checks.secret_key),
                "node_selector": checks.table_of(checks.label, checks.label),
                "tolerations": checks.list_of(_TOLERATION),
                "service_account": checks.kubernetes_name,
                "image_pull_secrets": checks.list_of(checks.kubernetes_name),
                "runtime_class": checks.kubernetes_name,
                "priority_class": checks.kubernetes_name,
                "start_s": _seconds,
            },
            required=["image", "namespace", "claims"],
        ),
    ),
}


def place_of(job: str, groups: Mapping[str, Collection[str]]) -> Place:
    """Where `job` runs: what the file says of the job itself, else of its smallest group.

    Args:
        job: a name that is in the group `all`.
        groups: members of each group, `all` among them.

    Raises:
        PlacesError: the file cannot be read, or something in it is wrong; all of it is checked.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    places, jobs = _read(Path(path).expanduser(), groups)
    names = sorted((g for g in groups if job in groups[g]), key=lambda group: len(groups[group]))
    chosen = next((jobs[name] for name in (job, *names) if name in jobs), LOCAL)
    return places[chosen]


def _read(
    path: Path, groups: Mapping[str, Collection[str]]
) -> tuple[dict[str, Place], dict[str, str]]:
    """All places by name, and the place of each job or group that the file names."""
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlacesError(f"{VARIABLE}={path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlacesError(f"{path}: is not TOML: {error}") from error
    file = checks.keys_of({"places": _table, "jobs": _table})(said, str(path))
    places: dict[str, Place] = {LOCAL: None}
    for name, keys in file.get("places", {}).items():
        places[name] = _place(name, keys, f"{path}, [places.{name}]")
    jobs = file.get("jobs", {})
    for name, chosen in jobs.items():
        _check_choice(name, chosen, places, groups, f"{path}, [jobs] {name}")
    return places, jobs


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PlacesError(f"{where}: {value!r} is not a table")
    return value


def _place(name: str, keys: Any, where: str) -> Container | Pod:
    checks.kubernetes_name(name, where)
    if name == LOCAL:
        raise PlacesError(f"{where}: '{LOCAL}' is this machine; give the place another name")
    kind = _table(keys, where).get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise PlacesError(f"{where}: kind {kind!r} is none of {', '.join(_KINDS)}")
    made, check = _KINDS[kind]
    return made(name=name, **check({k: v for k, v in keys.items() if k != "kind"}, where))


def _check_choice(
    name: str,
    chosen: Any,
    places: Mapping[str, Place],
    groups: Mapping[str, Collection[str]],
    where: str,
) -> None:
    known = [*groups, *groups["all"]]
    if name not in known:
        raise PlacesError(
            f"{where}: there is no such job or group{nearest(name, known)} "
            f"There are: {', '.join(known)}"
        )
    if not isinstance(chosen, str) or chosen not in places:
        raise PlacesError(
            f"{where}: there is no place {chosen!r}{nearest(str(chosen), places)} "
            f"There are: {', '.join(places)}"
        )
