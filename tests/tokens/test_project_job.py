"""The job project: soft tokens of the kinds that are to be tables, and the lengths of all."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jobs.check import check
from jobs.datasets import ITEM_TOKENS, TOKEN_NORMS, USER_TOKENS, WARM_TOKENS, Dataset
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Outcome, execute, load_manifest
from jobs.llm.backbone import BackboneFiles, input_embeddings, mean_embedding_norm, resolve
from jobs.tokens.mappers import LinearMapper
from jobs.tokens.project import ProjectConfig, job, project, sources
from jobs.vector_columns import as_matrix
from tests.conftest import DAY
from tests.tiny_backbone import HIDDEN, write_tiny_backbone
from tests.tokens.as_tuned import ITEMS, KINDS, USERS, as_tuned, inputs_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_backbone(tmp_path_factory.mktemp("backbone") / "tiny"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty one, for what `as_tuned` writes."""
    return Home(tmp_path / "home")


@pytest.fixture
def backbone(tiny: str, home: Home) -> BackboneFiles:
    return resolve(tiny, home.cache)


def run(home: Home, tiny: str, **settings: object) -> Outcome:
    config = ProjectConfig(model=tiny, **settings)
    return execute("project", config, DAY, home, job, sources=sources)


def table(home: Home, dataset: Dataset) -> pa.Table:
    return pq.read_table(home.output(dataset, DAY), partitioning=None)


def norms(home: Home) -> dict[str, dict[str, object]]:
    return {row["kind"]: row for row in table(home, TOKEN_NORMS).to_pylist()}


def made(home: Home) -> set[str]:
    manifest = load_manifest(home, "project", DAY)
    assert manifest is not None
    return {each.name for each in manifest.outputs}


# -- projecting ----------------------------------------------------------------------------------


def by_hand() -> LinearMapper:
    """Two tokens of two numbers: (x, y) to (x, 0) and (0, 1), times 2."""
    mapper = LinearMapper(2, 2, 2)
    with torch.no_grad():
        mapper.output.weight.copy_(torch.tensor([[1.0, 0], [0, 0], [0, 0], [0, 0]]))
        mapper.output.bias.copy_(torch.tensor([0.0, 0, 0, 1]))
        mapper.scale.fill_(2.0)
    return mapper.eval()


def test_tokens_and_their_mean_length_are_those_worked_out_by_hand():
    inputs = np.array([[1, 5], [-3, 5]], np.float32)
    found = project(pa.chunked_array([[7, 8]]), inputs, by_hand(), keep=True)
    assert np.concatenate(found.tokens).tolist() == [[2, 0, 0, 2], [-6, 0, 0, 2]]
    assert found.mean_norm == (2 + 2 + 6 + 2) / 4


def test_tokens_that_are_not_kept_are_measured_all_the_same():
    found = project(pa.chunked_array([[7]]), np.ones((1, 2), np.float32), by_hand(), keep=False)
    assert (found.tokens, found.mean_norm) == ([], 2.0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (0.0, r"row 1 of 2, id 'b', projects to a soft token of no length"),
        (3e38, r"row 1 of 2, id 'b', projects to a soft token with NaN or infinity"),
    ],
)
def test_a_token_that_the_llm_cannot_read_is_refused_with_its_id(x, message):
    inputs = np.array([[1, 1], [x, 1]], np.float32)
    for keep in (True, False):
        with pytest.raises(JobError, match=message):
            project(pa.chunked_array([["a", "b"]]), inputs, by_hand(), keep=keep)


# -- the job -------------------------------------------------------------------------------------


def test_every_kind_becomes_a_table_of_its_mapper_and_inputs(home, tiny, backbone):
    mappers = as_tuned(home, backbone)
    outcome = run(home, tiny)
    of = (
        ("user", USER_TOKENS, "user_id", USERS),
        ("item", ITEM_TOKENS, "item_id", ITEMS),
        ("warm", WARM_TOKENS, "item_id", ITEMS),
    )
    for kind, dataset, key, ids in of:
        rows = table(home, dataset)
        n_tokens = KINDS[kind]["n_tokens"]
        assert rows.column_names == [key, "tokens"]
        assert rows[key].to_pylist() == ids
        with torch.no_grad():
            expected = mappers[kind](torch.tensor(inputs_of(kind, len(ids)))).numpy()
        tokens = as_matrix(rows["tokens"])
        assert tokens.shape == (len(ids), n_tokens * HIDDEN)
        np.testing.assert_array_equal(tokens, expected.reshape(len(ids), -1))
        scale = mappers[kind].scale.item()
        assert rows.schema.metadata[b"n_tokens"] == str(n_tokens).encode()
        assert rows.schema.metadata[b"d_llm"] == str(HIDDEN).encode()
        assert float(rows.schema.metadata[b"scale"]) == scale
        assert outcome.manifest.metrics[f"{dataset.name}_scale"] == pytest.approx(scale)


