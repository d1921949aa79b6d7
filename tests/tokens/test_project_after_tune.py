"""What tune really writes is what project reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from jobs.datasets import (
    ITEM_TEXTS,
    TOKEN_CONFIG,
    TOKEN_NORMS,
    TOKEN_WEIGHTS,
    USER_FACTORS,
)
from jobs.home import Home
from jobs.tokens.mappers import mapper_of
from jobs.tokens.recipes import SIDES
from jobs.vector_columns import as_matrix
from tests.conftest import DAY
from tests.in_process import run_job
from tests.tokens.conftest import QUICK


@pytest.fixture(scope="module")
def projected_home(
    aligned_home: Home, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Home:
    """Soft tokens tuned and projected, with their checks."""
    home = Home(tmp_path_factory.mktemp("projected") / "home")
    shutil.copytree(aligned_home.root, home.root)
    run_job("tune", home, model=str(tiny_folder), adapter=str(DAY), preset="sella", **QUICK)
    run_job("project", home, model=str(tiny_folder))
    return home


def rows(home: Home, dataset):
    return pq.read_table(home.output(dataset, DAY), partitioning=None)


def test_every_user_with_a_factor_and_every_text_has_tokens(projected_home):
    home = projected_home
    users = rows(home, SIDES["user"].tokens)["user_id"].to_pylist()
    assert users == rows(home, USER_FACTORS)["user_id"].to_pylist()
    texts = rows(home, ITEM_TEXTS)["item_id"].to_pylist()
    for kind in ("item", "warm"):
        assert rows(home, SIDES[kind].tokens)["item_id"].to_pylist() == texts


def test_tokens_are_the_tuned_mappers_of_the_tuned_inputs(projected_home):
    home = projected_home
    kinds = json.loads(home.output(TOKEN_CONFIG, DAY).read_text())["kinds"]
    weights = load_file(home.output(TOKEN_WEIGHTS, DAY))
    assert set(kinds) == set(SIDES)
    for kind, facts in kinds.items():
        inputs = as_matrix(rows(home, SIDES[kind].inputs)["input"])
        with torch.no_grad():
            expected = mapper_of(facts, weights, kind)(torch.tensor(inputs)).flatten(1).numpy()
        tokens = as_matrix(rows(home, SIDES[kind].tokens)["tokens"])
        np.testing.assert_allclose(tokens, expected, atol=1e-6)


def test_the_length_of_every_kind_is_kept(projected_home):
    norms = rows(projected_home, TOKEN_NORMS).to_pylist()
    assert {row["kind"] for row in norms} == set(SIDES)
    assert all(row["is_materialised"] and row["norm_ratio"] > 0 for row in norms)
