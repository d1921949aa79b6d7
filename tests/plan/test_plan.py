"""A plan says what a night then does. The tests are one story of one home, in their order."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.datasets import EVENT_PARTS, ITEM_TEXTS
from jobs.errors import SourceError
from jobs.job import load_manifest
from jobs.llm.forecast import EmbeddingForecast
from jobs.plan.expected import DOCUMENTED
from jobs.plan.page import Plan, as_json, lines
from jobs.plan.steps import Status
from tests.chain.test_string_ids import AS_OF, GAMES
from tests.in_process import run_job
from tests.plan.conftest import Games

LEFT_OUT = {"adapt", "tune", "project"}
NEXT = AS_OF + timedelta(days=1)


def statuses(plan: Plan) -> dict[str, str]:
    return {step.job: step.status.value for step in plan.steps if step.job not in LEFT_OUT}


def reasons(plan: Plan, job: str) -> list[tuple[str, str, str]]:
    (step,) = [step for step in plan.steps if step.job == job]
    return [(reason.kind, reason.name, reason.says) for reason in step.why]


def jobs_of(said: dict[str, str], *kinds: str) -> set[str]:
    return {job for job, kind in said.items() if kind in kinds}


def assert_kept(plan: Plan, said: dict[str, str]) -> None:
    """The run did what the plan said: all that is certain, none that is up to date."""
    planned, done = statuses(plan), jobs_of(said, "done")
    assert jobs_of(planned, "redo") <= done
    assert done <= jobs_of(planned, "redo", "follows")


def text_of(plan: Plan) -> str:
    return "\n".join(lines(plan))


def files_of(home: Path) -> set[str]:
    return {path.relative_to(home).parts[0] for path in home.rglob("*") if path.is_file()}


def n_embedded(games: Games, day: Any) -> float:
    manifest = load_manifest(games.home, "distil", day)
    assert manifest is not None
    return manifest.metrics["n_embedded"]


def known(plan: Plan) -> EmbeddingForecast:
    assert isinstance(plan.embedding, EmbeddingForecast), plan.embedding
    return plan.embedding


def write_titles(folder: Path, titles: Iterable[str]) -> None:
    rows = [
        f'"{game}",{title}'.replace('the "best"', 'the ""best""')
        for game, title in zip(GAMES, titles, strict=True)
    ]
    (folder / "games.csv").write_text("\n".join(["app_id,title", *rows, ""]), encoding="utf-8")


TITLES = [f"Game number {n}" for n in range(len(GAMES))]


def test_before_the_first_night_everything_is_to_do_and_sizes_are_unknown(games: Games) -> None:
    plan = games.plan()
    assert set(statuses(plan).values()) == {"redo"}
    assert reasons(plan, "splits") == [("new", "splits", f"has not run for {AS_OF}")]
    assert plan.expected["splits"].rows is None
    assert plan.expected["splits"].seconds is None
    assert (known(plan).n_items, known(plan).n_new, known(plan).n_changed) == (24, 24, 0)
    distil = plan.expected["distil"]
    assert distil.tokens == known(plan).n_tokens > 24
    assert distil.seconds == pytest.approx(distil.tokens / DOCUMENTED["distil"][0])
    assert "documented" in distil.basis
    assert files_of(games.home.root) == {"cache"}  # nothing else is written
    said = text_of(plan)
    assert "Items to embed: 24 of 24 (24 new, 0 changed)" in said
    assert "this night tunes no LLM" in said


def test_after_the_night_there_is_nothing_to_do_and_a_run_does_nothing(games: Games) -> None:
    before = games.plan()
    said = games.run()
    assert set(said.values()) == {"done"}
    assert known(before).n_to_embed == n_embedded(games, AS_OF)
    plan = games.plan()
    assert set(statuses(plan).values()) == {"up to date"}
    assert plan.expected == {}
    assert text_of(plan).startswith(f"{AS_OF}: nothing to do")
    assert known(plan).n_to_embed == 0
    assert set(games.run().values()) == {"unchanged"}


def test_a_table_whose_checks_are_still_to_run_is_named(games: Games) -> None:
    mark = games.home.check_mark(ITEM_TEXTS, AS_OF)
    kept = mark.read_bytes()
    mark.unlink()
    assert "the checks of item_texts are still to run" in text_of(games.plan())
    mark.write_bytes(kept)


def test_a_changed_setting_is_named_with_both_values_and_what_follows(games: Games) -> None:
    last = load_manifest(games.home, "publish", AS_OF)
    assert last is not None
    run_job("features", games.home, AS_OF, smoothing=9.0)  # by hand
    plan = games.plan()
    assert reasons(plan, "features") == [("config", "smoothing", "was 9.0, is 5.0")]
    assert "    --smoothing was 9.0, is 5.0" in text_of(plan)
    readers = {
        step.job
        for step in plan.steps
        if step.last
        and {"row_features", "item_features", "user_features"}
        & {each.name for each in step.last.inputs}
    }
    for job in readers:
        assert "follows" in {kind for kind, _, _ in reasons(plan, job)}
    expected = statuses(plan)
    assert jobs_of(expected, "redo") >= {"features"}
    assert {"ingest", "splits", "item_texts", "distil"} <= jobs_of(expected, "up to date")
    assert_kept(plan, games.run())
    assert set(statuses(games.plan()).values()) == {"up to date"}


def test_known_inputs_and_earlier_nights_give_rows_time_and_memory(games: Games) -> None:
    manifest = load_manifest(games.home, "splits", AS_OF)
    assert manifest is not None
    plan = games.plan(force=True)
    assert set(statuses(plan).values()) == {"redo"}
    ingest = plan.expected["ingest"]
    assert ingest.basis == f"as on {AS_OF}"
    splits = plan.expected["splits"]
    assert splits.rows is None  # ingest makes its inputs anew
    assert splits.seconds == pytest.approx(manifest.seconds)
    assert splits.peak_memory_bytes == manifest.peak_memory_bytes
    assert reasons(plan, "splits") == [("forced", "splits", "asked for by --force")]


def test_a_lost_output_is_named_and_only_what_reads_it_may_follow(games: Games) -> None:
    path = games.home.output(ITEM_TEXTS, AS_OF)
    path.unlink()
    plan = games.plan()
    assert reasons(plan, "item_texts") == [("output", "item_texts", f"{path} is gone")]
    expected = statuses(plan)
    assert jobs_of(expected, "redo") == {"item_texts"}
    assert {"ingest", "splits", "features"} <= jobs_of(expected, "up to date")
    assert ("follows", "item_texts", "is made anew by item_texts") in reasons(plan, "distil")
    assert known(plan).n_to_embed == 0  # the texts come from the items, which stand
    said = games.run()
    assert jobs_of(said, "done") == {"item_texts"}  # the same bytes: nothing follows
    assert path.is_file()


def test_a_changed_file_of_the_source_is_named(games: Games) -> None:
    write_titles(games.source, ["A new name", *TITLES[1:]])
    plan = games.plan()
    path = games.source / "games.csv"
    assert reasons(plan, "ingest") == [("source", str(path), "has changed")]
    assert jobs_of(statuses(plan), "redo") == {"ingest"}
    # The night has read the file: another version of it is known from the next night on.
    assert known(plan).n_to_embed == 0
    said = games.run()
    assert_kept(plan, said)
    assert said["distil"] == "unchanged"
    assert set(statuses(games.plan()).values()) == {"up to date"}


def test_the_next_night_embeds_the_one_item_whose_title_changed(games: Games) -> None:
    plan = games.plan(NEXT)
    assert set(statuses(plan).values()) == {"redo"}
    found = known(plan)
    assert (found.n_items, found.n_new, found.n_changed) == (24, 0, 1)
    assert found.named == ((GAMES[0], "Game: A new name"),)
    assert f"    {GAMES[0]}: Game: A new name" in text_of(plan)
    assert plan.night.previous_version == 1
    assert plan.expected["align"].basis == f"as on {AS_OF}"
    said = games.run(NEXT)
    assert set(said.values()) == {"done"}
    assert n_embedded(games, NEXT) == 1
    assert set(statuses(games.plan(NEXT)).values()) == {"up to date"}


def test_code_that_changed_redoes_nothing_and_is_told(games: Games) -> None:
    path = games.home.manifest("splits", AS_OF)
    said = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**said, "code_version": "0.1.0+of-yesterday"}), encoding="utf-8")
    plan = games.plan()
    assert set(statuses(plan).values()) == {"up to date"}
    assert "Code: splits were made by other code than" in text_of(plan)


def test_machines_get_the_same_as_json_with_null_for_what_nobody_knows(games: Games) -> None:
    plan = games.plan(NEXT + timedelta(days=1))
    said = json.loads(as_json(plan))
    jobs = {each["job"]: each for each in said["jobs"]}
    assert {name: each["status"] for name, each in jobs.items() if name not in LEFT_OUT} == (
        statuses(plan)
    )
    assert jobs["splits"]["expected"]["rows"] is None
    assert jobs["adapt"]["status"] == "left out"
    assert said["embedding"]["n_items"] == 24
    assert said["previous_version"] == 2


def test_what_scoring_took_without_an_llm_says_nothing_of_scoring_with_one(games: Games) -> None:
    day = NEXT + timedelta(days=1)
    assert games.plan(day).expected["score"].basis.startswith("2 nights")
    with_llm = games.plan(day, tokens=500).expected["score"]
    assert with_llm.seconds is None
    assert "documented rate" in with_llm.basis


def test_a_backbone_that_is_not_there_is_said_and_not_fetched(games: Games) -> None:
    elsewhere = Games(games.home, games.source, Path("nobody/has-this-model"))
    plan = elsewhere.plan(NEXT + timedelta(days=1))
    assert plan.embedding == "the backbone nobody/has-this-model is not on this machine yet"
    assert plan.expected["distil"].seconds is None
    assert "Items to embed: unknown: the backbone" in text_of(plan)


def test_what_ingest_would_refuse_is_said_beforehand(games: Games) -> None:
    named = pq.read_table(games.home.output(EVENT_PARTS, AS_OF), partitioning=None)
    part = games.home.root / named["path"][0].as_py()
    kept = part.read_bytes()
    part.write_bytes(kept[:-1])
    plan = games.plan()
    assert plan.jobs(Status.FAILS) == ["ingest"]
    ((_, _, says),) = reasons(plan, "ingest")
    assert text_of(plan).startswith(f"{AS_OF}: ingest would fail")
    with pytest.raises(SourceError) as refusal:
        games.run()
    assert str(refusal.value) == says
    part.write_bytes(kept)
