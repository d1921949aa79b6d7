"""What each job of a night is given: one answer for the chain, the DAGs and the plan."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from jobs.launch import NIGHTLY, TUNING, tuning_flags
from jobs.night_flags import NightFlags

DAY, BEFORE = date(2026, 3, 2), "2026-03-01"
TUNED = {"day": BEFORE, "adapter": BEFORE, "model": "llm"}


def night(**fields: Any) -> NightFlags:
    plain: dict[str, Any] = {
        "source": "raw",
        "model": "llm",
        "tokens": 20_000,
        "previous_version": 7,
        "adapter_day": BEFORE,
        "tuned": TUNED,
    }
    return NightFlags(DAY, **plain | fields)


def test_a_usual_night_tunes_on_from_last_night_within_its_budget():
    flags = night().of("tune")
    assert flags["init_tokens"] == BEFORE
    assert flags["adapter"] == BEFORE
    assert flags["max_tokens_total"] == 20_000


@pytest.mark.parametrize(
    "fields",
    [
        {"adapter_day": str(DAY)},  # a new adapter
        {"model": "another"},
        {"tuned": None},
        {"anew": True},
    ],
)
def test_where_last_nights_tokens_do_not_fit_the_night_tunes_in_full(fields: dict[str, Any]):
    flags = night(**fields).of("tune")
    assert flags["init_tokens"] is None
    assert "max_tokens_total" not in flags  # all epochs
    assert night(**fields, full_tokens=50_000).of("tune")["max_tokens_total"] == 50_000


def test_an_adapter_is_trained_in_full():
    assert night().of("adapt") == {"model": "llm"}
    assert night(full_tokens=9_000).of("adapt") == {"model": "llm", **tuning_flags(9_000)}


@pytest.mark.parametrize("tokens", [0, 20_000])
def test_a_night_without_tuning_publishes_no_soft_tokens_that_an_earlier_run_left(tokens: int):
    for job in ("calibrate", "publish"):
        assert night(tokens=tokens).of(job) == {"soft_tokens": bool(tokens)}


def test_a_night_without_tuning_leaves_it_out_and_says_so():
    flags = night(tokens=0)
    left_out = {job for job in NIGHTLY if flags.why_left_out(job)}
    assert left_out == set(TUNING)
    assert flags.of("distil")["adapter"] is None


def test_the_weekly_adapter_waits_for_nobodys_tokens_but_not_for_an_adapter_that_serves():
    assert night(tokens=0).why_untuned("adapt")
    assert night().why_untuned("adapt") is None
    assert "still serves" in str(night().why_left_out("adapt"))


def test_the_chain_trains_an_adapter_only_where_one_is_due():
    said = {"version": 7, "adapter": BEFORE, "last_adapter": BEFORE, "tuned": TUNED}
    chain: dict[str, Any] = {"source": "raw", "model": "llm", "tokens": 800}
    serving = NightFlags.of_chain(DAY, said, **chain)
    due = NightFlags.of_chain(DAY, said | {"adapter": str(DAY)}, **chain)
    assert serving.why_left_out("adapt") == f"the adapter of {BEFORE} still serves"
    assert due.why_left_out("adapt") is None
    assert due.of("tune")["max_tokens_total"] == 800


def test_a_night_that_tunes_an_llm_has_it_read_the_test_rows_alone():
    assert night().of("candidates", 8)["splits"] == "test"
    assert night(tokens=0).of("candidates", 8)["splits"] is None  # the job's own: valid and test


@pytest.mark.parametrize(("tokens", "n_looks"), [(8_000, 1), (20_000, 1), (50_000, 2), (10**6, 2)])
def test_a_small_budget_is_judged_at_its_end_alone(tokens: int, n_looks: int):
    flags = tuning_flags(tokens)
    n_steps = tokens // int(str(flags["step_tokens"]))
    looks = {*range(0, n_steps + 1, int(str(flags["eval_steps"]))), n_steps} - {0}
    assert len(looks) == n_looks


def test_jobs_on_a_version_are_given_it():
    assert night().of("candidates", 8) == {"version": 8, "splits": "test"}
    assert night().of("score", 8) == {"backbone": "llm", "version": 8}
    assert night().of("align") == {"previous_version": 7}
