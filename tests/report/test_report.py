from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from embedding_store.lookup import open_version
from jobs.datasets import CTR_SCORES, METRICS, METRICS_SCHEMA, REPORT
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import execute, load_manifest
from jobs.report.night_figures import NightMetrics, json_schema
from jobs.report.report import ReportConfig, job, version_facts
from jobs.report.summary import print_summary
from tests.conftest import DAY, ROOT
from tests.report import tiny_night


def night_of(home: Home) -> NightMetrics:
    return NightMetrics.model_validate_json(home.output(METRICS, DAY).read_text())


def page_of(home: Home) -> str:
    return home.output(REPORT, DAY).read_text()


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Home:
    """A reported night whose item titles are somebody's attempt at an injection."""
    home = Home(tmp_path_factory.mktemp("night"))
    _, version = tiny_night.prepare(home, DAY, title=lambda n: f"{tiny_night.EVIL} {n}")
    tiny_night.scored_and_reported(home, DAY, version)
    return home


def test_the_planted_model_is_judged_better_than_the_controls(reported):
    night = night_of(reported)
    assert night.verdict.outcome.value == "better"
    assert night.verdict.against == "item_user_mean"
    assert night.compare("test", "all", "item_user_mean").auc.low > 0
    assert night.verdict == night.control_verdict
    page = page_of(reported)
    assert "Version 1 (Aligned MF) is better than the strongest trivial control" in page
    assert "Better than the strongest control; there is no night before" in page
    assert "There is no earlier version to compare with" in page


def test_the_figures_are_those_of_the_scored_rows(reported):
    night = night_of(reported)
    scores = pq.read_table(reported.output(CTR_SCORES, DAY))
    for split in ("valid", "test"):
        rows = scores.filter(pc.equal(scores["split"], split))
        own = night.find(split, "all", "mf")
        assert own.auc.value == pytest.approx(roc_auc_score(rows["label"], rows["logit"]), abs=1e-6)
        assert own.n_rows == rows.num_rows == 200
        warm = night.find(split, "warm", "mf")
        assert warm.n_rows == pc.sum(rows["is_warm"]).as_py()
        assert night.find(split, "cold", "mf").n_rows == 200 - warm.n_rows
        assert night.find(split, "all", "global_mean").auc.value == 0.5
        head, tail = (night.find(split, name, "mf").n_rows for name in ("head", "tail"))
        assert head + tail == 200


def test_rows_in_are_events_plus_rows_put_aside(reported):
    data = night_of(reported).data
    assert (data.n_rows_in, data.n_events, data.n_quarantined) == (1003, 1000, 3)
    assert [(q.reason, q.n_rows) for q in data.quarantined] == [
        ("out of range", 2),
        ("too few fields", 1),
    ]
    assert data.quarantined[0].example_at == "late.csv, line 3"
    assert [(s.split, s.n_rows) for s in data.splits] == [
        ("train", 600),
        ("valid", 200),
        ("test", 200),
    ]


