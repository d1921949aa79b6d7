"""`tidemark bench` on the sample: known figures, results kept, killed and gone on with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.cells import NONE
from jobs.bench.figures import BenchResult
from jobs.bench.markdown import markdown
from jobs.bench.page import render
from jobs.datasets import SPLITS
from jobs.home import Home
from jobs.report.controls import controls
from jobs.report.metrics import auc, paired_user_bootstrap, uauc
from tests.bench.conftest import BenchFolder
from tests.conftest import DAY, ROOT

PATIENCE_S = 300


def result_of(home: Home) -> BenchResult:
    path = home.root / "bench" / "bench-sample.json"
    return BenchResult.model_validate_json(path.read_bytes())


def split_rows(home: Home, split: str) -> dict[str, np.ndarray]:
    table = pq.read_table(home.output(SPLITS, DAY), filters=[("split", "=", split)])
    table = table.sort_by("row")
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def outcomes(home: Home) -> dict[str, int]:
    """When each kept result was finished, by its folder."""
    kept = (home.root / "bench" / "kept").glob("*/outcome.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in kept}


def killed_once(words: list[str], environment: dict[str, str], done: Callable[[], bool]) -> None:
    """Start a command in a session of its own, and kill all of it as soon as `done` says so."""
    started = subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE_S
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()


def test_a_bench_that_is_killed_goes_on_where_it_was(bench_folder: BenchFolder) -> None:
    home = bench_folder.home
    killed_once(bench_folder.words, bench_folder.environment, lambda: len(outcomes(home)) >= 2)
    before = outcomes(home)
    assert 2 <= len(before) < 4
    assert not (home.root / "bench" / "bench-sample.json").exists()

    done = bench_folder.run()
    assert done.returncode == 0, done.stderr
    after = outcomes(home)
    assert len(after) == 4
    assert {name: after[name] for name in before} == before
    check_figures(home)
    check_files(home)

    # What is kept and whole is not fitted again; what is damaged is, and gives the same scores.
    damaged = next(name for name in after if name.startswith("mf_biases-paper-0"))
    path = home.root / "bench" / "kept" / damaged / "scores.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    first = result_of(home)
    now = bench_folder.result()
    assert path.read_bytes() == whole
    changed = {name for name, at in outcomes(home).items() if at != after[name]}
    assert changed == {damaged}
    assert [s.slices for s in now.systems] == [s.slices for s in first.systems]


def check_figures(home: Home) -> None:
    """The means are those of the report, and every figure is what its definition gives."""
    result = result_of(home)
    systems = {system.name: system for system in result.systems}
    assert list(systems) == ["item_mean", "item_user_mean", "mf_biases", "aligned_item"]
    train, test = split_rows(home, "train"), split_rows(home, "test")
    columns = [train[name] for name in ("user_id", "item_id", "label")]
    known = {c.name: c.scores for c in controls(*columns, test["user_id"], test["item_id"])}
    for name in ("item_mean", "item_user_mean"):
        found = systems[name].find("test")
        assert found is not None
        assert found.auc is not None
        assert found.uauc is not None
        assert found.n_rows == len(test["label"])
        assert found.auc.mean == pytest.approx(auc(test["label"], known[name]), abs=5e-5)
        wanted, n_counted = uauc(test["user_id"], test["label"], known[name])
        assert found.uauc.mean == pytest.approx(wanted, abs=5e-5)
        assert found.n_users_counted == n_counted
    check_differences(home, result, test)


def check_differences(home: Home, result: BenchResult, test: dict[str, np.ndarray]) -> None:
    """Of scores averaged over seeds against the control, users resampled in pairs."""
    scores: dict[str, list[np.ndarray]] = {}
    for folder in sorted((home.root / "bench" / "kept").iterdir()):
        name = json.loads((folder / "asked.json").read_text())["name"]
        table = pq.read_table(folder / "scores.parquet", filters=[("split", "=", "test")])
        scores.setdefault(name, []).append(table.sort_by("row")["logit"].to_numpy())
    left, right = (
        np.mean(np.array(scores[name], dtype=np.float64), axis=0)
        for name in ("aligned_item", "item_user_mean")
    )
    drawn = paired_user_bootstrap(test["user_id"], test["label"], left, right, n=200)
    system = next(each for each in result.systems if each.name == "aligned_item")
    found = system.difference("test")
    assert found is not None
    assert found.auc is not None
    assert drawn.auc is not None
    assert found.auc.value == pytest.approx(drawn.auc.value, abs=1e-6)
    assert found.auc.low == pytest.approx(drawn.auc.low, abs=1e-6)
    assert [d.seed for d in system.against_control if d.seed is not None] == [0]
    assert system.cost is not None
    assert system.cost.cpu_s is not None
    assert system.cost.peak_mib > system.cost.before_fit_mib > 0  # type: ignore[operator]


def check_files(home: Home) -> None:
    """Markdown and the page hold every system; the page needs no network and no script."""
    folder = home.root / "bench"
    markdown = (folder / "bench-sample.md").read_text(encoding="utf-8")
    page = (folder / "bench-sample.html").read_text(encoding="utf-8")
    for title in ("Item mean", "Item mean + user mean", "MF with biases", "Aligned MF, item side"):
        assert f"| {title} |" in markdown
        assert title in page
    assert "<script" not in page
    assert not re.search(r"@import|@font-face|https?:|url\((?!#)", page)
    assert 'aria-label="AUC on test: ' in page


def test_a_system_that_fails_is_a_row_and_scores_made_elsewhere_are_rows_too(
    bench_folder: BenchFolder,
) -> None:
    test = split_rows(bench_folder.home, "test")
    columns: dict[str, Any] = {"split": ["test"] * len(test["row"]), "row": test["row"]}
    oracle = pa.table({**columns, "logit": test["label"].astype(np.float32)})
    beside = bench_folder.config.parent
    pq.write_table(oracle.take(list(range(len(oracle)))[::-1]), beside / "oracle.parquet")
    pq.write_table(oracle.slice(1), beside / "short.parquet")
    bench_folder.change(
        ("max_epochs: 3}\n  - name: aligned_item", WILD_AND_TABLES),
        ("system: aligned_mf", "system: aligned_mf\n    seeds: [5]"),
    )
    result = bench_folder.result("item_user_mean", "wild")
    systems = {system.name: system for system in result.systems}
    # What was not asked for and is not kept has no row.
    assert list(systems) == ["item_user_mean", "wild", "oracle", "short", "lost"]
    wild = systems["wild"].error
    assert wild is not None
    assert wild.startswith("seed 0: ")
    assert "| Wild | failed: seed 0: " in markdown(result)
    assert "failed: seed 0: " in render(result)
    found = systems["oracle"].find("test")
    assert found is not None
    assert found.auc is not None
    assert found.auc.mean == 1
    assert systems["oracle"].find("valid") is None
    assert systems["oracle"].within_tolerance is True
    cost, short, lost = systems["oracle"].cost, systems["short"].error, systems["lost"].error
    assert cost is not None
    assert cost.tokens == 1234
    n = len(test["row"])
    assert short is not None
    assert lost is not None
    assert f"{n - 1} scores for the {n} rows of test, they part at row 0" in short
    assert re.fullmatch(r"there is no file .*none.parquet with the scores of 'lost'; .*", lost)


WILD_AND_TABLES = """max_epochs: 3}
  - {name: wild, system: mf_biases, title: Wild, settings: {max_epochs: 2, learning_rate: 1.0e+38}}
  - name: oracle
    system: table
    title: Oracle
    scores: [oracle.parquet]
    tokens: 1234
    published: {auc: 0.99, source: nobody}
  - {name: short, system: table, title: Short, scores: [short.parquet]}
  - {name: lost, system: table, title: Lost, scores: [none.parquet]}
  - name: aligned_item"""


MADE_ELSEWHERE = """systems:
  - name: oracle
    system: table
    title: Oracle
    backbone: A tiny one
    scores: [oracle.parquet]
    frozen_scores: [frozen.parquet]
    published: {auc: 0.99, uauc: 0.98, source: nobody}
  - {name: both, system: fusion, of: [oracle, item_mean], title: Both together}
  - name: big
    system: not_measured
    title: Big
    why: It needs a GPU.
    published: {auc: 0.76, source: somebody}
  - {name: lost, system: table, title: Lost, scores: [none.parquet]}
