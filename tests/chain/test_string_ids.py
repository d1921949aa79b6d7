"""A domain of names, days and yes-or-no answers: one mapping file, and the whole night runs.

The backbone has two random layers, so that the night takes seconds; everything else is as shipped.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedding_store import EmbeddingStore
from jobs import lineage
from jobs.datasets import (
    ALL,
    CTR_SCORES,
    HISTORIES,
    ITEM_FEATURES,
    METRICS,
    REPORT,
    ROW_FEATURES,
    SPLITS,
    Dataset,
    Format,
)
from jobs.home import Home
from jobs.launch import NIGHTLY
from tests.chain.conftest import run_tidemark
from tests.jobs.test_lineage import as_typed
from tests.tiny_backbone import write_tiny_backbone

FIRST, N_DAYS = date(2022, 3, 1), 50
AS_OF = FIRST + timedelta(days=N_DAYS)
GAMES = ["Ünder, the sea", 'the "best"', *(f"g{n}" for n in range(2, 24))]  # as they come in CSV
MAPPING = """\
domain: games
item_noun: Game
events:
  files: [recommendations.csv]
  format: csv
  columns: {user_id: user_id, item_id: app_id, at: date, label: is_recommended}
  user_id: {type: string}
  item_id: {type: string}
  at: {form: date}
feedback: {kind: label, positive: ["true"], negative: ["false"]}
items:
  files: [games.csv]
  format: csv
  columns: {item_id: app_id, title: title}
