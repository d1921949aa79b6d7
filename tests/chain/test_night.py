"""What one command gives: a version, its scores, a report; and the second time nothing new."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from embedding_store import EmbeddingStore
from embedding_store.errors import Corrupted
from jobs.datasets import (
    ALL,
    CTR_SCORES,
    HISTORIES,
    ITEM_SEMANTICS,
    ITEMS,
    METRICS,
    REPORT,
    SPLITS,
)
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import Config, Run, load_manifest
from jobs.launch import NIGHTLY, TUNING
from jobs.score.factors import MatrixFactorisation
from tests.chain.conftest import TOKENS, Night
from tests.conftest import DAY
from tests.in_process import run_job

JOBS = [job for job in NIGHTLY if job not in TUNING]


def digests(home: Home) -> dict[str, str]:
    notes = {"lock", "attempt.json", "lineage", "cache"}  # of each try, whatever it finds to do
    files = [path for path in home.root.rglob("*") if path.is_file() and not notes & {*path.parts}]
    return {str(path): sha256_file(path) for path in files}


def test_a_night_prints_the_version_the_metrics_and_the_report(night: Night) -> None:
    assert "version 1" in night.printed
    assert "Aligned MF" in night.printed
    assert str(night.home.output(REPORT, DAY)) in night.printed.replace("\n", "")


def test_every_dataset_is_there_with_its_manifest(night: Night) -> None:
    for dataset in (each for each in ALL if each.producer in JOBS):
        manifest = load_manifest(night.home, dataset.producer, DAY)
        assert manifest is not None
        artifact = manifest.output(dataset.name)
        assert artifact is not None
        assert sha256_file(night.home.output(dataset, DAY)) == artifact.sha256


def test_a_second_night_of_the_same_day_redoes_nothing(night: Night) -> None:
    before = digests(night.home)
    done = night.tidemark("run", "--tokens", TOKENS)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("unchanged in") == len(JOBS)
    assert digests(night.home) == before
    assert [each.version for each in EmbeddingStore(night.home.store).versions()] == [1]


def test_production_is_the_published_version_with_every_item_and_known_user(night: Night) -> None:
    version = EmbeddingStore(night.home.store).open("production")
    items = pq.read_table(night.home.output(ITEMS, DAY))["item_id"]
    assert version.version == 1
    for table in ("items", "item_semantics", "item_factors"):
        assert version[table].table()[0].to_pylist() == items.to_pylist()
    splits = pq.read_table(night.home.output(SPLITS, DAY), filters=[("split", "=", "train")])
    users = sorted(set(splits["user_id"].to_pylist()))
    assert version["user_factors"].table()["user_id"].to_pylist() == users
    assert version.space["backbone"] == "smollm2-135m-instruct"


def test_vectors_come_out_as_they_were_distilled_in_the_order_asked(night: Night) -> None:
    semantics = pq.read_table(night.home.output(ITEM_SEMANTICS, DAY))
    ids = semantics["item_id"].to_pylist()
    asked = [ids[7], ids[0], ids[399]]
    found = EmbeddingStore(night.home.store).open("production")["item_semantics"].vectors_of(asked)
    expected = [semantics["vector"][place].as_py() for place in (7, 0, 399)]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_an_item_is_its_own_nearest_neighbour(night: Night) -> None:
    items = EmbeddingStore(night.home.store).open("production")["item_semantics"]
    found = items.search(items.vectors_of([154]), k=3)
    first = found.slice(0, 1).to_pylist()[0]
    assert first["id"] == 154
    assert first["score"] == pytest.approx(1.0, abs=1e-5)


def test_scores_are_those_of_the_published_factors(night: Night) -> None:
    version = EmbeddingStore(night.home.store).open("production")
    scores = pq.read_table(night.home.output(CTR_SCORES, DAY))
    assert set(scores["version"].to_pylist()) == {1}
    users = {row["user_id"]: row for row in version["user_factors"].table().to_pylist()}
    items = {row["item_id"]: row for row in version["item_factors"].table().to_pylist()}
    cold = {"factor": [0.0] * len(next(iter(items.values()))["factor"]), "bias": 0.0}
    for row in scores.slice(0, 50).to_pylist():
        user, item = users.get(row["user_id"], cold), items[row["item_id"]]
        logit = version.attributes["global_bias"] + user["bias"] + item["bias"]
        logit += float(np.dot(user["factor"], item["factor"]))
        assert row["logit"] == pytest.approx(logit, abs=1e-4)


def test_every_valid_and_test_row_is_scored_once(night: Night) -> None:
    splits = pq.read_table(night.home.output(SPLITS, DAY)).to_pylist()
    expected = {(row["split"], row["row"]) for row in splits if row["split"] != "train"}
    scores = pq.read_table(night.home.output(CTR_SCORES, DAY)).to_pylist()
    assert {(row["split"], row["row"]) for row in scores} == expected
    assert len(scores) == len(expected)


def test_the_night_beats_chance_and_says_what_it_beats(night: Night) -> None:
    metrics = json.loads(night.home.output(METRICS, DAY).read_text())
    test = {
        each["system"]: each["auc"]["value"]
        for each in metrics["quality"]
        if (each["split"], each["slice"]) == ("test", "all") and each["auc"]
    }
    assert test[metrics["model"]] > 0.6  # chance is 0.5, its standard error here about 0.02
    assert metrics["verdict"]["outcome"] in {"better", "same", "worse"}


def published_files(home: Home) -> list[str]:
    root = Path(home.store)
    found = [path for path in root.rglob("*") if path.is_file() and path.name != "RUN.json"]
    return sorted(path.relative_to(root).as_posix() for path in found)


def test_one_flipped_byte_in_any_published_file_is_refused_with_its_name(
    night: Night, tmp_path: Path
) -> None:
    copy = tmp_path / "store"
    shutil.copytree(night.home.store, copy)
    for name in published_files(night.home):
        if name.startswith("intents/") or name.endswith(".sent"):
            continue  # read by a retry of the publication or of an announcement, not by a reader
        path = copy / name
        content = bytearray(path.read_bytes())
        place = len(content) // 2
        content[place] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(Corrupted) as refused:
            EmbeddingStore(copy).open("production")
        assert Path(name).name in str(refused.value), name
        content[place] ^= 0x10
        path.write_bytes(content)
    EmbeddingStore(copy).open("production")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ls"], "production"),
        (["show", "production"], "item_semantics"),
        (["get", "item_semantics", "154"], "154"),
        (["search", "item_semantics", "--id", "154", "-k", "3"], "154"),
        (["verify"], "none"),
    ],
)
def test_the_stores_command_line_answers(night: Night, words: list[str], expected: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("embedding-store"), *words],
        env={**os.environ, "TIDEMARK_HOME": str(night.home.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_a_failing_chain_says_which_job_failed_and_why(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run", "--source", str(tmp_path / "raw")],
        env={**os.environ, "TIDEMARK_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "not a source" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_llm_knows_of_titles_reaches_items_that_train_has_not_seen(
    night: Night, tmp_path: Path
) -> None:
    """Aligned factors and plain ones against the planted probability, not against labels."""
    plain = Home(tmp_path / "home")
    shutil.copytree(night.home.root, plain.root, symlinks=True)
    run_job("align", plain, DAY, alignment_weight=0.0)
    run = Run("probe", DAY, Config(), night.home)
    splits, histories = run.read(SPLITS), run.read(HISTORIES)
    known = splits.filter(pc.equal(splits["split"], "train"))["item_id"].combine_chunks()
    is_cold = pc.invert(pc.is_in(splits["item_id"], known))
    asked = splits.filter(pc.and_(pc.equal(splits["split"], "test"), is_cold))
    assert asked.num_rows > 400
    truth = pq.read_table(night.home.raw / "sample" / "truth" / "events.parquet")
    pairs = zip(truth["user_id"].to_pylist(), truth["item_id"].to_pylist(), strict=True)
    chance = dict(zip(pairs, truth["probability"].to_pylist(), strict=True))
    planted = [
        chance[pair]
        for pair in zip(asked["user_id"].to_pylist(), asked["item_id"].to_pylist(), strict=True)
    ]

    def agreement(home: Home) -> float:
        model = MatrixFactorisation.of_night(Run("probe", DAY, Config(), home))
        return float(spearmanr(model.score(asked, histories).logits, planted).statistic)

    assert agreement(night.home) > agreement(plain) + 0.05
