"""Nightly features: the source's files in; the day's events, splits, features and texts out.

**Schedule** 04:00 UTC. The day *D* of a run is its logical date, or the parameter `day`: everything
is what was known before *D* 00:00 UTC. When the tables have passed their checks, the event
`prepared_days` of that day starts `nightly_embeddings`.

**A task failed?** The last lines of its log say what was wrong, where, and what to do. Do it, then
clear the task. Outputs appear only when they are whole, so a retry is harmless.

- `ingest`: the source is missing, stale, shrunken or full of bad rows. `tidemark check <source>`
  shows the rows. Files that come late: clear the task when they are there.
- `check_...`: the table before it breaks `sql/checks`. No later task reads it; production stands.

**A day again?** `airflow backfill create --dag-id nightly_features --from-date 2026-03-02 --to-date
2026-03-03 --reprocess-behavior completed --max-active-runs 1` runs 2 March (the end is outside), in
any order. What did not change is not redone; `production` never moves back to an earlier day.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag
from jobs_as_tasks import DAY, DEFAULTS, SOURCE, announce_day, check, deadline, run


@dag(
    schedule=CronTriggerTimetable("0 4 * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["tidemark", "features"],
    params={"day": DAY, "source": SOURCE},
    default_args=DEFAULTS,
    deadline=deadline(
        timedelta(hours=2), "look at the task that runs or failed; see the DAG's doc"
    ),
)
def nightly_features() -> None:
    """Order only; the work is in jobs."""
    ingested = run("ingest") >> check("ingest")
    splits = ingested >> run("splits") >> check("splits")
    features = splits >> run("features") >> check("features")
    texts = ingested >> run("item_texts") >> check("item_texts")
    [features, texts] >> announce_day()


nightly_features()
