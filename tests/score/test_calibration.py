"""Probabilities from logits: planted lines are found, and rows that say nothing are refused."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import minimize

from embedding_store import EmbeddingStore, TableSpec
from embedding_store.lookup import open_version
from jobs.datasets import (
    CALIBRATION,
    HISTORIES,
    ITEM_FACTORS,
    PROJECTORS,
    SPLITS,
    TUNE_VALID,
    USER_FACTORS,
)
from jobs.errors import NotAvailable
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import Config, Outcome, Run, execute, mark_checked
from jobs.report.metrics import ece, log_loss
from jobs.score import calibrate
from jobs.score.calibrate import CalibrateConfig
from jobs.score.calibration import (
    CALIBRATION_FILE,
    Calibration,
    Link,
    fitted_blend,
    fitted_link,
    sigmoid,
    weight_beside,
)
from tests.conftest import DAY


def planted(seed: int, n: int = 20_000) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels by sigmoid(0.8 * llm + 0.5 * mf - 0.7), the two logits on other scales."""
    random = np.random.default_rng(seed)
    llm = random.normal(1.0, 2.0, n).astype(np.float32)
    mf = (0.3 * llm + random.normal(0, 1, n)).astype(np.float32)
    chance = 1 / (1 + np.exp(-(0.8 * llm + 0.5 * mf - 0.7)))
    return (random.random(n) < chance).astype(np.int8), {"llm": llm, "mf": mf}


# -- what is fitted --------------------------------------------------------------------------------


def test_a_planted_blend_is_found():
    labels, logits = planted(0)
    link = fitted_link("fused", labels, logits)
    assert link.inputs == ("llm", "mf")
    assert link.is_fitted
    assert link.coefficients == pytest.approx((0.8, 0.5), abs=0.05)
    assert link.intercept == pytest.approx(-0.7, abs=0.05)


def test_a_model_whose_weight_would_be_negative_has_none_in_a_blend():
    labels, logits = planted(3, 2_000)
    opposite = {"llm": -logits["llm"], "mf": logits["mf"]}
    link = fitted_link("fused", labels, opposite)
    assert link.is_fitted
    assert link.coefficients[0] == 0
    alone = fitted_link("mf", labels, {"mf": logits["mf"]})
    assert link.coefficients[1] == pytest.approx(alone.coefficients[0], rel=1e-9)
    assert link.intercept == pytest.approx(alone.intercept, rel=1e-9)


def test_the_likelihood_has_its_maximum_there():
    labels, logits = planted(1, 500)
    link = fitted_link("fused", labels, logits)
    design = np.column_stack([logits["llm"], logits["mf"], np.ones(500)]).astype(np.float64)
    signs = np.where(labels > 0, 1.0, -1.0)

    def loss(weights: np.ndarray) -> float:
        return float(np.logaddexp(0, -signs * (design @ weights)).sum())

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8}).x
    assert [*link.coefficients, link.intercept] == pytest.approx(best, abs=1e-4)


def test_a_logit_that_is_too_sure_becomes_a_probability_that_is_right():
    labels, logits = planted(2)
    sure = {"llm": 5 * logits["llm"] + 3}
    link = fitted_link("llm", labels, sure)
    assert link.ece.before == pytest.approx(ece(labels, sigmoid(sure["llm"])))
    assert link.ece.after == pytest.approx(ece(labels, sigmoid(link.linear(sure))))
    assert link.ece.after < 0.02 < link.ece.before
    assert link.log_loss.after < link.log_loss.before
    assert (link.n_rows, link.n_positives) == (20_000, labels.sum())


def test_the_order_of_a_single_model_s_rows_stays():
    labels, logits = planted(3)
    order = np.argsort(logits["llm"], kind="stable")
    found = sigmoid(fitted_link("llm", labels, logits).linear(logits))
    assert (np.diff(found[order]) >= 0).all()


