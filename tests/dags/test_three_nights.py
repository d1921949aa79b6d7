"""Three nights on a real scheduler, each scored by its promotion's event; then days again.

The backbone has two random layers and reads 600 tokens; the source is the sample warehouse, as are
DAGs and jobs. What is looked at is what an operator sees: runs, events, versions, tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest

from embedding_store import EmbeddingStore
from jobs.datasets import CTR_SCORES
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import load_manifest
from jobs.prepare.sample import write_sample
from tests.dags.scheduler import Scheduler, why_not
from tests.tiny_backbone import write_tiny_backbone

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(3_600),
]

DAYS = ("2026-02-28", "2026-03-01", "2026-03-02")
FEATURES, EMBEDDINGS, SCORING = "nightly_features", "nightly_embeddings", "offline_scoring"
TOKENS = "600"
PATIENCE_S = 3_600.0  # of the whole; a night takes a minute on two quiet cores


@dataclass
class Nights:
    """The scheduler, with the three nights behind it."""

    airflow: Scheduler
    home: Home

    @property
    def store(self) -> EmbeddingStore:
        return EmbeddingStore(self.home.store)

    def versions(self) -> dict[int, str]:
        """The day of each version."""
        return {each.version: each.day for each in self.store.versions()}

    def production(self) -> int:
        return self.store.aliases()["production"]

    def scores(self) -> dict[str, str]:
        """sha256 of each day's scores."""
        paths = {day: self.home.output(CTR_SCORES, date.fromisoformat(day)) for day in DAYS}
        return {day: sha256_file(path) for day, path in paths.items()}

    def partitions(self, dag_id: str) -> list[str]:
        """Partition key of each run, oldest first."""
        return [run["partition_key"] for run in self.airflow.runs(dag_id)]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    """Days are started one after the other, each when the features of the one before are there."""
    folder = tmp_path_factory.mktemp("three nights")
    write_sample(folder / "raw")
    settings = {
        "TIDEMARK_SOURCE": str(folder / "raw"),
        "TIDEMARK_MODEL": str(write_tiny_backbone(folder / "backbone")),
        "TIDEMARK_TOKENS": TOKENS,
        "TIDEMARK_FULL_TOKENS": TOKENS,
        # A machine that does other things too must not be taken for a dead one.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "120",
    }
    home = Home(folder / "home")
    components = ("api-server", "scheduler", "dag-processor")
    with Scheduler(
        home.root, components=components, parallelism=4, environment=settings
    ) as airflow:
        airflow.pass_over_tonight(FEATURES)
        airflow.unpause(FEATURES, EMBEDDINGS, SCORING)
        for day in DAYS:
            airflow.wait(FEATURES, airflow.trigger(FEATURES, day=day))
        airflow.wait_for_runs(EMBEDDINGS, len(DAYS), patience_s=PATIENCE_S)
        airflow.wait_for_runs(SCORING, len(DAYS), patience_s=PATIENCE_S)
        yield Nights(airflow, home)


def test_each_day_has_one_version_and_the_last_is_in_production(nights: Nights) -> None:
    assert nights.versions() == dict(enumerate(DAYS, start=1))
    assert nights.production() == 3


def test_each_day_has_one_partition_of_each_asset_and_one_run_of_whoever_listens(
    nights: Nights,
) -> None:
    assert nights.partitions(EMBEDDINGS) == list(DAYS)
    assert nights.partitions(SCORING) == list(DAYS)
    for asset in ("prepared_days", "embedding_versions"):
        events = nights.airflow.asset_events(asset)
        assert [event["partition_key"] for event in events] == list(DAYS)
    told = [
        event["extra"]["versions"] for event in nights.airflow.asset_events("embedding_versions")
    ]
    assert told == [{day: number} for number, day in enumerate(DAYS, start=1)]


def test_each_day_is_scored_by_its_own_version(nights: Nights) -> None:
    for number, day in enumerate(DAYS, start=1):
        manifest = load_manifest(nights.home, "score", date.fromisoformat(day))
        assert manifest is not None
        assert manifest.config["version"] == number


def test_tuning_begins_anew_once_and_then_goes_on_from_last_night(nights: Nights) -> None:
    begun = []
    for day in DAYS:
        manifest = load_manifest(nights.home, "tune", date.fromisoformat(day))
        assert manifest is not None
        begun.append(manifest.config["init_tokens"])
    assert begun == [None, *DAYS[:-1]]


def test_no_move_of_production_is_left_to_tell_of(nights: Nights) -> None:
    assert nights.store.pending_events() == []


def test_an_event_that_comes_twice_has_no_second_effect(nights: Nights) -> None:
    before = nights.scores()
    events = nights.airflow.asset_events("embedding_versions")
    again: dict[str, Any] = {key: events[-1][key] for key in ("asset_id", "extra", "partition_key")}
    nights.airflow.call("POST", "/assets/events", json=again)
    nights.airflow.wait_for_runs(SCORING, len(DAYS) + 1, patience_s=PATIENCE_S)
    assert nights.partitions(SCORING) == [*DAYS, DAYS[-1]]
    assert nights.scores() == before
    assert nights.production() == 3
    assert not list((nights.home.root / "runs").rglob("staging"))


# -- days again ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backfilled(nights: Nights) -> dict[str, str]:
    """The first day once more, by a scheduler whose nights tune nothing; sha256 of scores before.

    Its features are what they were, its version is another one.
    """
    before = nights.scores()
    nights.airflow.environment["TIDEMARK_TOKENS"] = "0"
    for component in ("dag-processor", "scheduler"):
        nights.airflow.stop(component)
        nights.airflow.start(component)
    words = ("--dag-id", FEATURES, "--from-date", DAYS[0], "--to-date", DAYS[1])
    nights.airflow.airflow("backfill", "create", *words, "--reprocess-behavior", "completed")
    nights.airflow.wait_for_runs(EMBEDDINGS, len(DAYS) + 1, patience_s=PATIENCE_S)
    return before


def test_a_backfilled_day_is_the_run_of_that_day_once_more(
    nights: Nights, backfilled: dict[str, str]
) -> None:
    past = [run for run in nights.airflow.runs(FEATURES) if run["logical_date"][:10] in DAYS]
    assert len(past) == len(DAYS)  # the day's own run was cleared
    assert nights.partitions(EMBEDDINGS) == [*DAYS, DAYS[0]]


def test_a_backfilled_version_is_readable_beside_production_and_nothing_else_moves(
    nights: Nights, backfilled: dict[str, str]
) -> None:
    assert nights.versions() == {**dict(enumerate(DAYS, start=1)), 4: DAYS[0]}
    assert nights.production() == 3
    assert nights.scores() == backfilled
    assert nights.store.pending_events() == []
    last = nights.airflow.runs(EMBEDDINGS)[-1]["dag_run_id"]
    assert nights.airflow.states(EMBEDDINGS, last)["announce_versions"] == "skipped"
    told = [event["partition_key"] for event in nights.airflow.asset_events("embedding_versions")]
    assert told.count(DAYS[0]) == 1


def test_a_night_that_tunes_nothing_leaves_out_what_an_earlier_run_of_the_day_tuned(
    nights: Nights, backfilled: dict[str, str]
) -> None:
    with nights.store.open(1) as tuned, nights.store.open(4) as plain:
        assert tuned.attributes["soft_tokens"]
        assert not plain.attributes["soft_tokens"]
        assert {"user_tokens", "user_token_inputs"} & set(tuned)
        assert not {name for name in plain if "token" in name}
