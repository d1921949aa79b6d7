"""Nightly embeddings: the tables of a day in; one published version of the store out.

**Starts** on the event `prepared_days`, whose partition is the day *D*: one run for each day that
`nightly_features` finishes. By hand: parameter `day`. One run at a time; runs go in the order of
their events. Items whose text and adapter did not change are carried over from last night's
version, alignment starts from its factors, tuning goes on from its soft tokens within `tokens`.

**A task failed?** The last lines of its log say what was wrong and what to do; then clear the task.
Production serves the night before until a whole new version has passed its gates.

- `distil`, `tune` out of memory: another process holds the card, or pool `gpu` has too many slots.
- `tune`, "begin anew without --init-tokens": run again with parameter `anew`.
- exit status 75: the same job of that day still runs elsewhere; the retry waits for it.

**`announce_versions` skipped?** The version is published and readable by its number, but
`production` was not moved: it failed a gate, or the day is older than production's (a backfill).
`publish` says which. To score it all the same: trigger `offline_scoring` with `day` and `version`.

**tune, project skipped?** The parameter `tokens` is 0: the factors score alone.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import PartitionedAssetTimetable, dag, task_group
from jobs_as_tasks import (
    ADAPTER,
    AFTER_SKIPPED,
    ANEW,
    DAY,
    DEFAULTS,
    FULL_TOKENS,
    MODEL,
    ON_GPU,
    PREPARED_DAYS,
    TOKENS,
    announced,
    check,
    deadline,
    run,
)


@dag(
    schedule=PartitionedAssetTimetable(assets=PREPARED_DAYS),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["tidemark", "embeddings"],
    params={
        "day": DAY,
        "model": MODEL,
        "adapter": ADAPTER,
        "tokens": TOKENS,
        "full_tokens": FULL_TOKENS,
        "anew": ANEW,
    },
    default_args=DEFAULTS,
    deadline=deadline(timedelta(hours=6), "production serves the day before; see the DAG's doc"),
)
def nightly_embeddings() -> None:
    """Order and pools only; the work is in jobs."""
    previous = run("previous")

    @task_group(prefix_group_id=False)
    def semantics() -> None:
        distilled = run("distil", previous=previous, **ON_GPU) >> check("distil")
        codes = distilled >> run("codebook", previous=previous) >> check("codebook")
        codes >> run("user_profiles") >> check("user_profiles")

    @task_group(prefix_group_id=False)
    def factors() -> None:
        run("align", previous=previous, **ON_GPU) >> check("align")

    @task_group(prefix_group_id=False)
    def soft_tokens() -> None:
        tuned = run("tune", previous=previous, **ON_GPU) >> check("tune")
        tuned >> run("project", **ON_GPU) >> check("project")
        tuned >> run("calibrate", trigger_rule=AFTER_SKIPPED) >> check("calibrate")

    @task_group(prefix_group_id=False)
    def publication() -> None:
        run("publish", trigger_rule=AFTER_SKIPPED) >> check("publish")

    semantics() >> factors() >> soft_tokens() >> publication() >> announced()


nightly_embeddings()