split: {protocol: rolling, valid_days: 8, test_days: 8}
"""

# user, game, day, whether it is recommended
Recommendation = tuple[str, str, date, bool]


def recommendations() -> list[Recommendation]:
    """Each game has a chance of its own; nobody says twice on a day what they think of a game."""
    random = np.random.default_rng(11)
    found = {}
    for _ in range(1_500):
        user, game, day = random.integers(60), random.integers(24), random.integers(N_DAYS)
        liked = random.random() < 0.1 + 0.8 * game / 24
        key = (f"user {chr(97 + user % 26)}-{user}", GAMES[game], FIRST + timedelta(days=int(day)))
        found.setdefault(key, bool(liked))
    return [(*key, liked) for key, liked in found.items()]


def write_games(folder: Path) -> list[Recommendation]:
    folder.mkdir()
    rows = recommendations()
    with (folder / "recommendations.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["app_id", "helpful", "date", "is_recommended", "hours", "user_id"])
        for user, game, day, liked in rows:
            writer.writerow([game, 0, day, str(liked).lower(), 1.5, user])
    with (folder / "games.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["app_id", "title"])
        writer.writerows([game, f"Game number {n}"] for n, game in enumerate(GAMES))
    (folder / "tidemark.yaml").write_text(MAPPING, encoding="utf-8")
    return rows


@dataclass(frozen=True)
class Games:
    """The night that has run, what was printed, and the source."""

    home: Home
    source: Path
    model: Path
    rows: list[Recommendation]
    printed: str

    def table(self, dataset: Dataset) -> pa.Table:
        return pq.read_table(self.home.output(dataset, AS_OF))


TOKENS = "5000"  # that each stage of tuning reads


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Games:
    folder = tmp_path_factory.mktemp("games")
    rows, model = write_games(folder / "games"), write_tiny_backbone(folder / "backbone")
    home = Home(folder / "home")
    source = folder / "games" / "tidemark.yaml"
    words = ("run", "--source", str(source), "--model", str(model), "--tokens", TOKENS)
    done = run_tidemark(home, *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return Games(home, source, model, rows, done.stdout)


def test_the_night_is_that_of_the_day_after_the_last_event_and_prints_its_report(
    games: Games,
) -> None:
    assert str(games.home.output(REPORT, AS_OF)) in games.printed.replace("\n", "")
    assert games.home.output(REPORT, AS_OF).is_file()
    assert json.loads(games.home.output(METRICS, AS_OF).read_text())["verdict"]["outcome"]


def test_the_plan_of_a_night_that_has_run_is_to_do_nothing(games: Games) -> None:
    words = ("--source", str(games.source), "--model", str(games.model), "--tokens", TOKENS)
    done = run_tidemark(games.home, "plan", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{AS_OF}: nothing to do\n"), done.stdout
    assert "Items to embed: 0 of 24" in done.stdout


def test_lineage_of_the_night_names_every_job_and_the_checks_that_passed(games: Games) -> None:
    lines = lineage.file_of(games.home, AS_OF).read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    for event in events:
        as_typed(event)
    ends = {each["job"]["name"]: each for each in events if each["eventType"] == "COMPLETE"}
    assert set(ends) == {*NIGHTLY, *(f"check_{job}" for job in NIGHTLY)}
    checked = {
        each["name"]: each["inputFacets"]["dataQualityAssertions"]["assertions"]
        for each in ends["check_splits"]["inputs"]
    }
    assert checked == {
        name: [{"assertion": f"sql/checks/{name}.sql", "success": True}]
        for name in ("splits", "histories")
    }
    published = {each["name"]: each["facets"] for each in ends["publish"]["outputs"]}
    assert published["embedding_versions"]["version"]["datasetVersion"] == "1"
    read = {each["name"] for each in ends["score"]["inputs"]}
    assert {"candidates", "embedding_versions"} <= read


def test_ids_are_the_sources_own_in_every_table(games: Games) -> None:
    users, items = {row[0] for row in games.rows}, set(GAMES)
    for dataset in ALL:
        if dataset.format is not Format.PARQUET or not games.home.output(dataset, AS_OF).is_file():
            continue
        table = games.table(dataset)
        for name, known in (("user_id", users), ("item_id", items)):
            if name in table.column_names:
                assert table.schema.field(name).type == pa.string(), dataset.name
                assert set(table[name].to_pylist()) <= known, dataset.name
    assert set(games.table(ITEM_FEATURES)["item_id"].to_pylist()) == items


def test_labels_are_the_answers_and_days_are_known_by_name(games: Games) -> None:
    expected = {(user, game, day): int(liked) for user, game, day, liked in games.rows}
    rows = games.table(SPLITS).to_pylist()
    found = {(r["user_id"], r["item_id"], r["rated_at"].date()): r["label"] for r in rows}
    assert found == expected
    assert len(rows) == len(expected)
    tests = {r["rated_at"].date() for r in rows if r["split"] == "test"}
    assert min(tests) >= AS_OF - timedelta(days=8)


def test_a_row_sees_the_days_before_it_and_nothing_of_its_own_day(games: Games) -> None:
    histories = {row["user_id"]: row["item_ids"] for row in games.table(HISTORIES).to_pylist()}
    liked: dict[str, list[tuple[date, str]]] = {}
    for user, game, day, is_liked in games.rows:
        if is_liked:
            liked.setdefault(user, []).append((day, game))
    for row in games.table(SPLITS).to_pylist():
        user, day = row["user_id"], row["rated_at"].date()
        seen = histories[user][: row["history_end"]]
        assert sorted(seen) == sorted(game for at, game in liked.get(user, []) if at < day)


def test_features_count_what_the_days_before_held(games: Games) -> None:
    train = {(row["split"], row["row"]): row for row in games.table(SPLITS).to_pylist()}
    rows = [r for r in games.table(ROW_FEATURES).to_pylist() if r["split"] == "train"]
    for row in rows[::50]:
        of = train["train", row["row"]]
        before = [r for r in games.rows if r[2] < of["rated_at"].date()]
        assert row["user_count"] == sum(r[0] == of["user_id"] for r in before)
        assert row["item_count"] == sum(r[1] == of["item_id"] for r in before)


def test_the_published_version_answers_by_name(games: Games) -> None:
    version = EmbeddingStore(games.home.store).open(1)
    items = version["item_semantics"]
    assert items.vectors_of([GAMES[0], GAMES[1]]).shape[0] == 2
    found = items.search(items.vectors_of([GAMES[0]]), k=1)
    assert found["id"].to_pylist() == [GAMES[0]]
    users = {row["user_id"] for row in games.table(SPLITS).to_pylist() if row["split"] == "train"}
    assert set(version["user_factors"].table()["user_id"].to_pylist()) == users


def test_every_test_row_is_scored_and_better_than_by_chance(games: Games) -> None:
    """A night that tunes reads the valid rows in tuning, and scores them no more."""
    scores = games.table(CTR_SCORES).to_pylist()
    rows = [row for row in games.table(SPLITS).to_pylist() if row["split"] == "test"]
    assert {(r["split"], r["row"]) for r in scores} == {(r["split"], r["row"]) for r in rows}
    quality = json.loads(games.home.output(METRICS, AS_OF).read_text())["quality"]
    aucs = {
        (q["system"], q["split"]): q["auc"]["value"]
        for q in quality
        if q["slice"] == "all" and q["auc"]
    }
    assert aucs["mf", "test"] > 0.6  # each game has a chance of its own, from 0.1 to 0.9


def test_a_second_night_redoes_nothing(games: Games) -> None:
    words = ("run", "--source", str(games.source), "--model", str(games.model), "--tokens", TOKENS)
    done = run_tidemark(games.home, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("unchanged in") == len(NIGHTLY)