def test_the_same_rows_give_the_same_link_to_the_bit():
    labels, logits = planted(4)
    assert fitted_link("fused", labels, logits) == fitted_link("fused", labels, logits)


def test_of_two_logits_that_are_one_one_is_taken():
    labels, logits = planted(5)
    twice = {"llm": logits["llm"], "mf": logits["llm"]}
    alone = fitted_link("llm", labels, logits)
    link = fitted_link("fused", labels, twice)
    assert min(link.coefficients) == 0
    assert sum(link.coefficients) == pytest.approx(alone.coefficients[0], abs=1e-4)


def test_a_model_that_has_learned_nothing_is_seldom_in_a_blend():
    taken = 0
    for seed in range(100):
        labels, logits = planted(seed, 300)
        noise = np.random.default_rng([seed, 1]).normal(0, 1, 300).astype(np.float32)
        link = fitted_link("fused", labels, {"llm": noise, "mf": logits["llm"]})
        assert link.coefficients[1] > 0
        taken += link.coefficients[0] > 0
    assert 2 <= taken <= 15  # half of those whose likelihood gains more than 1 nat by chance: 8 %


def test_what_an_llm_says_beside_a_control_weighs_as_much_as_it_is_worth():
    labels, logits = planted(6)
    control, own = logits["mf"], logits["llm"]
    assert weight_beside(labels, control, own) == pytest.approx(0.8 / 0.5, abs=0.1)
    assert weight_beside(labels, control, 4 * own) == pytest.approx(0.2 / 0.5, abs=0.03)
    assert weight_beside(labels, control, -own) == 0
    assert weight_beside(labels, control, 0 * own) == 0
    assert weight_beside(labels, control, 0.01 * own) == 4  # a ratio of two fits can explode
    assert weight_beside(labels, -control, own) == 4  # that the control says the opposite is chance
    assert weight_beside(labels, -control, -own) == 0
    assert weight_beside(labels[:15], control[:15], own[:15]) == 0  # too few rows to say


def test_where_the_llm_does_not_pay_the_blend_is_the_factors_own_line():
    labels, logits = planted(7, 2_000)
    factors = fitted_link("mf", labels, {"mf": logits["mf"]})
    of_few = {"llm": -logits["llm"][:200], "mf": logits["mf"][:200]}  # it says the opposite
    for some, why in ((slice(200), "adds nothing beyond chance"), (slice(12), "are needed")):
        asked = {name: each[some] for name, each in of_few.items()}
        link = fitted_blend(labels[some], asked, factors)
        assert (link.inputs, link.coefficients) == (("llm", "mf"), (0.0, *factors.coefficients))
        assert link.intercept == factors.intercept
        assert link.is_fitted
        assert why in link.why
        assert link.log_loss.after == pytest.approx(
            log_loss(labels[some], sigmoid(factors.linear(asked)))
        )


def test_where_the_llm_pays_the_blend_is_fitted():
    labels, logits = planted(8, 2_000)
    factors = fitted_link("mf", labels, {"mf": logits["mf"]})
    assert fitted_blend(labels, logits, factors) == fitted_link("fused", labels, logits)


# -- what cannot be fitted -------------------------------------------------------------------------


def refused(model: str, labels: list[int], llm: list[float], why: str) -> Link:
    logits = np.array(llm, np.float32)
    link = fitted_link(model, np.array(labels, np.int8), {"llm": logits, "mf": logits})
    assert not link.is_fitted
    assert why in link.why
    assert link == Link.identity(model).model_copy(
        update={
            name: getattr(link, name)
            for name in ("why", "n_rows", "n_positives", "log_loss", "ece")
        }
    )
    return link


def test_rows_of_one_class_keep_the_identity_and_say_so():
    link = refused("llm", [1] * 40, [float(n) for n in range(40)], "40 of 40 rows are positive")
    assert (link.coefficients, link.intercept) == ((1.0,), 0.0)


