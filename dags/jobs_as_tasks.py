"""What the DAG files share: a job as a task, on the day of its run. No order and no schedule."""

from __future__ import annotations

import json
import os
import sys
from datetime import date, timedelta
from typing import Any

from airflow.sdk import (  # type: ignore[attr-defined]  # its stub does not name them yet
    Asset,
    AsyncCallback,
    DeadlineAlert,
    DeadlineReference,
    Param,
    task,
    task_group,
)
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from jobs.datasets import EMBEDDING_VERSIONS_URI, PREPARED_DAYS_URI
from jobs.launch import TUNING_TOKENS, command, pod_arguments, pod_command
from jobs.night_flags import NightFlags

# Both have a partition for each day: one event, and one run of whoever listens, for one day.
PREPARED_DAYS = Asset(name="prepared_days", uri=PREPARED_DAYS_URI)
EMBEDDING_VERSIONS = Asset(name="embedding_versions", uri=EMBEDDING_VERSIONS_URI)

ON_GPU: dict[str, Any] = {"pool": "gpu", "execution_timeout": timedelta(hours=12)}
AFTER_SKIPPED = "none_failed"  # what a night leaves out keeps nobody waiting
# A job whose runner was killed lives on and holds its lock: the next try waits for it, since three
# tries some seconds apart would all find it busy.
WAIT_S = 3_600
WITHOUT_LOCK = ("check", "previous", "promotions", "maintain")
DEFAULTS: dict[str, Any] = {
    "owner": "tidemark",
    "retries": 2,
    "retry_delay": timedelta(seconds=10),
    "execution_timeout": timedelta(hours=2),
}

# Commands are rendered once more as templates, so a brace in a parameter is refused.
PLAIN: dict[str, Any] = {"type": "string", "minLength": 1, "pattern": r"^[^{}]+$"}


def set_for_all(name: str, otherwise: str) -> str:
    """What the environment of Airflow sets for the runs that nobody gives a parameter."""
    return os.environ.get(f"TIDEMARK_{name}") or otherwise


DAY = Param(
    None,
    type=["null", "string"],
    format="date",
    description="as-of day, for a run by hand; else the run's own: its partition or its date",
)
SOURCE = Param(set_for_all("SOURCE", "sample"), description="mapping file, folder or zip", **PLAIN)
MODEL = Param(
    set_for_all("MODEL", "smollm2-135m-instruct"), description="LLM: hub id or folder", **PLAIN
)
TOKENS = Param(
    int(set_for_all("TOKENS", str(TUNING_TOKENS))),
    type="integer",
    minimum=0,
    description="that tuning reads on a usual night; more than an epoch is one; 0: no tuning",
)
FULL_TOKENS = Param(
    # Who sets neither gets the sample's budget; who sets TOKENS alone, whole epochs here.
    int(set_for_all("FULL_TOKENS", "0" if set_for_all("TOKENS", "") else str(TUNING_TOKENS))),
    type="integer",
    minimum=0,
    description="that tuning from the start reads, and an adapter; 0: all of its epochs",
)
ADAPTER = Param(
    None,
    type=["null", "string"],
    pattern=r"^[^{}]+$",
    description="day or folder of the LLM's adapter; empty: the last that weekly_adapt trained",
)
ANEW = Param(False, type="boolean", description="tune from the start, not from last night's tokens")
VERSION = Param(
    None,
    type=["null", "integer"],
    minimum=1,
    description="of the store, for a run by hand; else the one that was promoted",
)

DOCS = {
    "ingest": "Reads the source; bad rows go to quarantine. It fails on a source that is missing, "
    "stale or too full of bad rows: look at `tidemark quarantine`.",
    "splits": "Cuts the events into train, valid and test rows and the histories they may see.",
    "features": "Counts and means of rows, items and users, from the days before each row.",
    "item_texts": "One line of text an item: what the LLM reads.",
    "adapt": "Trains the LLM's adapter. A try that was killed goes on from its checkpoint.",
    "previous": "Names last night's version, adapter and soft tokens, which the rest goes on from.",
    "distil": "Embeds the items whose text, LLM or adapter changed; carries the others over.",
    "codebook": "Gives items codes; keeps the numbers of last night's codes.",
    "user_profiles": "What users liked and disliked, as shares of codes.",
    "align": "Trains users' and items' factors, near the LLM's space; starts from last night's.",
    "tune": "Tunes the soft tokens: from last night's within a budget, or from the start.",
    "project": "Makes the soft tokens of all users and items.",
    "calibrate": "What the models' scores mean as probabilities.",
    "publish": "Writes one version of the store, judges it by its gates, and moves `production`.",
    "promotions": "Lists the moves of `production` that no scheduler was told of.",
    "candidates": "The pairs of user and item that the version is to score.",
    "score": "Scores the candidates with that version, by factors and LLM.",
    "report": "Writes report.html and metrics.json of the day.",
    "maintain": "Upkeep of the store; `embedding-store` does the same by hand.",
    "check": "Runs `sql/checks` on what the job before it wrote. Until it passes nobody reads that "
    "table; the log shows the first rows that break a rule.",
}


