"""The small task that names last night's version for a scheduler."""

from __future__ import annotations

import json

import pytest

from jobs import previous
from jobs.home import Home
from jobs.launch import command
from tests.conftest import DAY
from tests.report import tiny_night


@pytest.fixture
def said(home: Home, monkeypatch, capsys):
    """The last line for a day."""

    def call(day: str) -> dict[str, object]:
        monkeypatch.setenv("TIDEMARK_HOME", str(home.root))
        monkeypatch.setattr("sys.argv", ["previous", "--day", day])
        previous.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def test_before_the_first_night_there_is_none(said):
    assert said("2026-03-02") == {"job": "previous", "day": "2026-03-02", "version": None}


def test_it_is_the_last_version_of_the_highest_day_before(home: Home, said):
    truth = tiny_night.planted()
    for number, day in enumerate(("2026-03-01", "2026-03-04", "2026-03-01", "2026-03-02")):
        tiny_night.publish(home, day, truth, as_text=False, run_key=f"n{number}")
    found = {day: said(day)["version"] for day in ("2026-03-01", "2026-03-02", "2026-03-03")}
    assert found == {"2026-03-01": None, "2026-03-02": 3, "2026-03-03": 4}


def test_none_leaves_the_flag_out_of_the_next_jobs_command():
    assert "--previous-version" not in command("distil", previous_version=None, day=DAY)
    assert "--previous-version 3 --day" in command("distil", previous_version=3, day=DAY)


def test_a_damaged_store_is_one_line(home: Home, said, capsys):
    tiny_night.publish(home, DAY, tiny_night.planted(), as_text=False)
    manifest = next((home.root / "store" / "versions").iterdir())
    manifest.write_bytes(manifest.read_bytes()[:-2])
    with pytest.raises(SystemExit):
        said("2026-03-05")
    assert manifest.name in capsys.readouterr().err