def test_no_rows_at_all_keep_the_identity():
    refused("mf", [], [], "0 of 0 rows are positive")


@pytest.mark.parametrize("model", ["llm", "fused"])
def test_classes_that_a_line_tells_apart_keep_the_identity(model):
    labels = [0] * 20 + [1] * 20
    refused(model, labels, [float(n) for n in range(40)], "apart without an error")


def test_a_logit_that_means_the_opposite_keeps_its_order():
    labels, logits = planted(6, 2_000)
    refused("llm", labels.tolist(), (-logits["llm"]).tolist(), "does not mean a higher chance")


def test_a_logit_that_is_always_the_same_keeps_the_identity():
    refused("llm", [0, 1] * 20, [2.0] * 40, "does not mean a higher chance (slope 0)")


def test_without_a_fit_a_blend_is_the_mean():
    logits = {"llm": np.array([1.0, 3.0], np.float32), "mf": np.array([3.0, -1.0], np.float32)}
    assert Link.identity("fused").linear(logits).tolist() == [2.0, 1.0]


# -- the job ---------------------------------------------------------------------------------------


N = 240


def night(home: Home, *, tuned: bool) -> tuple[np.ndarray, np.ndarray]:
    """Valid rows of user 1 and item n; what the factors know of each, and what an LLM adds to it.

    Behind the factors as a control, the LLM says half of what it should.
    """
    random = np.random.default_rng(0)
    mf, own = random.normal(0, 1, (2, N)).astype(np.float32)
    labels = (random.random(N) < 1 / (1 + np.exp(-mf - 2 * own))).astype(np.int8)
    rows = {
        "split": ["valid"] * N,
        "row": pa.array(range(N), pa.int32()),
        "user_id": [1] * N,
        "item_id": list(range(N)),
        "label": labels,
        "rated_at": pa.array([0] * N, pa.timestamp("us")),
        "history_end": pa.array([0] * N, pa.int32()),
        "is_warm": [False] * N,
    }
    histories = {"user_id": [1], "item_ids": pa.array([[]], pa.list_(pa.int64()))}

    def factors(key: str, ids: list[int], vectors: np.ndarray, bias: np.ndarray) -> pa.Table:
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 1)
        counts = pa.array([1] * len(ids), pa.int32())
        return pa.table({key: ids, "factor": lists, "bias": bias, "n_events": counts})

    one = np.ones((1, 1), np.float32)
    written = {
        "splits": [(SPLITS, pa.table(rows)), (HISTORIES, pa.table(histories))],
        "align": [
            (USER_FACTORS, factors("user_id", [1], one, np.array([0.25], np.float32))),
            (
                ITEM_FACTORS,
                factors("item_id", list(range(N)), mf[:, None], np.zeros(N, np.float32)),
            ),
        ],
    }
    if tuned:
        valid = {
            "split": ["valid"] * (N - 10),
            "row": pa.array(range(N - 10), pa.int32()),
            "logit": own[: N - 10],
            "offset": mf[: N - 10],
        }
        written["tune"] = [(TUNE_VALID, pa.table(valid))]
    for producer, tables in written.items():
        with Run(producer, DAY, Config(), home) as run:
            for dataset, table in tables:
                run.write(dataset, table)
            if producer == "align":
                run.write_tensors(PROJECTORS, {"global_bias": np.array([0.5], np.float32)})
        for dataset, _ in tables:
            mark_checked(home, dataset, DAY)
    return mf, own


def run(home: Home, **fields: bool) -> Outcome:
    return execute(
        "calibrate",
        CalibrateConfig(**fields),
        DAY,
        home,
        calibrate.job,
        intact=calibrate.is_of_what_was_made,
    )


def written(home: Home) -> Calibration:
    return Calibration.model_validate_json(home.output(CALIBRATION, DAY).read_text())


