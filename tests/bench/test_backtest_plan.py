"""What a backtest is asked to replay: plans, settings, and the folder that belongs to one."""

from __future__ import annotations

import re
from datetime import date

import pytest

from jobs.bench.backtest.nights import fitting, refuse_unknown, run_job
from jobs.bench.backtest.plan import Folder, Plan, settings_of
from jobs.bench.backtest.replay import planned
from jobs.errors import JobError
from jobs.home import Home

FIRST, THIRD = date(2026, 1, 20), date(2026, 1, 22)
KNOWN_BY = date(2026, 1, 25)


def plan(**fields: object) -> Plan:
    given = {
        "source": "somewhere",
        "domain": "sample",
        "first": FIRST,
        "last": THIRD,
        "known_by": KNOWN_BY,
        "model": "tiny",
    }
    return Plan.of(**{**given, **fields})


def test_nights_every_second_day_score_two_days_each_and_the_last_one_what_is_left():
    every_second = plan(refit_every=2)
    assert every_second.nights() == [FIRST, THIRD]
    assert every_second.scored_by(FIRST) == (FIRST, THIRD)
    assert every_second.scored_by(THIRD) == (THIRD, date(2026, 1, 23))


def test_a_night_starts_warm_or_ends_with_the_valid_rows_but_never_both():
    assert fitting(plan(), 7) == {"previous_version": None, "refit_on_valid": True}
    warm = fitting(plan(warm_start=True), 7)
    assert warm == {"previous_version": 7, "refit_on_valid": False}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"last": date(2026, 1, 1)}, "--to 2026-01-01 is before --from 2026-01-20"),
        ({"known_by": THIRD}, "the events of 2026-01-22 are known on 2026-01-23 at the earliest"),
        ({"refit_every": 0}, "refit_every"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(fields, said):
    with pytest.raises(JobError, match=said):
        plan(**fields)


def test_settings_are_json_or_text_by_job():
    words = ["align.max_epochs=5", "align.device=cpu", "distil.max-tokens=32"]
    found = settings_of(words)
    assert found == {
        "align": {"max_epochs": 5, "device": "cpu"},
        "distil": {"max_tokens": 32},
    }


@pytest.mark.parametrize("word", ["align.max_epochs", "max_epochs=5", "bake.bread=1"])
def test_a_setting_of_another_form_is_refused(word):
    with pytest.raises(JobError, match=r"expected JOB\.FIELD=VALUE"):
        settings_of([word])


def test_a_setting_that_a_job_does_not_have_is_refused_by_name(home):
    with pytest.raises(JobError, match="--set of item_texts: patience: Extra inputs"):
        run_job("item_texts", FIRST, home, {}, {"patience": 3})


def test_another_plan_in_the_folder_of_a_backtest_is_refused(tmp_path):
    folder = Folder(tmp_path / "one")
    folder.begin(plan(), tmp_path / "cache")
    folder.begin(plan(), tmp_path / "cache")
    with pytest.raises(JobError, match="model was tiny and is large; give another --home"):
        folder.begin(plan(model="large"), tmp_path / "cache")


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    with pytest.raises(JobError, match="is not empty and holds no backtest"):
        Folder(tmp_path).begin(plan(), tmp_path / "cache")


def test_a_source_that_has_grown_since_does_not_change_a_plan(tmp_path):
    home = Home(tmp_path)
    fields = plan().model_dump() | {"known_by": None}
    begun, folder = planned(home, None, lambda: KNOWN_BY, **fields)
    assert folder.root == tmp_path / "backtests" / "sample_2026-01-20_2026-01-22"
    folder.begin(begun, home.cache)
    assert planned(home, None, lambda: date(2026, 2, 1), **fields)[0] == begun


@pytest.mark.parametrize(
    ("job", "field", "hint"),
    [("align", "max_epoch", "do you mean max_epochs?"), ("splits", "bogus", "there are ")],
)
def test_a_setting_that_its_job_does_not_have_is_refused_before_any_night(job, field, hint):
    refuse_unknown({"align": {"max_epochs": 5}})
    with pytest.raises(JobError, match=re.escape(f"--set {job}.{field}: no such setting; {hint}")):
        refuse_unknown({job: {field: 5}})


def test_jobs_that_are_not_replayed_take_no_setting():
    with pytest.raises(JobError, match=r"--set score\.x=1: expected JOB\.FIELD=VALUE"):
        settings_of(["score.x=1"])
