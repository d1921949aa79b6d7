"""Which sequences each step reads, and its learning rate."""

from __future__ import annotations

import pytest

from jobs.llm.schedule import learning_rate, steps

LENGTHS = [30, 10, 50, 20, 40, 25, 5, 60]


def test_an_epoch_reads_every_sequence_once_and_every_step_enough() -> None:
    planned = steps(LENGTHS, step_tokens=70, epochs=2, seed=3)
    for epoch in (0, 1):
        here = [step for step in planned if step.epoch == epoch]
        assert sorted(n for step in here for n in step.sequences) == list(range(len(LENGTHS)))
        assert all(step.n_tokens >= 70 for step in here[:-1])
        assert here[-1].n_tokens >= 35  # a smaller rest joins the step before it
    assert [step.number for step in planned] == list(range(1, len(planned) + 1))
    assert [s.sequences.tolist() for s in planned if s.epoch == 0] != [
        s.sequences.tolist() for s in planned if s.epoch == 1
    ]


def test_the_plan_is_the_same_whenever_it_is_made() -> None:
    one, two = (steps(LENGTHS, step_tokens=70, epochs=2, seed=3) for _ in range(2))
    assert [step.sequences.tolist() for step in one] == [step.sequences.tolist() for step in two]


def test_the_run_ends_with_the_step_that_reaches_the_budget() -> None:
    planned = steps(LENGTHS, step_tokens=50, epochs=9, seed=0, max_tokens=300)
    read = [step.n_tokens for step in planned]
    assert sum(read) >= 300 > sum(read[:-1])


def test_a_step_that_is_larger_than_all_sequences_reads_them_all() -> None:
    (step,) = steps(LENGTHS, step_tokens=10_000, epochs=1, seed=0)
    assert step.n_tokens == sum(LENGTHS)


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, 110, peak=2.0, warmup_steps=10, floor=0.5)

    assert rate(1) == pytest.approx(0.2)
    assert rate(5) == pytest.approx(1.0)
    assert rate(10) == pytest.approx(2.0)
    assert rate(60) == pytest.approx(1.5)  # half way down
    assert rate(110) == pytest.approx(1.0)


def test_a_short_run_spends_a_tenth_of_itself_on_warming_up() -> None:
    assert learning_rate(2, 20, peak=1.0, warmup_steps=200) == pytest.approx(1.0)
    assert learning_rate(1, 5, peak=1.0, warmup_steps=200) < 1.0  # no warm-up at all
