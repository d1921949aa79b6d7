"""The job codebook: its tables, a night that did not change, and numbers that stay."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embedding_store import EmbeddingStore, TableSpec
from jobs.codebook.codebook import CodebookConfig, fit_codebook, job
from jobs.codebook.tables import about_codes, codes_matrix, lifted_of
from jobs.datasets import CODEBOOK, ITEM_CODES
from jobs.errors import NotAvailable
from jobs.job import Outcome
from jobs.llm.carry_over import is_of_the_same_version
from jobs.manifest import Manifest
from tests.codebook.conftest import Opinion, Toy, unit_rows

FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 2)
SMALL = CodebookConfig(n_bits=2, n_dims=8)
AT = datetime(2026, 1, 1)
ITEMS = [3 * n + 1 for n in range(60)]


def opinions(items: list[Any]) -> list[Opinion]:
    return [Opinion("train", items[0], item, n % 2, AT) for n, item in enumerate(items)]


def run(toy: Toy, day: date, config: CodebookConfig = SMALL) -> Outcome:
    return toy.run("codebook", config, job, day, intact=is_of_the_same_version)


def metrics(outcome: Outcome) -> dict[str, float]:
    manifest: Manifest = outcome.manifest
    return manifest.metrics


def publish(toy: Toy, day: date) -> int:
    """A version of the store that holds the codes of a day and nothing else."""
    tables = {ITEM_CODES.name: TableSpec(toy.read(ITEM_CODES, day), key="item_id")}
    return EmbeddingStore(toy.home.store).publish(tables, run_key=str(day), day=str(day), space={})


def test_items_get_codes_and_codes_get_items_titles_and_vectors(toy: Toy) -> None:
    vectors = unit_rows(60)
    toy.given(FIRST, ITEMS, vectors, opinions(ITEMS))
    outcome = run(toy, FIRST)
    codes = toy.read(ITEM_CODES, FIRST)
    assert codes["item_id"].to_pylist() == ITEMS
    assert about_codes(codes) == {"n_levels": 3, "n_codes": 4, "lift": "members"}
    expected = fit_codebook(vectors, SMALL)
    matrix = codes_matrix(codes["codes"])
    assert (matrix == expected.codes).all()
    book = toy.read(CODEBOOK, FIRST)
    assert (lifted_of(book) == expected.lifted).all()
    of_code = book.to_pylist()[1 * 4 + 2]
    assert (of_code["level"], of_code["code"]) == (1, 2)
    members = np.flatnonzero(matrix[:, 1] == 2)
    assert of_code["n_items"] == len(members)
    nearest = members[np.argsort(expected.distances[members, 1], kind="stable")][:5]
    assert of_code["top_titles"] == [f"Film {ITEMS[row]}" for row in nearest]
    figures = metrics(outcome)
    assert figures["mse_level_2"] < figures["mse_level_1"] < figures["mse_level_0"] < 1
    assert all(figures[f"dead_codes_level_{level}"] == 0 for level in range(3))
    assert 1.5 < figures["entropy_bits_level_0"] <= 2


def test_a_night_that_did_not_change_does_nothing_and_another_seed_does(toy: Toy) -> None:
    toy.given(FIRST, ITEMS, unit_rows(60), opinions(ITEMS))
    first = run(toy, FIRST)
    assert run(toy, FIRST).status == "unchanged"
    again = toy.run("codebook", SMALL, job, FIRST, force=True)
    assert [o.sha256 for o in again.manifest.outputs] == [o.sha256 for o in first.manifest.outputs]
    assert run(toy, FIRST, SMALL.model_copy(update={"seed": 1})).status == "done"


def test_only_items_of_train_decide_where_the_codes_lie(toy: Toy) -> None:
    vectors = unit_rows(60)
    seen = opinions(ITEMS[:40])
    toy.given(FIRST, ITEMS, vectors, seen + [Opinion("test", 1, item, 1, AT) for item in ITEMS])
    run(toy, FIRST)
    expected = fit_codebook(vectors, SMALL, np.arange(40))
    assert (codes_matrix(toy.read(ITEM_CODES, FIRST)["codes"]) == expected.codes).all()


def test_the_next_night_takes_over_the_numbers_and_says_what_moved(toy: Toy) -> None:
    vectors = unit_rows(60)
    toy.given(FIRST, ITEMS, vectors, opinions(ITEMS))
    run(toy, FIRST, SMALL.model_copy(update={"seed": 7}))
    version = publish(toy, FIRST)
    # one item less, and one more
    toy.given(SECOND, [*ITEMS[1:], 999], np.vstack([vectors[1:], unit_rows(1, seed=9)]), [])
    after = SMALL.model_copy(update={"seed": 7, "previous_version": version})
    outcome = run(toy, SECOND, after)
    figures = metrics(outcome)
    assert figures["n_items_of_last_night"] == 59
    before = codes_matrix(toy.read(ITEM_CODES, FIRST)["codes"])[1:]
    now = codes_matrix(toy.read(ITEM_CODES, SECOND)["codes"])[:-1]
    assert figures["drift_level_0"] == pytest.approx((before != now)[:, 0].mean())
    assert figures["drift_level_0"] <= figures["drift_unmatched_level_0"]
    store = EmbeddingStore(toy.home.store)
    assert outcome.manifest.result["previous_version_sha256"] == store.open(version).manifest_sha256
    assert run(toy, SECOND, after).status == "unchanged"


def test_with_another_seed_the_same_items_keep_most_of_their_numbers(toy: Toy) -> None:
    """Four far groups: every seed finds them, and numbers them as it likes."""
    vectors = np.repeat(np.eye(8, dtype=np.float32)[:4], 15, axis=0)
    vectors = vectors + 0.05 * unit_rows(60)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for day in (FIRST, SECOND):
        toy.given(day, ITEMS, vectors, opinions(ITEMS))
    run(toy, FIRST)
    version = publish(toy, FIRST)
    changed = {}
    for seed in range(1, 5):
        config = SMALL.model_copy(
            update={"seed": seed, "previous_version": version, "start": "anew"}
        )
        figures = metrics(run(toy, SECOND, config))
        changed[seed] = figures["drift_unmatched_level_0"]
        assert figures["drift_level_0"] == 0
    assert max(changed.values()) > 0.2


def test_a_night_with_the_items_of_the_last_one_has_its_codes_to_the_byte(toy: Toy) -> None:
    for day in (FIRST, SECOND):
        toy.given(day, ITEMS, unit_rows(60), opinions(ITEMS))
    first = run(toy, FIRST)
    later = SMALL.model_copy(update={"previous_version": publish(toy, FIRST), "seed": 3})
    second = run(toy, SECOND, later)
    assert second.manifest.result["drift"] == [0, 0, 0]
    hashes = [
        [o.sha256 for o in night.manifest.outputs if o.name == ITEM_CODES.name]
        for night in (first, second)
    ]
    assert hashes[0] == hashes[1]


def test_a_version_without_codes_or_that_is_not_there(toy: Toy) -> None:
    toy.given(FIRST, ITEMS, unit_rows(60), opinions(ITEMS))
    rows = pa.table({"item_id": ITEMS})
    tables = {"items": TableSpec(rows, key="item_id")}
    store = EmbeddingStore(toy.home.store)
    version = store.publish(tables, run_key="x", day=str(FIRST), space={})
    outcome = run(toy, FIRST, SMALL.model_copy(update={"previous_version": version}))
    assert outcome.manifest.result == {"n_codes": 4, "drift": []}
    with pytest.raises(NotAvailable, match="99"):
        run(toy, FIRST, SMALL.model_copy(update={"previous_version": 99}))


def test_ids_that_are_strings_and_a_catalogue_of_one(toy: Toy) -> None:
    toy.given(FIRST, ["tt-1"], unit_rows(1), [Opinion("train", "ann", "tt-1", 1, AT)], pa.string())
    outcome = run(toy, FIRST)
    assert outcome.manifest.result["n_codes"] == 1
    assert toy.read(ITEM_CODES, FIRST).to_pylist() == [{"item_id": "tt-1", "codes": [0, 0, 0]}]


def test_without_any_event_the_whole_catalogue_is_fitted(toy: Toy) -> None:
    vectors = unit_rows(60)
    toy.given(FIRST, ITEMS, vectors, [])
    run(toy, FIRST)
    expected = fit_codebook(vectors, SMALL).codes
    assert (codes_matrix(toy.read(ITEM_CODES, FIRST)["codes"]) == expected).all()
