"""Offline scoring: a promoted version in; click-through scores and the day's report out.

**Starts** on the event `embedding_versions`: `production` has moved to a version. The event's
partition is the day; the version stands in its `extra`. By hand: parameters `day` and `version`,
for a version that was refused or backfilled. An event brings neither `model` nor `tokens`: a night
that was run by hand with other ones than `TIDEMARK_MODEL` and `TIDEMARK_TOKENS` is scored by hand,
with the same ones.

**An event may come twice** (a scheduler that died between telling and noting it): the second run
finds every table as it is and changes nothing.

**A task failed?** The last lines of its log say what was wrong and what to do; then clear the task.
Nothing here touches `production`. A version that gc has deleted since cannot be scored: "expired".

**Read** `reports/<day>/report.html` below TIDEMARK_HOME; `metrics.json` beside it is for machines.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import PartitionedAssetTimetable, dag
from jobs_as_tasks import (
    DAY,
    DEFAULTS,
    EMBEDDING_VERSIONS,
    MODEL,
    ON_GPU,
    TOKENS,
    VERSION,
    check,
    deadline,
    run,
    which_version,
)


@dag(
    schedule=PartitionedAssetTimetable(assets=EMBEDDING_VERSIONS),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["tidemark", "scoring"],
    params={"day": DAY, "version": VERSION, "model": MODEL, "tokens": TOKENS},
    default_args=DEFAULTS,
    deadline=deadline(timedelta(hours=4), "the report is late, production is not touched"),
)
def offline_scoring() -> None:
    """Order and pool only; the work is in jobs."""
    version = which_version()
    chosen = run("candidates", published=version) >> check("candidates")
    scores = run("score", published=version, **ON_GPU)
    chosen >> scores >> check("score") >> run("report", published=version)


offline_scoring()
