"""What `tidemark run --source` takes, the day it means, and the home that `make` gives it."""

from __future__ import annotations

import os
import shutil
import subprocess
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console

from jobs.cli import first_day_after, made_ready
from jobs.errors import SourceError
from jobs.home import Home
from jobs.prepare.sources.mapping import recognise
from tests.conftest import ROOT
from tests.prepare.test_amazon_book import book, dump, review

MAPPING = """\
domain: plays
events:
  files: ["{files}"]
  format: csv
  columns: {{user_id: who, item_id: what, at: at}}
  user_id: {{type: string}}
  item_id: {{type: string}}
  at: {{form: iso, zone: Europe/London}}
feedback: {{kind: implicit}}
items: {{from: events, title: what}}
"""


def plays(folder: Path, files: dict[str, str], pattern: str) -> Path:
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("who,what,at\n" + lines)
    (folder / "tidemark.yaml").write_text(MAPPING.format(files=pattern))
    return folder


def ready(source: str, home: Home) -> Path:
    return made_ready(source, home, Console(quiet=True))


def test_the_sample_is_made_in_the_home_and_its_day_sees_all_sixty_days(home: Home) -> None:
    path = ready("sample", home)
    assert path == home.raw / "sample"
    assert first_day_after(path) == date(2026, 3, 2)


def test_the_day_is_the_first_that_knows_every_event(tmp_path: Path) -> None:
    folder = plays(
        tmp_path, {"a.csv": "ada,x,2026-07-04 12:00:00\nbob,y,2026-07-06 00:30:00\n"}, "a.csv"
    )
    # half past midnight in London is still the day before in UTC, in summer
    assert first_day_after(folder) == first_day_after(folder / "tidemark.yaml") == date(2026, 7, 6)


def test_the_day_follows_the_newest_delivery_where_names_say_one(tmp_path: Path) -> None:
    files = {f"in/2026-07-0{n}.csv": "ada,x,2026-07-01 12:00:00\n" for n in (1, 2, 5)}
    folder = plays(tmp_path, files, "in/{day}.csv")
    assert first_day_after(folder) == date(2026, 7, 6)


def test_a_source_without_a_single_time_says_so(tmp_path: Path) -> None:
    folder = plays(tmp_path, {"a.csv": "ada,x,yesterday\n"}, "a.csv")
    with pytest.raises(SourceError, match="no event has a time"):
        first_day_after(folder)


def test_movielens_ends_in_february_2003(ml_1m: Path) -> None:
    assert first_day_after(ml_1m) == date(2003, 3, 1)


def test_the_amazon_dump_is_converted_into_the_home_once(tmp_path: Path, home: Home) -> None:
    source = dump(tmp_path / "dump", [review("ada", "000", 5.0, 12, 30)], [book("000", "Emma")])
    path = ready(str(source), home)
    assert path == home.raw / "amazon-book"
    written = (path / "reviews.parquet").stat().st_mtime_ns
    assert ready(str(source), home) == path
    assert (path / "reviews.parquet").stat().st_mtime_ns == written
    assert recognise(path)[0].domain == "amazon-book"
    assert first_day_after(path) == date(2017, 12, 31)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ""),
        ("raw/ml-1m.zip", ".tidemark-ml-1m"),
        ("/data/ml-1m/", ".tidemark-ml-1m"),
        ("warehouses/games.yaml", ".tidemark-games"),
        ("warehouses/shop/tidemark.yaml", ".tidemark-shop"),
        ("warehouses/shop/tidemark.toml", ".tidemark-shop"),
        ("tidemark.yaml", f".tidemark-{ROOT.name}"),
    ],
)
def test_make_gives_each_source_a_home_of_its_own(source: str, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TIDEMARK_HOME"}
    words = ["make", "-s", "--eval", "shown: ; @echo $(TIDEMARK_HOME)", "shown", f"SOURCE={source}"]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
