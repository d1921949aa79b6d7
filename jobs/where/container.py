"""A job in a Docker container, as one argument list. Standard library only: DAGs import it."""

from __future__ import annotations

import os
from collections.abc import Sequence

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
from jobs.where.places import Container, inside_words

GIB = 1 << 30


def docker_run(
    place: Container, job: str, module: str, flags: Sequence[str], *, is_one_stream: bool
) -> list[str]:
    """`docker run ...`: the job's own argument list inside, and little else reachable.

    Values of variables never stand in the list, which logs and `ps` show: Docker takes them from
    its own environment.

    Args:
        place: which image, and with what.
        job: its name, for a label: `docker ps --filter label=tidemark.job=distil`.
        module: that Python runs.
        flags: of the job.
        is_one_stream: bring stderr and stdout together inside. Docker carries them apart and may
            change their order; a scheduler that takes the last line as the answer needs it last.

    Raises:
        PlacesError: a variable or a folder that the place asks for is not there.
    """
    words = ["docker", "run", "--rm", "--init", "--label", f"tidemark.job={job}"]
    words += ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    words += ["--user", place.user or _own_user(place.name), "--network", place.network]
    words += _resources(place)
    words += _folders(place)
    words += _variables(place)
    words += ["--stop-signal", "SIGTERM", "--stop-timeout", str(place.stop_s)]
    # A killed task takes the container with it: docker hands SIGTERM on, and --init to the job.
    inside = inside_words(place, module, flags)
    if is_one_stream:
        inside = ["sh", "-c", 'exec "$@" 2>&1', "sh", *inside]
    return [*words, "--entrypoint", inside[0], place.image, *inside[1:]]


def _own_user(place: str) -> str:
    if os.getuid() == 0:
        raise PlacesError(
            f"place '{place}': root starts this job, and a container does not run as root; name "
            f'the owner of {HOME}: user = "10001:10001"'
        )
    return f"{os.getuid()}:{os.getgid()}"


def _bytes(gib: float) -> str:
    return str(round(gib * GIB))


def _resources(place: Container) -> list[str]:
    words = ["--pids-limit", "4096", "--shm-size", _bytes(place.shared_memory_gib)]
    words += ["--tmpfs", f"/tmp:rw,nosuid,nodev,mode=1777,size={_bytes(place.scratch_gib)}"]
    if place.gpus:
        words += ["--gpus", str(place.gpus)]
    if place.cpus is not None:
        words += ["--cpus", f"{place.cpus:g}"]
    if place.memory_gib is not None:
        # The same with swap: none.
        words += ["--memory", _bytes(place.memory_gib), "--memory-swap", _bytes(place.memory_gib)]
    return words


def _folders(place: Container) -> list[str]:
    words: list[str] = []
    modes = {HOME: "rw", **place.mounts}
    folders = {name: folder_of(name, place.name) for name in modes}
    check_store(folders.values(), place.name, online=place.network != "none")
    for name, folder in folders.items():
        if "," in folder or '"' in folder:
            raise PlacesError(
                f"place '{place.name}' mounts {name}={folder}; Docker cannot mount a folder with a "
                "comma or a quote in its name"
            )
        end = ",readonly" if modes[name] == "ro" else ""
        # --mount and not -v: a folder that is missing is an error, not a new one that root owns.
        words += ["--mount", f"type=bind,source={folder},target={folder}{end}"]
    return words


def _variables(place: Container) -> list[str]:
    asked = [HOME, *place.mounts, *place.environment]
    for name in asked:
        value_of(name, place.name)
    words = [f"{name}={value}" for name, value in FIXED.items()]
    words += dict.fromkeys([*asked, *ours_that_are_set(asked), *OF_AIRFLOW])
    return [word for each in words for word in ("--env", each)]
