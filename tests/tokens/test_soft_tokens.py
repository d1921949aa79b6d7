import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.datasets import ITEM_FACTORS, ITEM_TOKENS, PROJECTORS, USER_FACTORS, USER_TOKENS
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, execute, mark_checked
from jobs.llm.backbone import input_embeddings, mean_embedding_norm, resolve
from jobs.tokens.project import ProjectConfig, job, soft_tokens, sources
from jobs.tokens.projector import Projector
from jobs.vector_columns import as_column, as_matrix
from tests.conftest import DAY
from tests.tiny_backbone import HIDDEN, write_tiny_backbone

D_CF = 4


def projector(d_llm: int = HIDDEN, seed: int = 0) -> Projector:
    return Projector.random(D_CF, 6, d_llm, torch.Generator().manual_seed(seed))


def factors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D_CF)).astype(np.float32)


# -- the projector -------------------------------------------------------------------------------


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


# -- norm matching -------------------------------------------------------------------------------


def test_the_mean_length_of_the_tokens_is_exactly_the_one_asked_for():
    made = soft_tokens(factors(500), projector(), 3.25)
    lengths = np.linalg.norm(made.tokens.astype(np.float64), axis=1)
    assert lengths.mean() == pytest.approx(3.25, rel=1e-7)
    assert made.norm == pytest.approx(3.25, rel=1e-7)
    assert made.tokens.dtype == np.float32


def test_scaling_keeps_every_direction_and_which_token_is_longer():
    made = soft_tokens(factors(500), projector(), 3.25)
    projected = projector().project(factors(500))
    assert made.scale > 0
    np.testing.assert_allclose(made.tokens, projected * made.scale, rtol=1e-6)


def test_a_factor_that_is_not_finite_is_refused_with_its_row():
    broken = factors(10)
    broken[7, 2] = np.nan
    with pytest.raises(JobError, match="row 7 of 10"):
        soft_tokens(broken, projector(), 1.0)


def test_factors_that_all_project_to_nothing_are_refused():
    nothing = Projector.of({name: 0 * t for name, t in projector().tensors().items()})
    with pytest.raises(JobError, match="no length to scale"):
        soft_tokens(factors(3), nothing, 1.0)


def test_vectors_of_a_sliced_column_keep_their_rows():
    rows = factors(6)
    column = pa.table({"factor": as_column(rows)})["factor"].slice(2, 3)
    assert np.array_equal(as_matrix(column), rows[2:5])


# -- the job -------------------------------------------------------------------------------------


def commit_align(home: Home, d_llm: int = HIDDEN) -> None:
    """What the align job leaves: five users with string ids, nine items."""
    with Run("align", DAY, Config(), home) as run:
        for dataset, key, ids in (
            (USER_FACTORS, "user_id", [f"u{i}" for i in range(5)]),
            (ITEM_FACTORS, "item_id", list(range(10, 100, 10))),
        ):
            table = {
                key: pa.array(ids),
                "factor": as_column(factors(len(ids))),
                "bias": pa.array(np.zeros(len(ids), np.float32)),
                "n_events": pa.array(np.ones(len(ids), np.int32)),
            }
            run.write(dataset, pa.table(table))
        run.write_tensors(
            PROJECTORS, {**projector(d_llm).tensors(), "global_bias": np.zeros(1, np.float32)}
        )
    for dataset in (USER_FACTORS, ITEM_FACTORS):
        mark_checked(home, dataset, DAY)


@pytest.fixture
def config(tmp_path) -> ProjectConfig:
    return ProjectConfig(model=str(write_tiny_backbone(tmp_path / "tiny")))


def test_tokens_are_as_long_as_the_text_embeddings_of_the_backbone(home, config):
    commit_align(home)
    outcome = execute("project", config, DAY, home, job, sources=sources)
    backbone = resolve(config.model, home.cache)
    norm = mean_embedding_norm(backbone)
    assert norm < np.linalg.norm(input_embeddings(backbone), axis=1).max()
    for dataset, key, n in ((USER_TOKENS, "user_id", 5), (ITEM_TOKENS, "item_id", 9)):
        table = pq.read_table(home.output(dataset, DAY), partitioning=None)
        tokens = as_matrix(table["tokens"])
        assert table.column_names == [key, "tokens"]
        assert tokens.shape == (n, HIDDEN)
        assert np.linalg.norm(tokens, axis=1).mean() == pytest.approx(norm, rel=1e-6)
        assert table.schema.metadata[b"n_tokens"] == b"1"
        assert table.schema.metadata[b"d_llm"] == str(HIDDEN).encode()
        scale = float(table.schema.metadata[b"scale"])
        np.testing.assert_allclose(tokens, projector().project(factors(n)) * scale, rtol=1e-5)
        assert outcome.manifest.metrics[f"{dataset.name}_scale"] == scale
        assert outcome.manifest.metrics[f"{dataset.name}_norm_ratio"] == pytest.approx(1, rel=1e-6)


def test_projecting_twice_gives_the_same_bytes(home, config):
    commit_align(home)
    first = execute("project", config, DAY, home, job, sources=sources)
    assert execute("project", config, DAY, home, job, sources=sources).status == "unchanged"
    again = execute("project", config, DAY, home, job, sources=sources, force=True)
    assert again.manifest.outputs == first.manifest.outputs


def test_another_backbone_than_the_one_that_was_distilled_is_refused(home, config):
    commit_align(home, d_llm=HIDDEN + 1)
    with pytest.raises(JobError, match=rf"maps into {HIDDEN + 1} dimensions, backbone tiny has"):
        execute("project", config, DAY, home, job, sources=sources)