def test_neighbours_are_those_of_the_published_vectors(reported):
    # Items lie on a circle in the order of their numbers, 0.1 apart.
    for probe in night_of(reported).neighbourhoods:
        place = (probe.item_id - 5) // 10
        near = [abs((n.item_id - 5) // 10 - place) for n in probe.neighbours]
        assert near == sorted(near)
        assert probe.neighbours[0].cosine == pytest.approx(np.cos(0.1), abs=1e-5)


def test_other_peoples_text_stays_text(reported):
    elements = Elements(page_of(reported))
    assert elements.all("script") == []
    assert elements.all("img") == []
    assert tiny_night.EVIL in elements.text
    assert not [a for _, a in elements.found if any(name.startswith("on") for name in a)]


def test_the_page_asks_for_nothing_from_anywhere(reported):
    page = page_of(reported)
    elements = Elements(page)
    wanted = {
        value
        for _, attributes in elements.found
        for name, value in attributes.items()
        if name in {"src", "href", "xlink:href", "data", "action", "poster", "srcset"}
    }
    files = {value for value in wanted if not value.startswith("#")}
    assert files == {"metrics.json", "metrics.schema.json"}
    ids = {attributes["id"] for _, attributes in elements.found if "id" in attributes}
    assert {value.removeprefix("#") for value in wanted - files} <= ids
    assert not re.search(r"@import|@font-face|https?:|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_ids_on_the_page_are_unique_and_labels_lead_somewhere(reported):
    elements = Elements(page_of(reported))
    ids = [a["id"] for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    labels = {a["aria-labelledby"] for _, a in elements.found if "aria-labelledby" in a}
    assert labels <= set(ids)
    references = set(re.findall(r"url\(#([^)]+)\)", page_of(reported)))
    assert references <= set(ids)


def test_every_chart_says_in_words_what_it_shows(reported):
    charts = Elements(page_of(reported)).all("svg")
    assert len(charts) == 14
    for chart in charts:
        assert chart["role"] == "img"
        assert re.search(r"\d", chart["aria-label"])
        assert "width" not in chart


def test_every_table_has_a_caption_and_scoped_headings(reported):
    elements = Elements(page_of(reported))
    assert len(elements.all("table")) == len(elements.all("caption")) == 6
    assert {heading["scope"] for heading in elements.all("th")} == {"col", "row", "rowgroup"}
    # On a phone rows become blocks: their part in the table is then said by their role alone.
    assert all("role" in each for tag in ("table", "tr", "th", "td") for each in elements.all(tag))
    assert all("data-label" in cell for cell in elements.all("td"))


def test_headings_go_down_one_level_at_a_time(reported):
    levels = [int(tag[1]) for tag, _ in Elements(page_of(reported)).found if re.match(r"h\d$", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_same_night_gives_the_same_bytes(reported):
    before = [reported.output(d, DAY).read_bytes() for d in (METRICS, METRICS_SCHEMA, REPORT)]
    assert tiny_night.report(reported, DAY, 1).status == "unchanged"
    assert tiny_night.report(reported, DAY, 1, force=True).status == "done"
    after = [reported.output(d, DAY).read_bytes() for d in (METRICS, METRICS_SCHEMA, REPORT)]
    assert after == before


def test_string_ids_give_the_same_figures(reported, home):
    _, version = tiny_night.prepare(home, DAY, as_text=True)
    tiny_night.scored_and_reported(home, DAY, version)
    one, other = night_of(reported), night_of(home)
    assert one.quality == other.quality
    assert one.comparisons == other.comparisons
    assert [n.item_id for n in other.neighbourhoods] == [
        f"i-{(n.item_id - 5) // 10:03d}" for n in one.neighbourhoods
    ]


@pytest.mark.parametrize("without", [("test",), ("valid",), ("valid", "test")])
def test_an_empty_period_is_said_plainly_and_its_figures_are_null(home, without):
    _, version = tiny_night.prepare(home, DAY, without=without)
    outcome = tiny_night.scored_and_reported(home, DAY, version)
    night, page = night_of(home), page_of(home)
    for split in without:
        assert f"The {split} period holds no rows as of this day" in page
        own = night.find(split, "all", "mf")
        figures = (own.auc, own.uauc, own.ndcg, own.log_loss, own.ece, own.positive_share)
        assert (own.n_rows, *figures) == (0, None, None, None, None, None, None)
    assert (night.verdict.outcome.value == "unknown") == ("test" in without)
    assert ("test_auc" in outcome.manifest.metrics) == ("test" not in without)
    print_summary(home, DAY, Console(file=StringIO()))


def test_scores_of_another_version_are_refused(home):
    truth, version = tiny_night.prepare(home, DAY)
    tiny_night.score(home, DAY, version)
    other = tiny_night.publish(home, DAY, truth, as_text=False, run_key="two")
    with pytest.raises(NotAvailable, match=rf"scores of version \[{version}\].*version {other}"):
        execute("report", ReportConfig(version=other), DAY, home, job)


def test_a_missing_version_is_an_error_that_says_which_there_are(home):
    tiny_night.prepare(home, DAY)
    with pytest.raises(NotAvailable, match="there are 1 to 1"):
        execute("report", ReportConfig(version=9), DAY, home, job)


def test_facts_name_the_space_and_hold_no_clock(reported):
    version = open_version(reported.store, 1)
    facts = version_facts(version)
    assert facts["Space: backbone"] == "planted"
    assert facts["Table user_factors"] == "23 rows, 3 dimensions"
    assert version.manifest.created_at not in page_of(reported)


def test_the_manifest_and_the_scheduler_hear_the_headline(reported):
    outcome = tiny_night.report(reported, DAY, 1)
    night = night_of(reported)
    assert outcome.manifest.metrics["test_auc"] == night.find("test", "all", "mf").auc.value
    assert outcome.manifest.result["verdict"] == "better"
    assert outcome.manifest.result["report"].endswith("report.html")


def test_the_summary_shows_every_system_on_both_splits(reported):
    file = StringIO()
    print_summary(reported, DAY, Console(file=file, width=80))
    said = file.getvalue()
    own = night_of(reported).find("test", "all", "mf")
    assert f"{own.auc.value:.4f}" in said
    assert said.count("Item mean + user mean") == 2
    assert str(reported.output(REPORT, DAY)) in said


def test_the_summary_of_a_night_without_a_report_says_how_to_get_one(home):
    with pytest.raises(NotAvailable, match="tidemark run --day"):
        print_summary(home, DAY, Console())


def test_metrics_json_has_the_schema_that_is_documented(reported):
    document = json.loads(reported.output(METRICS, DAY).read_text())
    assert document["schema_version"] == 2
    written = reported.output(METRICS_SCHEMA, DAY).read_text()
    assert written == json_schema() == (ROOT / "docs" / "metrics.schema.json").read_text()
    assert set(json.loads(written)["required"]) <= set(document)
    assert set(document) == set(NightMetrics.model_fields)
    with pytest.raises(ValueError, match="extra"):
        NightMetrics.model_validate({**document, "surprise": 1})


def test_a_handful_of_users_gives_a_figure_without_an_interval(reported):
    night = night_of(reported)
    cold_user = night.find("test", "cold_user", "mf")
    assert cold_user.n_users == 1
    assert cold_user.auc.value > 0.5
    assert (cold_user.auc.low, cold_user.auc.high) == (None, None)
    control = night.control.name
    assert night.compare("test", "cold_user", control).uauc.low is None
    assert "No interval: cold, cold user, cold item, light users" in page_of(reported)


def test_the_last_days_say_what_became_known(reported):
    said = [(a.known_day.isoformat(), a.n_rows) for a in night_of(reported).data.arrivals]
    assert said == [("2026-03-01", 3), ("2026-03-02", 4)]


def test_cost_is_what_the_manifests_of_the_night_say_but_for_the_report(reported):
    night = night_of(reported)
    assert [cost.job for cost in night.cost] == ["ingest", "splits", "candidates", "score"]
    for cost in night.cost:
        manifest = load_manifest(reported, cost.job, DAY)
        assert cost.seconds == manifest.seconds
        assert cost.peak_memory_bytes == manifest.peak_memory_bytes > 2**20
    assert night.cost[-1].rows == 400


def test_misses_are_the_rows_furthest_from_their_label_with_their_prompts(reported):
    night = night_of(reported)
    scores = pq.read_table(reported.output(CTR_SCORES, DAY)).to_pylist()
    rows = {row["row"]: row for row in scores if row["split"] == "test"}
    assert [miss.label for miss in night.misses] == [1, 1, 1, 0, 0, 0]
    worst = max(rows.values(), key=lambda row: row["label"] - row["probability"])
    assert night.misses[0].row == worst["row"]
    for miss in night.misses:
        assert miss.probability == pytest.approx(rows[miss.row]["probability"], abs=1e-6)
        assert miss.prompt.startswith("Movies that one user rated")
        assert miss.prompt.endswith(f"{tiny_night.EVIL} {(miss.item_id - 5) // 10}?")
    assert len({miss.user_id for miss in night.misses}) == 6
