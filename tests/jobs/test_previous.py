"""The small task that names last night's version for a scheduler."""

from __future__ import annotations

import json
from datetime import date

import pytest

from jobs import previous
from jobs.datasets import ADAPTER_CONFIG, TOKEN_CONFIG, Dataset
from jobs.home import Home
from jobs.job import Config, Run
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
    day = "2026-03-02"
    assert said(day) == {"job": "previous", "day": day, "version": None, "adapter": day}


class TunedWith(Config):
    """What `previous` reads of the config of `tune`."""

    adapter: str | None


def commit(home: Home, job: str, day: str, dataset: Dataset, config: Config) -> None:
    with Run(job, date.fromisoformat(day), config, home) as run:
        run.write_text(dataset, "{}")


def test_an_adapter_serves_seven_nights(home: Home, said):
    truth = tiny_night.planted()
    commit(home, "adapt", "2026-03-01", ADAPTER_CONFIG, Config())
    for day in ("2026-03-01", "2026-03-05", "2026-03-07"):
        tiny_night.publish(home, day, truth, as_text=False, run_key=day)
        commit(home, "tune", day, TOKEN_CONFIG, TunedWith(adapter="2026-03-01"))
    found = {day: said(day)["adapter"] for day in ("2026-03-02", "2026-03-07", "2026-03-08")}
    assert found == {
        "2026-03-02": "2026-03-01",
        "2026-03-07": "2026-03-01",
        "2026-03-08": "2026-03-08",
    }


@pytest.mark.parametrize("adapter", [None, "some/folder", "2026-02-27"])
def test_a_night_after_one_without_an_adapter_of_a_day_trains_its_own(
    adapter: str | None, home: Home, said
):
    """The last of the three has no adapter left in this home."""
    tiny_night.publish(home, "2026-03-01", tiny_night.planted(), as_text=False)
    commit(home, "tune", "2026-03-01", TOKEN_CONFIG, TunedWith(adapter=adapter))
    assert said("2026-03-02")["adapter"] == "2026-03-02"


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