def deadline(after: timedelta, do: str) -> DeadlineAlert | None:
    """An alert for a run that takes so much longer than the last successful ones did in the mean.

    Not after its logical date: a backfill of March would be late before it began. Not after it was
    queued: Airflow 3.3.2 then answers 500 when a task of a run that is not late yet is cleared.
    """
    # Airflow 3.3.2 cannot end a run of `airflow dags test` that has a deadline, and nobody waits.
    if sys.argv[1:3] == ["dags", "test"]:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.AVERAGE_RUNTIME(max_runs=10, min_runs=1),
        interval=after,
        callback=AsyncCallback("jobs.late.tell", kwargs={"do": do}),
    )


def day_of(dag_run: Any, params: Any) -> str:
    """The as-of day of a run: what a person asked for, its partition, or its logical date."""
    if found := params.get("day") or dag_run.partition_key:
        return str(found)
    if dag_run.logical_date is None:
        raise AirflowFailException("this run has no day; give it the parameter `day`")
    return str(dag_run.logical_date.date())


def _night(dag_run: Any, params: Any, previous: str | None) -> NightFlags:
    said = json.loads(previous) if previous else {}
    return NightFlags(
        day=date.fromisoformat(day_of(dag_run, params)),
        source=params.get("source", ""),
        model=params.get("model", ""),
        tokens=params.get("tokens", 0),
        previous_version=said.get("version"),
        adapter_day=params.get("adapter") or said.get("last_adapter"),
        full_tokens=params.get("full_tokens") or None,
        tuned=said.get("tuned"),
        anew=params.get("anew", False),
    )


def run(
    job: str,
    *,
    task_id: str | None = None,
    previous: Any = None,
    published: Any = None,
    may_skip: bool = True,
    flags: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A job as a task, where `TIDEMARK_PLACES` says that it runs.

    Args:
        job: in `jobs.launch.MODULES`.
        task_id: by default the job's name.
        previous: the task `previous`, for a job that goes on from last night.
        published: the task that names the version, for a job that works on one.
        may_skip: whether an adapter that still serves leaves it out.
        flags: more flags of the job; texts are templates.
        options: of the task.
    """
    pod = pod_arguments(job)
    decorated = task.bash if pod is None else task.kubernetes_cmd
    words = command if pod is None else pod_command

    @decorated(task_id=task_id or job, doc_md=DOCS[job], **(pod or {}), **options)
    def body(previous: str | None, published: str | None, *, dag_run: Any, params: Any) -> Any:
        night = _night(dag_run, params, previous)
        if why := night.why_left_out(job) if may_skip else night.why_untuned(job):
            raise AirflowSkipException(why)
        version = json.loads(published)["version"] if published else None
        waits = {} if job in WITHOUT_LOCK else {"wait_s": WAIT_S}
        given = {**night.of(job, version), **waits, **(flags or {})}
        return words(job, **given, day=night.day)

    called: Any = body  # Airflow gives the context
    return called(previous, published)


def check(producer: str) -> Any:
    """The checks of what a job wrote, as a task."""
    return run("check", task_id=f"check_{producer}", flags={"producer": producer})


def announce_day() -> Any:
    """A task that tells the scheduler of the day, in the partition of that day."""

    @task(outlets=[PREPARED_DAYS], doc_md="Tells the scheduler that the day's tables are ready.")
    def announce_day(*, dag_run: Any, params: Any, outlet_events: Any) -> None:
        outlet_events[PREPARED_DAYS].add_partitions(day_of(dag_run, params))

    told: Any = announce_day
    return told()


def announced() -> Any:
    """Tasks that tell of moves of `production`, then mark them: who dies between tells again."""

    @task(
        outlets=[EMBEDDING_VERSIONS],
        doc_md="Tells the scheduler of each day to whose version `production` has moved. Skipped: "
        "it has not moved; `publish` says why in its log.",
    )
    def announce_versions(promotions: str, *, outlet_events: Any) -> int:
        said = json.loads(promotions)
        if not said["versions"]:
            raise AirflowSkipException("production has not moved since it was last announced")
        outlet_events[EMBEDDING_VERSIONS].extra = {"versions": said["versions"]}
        outlet_events[EMBEDDING_VERSIONS].add_partitions(sorted(said["versions"]))
        return int(said["up_to"])

    @task_group(prefix_group_id=False)
    def promotion() -> None:
        tell: Any = announce_versions
        up_to = '{{ ti.xcom_pull("announce_versions") }}'
        marked = run("promotions", task_id="mark_announced", flags={"told": up_to})
        tell(run("promotions")) >> marked

    return promotion()


def which_version() -> Any:
    """A task that names the version as `publish` does in its last line."""

    @task(doc_md="The version that was promoted, or the parameter `version`.")
    def which_version(*, dag_run: Any, params: Any, triggering_asset_events: Any) -> str:
        if (version := params["version"]) is None:
            day, events = day_of(dag_run, params), triggering_asset_events.get(EMBEDDING_VERSIONS)
            if not events:
                raise AirflowFailException("no promotion started this run; give day and version")
            # They come in no order where two moves to one day were told of at once.
            version = max(events, key=lambda each: each.timestamp).extra["versions"][day]
        return json.dumps({"version": version})

    found: Any = which_version
    return found()
