"""The projector of the aligned factorisation, and vectors as columns of tables."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.errors import JobError
from jobs.tokens.projector import Projector
from jobs.vector_columns import as_column, as_matrix

D_CF = 4


def projector(d_llm: int = 32, seed: int = 0) -> Projector:
    return Projector.random(D_CF, 6, d_llm, torch.Generator().manual_seed(seed))


def factors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D_CF)).astype(np.float32)


def test_the_projector_is_linear_gelu_linear():
    made = Projector.of(
        {
            "hidden.weight": np.array([[2, 0], [0, -1]], np.float32),
            "hidden.bias": np.array([0, 1], np.float32),
            "output.weight": np.array([[1, 0], [0, 1], [1, 1]], np.float32),
            "output.bias": np.array([0, 0, 5], np.float32),
        }
    )
    # gelu(2) = 2 * Phi(2) = 1.954500, gelu(-1) = -Phi(-1) = -0.158655
    found = made.project(np.array([[1, 2]], np.float32))
    assert found[0].tolist() == pytest.approx([1.954500, -0.158655, 5 + 1.795845], abs=1e-5)


def test_weights_survive_the_way_through_tensors():
    made = projector()
    assert np.array_equal(
        Projector.of(made.tensors()).project(factors(9)), made.project(factors(9))
    )


def test_weights_that_do_not_fit_together_are_refused():
    tensors = projector().tensors()
    with pytest.raises(JobError, match="not the weights of a projector"):
        Projector.of({"hidden.weight": tensors["hidden.weight"]})
    with pytest.raises(JobError, match="not the weights of a projector"):
        Projector.of(tensors | {"hidden.bias": np.zeros(1, np.float32)})


def test_vectors_of_a_sliced_column_keep_their_rows():
    rows = factors(6)
    column = pa.table({"factor": as_column(rows)})["factor"].slice(2, 3)
    assert np.array_equal(as_matrix(column), rows[2:5])
