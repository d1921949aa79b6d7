"""Say where jobs run, and what would be started: `python -m jobs.where [JOB [FLAG ...]]`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

from jobs.launch import GPU, MODULES, command, place, pod_arguments, pod_command
from jobs.where.carried import OF_AIRFLOW
from jobs.where.checks import PlacesError
from jobs.where.places import LOCAL
from jobs.where.pod import ANSWER_VARIABLE


def listed() -> str:
    """One line a job: its name, its place, and whether it is a GPU job."""
    names = {job: found.name if (found := place(job)) else LOCAL for job in MODULES}
    return "\n".join(f"{job:<14} {name}{'  gpu' * (job in GPU)}" for job, name in names.items())


def rendered(job: str, flags: list[str]) -> str:
    """The shell line of a job, or its pod as JSON that `kubectl create -f -` takes.

    The pod lacks what belongs to an Airflow task: its names, and the file of its answer.
    """
    arguments = pod_arguments(job)
    if arguments is None:
        return shlex.join(["exec", *shlex.split(command(job))[1:], *flags])
    pod: dict[str, Any] = arguments["pod_template_dict"]
    pod["metadata"] |= {
        "namespace": arguments["namespace"],
        "generateName": f"{arguments['name']}-",
    }
    (container,) = pod["spec"]["containers"]
    container["command"] = [*pod_command(job), *flags]
    tasks_own = {*OF_AIRFLOW, ANSWER_VARIABLE}
    container["env"] = [each for each in container["env"] if each["name"] not in tasks_own]
    return json.dumps(pod, indent=2)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.where",
        description="Say where each job runs, by the file that TIDEMARK_PLACES names; with a job, "
        "what would be started there: a shell line, or a pod.",
        epilog="example: python -m jobs.where distil --day 2026-03-02 | kubectl create -f -",
    )
    parser.add_argument("job", nargs="?", choices=sorted(MODULES), metavar="JOB")
    given, flags = parser.parse_known_args()
    try:
        said = rendered(given.job, flags) if given.job else listed()
    except PlacesError as error:
        sys.stderr.write(f"where: {error}\n")
        sys.exit(1)
    sys.stdout.write(said + "\n")


if __name__ == "__main__":
    main()
