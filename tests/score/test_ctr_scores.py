from __future__ import annotations

import subprocess
import sys
import tomllib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from embedding_store import EmbeddingStore, TableSpec
from embedding_store.lookup import Version, open_version
from jobs.check import check
from jobs.datasets import CANDIDATES, CTR_SCORES
from jobs.errors import NotAvailable
from jobs.files import sha256_file
from jobs.score.calibration import CALIBRATION_FILE, Calibration, Link, sigmoid
from jobs.score.ctr_scores import TUNED_FILE, ScoreConfig, models_of, score_rows, scores_table
from jobs.score.factors import Factors, mf_logits
from tests.conftest import DAY, ROOT
from tests.report import tiny_night
from tests.score.nights import choose, score


def side(factors: list[list[float]], biases: list[float]) -> Factors:
    ids = pa.array(range(len(biases)), pa.int64())
    return Factors(ids, np.array(factors, np.float32), np.array(biases, np.float32))


USERS = side([[1, 2], [0, -1]], [0.5, -0.25])
ITEMS = side([[3, 1], [2, 2]], [1.0, -2.0])


def places(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def numbers_of(ids: pa.ChunkedArray) -> np.ndarray:
    """Undoes `tiny_night.ids`."""
    names = ids.to_pylist()
    return np.array([int(n[2:]) if isinstance(n, str) else (n - 5) // 10 for n in names])


def test_a_logit_is_the_biases_plus_the_product_of_the_factors():
    logits = mf_logits(USERS, ITEMS, 0.125, places(0, 1, 0), places(0, 0, 1))
    assert logits.tolist() == [0.125 + 0.5 + 1 + 5, 0.125 - 0.25 + 1 - 1, 0.125 + 0.5 - 2 + 6]
    assert logits.dtype == np.float32


def test_what_the_version_does_not_know_adds_nothing():
    logits = mf_logits(USERS, ITEMS, 0.125, places(-1, 0, -1), places(0, -1, -1))
    assert logits.tolist() == [0.125 + 1, 0.125 + 0.5, 0.125]


def test_a_version_without_users_scores_by_items_alone():
    nobody = Factors(pa.array([], pa.int64()), np.zeros((0, 2), "f4"), np.zeros(0, "f4"))
    assert nobody.places(pa.array([4, 5])).tolist() == [-1, -1]
    assert mf_logits(nobody, ITEMS, 0.5, places(-1), places(1)).tolist() == [-1.5]


def test_a_score_does_not_depend_on_the_rows_beside_it():
    random = np.random.default_rng(0)
    users = side(random.normal(size=(50, 64)), random.normal(size=50))
    items = side(random.normal(size=(40, 64)), random.normal(size=40))
    u, i = random.integers(0, 50, 70_000), random.integers(0, 40, 70_000)
    together = mf_logits(users, items, 0.1, u, i)
    alone = [mf_logits(users, items, 0.1, u[n : n + 1], i[n : n + 1])[0] for n in (0, 7, 69_999)]
    assert together[[0, 7, 69_999]].tolist() == alone


def test_factors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="length 2, item factors 3"):
        mf_logits(USERS, side([[1, 2, 3]], [0]), 0, places(0), places(0))


def test_probabilities_are_sigmoids_that_never_reach_zero_or_one():
    found = sigmoid(np.array([-200, -1, 0, 1, 200], np.float32))
    assert found[1:4] == pytest.approx([0.26894143, 0.5, 0.73105854])
    assert found[0] > 0
    assert found[4] < 1


@pytest.mark.parametrize("as_text", [False, True], ids=["integer ids", "string ids"])
def test_the_job_scores_valid_and_test_by_the_planted_model(home, as_text):
    truth, version = tiny_night.prepare(home, DAY, as_text=as_text)
    choose(home, version)
    outcome = score(home, version)
    assert check("score", DAY, home) == ["ctr_scores"]
    scores = pq.read_table(home.output(CTR_SCORES, DAY))
    assert pc.unique(scores["split"]).to_pylist() == ["test", "valid"]
    users, items = (numbers_of(scores[name]) for name in ("user_id", "item_id"))
    expected = truth.logits(users, items)
    assert scores["logit"].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert scores["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-5)
    assert outcome.manifest.metrics == {"n_rows": 400, "n_cold_users": 1, "n_cold_items": 1}
    assert outcome.manifest.result["version"] == version
    assert outcome.manifest.result["models"] == ["mf"]


def test_rerunning_changes_no_byte(home):
    _, version = tiny_night.prepare(home, DAY)
    choose(home, version)
    score(home, version)
    first = sha256_file(home.output(CTR_SCORES, DAY))
    assert score(home, version).status == "unchanged"
    assert score(home, version, force=True).status == "done"
    assert sha256_file(home.output(CTR_SCORES, DAY)) == first


def test_a_replaced_store_is_noticed_though_the_number_is_the_same(home):
    truth, version = tiny_night.prepare(home, DAY)
    choose(home, version)
    score(home, version)
    first = sha256_file(home.output(CTR_SCORES, DAY))
    home.root.joinpath("store").rename(home.root / "old store")
    truth.item_biases[:] += 1
    assert tiny_night.publish(home, DAY, truth, as_text=False, run_key="two") == version
    assert choose(home, version).status == "done"
    assert score(home, version).status == "done"
    assert sha256_file(home.output(CTR_SCORES, DAY)) != first


def test_a_missing_version_is_an_error_that_says_which_there_are(home):
    _, version = tiny_night.prepare(home, DAY)
    with pytest.raises(NotAvailable, match=f"no version 42 .*there are 1 to {version}"):
        score(home, 42)


def test_a_version_without_a_matrix_factorisation_is_refused(home):
    rows = pa.table({"item_id": [1]})
    store = EmbeddingStore(home.store)
    version = store.publish({"items": TableSpec(rows, key="item_id")}, run_key="k", day=DAY)
    with pytest.raises(NotAvailable, match="records no attribute 'global_bias'"):
        score_rows(pa.table({"user_id": [1], "item_id": [1]}), open_version(home.store, version))


def test_ids_of_another_type_than_the_versions_are_refused(home):
    tiny_night.prepare(home, DAY, as_text=False)
    rows = tiny_night.splits(tiny_night.planted(), (), as_text=True)
    with pytest.raises(NotAvailable, match="user_id as int64, the rows of splits as string"):
        score_rows(rows, open_version(home.store, 1))


def test_a_version_must_be_pinned_and_the_model_known():
    with pytest.raises(ValidationError, match="version"):
        ScoreConfig()
    with pytest.raises(ValidationError, match="model"):
        ScoreConfig(version=1, model="oracle")


def test_empty_periods_give_an_empty_partition(home):
    _, version = tiny_night.prepare(home, DAY, without=("valid", "test"))
    choose(home, version)
    assert score(home, version).manifest.metrics["n_rows"] == 0
    assert check("score", DAY, home) == ["ctr_scores"]


# -- several models, and what their logits mean ----------------------------------------------------


ROWS = pa.table(
    {
        "split": ["test"] * 3,
        "row": pa.array([0, 1, 2], pa.int32()),
        "user_id": [1, 1, 2],
        "item_id": [10, 20, 10],
        "label": pa.array([1, 0, None], pa.int8()),
        "is_warm": [True, True, False],
    }
)
BLEND = Calibration(
    models={
        "llm": Link(inputs=("llm",), coefficients=(0.5,), intercept=-1.0, is_fitted=True),
        "fused": Link(inputs=("llm", "mf"), coefficients=(0.5, 2.0), intercept=1.0, is_fitted=True),
    }
)
LOGITS = {"mf": np.array([1, -1, 0], np.float32), "llm": np.array([4, 2, -2], np.float32)}


def test_every_model_scores_every_row_and_keeps_its_own_logit():
    table = scores_table(ROWS, LOGITS, ["mf", "llm", "fused"], BLEND, 7)
    assert table.column_names == list(CTR_SCORES.columns)
    found = {
        model: table.filter(pc.equal(table["model"], model)) for model in ("mf", "llm", "fused")
    }
    assert found["mf"]["logit"].to_pylist() == [1, -1, 0]
    assert found["llm"]["logit"].to_pylist() == [4, 2, -2]
    blended = np.array([0.5 * 4 + 2 * 1 + 1, 0.5 * 2 - 2 + 1, 0.5 * -2 + 0 + 1])
    assert found["fused"]["logit"].to_pylist() == blended.tolist()
    expected = {
        "mf": np.array([1, -1, 0]),  # nothing was fitted for it: its logit as it is
        "llm": np.array([0.5 * 4 - 1, 0.5 * 2 - 1, 0.5 * -2 - 1]),
        "fused": blended,
    }
    for model, linear in expected.items():
        probabilities = found[model]["probability"].to_numpy()
        assert probabilities == pytest.approx(1 / (1 + np.exp(-linear)), abs=1e-6)
        assert found[model]["row"].to_pylist() == [0, 1, 2]
        assert set(found[model]["version"].to_pylist()) == {7}


def test_a_broken_logit_is_refused_with_its_row():
    broken = {"mf": np.array([1, np.nan, 0], np.float32)}
    with pytest.raises(NotAvailable, match=r"mf score of test row 1 \(user 1, item 20\)"):
        scores_table(ROWS, broken, ["mf"], BLEND, 7)


def version_with(home, tmp_path, *names: str) -> Version:
    for name in names:
        (tmp_path / name).write_text("{}")
    number = EmbeddingStore(home.store).publish(
        {"items": TableSpec(pa.table({"item_id": [1]}), key="item_id")},
        run_key=f"with-{len(names)}",
        day=DAY,
        files={name: tmp_path / name for name in names},
    )
    return open_version(home.store, number)


def test_a_version_is_scored_by_the_best_model_that_it_holds(home, tmp_path):
    plain = version_with(home, tmp_path)
    tuned = version_with(home, tmp_path, TUNED_FILE)
    nothing = Calibration(models={})
    assert models_of(plain, nothing, "auto") == ("mf",)
    assert models_of(tuned, nothing, "auto") == ("mf", "llm")
    assert models_of(tuned, BLEND, "auto") == ("mf", "llm", "fused")
    assert models_of(tuned, BLEND, "llm") == ("mf", "llm")
    assert models_of(tuned, BLEND, "mf") == ("mf",)


def test_a_model_that_the_version_does_not_hold_is_refused(home, tmp_path):
    with pytest.raises(NotAvailable, match="no LLM was tuned for it"):
        models_of(version_with(home, tmp_path), BLEND, "fused")
    with pytest.raises(NotAvailable, match="job 'calibrate' had not run"):
        models_of(version_with(home, tmp_path, TUNED_FILE), Calibration(models={}), "fused")


def test_probabilities_are_those_that_the_version_was_calibrated_to(home, tmp_path):
    truth, _ = tiny_night.prepare(home, DAY)
    link = Link(inputs=("mf",), coefficients=(0.25,), intercept=-0.5, is_fitted=True)
    path = tmp_path / CALIBRATION_FILE
    path.write_text(Calibration(models={"mf": link}).model_dump_json())
    version = tiny_night.publish(
        home, DAY, truth, as_text=False, run_key="calibrated", files={path.name: path}
    )
    choose(home, version)
    score(home, version)
    assert check("score", DAY, home) == ["ctr_scores"]
    scores = pq.read_table(home.output(CTR_SCORES, DAY))
    expected = sigmoid(0.25 * scores["logit"].to_numpy() - 0.5)
    assert scores["probability"].to_numpy() == pytest.approx(expected, abs=1e-6)


def test_candidates_that_are_gone_are_not_scored(home):
    _, version = tiny_night.prepare(home, DAY)
    choose(home, version)
    home.output(CANDIDATES, DAY).unlink()
    with pytest.raises(NotAvailable, match="run that job again"):
        score(home, version)


def test_every_module_but_candidates_is_held_to_what_a_gpu_image_has():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    held = next(c for c in contracts["contracts"] if c["name"].startswith("GPU jobs"))
    modules = {f"jobs.score.{path.stem}" for path in (ROOT / "jobs/score").glob("[!_]*.py")}
    assert modules - set(held["source_modules"]) == {"jobs.score.candidates"}


def test_the_job_imports_nothing_that_a_gpu_image_lacks():
    code = (
        "import sys, jobs.score.ctr_scores\n"
        "heavy = {'duckdb', 'faiss', 'dask', 'pandas', 'sklearn', 'altair', 'airflow', 'torch'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
