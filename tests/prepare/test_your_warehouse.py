"""docs/your-warehouse.md does what it says: its examples are read from the page and run."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner

from jobs.datasets import EVENT_TOTALS, SPLITS
from jobs.home import Home
from jobs.prepare.first_look.commands import app
from jobs.prepare.first_look.mapping_check import forecast
from jobs.prepare.sources.mapping import load_mapping
from jobs.prepare.sources.mapping_form import Mapping
from tests.prepare.conftest import Night

PAGE = Path("docs/your-warehouse.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
EXAMPLES = dict(zip(("retail", "games", "shop"), BLOCKS, strict=True))


def written(folder: Path, name: str) -> Path:
    """The page's example as the mapping of `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tidemark.yaml").write_text(EXAMPLES[name])
    return folder / "tidemark.yaml"


@pytest.fixture
def games(tmp_path: Path) -> Path:
    """31 days of votes, one of which says neither yes nor no."""
    mapping = written(tmp_path / "games", "games")
    votes = [
        f"g{n % 7},0,2022-03-{1 + n // 5:02d},{['false', 'true'][n % 3 > 0]},1.5,user{n % 11}\n"
        for n in range(155)
    ]
    votes[40] = votes[40].replace("true", "maybe")
    header = "app_id,helpful,date,is_recommended,hours,user_id\n"
    (mapping.parent / "recommendations.csv").write_text(header + "".join(votes))
    titles = "".join(f"g{n},Game {n},2020-01-01\n" for n in range(7))
    (mapping.parent / "games.csv").write_text("app_id,title,date_release\n" + titles)
    return mapping


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """30 days of clicks; those of the fifth day were loaded two days late."""
    mapping = written(tmp_path / "shop", "shop")
    with duckdb.connect(str(mapping.parent / "shop.duckdb")) as connection:
        connection.execute(
            """create schema web;
            create table web.clicks as
            select
                'c' || i % 9 as customer,
                i % 13 as product,
                timestamp '2026-01-01' + interval (i * 4) hour as clicked_at,
                clicked_at
                + case when clicked_at::date = date '2026-01-05' then interval 2 day
                else interval 1 hour end as loaded_at
            from range(180) t(i);
            create table products as select i as id, 'Product ' || i as name from range(13) t(i)"""
        )
    return mapping


# -- the examples ----------------------------------------------------------------------------------


def test_the_pages_first_example_is_the_file_beside_it(tmp_path: Path) -> None:
    on_page = load_mapping(written(tmp_path, "retail"))
    assert on_page == load_mapping(Path("docs/examples/online-retail.yaml"))


def test_game_recommendations_need_nothing_but_their_mapping(games: Path) -> None:
    made = forecast(games)
    assert made.day == date(2022, 4, 1)
    assert made.stops == []
    assert (made.totals["n_rows_in"], made.totals["n_quarantined"]) == (155, 1)
    assert (made.totals["n_users"], made.totals["n_items"]) == (11, 7)
    (bad,) = made.reasons
    assert (bad["reason"], bad["line"]) == ("unparsable label", 42)
    assert (bad["column"], bad["value"]) == ("is_recommended", "maybe")
    assert made.splits == {"train": 54, "valid": 50, "test": 50}


def test_a_duckdb_row_is_known_from_the_midnight_after_it_was_loaded(shop: Path) -> None:
    made = forecast(shop)
    assert made.stops == []
    nights = {night["known_day"]: night for night in made.arrivals}
    assert nights[date(2026, 1, 7)]["n_late"] == 1  # loaded at midnight sharp
    assert nights[date(2026, 1, 8)]["n_late"] == 5
    assert made.totals["n_late"] == 6
    assert forecast(shop, date(2026, 1, 7)).totals["n_events"] == 4 * 6 + 6 + 1


def test_every_key_of_a_mapping_is_on_the_page() -> None:
    table = PAGE[PAGE.index("## Every key") : PAGE.index("## What was decided")]
    schema = Mapping.model_json_schema(by_alias=True)
    parts = [schema, *schema["$defs"].values()]
    keys = {key for part in parts for key in part.get("properties", {})}
    assert len(keys) > 40
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}\b", table)] == []


# -- tidemark check --------------------------------------------------------------------------------


def test_a_check_says_what_the_night_then_does(games: Path, tmp_path: Path) -> None:
    day = date(2022, 3, 30)
    made, tonight = forecast(games, day), Night(Home(tmp_path / "home"), day)
    manifest, splits = tonight.ingest(games), tonight.split()
    assert tonight.table(EVENT_TOTALS).to_pylist() == [made.totals]
    quarantined = {
        name.removeprefix("quarantined: "): n
        for name, n in manifest.metrics.items()
        if ": " in name
    }
    assert quarantined == {row["reason"]: row["n_rows"] for row in made.reasons}
    assert sum(made.splits.values()) == tonight.table(SPLITS).num_rows
    assert made.positive_share == splits.metrics["positive_share"]


def test_a_check_keeps_nothing(
    games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMARK_HOME", str(tmp_path / "home"))
    before = sorted(tmp_path.rglob("*"))
    assert CliRunner().invoke(app, ["check", str(games)], catch_exceptions=False).exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_the_page_of_a_check_shows_counts_reasons_nights_and_splits(games: Path) -> None:
    page = CliRunner().invoke(app, ["check", str(games), "--nights", "3"]).stdout
    for part in (
        "games as of 2022-04-01",
        "rows in      155",
        "unparsable label",
        "recommendations.csv, 42",
        "maybe",
        "Nights (the last 3 of 31)",
        "train",
        "a night would go through",
    ):
        assert part in page


def test_a_check_as_json_holds_everything(games: Path) -> None:
    said = json.loads(CliRunner().invoke(app, ["check", str(games), "--json"]).stdout)
    assert said["totals"]["n_events"] == 154
    assert len(said["arrivals"]) == 31
    assert said["reasons"][0]["value"] == "maybe"


def test_what_would_stop_a_night_is_said_with_everything_else(games: Path) -> None:
    path = games.parent / "recommendations.csv"
    path.write_text(path.read_text().replace("true", "perhaps"))
    done = CliRunner().invoke(app, ["check", str(games), "--json"])
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert said["totals"]["n_quarantined"] > 100
    (why,) = [why for why in said["stops"] if "would be quarantined" in why]
    assert "\n" not in why
    assert "perhaps" in why


def test_a_day_on_which_nothing_can_be_trained_is_said(games: Path) -> None:
    done = CliRunner().invoke(app, ["check", str(games), "--day", "2022-03-10"])
    assert done.exit_code == 1
    assert "train is empty" in done.stdout


@pytest.mark.parametrize(
    "command", ["init", "check", "quarantine ls", "quarantine show", "quarantine release"]
)
def test_every_command_has_help_and_an_example(command: str) -> None:
    page = CliRunner().invoke(app, [*command.split(), "--help"]).stdout
    assert f"Example: tidemark {command}" in page
