"""Alignment against none, on items that training has not seen, by the sample's planted truth."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.datasets import CTR_SCORES, ITEM_FACTORS, SPLITS, USER_FACTORS
from jobs.home import Home
from jobs.prepare.sample import TRUTH
from jobs.prepare.sample_titles import TOPICS
from jobs.report.metrics import auc, paired_user_bootstrap, uauc
from tests.chain.conftest import Night
from tests.conftest import DAY
from tests.in_process import run_job


@pytest.fixture(scope="module")
def unaligned(night: Night, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same night up to the factors, with the alignment turned off and nothing else changed."""
    home = Home(tmp_path_factory.mktemp("unaligned") / "home")
    shutil.copytree(night.home.root, home.root, symlinks=True, ignore=shutil.ignore_patterns("raw"))
    run_job("align", home, alignment_weight=0.0)
    return home


def factors(home: Home, dataset: object, key: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    table = pq.read_table(home.output(dataset, DAY))  # type: ignore[arg-type]
    vectors = np.stack(table["factor"].to_numpy(zero_copy_only=False))
    return table[key].to_pylist(), vectors, table["bias"].to_numpy()


def unseen_items(home: Home) -> set[int]:
    items, _, _ = factors(home, ITEM_FACTORS, "item_id")
    train = pq.read_table(home.output(SPLITS, DAY), filters=[("split", "=", "train")])
    return set(items) - set(train["item_id"].to_pylist())


def scores_on_unseen(home: Home, truth: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, planted taste for the item's topic, and score: every known user x unseen item."""
    users, user_vectors, _ = factors(home, USER_FACTORS, "user_id")
    items, item_vectors, item_biases = factors(home, ITEM_FACTORS, "item_id")
    chosen = [place for place, item in enumerate(items) if item in unseen_items(home)]
    topics = [topic.name for topic in TOPICS]
    topic_of = {r["item_id"]: topics.index(r["topic"]) for r in read(truth, "items")}
    taste_of = {r["user_id"]: np.array(r["taste"]) for r in read(truth, "users")}
    columns = [topic_of[items[place]] for place in chosen]
    tastes = np.stack([taste_of[user][columns] for user in users])
    scores = user_vectors @ item_vectors[chosen].T + item_biases[chosen]
    return np.repeat(users, len(chosen)), tastes.ravel(), scores.ravel()


def read(truth: Path, name: str) -> list[dict[str, object]]:
    return pq.read_table(truth / f"{name}.parquet").to_pylist()


def test_aligned_factors_know_the_planted_taste_for_unseen_items_and_unaligned_ones_do_not(
    night: Night, unaligned: Home
) -> None:
    truth = night.home.raw / "sample" / TRUTH
    found = {}
    for name, home in (("aligned", night.home), ("unaligned", unaligned)):
        users, tastes, scores = scores_on_unseen(home, truth)
        found[name] = uauc(users, (tastes > 0).astype(int), scores)[0]
    assert found["unaligned"] == pytest.approx(0.5, abs=0.05)  # nothing but noise and ties
    assert found["aligned"] > found["unaligned"] + 0.1


def test_alignment_beats_none_on_the_ratings_of_unseen_items(night: Night, unaligned: Home) -> None:
    """Paired over users; the labels are the sample's, drawn from the planted truth."""
    rows = pq.read_table(night.home.output(CTR_SCORES, DAY))
    is_unseen = np.isin(rows["item_id"].to_numpy(), list(unseen_items(night.home)))
    rows = rows.filter(pa.array(is_unseen & (rows["split"].to_numpy() == "test")))
    logits = {
        name: np.array([personal(home, row["user_id"], row["item_id"]) for row in rows.to_pylist()])
        for name, home in (("aligned", night.home), ("unaligned", unaligned))
    }
    users, labels = rows["user_id"].to_numpy(), rows["label"].to_numpy()
    aligned, plain = (auc(labels, logits[name]) for name in ("aligned", "unaligned"))
    assert aligned is not None
    assert plain is not None
    assert aligned > plain
    difference = paired_user_bootstrap(users, labels, logits["aligned"], logits["unaligned"]).auc
    assert difference is not None
    assert difference.low > 0


_TABLES: dict[Path, dict[str, dict[int, tuple[np.ndarray, float]]]] = {}


def personal(home: Home, user: int, item: int) -> float:
    """What of a logit depends on the row; a user that training has not seen counts nothing."""
    if home.root not in _TABLES:
        _TABLES[home.root] = {
            key: {
                each: (v, float(b)) for each, v, b in zip(*factors(home, dataset, key), strict=True)
            }
            for dataset, key in ((USER_FACTORS, "user_id"), (ITEM_FACTORS, "item_id"))
        }
    tables = _TABLES[home.root]
    item_vector, item_bias = tables["item_id"][item]
    user_vector, user_bias = tables["user_id"].get(user, (np.zeros_like(item_vector), 0.0))
    return item_bias + user_bias + float(user_vector @ item_vector)
