"""`tidemark quarantine`: counted, shown, released from a night on, and no older night rewritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.datasets import EVENTS, QUARANTINED_EVENTS
from jobs.errors import JobError
from jobs.home import Home
from jobs.prepare.arrivals.commands_quarantine import app
from tests.prepare.conftest import Night

Nights = Callable[..., Night]

MAPPING = """\
domain: shop
events:
  files: ["ratings/{day}.csv"]
  format: csv
  columns: {user_id: user, item_id: item, rating: stars, at: at}
  user_id: {type: string}
  item_id: {type: integer}
  at: {form: iso}
feedback: {kind: rating, minimum: 1, maximum: 5, positive_from: 4}
items: {files: ["items/{day}.csv"], format: csv, columns: {item_id: item, title: title}}
split: {valid_days: 1, test_days: 1}
quarantine: {max_share: 1.0}
"""
HEADER = "user,item,stars,at\n"
FIRST = (
    HEADER + "ann,1,5,2026-01-01 10:00:00\n"
    "ann,2,five,2026-01-01 11:00:00\n"
    "bob,1,6,2026-01-01 12:00:00\n"
    "bob,2,3\n"
    "cy,1,4,2026-01-09 12:00:00\n"
)
SECOND = (
    HEADER + "bob,1,4,2026-01-02 10:00:00\nann,1,5,2026-01-01 10:00:00\n,2,4,2026-01-02 11:00:00\n"
)
ONE, TWO, THREE = date(2026, 1, 2), date(2026, 1, 3), date(2026, 1, 4)


def made_shop(folder: Path) -> Path:
    (folder / "ratings").mkdir(parents=True)
    (folder / "items").mkdir()
    (folder / "tidemark.yaml").write_text(MAPPING)
    (folder / "items" / "2026-01-01.csv").write_text("item,title\n1,Alien\n2,Heat\n")
    (folder / "ratings" / "2026-01-01.csv").write_text(FIRST)
    (folder / "ratings" / "2026-01-02.csv").write_text(SECOND)
    (folder / "ratings" / "2026-01-03.csv").write_text(HEADER + "dan,2,2,2026-01-03 09:00:00\n")
    return folder


def made_nights(home: Path, shop: Path) -> tuple[Night, Night]:
    nights = Night(Home(home), ONE), Night(Home(home), TWO)
    for one in nights:
        one.ingest(shop)
    return nights


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A home in which the first two nights have run, and its shop; do not change them."""
    folder = tmp_path_factory.mktemp("quarantine")
    made_nights(folder / "home", made_shop(folder / "shop"))
    return folder / "home", folder / "shop"


@pytest.fixture
def shop(ran: tuple[Path, Path]) -> Path:
    return ran[1]


@pytest.fixture
def nights(
    ran: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Night, Night]:
    """A home of the test's own in which they have run; commands see it."""
    shutil.copytree(ran[0], tmp_path / "home")
    monkeypatch.setenv("TIDEMARK_HOME", str(tmp_path / "home"))
    return Night(Home(tmp_path / "home"), ONE), Night(Home(tmp_path / "home"), TWO)


