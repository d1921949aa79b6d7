"""Tonight's version beside the one that it follows, several models, gates and diagnostics."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from embedding_store.manifest import GateEntry
from embedding_store.review import Review
from jobs.datasets import CTR_SCORES, LLM_DIAGNOSTICS, METRICS, REPORT
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import Config, Run, execute, mark_checked
from jobs.report.figures import Estimate
from jobs.report.last_night import LastNight
from jobs.report.night_figures import NightMetrics, Previous
from jobs.report.verdicts import against_previous
from tests.conftest import DAY
from tests.report import tiny_night

YESTERDAY = DAY - timedelta(days=1)
GATES = [
    GateEntry(name="finite.items", passed=True, value=0.0, at_most=0.0, says="0 broken"),
    GateEntry(name="overlap.item_semantics", passed=False, value=0.2, at_least=0.5, says="kept"),
    GateEntry(
        name="auc_change",
        passed=True,
        value=-0.003,
        at_least=-0.01,
        says="-0.0100 (-0.0200 to -0.0030) on 250 rows of 2026-03-01, against version 1",
    ),
]


def night_of(home: Home, day: date = DAY) -> NightMetrics:
    return NightMetrics.model_validate_json(home.output(METRICS, day).read_text())


def page_of(home: Home) -> str:
    return home.output(REPORT, DAY).read_text()


@pytest.fixture(scope="module")
def two_nights(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A worse model last night, the truth tonight, and tonight an LLM beside it."""
    home = Home(tmp_path_factory.mktemp("nights"))
    worse = tiny_night.blurred(tiny_night.planted(), 1, 1.0)
    _, first = tiny_night.prepare(home, YESTERDAY, run_key="one", fitted=worse)
    tiny_night.scored_and_reported(home, YESTERDAY, first)
    review = Review(gates=GATES, reference=first)
    _, second = tiny_night.prepare(home, DAY, run_key="two", review=review)
    tiny_night.score(home, DAY, second)
    tiny_night.add_models(home, DAY, second)
    _diagnose(home)
    tiny_night.report(home, DAY, second)
    return home


def _diagnose(home: Home) -> None:
    def job(_: Config, run: Run) -> None:
        rows = [("mass", "title", layer, layer, "sink_free", 0.1 + 0.1 * layer) for layer in (0, 1)]
        types = {"first_layer": pa.int16(), "last_layer": pa.int16(), "value": pa.float64()}
        columns = zip(LLM_DIAGNOSTICS.columns or (), zip(*rows, strict=True), strict=True)
        table = {name: pa.array(values, types.get(name)) for name, values in columns}
        run.write(LLM_DIAGNOSTICS, pa.table(table))

    execute("diagnostics", Config(), DAY, home, job)
    mark_checked(home, LLM_DIAGNOSTICS, DAY)


def test_tonight_is_judged_on_the_test_rows_that_both_nights_scored(two_nights: Home) -> None:
    previous = night_of(two_nights).previous
    assert previous is not None
    assert (previous.version, previous.day, previous.basis) == (1, YESTERDAY, "scores")
    tables = [
        pq.read_table(two_nights.output(CTR_SCORES, day), filters=[("split", "=", "test")])
        for day in (DAY, YESTERDAY)
    ]
    fused, mf = (
        table.filter(pc.equal(table["model"], model)).sort_by("row")
        for table, model in zip(tables, ("fused", "mf"), strict=True)
    )
    assert previous.n_rows is not None
    assert 100 < previous.n_rows <= fused.num_rows == 200  # those that a night holds twice are out
    assert previous.tonight is not None
    assert previous.before is not None
    assert previous.tonight.auc == pytest.approx(
        roc_auc_score(fused["label"], fused["logit"]), abs=0.03
    )
    assert previous.before.auc == pytest.approx(roc_auc_score(mf["label"], mf["logit"]), abs=0.03)
    assert previous.auc is not None
    assert previous.auc.value == pytest.approx(previous.tonight.auc - previous.before.auc, abs=1e-5)


@pytest.mark.parametrize(("wanted", "model"), [(None, "fused"), ("mf", "mf")])
def test_a_night_speaks_with_its_own_main_model(wanted: str | None, model: str) -> None:
    scores = pa.table({"model": ["mf", "llm", "fused"]})
    assert LastNight(1, YESTERDAY, scores, wanted=wanted).model == model
    assert LastNight(1, YESTERDAY, wanted=wanted).model is None


def test_the_verdict_is_about_the_night_before_and_the_control_stands_below(
    two_nights: Home,
) -> None:
    night, page = night_of(two_nights), page_of(two_nights)
    assert night.verdict.outcome.value == "better"
    assert night.verdict.against == "version 1"
    assert "Version 2 (LLM and MF fused) is better than version 1 of 2026-03-01" in (
        night.verdict.sentence
    )
    assert "Better than last night" in page
    assert page.index(night.verdict.sentence[:40]) < page.index("the strongest trivial control")
    assert night_of(two_nights, YESTERDAY).previous is None


