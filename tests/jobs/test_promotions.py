"""What no scheduler was told of, and that it was told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embedding_store import EmbeddingStore
from jobs import maintain, promotions
from jobs.home import Home
from tests.report import tiny_night


@pytest.fixture
def said(home: Home, monkeypatch, capsys):
    """The last line of one of the small commands."""

    def call(module: Any, *words: str) -> dict[str, Any]:
        monkeypatch.setenv("TIDEMARK_HOME", str(home.root))
        monkeypatch.setattr("sys.argv", ["x", "--day", "2026-03-02", *words])
        module.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


@pytest.fixture
def store(home: Home) -> EmbeddingStore:
    """Days 1 and 2 of March, promoted; then 2 March once more."""
    truth, made = tiny_night.planted(), EmbeddingStore(home.store)
    for number, day in enumerate(("2026-03-01", "2026-03-02", "2026-03-02"), start=1):
        tiny_night.publish(home, day, truth, as_text=False, run_key=f"n{number}")
        if made.aliases().get("production") != number:
            made.promote(number, "production", reason="test", actor="test")
    return made


def test_each_day_is_told_with_the_last_version_that_it_moved_to(store: EmbeddingStore, said):
    found = said(promotions)
    assert found["versions"] == {"2026-03-01": 1, "2026-03-02": 3}
    assert found["up_to"] == 3


def test_what_was_told_is_not_told_again_and_what_came_since_is(store: EmbeddingStore, said):
    assert said(promotions, "--told", "2")["told"] == [1, 2]
    assert said(promotions)["versions"] == {"2026-03-02": 3}
    assert said(promotions, "--told", "3")["told"] == [3]
    assert said(promotions)["versions"] == {}


def test_a_teller_that_died_before_it_noted_tells_once_more(store: EmbeddingStore, said):
    assert said(promotions)["versions"] == said(promotions)["versions"] != {}


def test_where_there_is_no_store_there_is_nothing_to_tell(said):
    assert said(promotions)["versions"] == {}


# -- upkeep ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", maintain.STEPS)
def test_before_the_first_night_there_is_nothing_to_tend(step: str, said):
    assert "nothing is published at" in said(maintain, "--step", step)["note"]


def test_a_sound_store_is_verified_and_rebuilt_byte_for_byte(store: EmbeddingStore, said):
    assert said(maintain, "--step", "verify")["versions"] == 3
    assert said(maintain, "--step", "rebuild")["version"] == 3
    assert said(maintain, "--step", "recover")["recovered"] == []


def test_a_collection_condemns_what_nobody_needs(store: EmbeddingStore, said):
    kept = said(maintain, "--step", "collect")
    assert kept["condemned"] == []
    found = said(maintain, "--step", "collect", "--keep-last", "1", "--keep-days", "0")
    assert found["condemned"] == ["version 1", "version 2"]


def test_a_damaged_file_is_named_with_the_way_out(store: EmbeddingStore, said, home: Home, capsys):
    path = max(Path(home.store).glob("data/**/*.parquet"), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        said(maintain, "--step", "verify")
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert path.name in told
    assert "rollback production" in told


def test_upkeep_of_a_store_whose_description_is_torn_is_one_line(
    store: EmbeddingStore, said, home: Home, capsys
):
    description = Path(home.store) / "STORE.json"
    description.write_bytes(description.read_bytes()[:-5])
    with pytest.raises(SystemExit) as ended:
        said(maintain, "--step", "verify")
    assert ended.value.code == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "STORE.json" in told[0]
