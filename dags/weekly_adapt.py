"""Weekly adaptation: the LLM learns the click-through task anew; its adapter serves from then on.

**Schedule** Sundays, 12:00 UTC, on the tables that `nightly_features` made of that day. The night
that follows uses the adapter: it embeds every item again and tunes its soft tokens from the start
(`full_tokens`); the nights after it only refit. An adapter of day *D* serves nights after *D*, the
youngest first, so a backfill of an older night is not touched by it.

**It failed, or has not run?** Nights go on with the adapter before; nothing is wrong yet. `adapt`
says in the last lines of its log what it needs; clear it, and it goes on from its last checkpoint.
`adapt` needs the day's tables: if "has not run for" is what it says, run `nightly_features` first.

**It holds the card?** One slot of the pool `gpu`: a night waits for it, and starts when it ends.

**Skipped?** `tokens` is 0: no night tunes an LLM, so none would use the adapter.

**A worse adapter?** Give `nightly_embeddings` the day of the one before as its parameter `adapter`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Asset, CronTriggerTimetable, dag
from jobs_as_tasks import (
    DAY,
    DEFAULTS,
    FULL_TOKENS,
    MODEL,
    ON_GPU,
    TOKENS,
    check,
    deadline,
    run,
)

from jobs.datasets import ADAPTER


@dag(
    schedule=CronTriggerTimetable("0 12 * * 0", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["tidemark", "embeddings"],
    params={"day": DAY, "model": MODEL, "tokens": TOKENS, "full_tokens": FULL_TOKENS},
    default_args=DEFAULTS,
    deadline=deadline(timedelta(hours=14), "nights go on with the adapter before; no hurry"),
)
def weekly_adapt() -> None:
    """Order and pool only; the work is in jobs."""
    adapter = Asset(name=ADAPTER.name, uri=ADAPTER.uri)
    run("adapt", may_skip=False, outlets=[adapter], **ON_GPU) >> check("adapt")


weekly_adapt()