def test_lengths_are_told_beside_those_of_the_backbones_own_tokens(home, tiny, backbone):
    mappers = as_tuned(home, backbone)
    outcome = run(home, tiny)
    norm = mean_embedding_norm(backbone)
    assert norm < np.linalg.norm(input_embeddings(backbone), axis=1).max()
    with torch.no_grad():
        tokens = mappers["user"](torch.tensor(inputs_of("user", len(USERS)))).numpy()
    mean = np.linalg.norm(tokens, axis=2).mean()
    assert norms(home)["user"] == {
        "kind": "user",
        "mapper": "mlp",
        "n_tokens": 3,
        "d_llm": HIDDEN,
        "scale": pytest.approx(mappers["user"].scale.item()),
        "n_rows": 5,
        "is_materialised": True,
        "mean_norm": pytest.approx(mean, rel=1e-6),
        "norm_ratio": pytest.approx(mean / norm, rel=1e-6),
    }
    assert outcome.manifest.metrics["user_tokens_norm_ratio"] == pytest.approx(mean / norm)
    assert outcome.manifest.metrics["embedding_norm"] == pytest.approx(norm)


@pytest.mark.parametrize(("scale", "is_far"), [(1.0, False), (40.0, True), (0.01, True)])
def test_tokens_far_from_the_length_of_text_are_told(home, tiny, backbone, capsys, scale, is_far):
    item = {"item": KINDS["item"]}
    as_tuned(home, backbone, kinds=item, broken={"item.scale": np.array(scale, np.float32)})
    run(home, tiny)
    assert ("not as long as tokens of text" in capsys.readouterr().out) is is_far


def test_only_the_kinds_that_are_named_become_tables(home, tiny, backbone):
    as_tuned(home, backbone)
    run(home, tiny, materialise="item, user")
    assert made(home) == {"user_tokens", "item_tokens", "token_norms"}
    assert {kind: row["is_materialised"] for kind, row in norms(home).items()} == {
        "user": True,
        "item": True,
        "warm": False,
    }
    assert norms(home)["warm"]["norm_ratio"] > 0
    run(home, tiny, materialise="")
    assert made(home) == {"token_norms"}


@pytest.mark.parametrize("kinds", [("item",), ("user", "item"), ()])
def test_a_kind_that_the_prompt_lacks_has_no_table(home, tiny, backbone, kinds):
    as_tuned(home, backbone, kinds={kind: KINDS[kind] for kind in kinds})
    run(home, tiny)
    assert made(home) == {f"{kind}_tokens" for kind in kinds} | {"token_norms"}
    assert set(norms(home)) == set(kinds)


def test_users_who_are_read_by_their_history_alone_have_no_table(home, tiny, backbone):
    user = {**KINDS["user"], "source": "history"}
    as_tuned(home, backbone, kinds={**KINDS, "user": user})
    run(home, tiny)
    assert "user_tokens" not in made(home)
    assert (norms(home)["user"]["n_rows"], norms(home)["user"]["norm_ratio"]) == (0, None)


def test_a_q_former_is_projected_here_or_nowhere(home, tiny, backbone):
    user = {"mapper": "qformer", "n_tokens": 2, "source": "factor"}
    mappers = as_tuned(home, backbone, kinds={**KINDS, "user": user})
    with pytest.raises(JobError, match=r"made by a qformer, .* name user in project's --mater"):
        run(home, tiny, materialise="item")
    run(home, tiny)
    with torch.no_grad():
        expected = mappers["user"](torch.tensor(inputs_of("user", len(USERS)))).numpy()
    found = as_matrix(table(home, USER_TOKENS)["tokens"])
    np.testing.assert_allclose(found, expected.reshape(5, -1), atol=1e-6)


def test_what_is_made_passes_its_checks_and_what_is_not_made_needs_none(home, tiny, backbone):
    as_tuned(home, backbone)
    run(home, tiny, materialise="warm")
    assert check("project", DAY, home) == ["warm_tokens", "token_norms"]
    assert check("project", DAY, home) == []


def test_projecting_twice_gives_the_same_bytes(home, tiny, backbone):
    as_tuned(home, backbone)
    first = run(home, tiny)
    assert run(home, tiny).status == "unchanged"
    config = ProjectConfig(model=tiny)
    again = execute("project", config, DAY, home, job, sources=sources, force=True)
    assert again.manifest.outputs == first.manifest.outputs


# -- what does not fit ---------------------------------------------------------------------------


def test_another_backbone_than_that_of_tune_is_refused(home, tiny, backbone, tmp_path):
    as_tuned(home, backbone)
    other = write_tiny_backbone(tmp_path / "other", seed=1)
    with pytest.raises(JobError, match=r"tuned in backbone tiny \(.*\), not in other"):
        run(home, str(other))


def test_a_mapper_of_another_width_than_the_backbone_is_refused(home, tiny, backbone):
    as_tuned(home, backbone, d_llm=HIDDEN + 1)
    message = rf"the user mapper maps into {HIDDEN + 1} dimensions, backbone tiny has {HIDDEN}"
    with pytest.raises(JobError, match=message):
        run(home, tiny)


def test_an_unknown_token_of_another_length_is_refused(home, tiny, backbone):
    as_tuned(home, backbone, broken={"item.unknown": np.zeros(3, np.float32)})
    with pytest.raises(
        JobError, match=rf"item.unknown of token_weights has 3 numbers, not {HIDDEN}"
    ):
        run(home, tiny)


def test_a_kind_that_there_is_not_is_refused(home, tiny, backbone):
    as_tuned(home, backbone)
    with pytest.raises(JobError, match="--materialise user,items: there are no items tokens, but"):
        run(home, tiny, materialise="user,items")
