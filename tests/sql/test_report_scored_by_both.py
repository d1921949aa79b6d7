"""The query that finds the test rows which two nights have both scored."""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from jobs.query import query

SPLITS = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int32()),
        ("user_id", pa.int64()),
        ("item_id", pa.int64()),
        ("label", pa.int8()),
        ("rated_at", pa.timestamp("us")),
    ]
)
SCORES = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int32()),
        ("model", pa.string()),
        ("logit", pa.float32()),
        ("probability", pa.float32()),
    ]
)
NOON = datetime(2026, 3, 1, 12)
LATER = datetime(2026, 3, 1, 13)


def splits(*rows: tuple[str, int, int, int, int, datetime]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SPLITS.names, row, strict=True)) for row in rows], SPLITS)


def scores(*rows: tuple[str, int, str, float]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(SCORES.names, (*row, row[3] / 10), strict=True)) for row in rows], SCORES
    )


def scored_by_both(tonight: pa.Table, before: pa.Table, **tables: pa.Table) -> list[dict]:
    found = query(
        "report/scored_by_both",
        {"splits": tonight, "splits_before": before, **tables},
        model="mf",
        model_before="mf",
    )
    return found.to_pylist()


def test_rows_are_found_by_user_item_and_time_wherever_they_stand() -> None:
    found = scored_by_both(
        splits(("test", 0, 7, 1, 1, NOON), ("test", 1, 5, 2, 0, NOON)),
        splits(("test", 0, 5, 2, 1, NOON), ("test", 9, 7, 1, 1, NOON)),
        scores=scores(("test", 0, "mf", 1.0), ("test", 1, "mf", 2.0)),
        scores_before=scores(("test", 0, "mf", 3.0), ("test", 9, "mf", 4.0)),
    )
    said = [(row["user_id"], row["logit"], row["logit_before"], row["label"]) for row in found]
    assert said == [(5, 2.0, 3.0, 0), (7, 1.0, 4.0, 1)]  # the label is tonight's


def test_rows_that_the_night_before_tuned_on_are_left_out() -> None:
    rows = splits(("test", 0, 7, 1, 1, NOON))
    of_both = {"scores": scores(("test", 0, "mf", 1.0))}
    tuned_on = splits(("valid", 0, 7, 1, 1, NOON))
    of_before = scores(("valid", 0, "mf", 3.0))
    assert scored_by_both(rows, tuned_on, **of_both, scores_before=of_before) == []


def test_another_time_another_model_and_a_row_without_a_score_are_no_match() -> None:
    rows = splits(*(("test", n, 7, n, 1, NOON) for n in range(3)))
    before = splits(
        ("test", 0, 7, 0, 1, LATER), ("test", 1, 7, 1, 1, NOON), ("test", 2, 7, 2, 1, NOON)
    )
    found = scored_by_both(
        rows,
        before,
        scores=scores(*(("test", n, "mf", 1.0) for n in range(3))),
        scores_before=scores(("test", 0, "mf", 1.0), ("test", 1, "llm", 1.0)),
    )
    assert found == []


def test_a_row_that_one_night_holds_twice_is_left_out() -> None:
    twice = splits(("test", 0, 7, 1, 1, NOON), ("test", 1, 7, 1, 1, NOON))
    once = splits(("test", 0, 7, 1, 1, NOON))
    all_scored = scores(("test", 0, "mf", 1.0), ("test", 1, "mf", 1.0))
    for tonight, before in ((twice, once), (once, twice)):
        found = scored_by_both(tonight, before, scores=all_scored, scores_before=all_scored)
        assert found == []


def test_nights_without_rows_have_none_in_common() -> None:
    nothing = {"scores": scores(), "scores_before": scores()}
    found = scored_by_both(splits(), splits(), **nothing)
    assert found == []
