"""Labels: planted scores, and the job on a tiny backbone in the space of its items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.check import check
from jobs.codebook.tables import about_codes, codes_matrix
from jobs.datasets import ITEM_LABELS, ITEM_SEMANTICS, ITEM_TEXTS, LABEL_CODEBOOK
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, execute, mark_checked
from jobs.llm import labels as labels_job
from jobs.llm.distil import DistilConfig
from jobs.llm.distil import job as distil_job
from jobs.llm.label_words import VOCABULARIES
from jobs.llm.labels import LabelsConfig, label_directions, labelled, prompts
from jobs.vector_columns import as_matrix
from tests.conftest import DAY
from tests.tiny_backbone import write_tiny_backbone

WORDS = VOCABULARIES["theme"]


def test_an_item_gets_the_label_that_it_is_nearest_to() -> None:
    labels = np.eye(3, dtype=np.float32)[None]
    vectors = np.array([[0.8, 0.6, 0], [0, 1, 0], [0, 0.6, 0.8], [0.6, 0, -0.8]], np.float32)
    assert labelled(vectors, labels).codes[:, 0].tolist() == [0, 1, 2, 0]


def test_a_label_that_is_near_to_everything_does_not_win_everywhere() -> None:
    """All cosines of the first label are above those of the second; the last item still has it."""
    vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]], np.float32)
    labels = np.array([[[0.8, 0.6], [0.0, 0.1]]], np.float32)
    found = labelled(vectors, labels)
    assert found.codes[1:, 0].tolist() == [0, 1]
    assert found.scores.mean(axis=0) == pytest.approx(0, abs=1e-6)


def test_labels_that_tell_no_items_apart_give_everybody_the_first() -> None:
    vectors = np.tile(np.array([[1, 0]], np.float32), (4, 1))
    found = labelled(vectors, np.eye(2, dtype=np.float32)[None])
    assert found.codes.tolist() == [[0]] * 4
    assert np.isfinite(found.scores).all()


def test_labels_lose_what_they_share_and_what_the_items_lost() -> None:
    rng = np.random.default_rng(0)
    raw_items = (rng.normal(size=(200, 4)) * [30, 1, 1, 1]).astype(np.float32)
    own = np.array([[1, 0, 1], [-1, 2, 0], [0, -2, -1]], np.float32)
    raw = np.hstack([rng.normal(size=(3, 1)) * 9, own + 100]).astype(np.float32)
    found = label_directions(raw, raw_items, 1)
    expected = own - own.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, 1:], expected, atol=0.05)
    assert np.abs(found[:, 0]).max() < 0.1
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_the_vocabularies_are_three_of_one_size_without_a_word_twice() -> None:
    assert list(VOCABULARIES) == ["style", "emotion", "theme"]
    for words in VOCABULARIES.values():
        assert len(words) == len(set(words)) == 20
        assert list(words) == sorted(words)


def test_a_label_is_read_as_the_items_were() -> None:
    assert prompts({"a": ["sad"], "b": ["war"]}, "Movie: {title}") == ["Movie: sad", "Movie: war"]
    assert prompts({"a": ["sad"]}, None) == ["sad"]


# -- the job ---------------------------------------------------------------------------------------


@pytest.fixture
def distilled(home: Home, tmp_path: Path) -> str:
    """A home whose items are named like the labels of one vocabulary; returns the backbone."""
    model = str(write_tiny_backbone(tmp_path / "model"))
    titles = [*WORDS, "Toy Story", "Heat"]
    rows = {"item_id": pa.array(range(len(titles))), "title": titles}
    with Run("item_texts", DAY, Config(), home) as run:
        run.write(ITEM_TEXTS, pa.table({**rows, "text": [f"Movie: {t}" for t in titles]}))
    mark_checked(home, ITEM_TEXTS, DAY)
    execute("distil", DistilConfig(model=model, device="cpu"), DAY, home, distil_job)
    mark_checked(home, ITEM_SEMANTICS, DAY)
    return model


def test_items_named_like_labels_get_these_labels(home: Home, distilled: str) -> None:
    config = LabelsConfig(model=distilled, device="cpu")
    execute("labels", config, DAY, home, labels_job.job, sources=labels_job.sources)
    assert check("labels", DAY, home) == [ITEM_LABELS.name, LABEL_CODEBOOK.name]
    with Run("reader", DAY, Config(), home) as run:
        items, book = run.read(ITEM_LABELS), run.read(LABEL_CODEBOOK)
    assert about_codes(items) == {"n_levels": 3, "n_codes": 20, "template": "Movie: {title}"}
    theme = codes_matrix(items["codes"])[: len(WORDS), 2]
    assert (theme == np.arange(len(WORDS))).mean() > 0.8
    named = book.to_pylist()[2 * 20 + 19]
    assert (named["vocabulary"], named["label"]) == ("theme", "war")
    assert named["top_titles"][0] == "war"
    assert book["n_items"].to_numpy().reshape(3, 20).sum(axis=1).tolist() == [22, 22, 22]
    np.testing.assert_allclose(np.linalg.norm(as_matrix(book["lifted"]), axis=1), 1, rtol=1e-5)
    again = execute("labels", config, DAY, home, labels_job.job, sources=labels_job.sources)
    assert again.status == "unchanged"


def test_another_backbone_than_the_items_had_is_refused(
    home: Home, distilled: str, tmp_path: Path
) -> None:
    other = str(write_tiny_backbone(tmp_path / "other", seed=5))
    with pytest.raises(JobError, match="another space than item_semantics: its fingerprint"):
        execute("labels", LabelsConfig(model=other, device="cpu"), DAY, home, labels_job.job)
