"""The small task that names last night's version for a scheduler."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from jobs import previous
from jobs.datasets import ADAPTER_CONFIG, ITEM_SEMANTICS, TOKEN_CONFIG, Dataset
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
    nothing = {"version": None, "last_adapter": None, "tuned": None}
    assert said(day) == {"job": "previous", "day": day, "adapter": day, **nothing}


class WithAdapter(Config):
    """What `previous` reads of the config of `distil` and `tune`."""

    adapter: str | None
    model: str = "llm"


def commit(home: Home, job: str, day: str, dataset: Dataset, config: Config) -> None:
    with Run(job, date.fromisoformat(day), config, home) as run:
        run.write_text(dataset, "{}")


def train(home: Home, day: str) -> None:
    commit(home, "adapt", day, ADAPTER_CONFIG, Config())


def test_an_adapter_serves_seven_nights_and_then_until_there_is_another(home: Home, said):
    train(home, "2026-03-01")
    found = {day: said(day) for day in ("2026-03-02", "2026-03-07", "2026-03-08")}
    assert {day: each["adapter"] for day, each in found.items()} == {
        "2026-03-02": "2026-03-01",
        "2026-03-07": "2026-03-01",
        "2026-03-08": "2026-03-08",
    }
    assert {each["last_adapter"] for each in found.values()} == {"2026-03-01"}


def test_a_night_takes_the_youngest_adapter_of_the_days_before_it(home: Home, said):
    for day in ("2026-03-05", "2026-03-01"):
        train(home, day)
    found = {day: said(day)["last_adapter"] for day in ("2026-03-05", "2026-03-06", "2026-03-01")}
    assert found == {"2026-03-05": "2026-03-01", "2026-03-06": "2026-03-05", "2026-03-01": None}


def distil(home: Home, day: str, adapter: str | None) -> None:
    ids, zeros = pa.array(["a"]), np.zeros((1, 2), np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(zeros.ravel()), 2)
    table = pa.table({"item_id": ids, "content_key": ids, "raw": vectors, "vector": vectors})
    with Run("distil", date.fromisoformat(day), WithAdapter(adapter=adapter), home) as run:
        run.write(ITEM_SEMANTICS, table)


def test_a_backfilled_night_has_the_adapter_that_it_had(home: Home, said):
    for day in ("2026-03-01", "2026-03-03"):
        train(home, day)
    distil(home, "2026-03-04", "2026-03-01")
    assert said("2026-03-04")["last_adapter"] == "2026-03-01"


@pytest.mark.parametrize("adapter", [None, "some/folder", "2026-02-27"])
def test_a_night_whose_adapter_is_gone_or_was_no_days_looks_for_one(
    adapter: str | None, home: Home, said
):
    """The last of the three has no adapter left in this home."""
    distil(home, "2026-03-02", adapter)
    found = said("2026-03-02")
    assert (found["adapter"], found["last_adapter"]) == ("2026-03-02", None)


def test_the_soft_tokens_to_go_on_from_are_those_of_last_nights_version(home: Home, said):
    truth = tiny_night.planted()
    for day, adapter in (("2026-03-01", "2026-03-01"), ("2026-03-03", None)):
        tiny_night.publish(home, day, truth, as_text=False, run_key=day)
        commit(home, "tune", day, TOKEN_CONFIG, WithAdapter(adapter=adapter))
    tiny_night.publish(home, "2026-03-05", truth, as_text=False, run_key="untuned")
    found = {day: said(day)["tuned"] for day in ("2026-03-02", "2026-03-04", "2026-03-06")}
    assert found == {
        "2026-03-02": {"day": "2026-03-01", "adapter": "2026-03-01", "model": "llm"},
        "2026-03-04": {"day": "2026-03-03", "adapter": None, "model": "llm"},
        "2026-03-06": None,
    }


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
