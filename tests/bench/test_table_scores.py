"""Scores that come as a table: every cell is there, or the message names what is not."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.kept import read_scores


def written(path: Path, **columns: list[object]) -> Path:
    given = {"split": ["test", "test"], "row": [1, 0], "logit": [0.5, -0.5], **columns}
    pq.write_table(pa.table(given), path)
    return path


def test_scores_are_read_by_row_whatever_their_types(tmp_path):
    rows, logits = read_scores(written(tmp_path / "scores.parquet"))["test"]
    assert rows.tolist() == [0, 1]
    assert logits.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("column", ["split", "row", "logit"])
def test_a_cell_that_is_missing_is_named(tmp_path, column):
    cells = {"split": ["test", None], "row": [0, None], "logit": [0.5, None]}
    path = written(tmp_path / "scores.parquet", **{column: cells[column]})
    with pytest.raises(ValueError, match=f"{column} is null in 1 rows"):
        read_scores(path)


def test_rows_that_are_words_are_refused(tmp_path):
    with pytest.raises((ValueError, pa.ArrowInvalid)):
        read_scores(written(tmp_path / "scores.parquet", row=["first", "second"]))
