"""Tables larger than memory: the bytes of `write`, the contract batch by batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import Field

from jobs.datasets import ITEM_TEXTS, SPLITS
from jobs.errors import ContractError
from jobs.home import Home
from jobs.job import DEPLOYMENT, Config, Run, execute, load_manifest
from tests.conftest import DAY

N_TEST, N_TRAIN = 50_000, 100_001  # more than one row group, and no multiple of one


def splits() -> pa.Table:
    n = N_TEST + N_TRAIN
    return pa.table(
        {
            "split": ["test"] * N_TEST + ["train"] * N_TRAIN,
            "row": pa.array([*range(N_TEST), *range(N_TRAIN)], pa.int32()),
            "user_id": [f"u{number}" for number in range(n)],
            "item_id": pa.array(np.arange(n) % 97),
            "label": pa.array((np.arange(n) % 2).astype(np.int8)),
            "rated_at": pa.array(np.arange(n), pa.timestamp("us")),
            "history_end": pa.array(np.zeros(n, np.int32)),
            "is_warm": pa.array(np.ones(n, bool)),
        }
    )


def committed_sha256(home: Home) -> str:
    manifest = load_manifest(home, "splits", DAY)
    assert manifest is not None
    return manifest.outputs[0].sha256


@pytest.mark.parametrize("batch_rows", [997, 65_536, 1_000_000])
def test_a_stream_gives_the_bytes_of_the_whole_table(home: Home, batch_rows: int) -> None:
    table = splits()
    with Run("splits", DAY, Config(), home) as run:
        run.write(SPLITS, table)
    whole = committed_sha256(home)
    with Run("splits", DAY, Config(), home) as run:
        n_rows = run.write_stream(SPLITS, table.schema, table.to_batches(batch_rows))
    assert n_rows == table.num_rows
    assert committed_sha256(home) == whole


def test_a_stream_without_rows_is_a_table_without_rows(home: Home) -> None:
    with Run("splits", DAY, Config(), home) as run:
        assert run.write_stream(SPLITS, splits().schema, []) == 0
    whole = committed_sha256(home)
    with Run("splits", DAY, Config(), home) as run:
        run.write(SPLITS, splits().slice(0, 0))
    assert committed_sha256(home) == whole


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        (slice(0, 10), slice(9, 20), "'row': 9} is followed by {'split': 'test', 'row': 9"),
        (slice(10, 20), slice(0, 5), "'row': 19} is followed by {'split': 'test', 'row': 0"),
        (slice(N_TEST, N_TEST + 5), slice(0, 5), "'row': 4} is followed by {'split': 'test'"),
    ],
)
def test_rows_out_of_order_or_twice_are_refused_with_their_keys(
    home: Home, first: slice, second: slice, place: str
) -> None:
    table = splits()
    cuts = [table.slice(cut.start, cut.stop - cut.start).to_batches()[0] for cut in (first, second)]
    with Run("splits", DAY, Config(), home) as run, pytest.raises(ContractError) as refused:
        run.write_stream(SPLITS, table.schema, cuts)
    assert place in str(refused.value)
    assert load_manifest(home, "splits", DAY) is None


def test_a_null_in_a_later_batch_is_refused(home: Home) -> None:
    table = splits().slice(0, 20)
    broken = table.slice(10).set_column(2, "user_id", pa.array([None] * 10, pa.string()))
    batches = [table.slice(0, 10).to_batches()[0], broken.to_batches()[0]]
    with Run("splits", DAY, Config(), home) as run, pytest.raises(ContractError, match="10 nulls"):
        run.write_stream(SPLITS, table.schema, batches)


class WhereConfig(Config):
    """A knob that decides the output, and one that does not."""

    prefix: str = "Movie"
    engine: str = Field("here", json_schema_extra=DEPLOYMENT)


def texts(config: WhereConfig, run: Run) -> None:
    run.write(
        ITEM_TEXTS,
        pa.table({"item_id": [1], "title": ["Heat"], "text": [f"{config.prefix}: Heat"]}),
    )


def test_where_a_job_ran_is_written_down_and_redoes_nothing(home: Home) -> None:
    execute("item_texts", WhereConfig(), DAY, home, texts)
    elsewhere = execute("item_texts", WhereConfig(engine="there"), DAY, home, texts)
    assert elsewhere.status == "unchanged"
    assert elsewhere.manifest.config == {"prefix": "Movie", "engine": "here"}
    other = execute("item_texts", WhereConfig(prefix="Film", engine="there"), DAY, home, texts)
    assert other.status == "done"
    assert other.manifest.config["engine"] == "there"


def test_a_config_of_other_fields_redoes_the_job(home: Home) -> None:
    class Renamed(Config):
        title_prefix: str = "Movie"

    execute("item_texts", WhereConfig(), DAY, home, texts)
    with Run("item_texts", DAY, Renamed(), home) as run:
        assert run.unchanged() is None


def test_staging_is_empty_after_a_refused_stream(home: Home, tmp_path: Path) -> None:
    table = splits().slice(0, 2)
    backwards = [table.slice(1, 1).to_batches()[0], table.slice(0, 1).to_batches()[0]]
    with Run("splits", DAY, Config(), home) as run, pytest.raises(ContractError):
        run.write_stream(SPLITS, table.schema, backwards)
    assert not list(tmp_path.rglob("staging"))
