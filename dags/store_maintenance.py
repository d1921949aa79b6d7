"""Upkeep of the embedding store: finish what died, read every byte, delete what nobody needs.

**Schedule** 10:00 UTC, after the nights. Each step can be run again at any time, beside a night.

- `recover`: a publication that died after it was decided gets its version. Then moves of
  `production` that no scheduler was told of are announced: a lost event costs a day at most.
- `verify` failed: a file is not what was published; its log names it. **Do not clear it blindly.**
  Nothing is deleted while it fails. `embedding-store rollback production` serves the version
  before; bring the files back from a copy, then clear the task.
- `collect`: keeps the versions that each alias named last (`keep_last`), those younger than
  `keep_days`, and those that somebody has open. To keep one for good give it an alias.
- `rebuild` failed: the index of `production` comes out otherwise than it was published: other
  libraries or another machine. Readers are not touched. Publish the day again if you want it so.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param, dag
from jobs_as_tasks import DAY, DEFAULTS, announced, deadline, run


@dag(
    schedule=CronTriggerTimetable("0 10 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["tidemark", "store"],
    params={
        "day": DAY,
        "keep_last": Param(3, type="integer", minimum=1, description="versions an alias named"),
        "keep_days": Param(7, type="number", minimum=0, description="versions younger than this"),
    },
    default_args=DEFAULTS,
    deadline=deadline(timedelta(hours=6), "nothing is lost; look at what verify reads"),
)
def store_maintenance() -> None:
    """Order only; the work is in the store."""
    keep = {"keep_last": "{{ params.keep_last }}", "keep_days": "{{ params.keep_days }}"}

    def step(name: str, **flags: str) -> Any:
        return run("maintain", task_id=name, flags={"step": name, **flags})

    recovered, verified = step("recover"), step("verify")
    recovered >> announced()
    recovered >> verified >> [step("collect", **keep), step("rebuild")]


store_maintenance()