def said(*arguments: str) -> Any:
    """What a command prints as JSON."""
    done = CliRunner().invoke(app, [*arguments, "--format", "json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: str) -> str:
    """The one line with which a command refuses."""
    with pytest.raises(JobError) as error:
        CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def events(tonight: Night) -> set[tuple[str, int, float]]:
    rows = tonight.table(EVENTS).to_pylist()
    return {(row["user_id"], row["item_id"], row["rating"]) for row in rows}


RELEASE = ("release", "--file", "ratings/2026-01-01.csv", "--line", "3", "--why", "asked the shop")

# -- ls and show -----------------------------------------------------------------------------------


def test_rows_are_counted_by_reason_and_by_the_night_that_learned_of_them(
    nights: tuple[Night, Night],
) -> None:
    counted = {(row["known_day"], row["reason"]): row["n_rows"] for row in said("ls")}
    assert counted == {
        ("2026-01-02", "event after its delivery"): 1,
        ("2026-01-02", "rating out of range"): 1,
        ("2026-01-02", "unparsable rating"): 1,
        ("2026-01-02", "wrong number of fields"): 1,
        ("2026-01-03", "duplicate"): 1,
        ("2026-01-03", "missing user"): 1,
    }
    assert sum(row["n_rows"] for row in said("ls", "--day", "2026-01-02")) == 4


def test_a_row_is_shown_with_its_place_its_value_and_as_it_came(
    nights: tuple[Night, Night],
) -> None:
    (row,) = said("show", "--reason", "unparsable rating")
    assert row == {
        "kind": "event",
        "source_file": "ratings/2026-01-01.csv",
        "line": 3,
        "reason": "unparsable rating",
        "column": "stars",
        "value": "five",
        "raw": "ann,2,five,2026-01-01 11:00:00",
        "known_day": "2026-01-02",
    }


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("--file", "ratings/2026-01-02.csv"), [3, 4]),
        (("--column", "stars"), [3, 4]),
        (("--column", "stars", "--value", "6"), [4]),
        (("--line", "3", "--line", "5"), [3, 5, 3]),
        (("--limit", "2"), [3, 4]),
        (("--reason", "no such reason"), []),
    ],
)
def test_rows_are_filtered(
    nights: tuple[Night, Night], arguments: tuple[str, ...], lines: list[int]
) -> None:
    assert [row["line"] for row in said("show", *arguments)] == lines


def test_tables_and_csv_say_the_same(nights: tuple[Night, Night]) -> None:
    run = CliRunner().invoke
    table = run(app, ["show", "--reason", "missing user"]).stdout
    assert "ratings/2026-01-02.csv" in table
    assert "1 of 1 rows" in table
    assert "6 rows" in run(app, ["ls"]).stdout
    lines = run(app, ["show", "--format", "csv", "--limit", "1"]).stdout.splitlines()
    assert lines[0] == "kind,source_file,line,reason,column,value,raw,known_day"
    assert lines[1].startswith("event,ratings/2026-01-01.csv,3,unparsable rating,stars,five,")