def test_the_job_calibrates_the_night_s_factors_where_nothing_is_tuned(home):
    mf, _ = night(home, tuned=False)
    assert run(home).manifest.result == {"mf": True}
    labels = written(home).models["mf"]
    own = fitted_link("mf", pq_labels(home), {"mf": mf + np.float32(0.75)})
    assert labels.coefficients == pytest.approx(own.coefficients, abs=1e-5)
    assert labels.intercept == pytest.approx(own.intercept, abs=1e-5)
    assert labels.n_rows == N


def pq_labels(home: Home) -> np.ndarray:
    import pyarrow.parquet as pq

    return pq.read_table(home.output(SPLITS, DAY), partitioning=None)["label"].to_numpy()


def test_the_job_calibrates_the_llm_with_its_offset_on_the_rows_that_tune_read(home):
    mf, own = night(home, tuned=False)
    run(home)
    night(home, tuned=True)
    outcome = run(home)  # not "unchanged": there are logits of an LLM by now
    assert outcome.status == "done"
    found = written(home)
    assert set(found.models) == {"mf", "llm", "fused"}
    labels, control, added = pq_labels(home)[:-10], mf[:-10], own[:-10]
    weight = weight_beside(labels, control, added)
    assert 1 < weight == found.beside_control == outcome.manifest.metrics["weight_beside_control"]
    both = {"llm": control + np.float32(weight) * added}
    assert found.models["llm"].coefficients == fitted_link("llm", labels, both).coefficients
    assert [found.models[name].n_rows for name in ("mf", "llm", "fused")] == [N, N - 10, N - 10]
    assert outcome.manifest.metrics["n_rows.fused"] == N - 10
    first = sha256_file(home.output(CALIBRATION, DAY))
    assert run(home).status == "unchanged"
    home.output(CALIBRATION, DAY).unlink()
    run(home)
    assert sha256_file(home.output(CALIBRATION, DAY)) == first


def test_a_night_that_tunes_nothing_leaves_out_the_llm_that_an_earlier_run_tuned(home):
    night(home, tuned=True)
    assert run(home, soft_tokens=False).manifest.result == {"mf": True}
    assert run(home, soft_tokens=False).status == "unchanged"
    assert set(run(home).manifest.result) == {"mf", "llm", "fused"}


def test_logits_of_rows_that_are_not_there_are_refused(home):
    valid = pa.table({"row": pa.array([0], pa.int32()), "label": pa.array([1], pa.int8())})
    other = pa.table({"row": pa.array([7], pa.int32()), "logit": [0.5], "offset": [0.0]})
    with pytest.raises(NotAvailable, match="scores valid row 7"):
        calibrate.calibrated(valid, {"mf": np.zeros(1, np.float32)}, other)


# -- in a version ----------------------------------------------------------------------------------


def published(home: Home, tmp_path, text: str | None) -> Calibration:
    path = tmp_path / CALIBRATION_FILE
    files = {}
    if text is not None:
        path.write_text(text)
        files[path.name] = path
    number = EmbeddingStore(home.store).publish(
        {"items": TableSpec(pa.table({"item_id": [1]}), key="item_id")},
        run_key="k",
        day=str(DAY),
        files=files,
    )
    return Calibration.of_version(open_version(home.store, number))


def test_a_version_gives_back_what_was_published(home, tmp_path):
    labels, logits = planted(7, 500)
    made = Calibration(models={"llm": fitted_link("llm", labels, logits)})
    assert published(home, tmp_path, made.model_dump_json()) == made


def test_a_version_without_a_calibration_takes_logits_as_they_are(home, tmp_path):
    found = published(home, tmp_path, None)
    assert found.models == {}
    assert found.link("mf") == Link.identity("mf")


def test_a_calibration_of_another_form_is_refused(home, tmp_path):
    with pytest.raises(NotAvailable, match=r"calibration.json is of another form"):
        published(home, tmp_path, json.dumps({"schema_version": 1, "links": {}}))
