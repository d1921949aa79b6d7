"""Codes in the store: a night that made them publishes them, and one that did not goes without."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import structlog
from structlog.testing import capture_logs

from embedding_store import EmbeddingStore
from jobs.codebook.last_codes import last_codes
from jobs.codebook.matching import UNKNOWN
from jobs.codebook.tables import item_codes_table
from jobs.datasets import CODEBOOK, CODEBOOK_SPACE, ITEM_CODES
from jobs.home import Home
from jobs.job import Config, Run, mark_checked
from jobs.vector_columns import as_column
from tests.jobs import test_publish as nights
from tests.report import tiny_night

ITEMS = tiny_night.ids("i", np.arange(tiny_night.N_ITEMS), as_text=False)
CODES = np.arange(tiny_night.N_ITEMS)[:, None] % [3, 2]


def coded(home: Home) -> None:
    """The codes of the first night, as the job codebook leaves them."""
    book = {
        "level": pa.array([], pa.int16()),
        "code": pa.array([], pa.int16()),
        "centroid": as_column(np.zeros((0, 2), np.float32)),
        "lifted": as_column(np.zeros((0, 2), np.float32)),
        "n_items": pa.array([], pa.int32()),
        "top_titles": pa.array([], pa.list_(pa.string())),
    }
    with Run("codebook", nights.FIRST, Config(), home) as run:
        run.write(ITEM_CODES, item_codes_table(ITEMS, CODES, {"n_levels": 2, "n_codes": 3}))
        run.write(CODEBOOK, pa.table(book))
        run.write_tensors(CODEBOOK_SPACE, {"mean": np.zeros(2, np.float32)})
    for dataset in (ITEM_CODES, CODEBOOK):
        mark_checked(home, dataset, nights.FIRST)


def test_the_codes_of_a_night_are_in_its_version_and_the_next_night_finds_them(home: Home) -> None:
    nights.night(home, nights.FIRST, tiny_night.planted(), turn=np.eye(tiny_night.DIM))
    coded(home)
    outcome = nights.publish(home, nights.FIRST)
    assert ITEM_CODES.name in {each.name for each in outcome.manifest.inputs}
    tonight = pa.array([ITEMS[5].as_py(), -7, ITEMS[0].as_py()], ITEMS.type)
    found = last_codes(home, tonight, outcome.manifest.result["version"], structlog.get_logger())
    assert found.codes is not None
    assert found.codes.tolist() == [CODES[5].tolist(), [UNKNOWN, UNKNOWN], CODES[0].tolist()]
    with capture_logs() as said:
        assert last_codes(home, pa.array(["a"]), 1, structlog.get_logger()) == (None, None)
    assert "int64 item ids, tonight's are string" in said[0]["why"]


def test_a_night_without_codes_is_published_without(home: Home) -> None:
    nights.night(home, nights.FIRST, tiny_night.planted(), turn=np.eye(tiny_night.DIM))
    version = nights.publish(home, nights.FIRST).manifest.result["version"]
    assert ITEM_CODES.name not in EmbeddingStore(home.store).open(version).manifest.tables
    found = last_codes(home, ITEMS, version, structlog.get_logger())
    assert found == (None, None)


def test_codes_that_come_after_the_version_make_another(home: Home) -> None:
    nights.night(home, nights.FIRST, tiny_night.planted(), turn=np.eye(tiny_night.DIM))
    first = nights.publish(home, nights.FIRST).manifest.result["version"]
    coded(home)
    later = nights.publish(home, nights.FIRST).manifest
    assert later.result["version"] > first
    assert ITEM_CODES.name in {each.name for each in later.inputs}