def test_a_home_without_nights_and_a_night_that_did_not_run(
    nights: tuple[Night, Night], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = refused("ls", "--day", "2026-05-05")
    assert "no quarantine of 2026-05-05; there are 2 nights from 2026-01-02 to 2026-01-03" in asked
    monkeypatch.setenv("TIDEMARK_HOME", str(tmp_path / "empty"))
    assert "no night has run here" in refused("ls")


# -- release ---------------------------------------------------------------------------------------


def test_a_mended_row_is_an_event_from_the_next_night_on_and_not_before(
    nights: tuple[Night, Night], shop: Path, night: Nights
) -> None:
    one, two = nights
    before = {n.day: n.sha256("ingest") for n in nights}
    (told,) = said(*RELEASE, "--set", "stars=5")
    assert (told["known_from"], told["rating"], told["state"]) == ("2026-01-04", 5.0, "released")
    three = night(THREE)
    three.ingest(shop)
    assert ("ann", 2, 5.0) in events(three)
    assert ("ann", 2, 5.0) not in events(two)
    shown = three.table(QUARANTINED_EVENTS).to_pylist()
    assert "unparsable rating" not in {row["reason"] for row in shown}
    for earlier in (one, two):
        earlier.ingest(shop)
        assert earlier.sha256("ingest") == before[earlier.day]


def test_twice_is_once(nights: tuple[Night, Night], shop: Path, night: Nights) -> None:
    (first,) = said(*RELEASE, "--set", "stars=5")
    (again,) = said(*RELEASE, "--set", "stars=5")
    assert again == {**first, "state": "released before"}
    tonight = night(THREE)
    tonight.ingest(shop)
    (later,) = said(*RELEASE, "--set", "stars=5")
    assert later == again
    folder = tonight.home.root / "releases"
    assert [path.stem for path in folder.iterdir()] == [first["release"]]
    assert json.loads((folder / f"{first['release']}.json").read_text())["why"] == "asked the shop"


def test_a_night_to_know_a_row_can_be_named(nights: tuple[Night, Night]) -> None:
    (told,) = said(*RELEASE, "--set", "stars=5", "--from", "2026-02-01")
    assert told["known_from"] == "2026-02-01"


def test_a_row_whose_delivery_was_wrong_is_released_as_it_is(
    nights: tuple[Night, Night], shop: Path, night: Nights
) -> None:
    """Its time was right: it becomes known on the night that is named, after it happened."""
    given = ("release", "--reason", "event after its delivery", "--why", "the file was misnamed")
    said(*given, "--from", "2026-01-10")
    tonight = night(date(2026, 1, 10))
    tonight.ingest(shop)
    assert ("cy", 1, 4.0) in events(tonight)


def test_a_broken_line_is_whole_once_its_values_are_given(
    nights: tuple[Night, Night], shop: Path, night: Nights
) -> None:
    values = {"user": "bob", "item": "2", "stars": "3", "at": "2026-01-01 13:00:00"}
    changes = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    given = ("release", "--reason", "wrong number of fields", "--why", "the time is in the log")
    (told,) = said(*given, *changes)
    assert datetime.fromisoformat(told["rated_at"]) == datetime(2026, 1, 1, 13)
    tonight = night(THREE)
    tonight.ingest(shop)
    assert ("bob", 2, 3.0) in events(tonight)


@pytest.mark.parametrize(
    ("arguments", "why_not"),
    [
        (
            RELEASE,
            "line 3: still unparsable rating (stars: 'five'); mend it with --set stars=VALUE",
        ),
        ((*RELEASE, "--set", "stars=9"), "line 3: still rating out of range (stars: '9')"),
        ((*RELEASE, "--set", "starz=4"), "no such column that the mapping reads; there are user"),
        ((*RELEASE, "--set", "stars"), "--set stars: expected COLUMN=VALUE"),
        ((*RELEASE, "--set", "stars=4", "--from", "2026-01-03"), "that night has been built"),
        (("release", "--why", "all of them"), "say which rows: --file and --line"),
        (("release", "--line", "3", "--why", "x"), "say which with --file"),
        (("release", "--reason", "none such", "--why", "x"), "no quarantined row of an event"),
        (("release", "--reason", "missing user", "--why", " "), "say why with --why"),
        (
            ("release", "--reason", "duplicate", "--why", "x"),
            "duplicate: an event of its user, item and time stands",
        ),
        (
            ("release", "--file", "ratings/2026-01-01.csv", "--set", "stars=4", "--why", "x"),
            "line 5: still missing",
        ),
    ],
)
def test_what_cannot_be_released_says_why_and_releases_nothing(
    nights: tuple[Night, Night], arguments: tuple[str, ...], why_not: str
) -> None:
    assert why_not in refused(*arguments)
    assert not list((nights[0].home.root / "releases").glob("*"))


def test_a_row_is_not_released_as_two_things(nights: tuple[Night, Night]) -> None:
    (told,) = said(*RELEASE, "--set", "stars=5")
    again = refused(*RELEASE, "--set", "stars=4")
    assert "line 3 is already released from 2026-01-04 on" in again
    assert f"remove releases/{told['release']}.json" in again


def test_a_row_that_has_changed_in_its_file_is_not_released(
    nights: tuple[Night, Night], tmp_path: Path
) -> None:
    shop = made_shop(tmp_path / "shop")
    path = shop / "ratings" / "2026-01-01.csv"
    path.write_text(path.read_text().replace("five", "sixx"))
    moved = (*RELEASE, "--set", "stars=5", "--source", str(shop / "tidemark.yaml"))
    assert "the row has changed since it was quarantined" in refused(*moved)
    path.unlink()
    assert "this file of the quarantine is not there any more" in refused(*moved)