"""


def keep_oracle(folder: BenchFolder) -> None:
    """Scores that are the labels, and frozen ones that say nothing, beside the bench file."""
    tables = []
    for split in ("valid", "test"):
        rows = split_rows(folder.home, split)
        columns: dict[str, Any] = {"split": [split] * len(rows["row"]), "row": rows["row"]}
        tables.append(pa.table({**columns, "logit": rows["label"].astype(np.float32)}))
    beside = folder.config.parent
    pq.write_table(pa.concat_tables(tables), beside / "oracle.parquet")
    constant = pa.array(np.zeros(len(tables[1]), np.float32))
    pq.write_table(tables[1].set_column(2, "logit", constant), beside / "frozen.parquet")
    text = folder.config.read_text(encoding="utf-8")
    head = text[: text.index("systems:")] + "also_against: [item_mean, both]\n"
    folder.config.write_text(head + MADE_ELSEWHERE, encoding="utf-8")


def test_the_command_shows_blends_frozen_and_unmeasured_rows_and_fails_if_a_row_does(
    bench_folder: BenchFolder,
) -> None:
    keep_oracle(bench_folder)
    done = bench_folder.run()
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == "tidemark: 1 of 6 rows failed: lost"
    systems = {system.name: system for system in result_of(bench_folder.home).systems}
    frozen, both = systems["oracle"].frozen, systems["both"].find("test")
    assert frozen is not None
    assert frozen.auc is not None
    assert frozen.auc.mean == 0.5
    assert both is not None
    assert both.auc is not None
    assert both.auc.mean == 1  # the oracle has all the weight that it needs
    assert list(systems["oracle"].against_others) == ["item_mean", "both"]
    assert list(systems["both"].against_others) == ["item_mean"]
    check_pages_of_everything(bench_folder.home)


def check_pages_of_everything(home: Home) -> None:
    """Both forms show every sort of row."""
    folder = home.root / "bench"
    said = (folder / "bench-sample.md").read_text(encoding="utf-8")
    page = (folder / "bench-sample.html").read_text(encoding="utf-8")
    assert "| system | backbone | seeds | valid AUC |" in said
    assert f"| Big | {NONE} | not measured | {NONE} |" in said
    assert "- Not measured: Big. It needs a GPU." in said
    assert "| Oracle | A tiny one | 1.0000/1.0000 | .5000/.5000 | .9900/.9800 | nobody |" in said
    for heading in ("Against Item mean", "Against Both together", "Beside the papers"):
        assert f"\n## {heading}\n" in said
        assert f">{heading}</h2>" in page
    assert "frozen UAUC" in page
    assert "<dt>Not measured</dt><dd>Big. It needs a GPU.</dd>" in page


def test_what_another_version_of_the_code_has_kept_is_shown_if_that_is_asked_for(
    bench_folder: BenchFolder,
) -> None:
    bench_folder.result("item_mean")
    kept = bench_folder.home.root / "bench" / "kept"
    (folder,) = kept.iterdir()
    asked = json.loads((folder / "asked.json").read_text())
    asked |= {"code_sha256": "0" * 64, "versions": {"torch": "1.0"}}
    (folder / "asked.json").write_text(json.dumps(asked))
    folder.rename(kept / "item_mean-paper-0-0000")
    assert bench_folder.result("nothing").systems == []
    (shown,) = bench_folder.result("nothing", any_code=True).systems
    assert shown.other_version is not None
    assert shown.other_version.versions == {"torch": "1.0"}
    assert shown.find("test") is not None
    said = markdown(bench_folder.result("nothing", any_code=True))
    wanted = "- Kept from another version of the code: Item mean (000000000000); with torch 1.0."
    assert wanted in said
    # Two versions that part: nothing says which is meant. Other settings are another question.
    shutil.copytree(kept / "item_mean-paper-0-0000", kept / "item_mean-paper-0-1111")
    error = bench_folder.result("nothing", any_code=True).systems[0].error
    assert error is not None
    assert "several versions of the code have kept a result (item_mean-paper-0-0000, " in error
    asked["settings"] = {}
    (kept / "item_mean-paper-0-1111" / "asked.json").write_text(json.dumps(asked))
    assert bench_folder.result("nothing", any_code=True).systems[0].error is None


def test_the_nightly_protocol_scores_each_test_day_and_goes_on_after_a_kill(
    bench_folder: BenchFolder,
) -> None:
    home = bench_folder.home
    bench_folder.change(("protocol: paper", "protocol: nightly"))
    words = [*bench_folder.words, "--only", "mf_biases"]
    killed_once(words, bench_folder.environment, lambda: len(parts(home)) >= 4)
    before = parts(home)
    assert 4 <= len(before) < 11
    result = bench_folder.result("mf_biases")
    assert result.n_days == 10
    (system,) = result.systems
    assert (system.name, system.error) == ("mf_biases", None)
    assert system.cost is not None
    assert system.cost.n_fits == 11
    (folder,) = (home.root / "bench" / "kept").glob("mf_biases-nightly-0-*")
    fits = json.loads((folder / "outcome.json").read_text())["fits"]
    days = [*(f"2026-02-{day}" for day in range(20, 29)), "2026-03-01"]
    assert [fit["name"] for fit in fits] == ["choice", *days]
    assert all(fit in fits for fit in before.values())  # what was finished was not done again
    n_train = [fit["n_train"] for fit in fits[1:]]
    assert n_train == sorted(set(n_train))
    assert {fit["n_epochs"] for fit in fits[1:]} == {fits[0]["n_epochs"]}
    assert not (folder / "parts").exists()


def parts(home: Home) -> dict[str, dict[str, Any]]:
    """Fits that are whole while a result is being made."""
    found = (home.root / "bench" / "kept").glob("*/parts/*.json")
    return {path.stem: json.loads(path.read_text()) for path in found}


def test_a_word_that_the_bench_does_not_know_ends_in_one_line(bench_folder: BenchFolder) -> None:
    done = bench_folder.run("--only", "nobody")
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        "sample.yaml has item_mean, item_user_mean, mf_biases, aligned_item"
    )
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_schema_in_the_docs_is_that_of_the_results() -> None:
    written = json.loads((ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8"))
    assert written == BenchResult.model_json_schema()


def test_help_comes_without_torch() -> None:
    code = "import sys, jobs.cli; sys.exit('torch' in sys.modules or 'altair' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