def test_models_are_judged_beside_the_controls_and_the_main_one_leads(two_nights: Home) -> None:
    night = night_of(two_nights)
    assert night.model == "fused"
    names = [system.name for system in night.systems]
    assert names[:3] == ["fused", "llm", "mf"]
    assert [system.is_control for system in night.systems] == [False] * 3 + [True] * 3
    llm, fused = (night.find("test", "all", name).auc for name in ("llm", "fused"))
    assert llm is not None
    assert fused is not None
    assert llm.value < fused.value
    found = night.compare("test", "all", "llm")
    assert found is not None
    assert found.auc is not None
    assert found.auc.value == pytest.approx(fused.value - llm.value, abs=1e-5)
    assert "2 candidates of 1 user have scores and no label yet" in night.notes[0]


def test_gates_stand_on_the_page_with_value_bound_and_outcome(two_nights: Home) -> None:
    night, page = night_of(two_nights), page_of(two_nights)
    assert [gate.name for gate in night.gates] == [
        "overlap.item_semantics",
        "auc_change",
        "finite.items",
    ]
    assert "1 of 3 gates failed: overlap.item_semantics" in page
    assert "<details open>" in page
    assert "✗ no" in page
    assert "≥ 0.5" in page


def test_drift_holds_scores_and_what_the_gates_measured_of_vectors(two_nights: Home) -> None:
    drift = night_of(two_nights).drift
    assert drift is not None
    assert drift.scores is not None
    assert (drift.scores.n_rows, drift.scores.n_rows_before) == (200, 200)
    assert drift.scores.psi > 0
    assert [(v.table, v.overlap) for v in drift.vectors] == [("item_semantics", 0.2)]


def test_attention_is_drawn_where_somebody_looked_into_the_llm(two_nights: Home) -> None:
    assert len(night_of(two_nights).attention) == 2
    assert "title at most 20% in layer 2" in page_of(two_nights)


def test_another_model_is_reported_when_it_is_asked_for_and_a_strange_one_refused(
    two_nights: Home,
) -> None:
    with pytest.raises(NotAvailable, match=r"holds scores of fused, llm, mf, .* asked for gpt"):
        tiny_night.report(two_nights, DAY, 2, model="gpt")
    asked = tiny_night.report(two_nights, DAY, 2, model="mf", n_misses=0, n_map_points=0)
    assert night_of(two_nights).model == "mf"
    assert asked.manifest.metrics["test_auc_change"] > 0
    tiny_night.report(two_nights, DAY, 2)


def test_a_night_before_that_is_scored_anew_makes_the_report_anew(two_nights: Home) -> None:
    assert tiny_night.report(two_nights, DAY, 2).status == "unchanged"
    artifacts = night_sources(two_nights)
    assert {each.name for each in artifacts} == {"ctr_scores", "splits"}
    assert all(str(YESTERDAY) in each.path for each in artifacts)


def night_sources(home: Home) -> list:
    return tiny_night.report(home, DAY, 2).manifest.sources


def test_without_scores_of_the_night_before_the_publication_decides(home: Home) -> None:
    truth, first = tiny_night.prepare(home, YESTERDAY)
    review = Review(gates=GATES, reference=first)
    second = tiny_night.publish(home, DAY, truth, as_text=False, run_key="two", review=review)
    tiny_night.prepare(home, DAY, run_key="three")
    tiny_night.scored_and_reported(home, DAY, second)
    night, page = night_of(home), page_of(home)
    assert night.previous is not None
    assert night.previous.basis == "gate"
    assert night.verdict.outcome.value == "worse"
    assert "as measured at the publication (the rows of 2026-03-01 were not scored)" in (
        night.verdict.sentence
    )
    assert "Worse than last night" in page
    assert night.drift is not None
    assert night.drift.scores is None
    assert "cannot be compared: the rows of 2026-03-01 were not scored" in page


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.001, 0.02, "better"), (-0.01, 0.02, "same"), (0.0, 0.0, "same"), (-0.2, -0.1, "worse")],
)
def test_the_verdict_is_where_the_interval_of_the_difference_lies(
    low: float, high: float, outcome: str
) -> None:
    found = against_previous("Version 2", previous(Estimate(value=0.01, low=low, high=high)))
    assert found.outcome.value == outcome


def test_two_nights_that_cannot_be_compared_give_no_verdict_and_the_reason() -> None:
    found = against_previous("Version 2", previous(None))
    assert found.outcome.value == "unknown"
    assert found.sentence.endswith("cannot be compared: nothing was scored.")


def previous(change: Estimate | None) -> Previous:
    return Previous(
        version=1,
        day=YESTERDAY,
        basis="gate",
        says="nothing was scored",
        n_rows=None,
        n_users=None,
        auc=change,
        uauc=None,
        tonight=None,
        before=None,
    )
