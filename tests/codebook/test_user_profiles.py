"""The job user_profiles: answers worked out by hand, users in pieces, and nothing from later."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.codebook import user_profiles
from jobs.codebook.tables import item_codes_table
from jobs.codebook.user_profiles import ABOUT, UserProfilesConfig, job, whole_users
from jobs.datasets import CODEBOOK, CODEBOOK_SPACE, ITEM_CODES, USER_PROFILES
from jobs.job import Config, Run, mark_checked
from jobs.vector_columns import as_column, as_matrix
from tests.codebook.conftest import Opinion, Toy

DAY = date(2026, 3, 2)
MIDNIGHT = datetime(2026, 3, 2)
ITEMS = [10, 20, 30]
CODES = np.array([[0, 1], [0, 0], [1, 1]])
VECTORS = np.array([[1, 0], [0, 1], [0, -1]], np.float32)
PLAIN = UserProfilesConfig(pseudo_counts=0, decay_days=None)


def ago(days: float) -> datetime:
    return MIDNIGHT - timedelta(days=days)


OPINIONS = [
    Opinion("train", 1, 10, 1, ago(100)),
    Opinion("train", 1, 20, 0, ago(90)),
    Opinion("train", 2, 30, 1, ago(80)),
    Opinion("valid", 2, 10, 0, ago(20)),
    Opinion("test", 3, 20, 1, ago(10)),
]


def coded(toy: Toy, items: list[Any] = ITEMS, codes: np.ndarray = CODES) -> None:
    """What the job codebook left: these codes, whatever the vectors are."""
    ids = pa.string() if isinstance(items[0], str) else pa.int64()
    about = {"n_levels": codes.shape[1], "n_codes": 2}
    book = pa.table(
        {
            "level": pa.array([], pa.int16()),
            "code": pa.array([], pa.int16()),
            "centroid": as_column(np.zeros((0, 2), np.float32)),
            "lifted": as_column(np.zeros((0, 2), np.float32)),
            "n_items": pa.array([], pa.int32()),
            "top_titles": pa.array([], pa.list_(pa.string())),
        }
    )
    with Run("codebook", DAY, Config(), toy.home) as run:
        run.write(ITEM_CODES, item_codes_table(pa.array(items, ids), codes, about))
        run.write(CODEBOOK, book)
        run.write_tensors(CODEBOOK_SPACE, {"mean": np.zeros(2, np.float32)})
    for dataset in (ITEM_CODES, CODEBOOK):
        mark_checked(toy.home, dataset, DAY)


def profiles(toy: Toy, config: UserProfilesConfig = PLAIN) -> dict[tuple[str, Any], dict[str, Any]]:
    toy.run("user_profiles", config, job, DAY)
    rows = toy.read(USER_PROFILES, DAY).to_pylist()
    return {(row["protocol"], row["user_id"]): row for row in rows}


def test_profiles_are_shares_of_codes_as_either_protocol_knows_them(toy: Toy) -> None:
    toy.given(DAY, ITEMS, VECTORS, OPINIONS)
    coded(toy)
    found = profiles(toy)
    assert sorted(found) == [("nightly", 1), ("nightly", 2), ("nightly", 3), ("paper", 1),
                             ("paper", 2)]  # fmt: skip
    # user 1: level 0: 1 - 0.5 of code 0; level 1: code 1 liked, code 0 clipped
    assert found["nightly", 1]["profile"] == [1, 0, 0, 1]
    assert found["nightly", 1]["likes"] == [1, 0, 0, 1]
    assert found["nightly", 1]["dislikes"] == [1, 0, 1, 0]
    assert found["paper", 2]["dislikes"] == [0, 0, 0, 0]
    assert found["nightly", 2]["dislikes"] == [1, 0, 0, 1]
    assert found["nightly", 2]["n_events"] == 2
    assert found["paper", 2]["n_events"] == 1


def test_votes_fade_until_the_midnight_of_the_run_or_the_end_of_train(toy: Toy) -> None:
    toy.given(DAY, ITEMS, VECTORS, OPINIONS)
    coded(toy)
    found = profiles(toy, UserProfilesConfig(decay_days=100, pseudo_counts=0))
    assert found["nightly", 1]["likes"][0] == pytest.approx(math.exp(-1))
    assert found["nightly", 1]["dislikes"][0] == pytest.approx(math.exp(-0.9))
    assert found["paper", 1]["likes"][0] == pytest.approx(math.exp(-0.2))  # train ends with user 2


def test_the_common_taste_is_that_of_the_protocol_and_is_in_the_metadata(toy: Toy) -> None:
    toy.given(DAY, ITEMS, VECTORS, OPINIONS)
    coded(toy)
    found = profiles(toy, UserProfilesConfig(decay_days=None, pseudo_counts=3))
    about = json.loads(toy.read(USER_PROFILES, DAY).schema.metadata[ABOUT])
    assert about["taste"]["paper"] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert about["taste"]["nightly"] == pytest.approx([0.8, 0.2, 0.4, 0.6])
    assert (about["kind"], about["n_levels"], about["n_codes"]) == ("codes", 2, 2)
    assert found["paper", 2]["profile"] == pytest.approx([2 / 4, 2 / 4, 1 / 4, 3 / 4])


def test_the_labels_of_the_paper_protocol_are_those_of_train(toy: Toy) -> None:
    toy.given(DAY, ITEMS, VECTORS, OPINIONS)
    coded(toy)
    before = profiles(toy)
    flipped = [
        each if each.split == "train" else replace(each, item=30, label=1 - each.label)
        for each in OPINIONS
    ]
    toy.given(DAY, ITEMS, VECTORS, flipped)
    after = profiles(toy)
    for key in before:
        assert (before[key] == after[key]) == (key[0] == "paper" or key[1] == 1)


def test_sampled_negatives_are_nobodys_opinion(toy: Toy) -> None:
    toy.given(DAY, ITEMS, VECTORS, OPINIONS, negatives_per_positive=1)
    coded(toy)
    found = profiles(toy)
    assert found["nightly", 1]["n_events"] == 1
    assert not any(found["nightly", 2]["dislikes"])


def test_without_codes_a_profile_is_the_direction_of_the_embeddings(toy: Toy) -> None:
    toy.given(DAY, ITEMS, VECTORS, OPINIONS)
    found = profiles(toy, PLAIN.model_copy(update={"kind": "content"}))
    assert found["nightly", 1]["profile"] == pytest.approx(np.array([1, -0.5]) / math.sqrt(1.25))
    assert found["nightly", 1]["dislikes"] == [0, 1]
    assert found["paper", 2]["profile"] == [0, -1]
    assert found["paper", 2]["kind"] == "content"


def test_ids_are_strings_and_one_user_has_one_event(toy: Toy) -> None:
    opinions = [Opinion("train", "ann", "b", 1, ago(3))]
    toy.given(DAY, ["a", "b"], VECTORS[:2], opinions, pa.string())
    coded(toy, ["a", "b"], CODES[:2])
    found = profiles(toy)
    assert found["paper", "ann"]["profile"] == [1, 0, 1, 0]


def test_a_day_without_events_has_no_profiles(toy: Toy) -> None:
    toy.given(DAY, ITEMS, VECTORS, [])
    coded(toy)
    assert profiles(toy) == {}
    about = json.loads(toy.read(USER_PROFILES, DAY).schema.metadata[ABOUT])
    assert about["taste"]["paper"] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 2 / 3])


def test_popular_items_count_less_where_popularity_is_damped(toy: Toy) -> None:
    toy.given(DAY, ITEMS, VECTORS, OPINIONS)
    coded(toy)
    found = profiles(toy, PLAIN.model_copy(update={"popularity_damping": True}))
    assert found["nightly", 1]["likes"][0] == pytest.approx(1 / math.sqrt(2))
    assert found["paper", 1]["likes"][0] == 1


@pytest.mark.parametrize("batch_rows", [1, 2, 7])
def test_how_the_events_are_cut_does_not_matter(
    toy: Toy, batch_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    opinions = [
        Opinion("train", int(user), ITEMS[item], int(label), ago(float(age)))
        for user, item, label, age in zip(
            np.sort(rng.integers(0, 6, 40)), rng.integers(0, 3, 40), rng.integers(0, 2, 40),
            rng.integers(1, 900, 40), strict=True,
        )
    ]  # fmt: skip
    toy.given(DAY, ITEMS, VECTORS, opinions)
    coded(toy)
    toy.run("user_profiles", UserProfilesConfig(), job, DAY)
    whole = toy.read(USER_PROFILES, DAY)
    matrix = {name: as_matrix(whole[name]) for name in ("profile", "likes", "dislikes")}
    monkeypatch.setattr(user_profiles, "_BATCH_ROWS", batch_rows)
    toy.run("user_profiles", UserProfilesConfig(), job, DAY, force=True)
    again = toy.read(USER_PROFILES, DAY)
    assert again["user_id"].to_pylist() == whole["user_id"].to_pylist()
    for name, values in matrix.items():
        np.testing.assert_allclose(as_matrix(again[name]), values, rtol=1e-6, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=20), st.integers(1, 6))
def test_no_user_is_cut_in_two(users: list[int], batch_rows: int) -> None:
    users.sort()

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(users), batch_rows):
            some = pa.array(users[start : start + batch_rows], pa.int64())
            yield pa.RecordBatch.from_pydict({"user_id": some})

    pieces = [piece["user_id"].to_pylist() for piece in whole_users(batches())]
    assert list(chain.from_iterable(pieces)) == users
    assert all(pieces)
    assert sum(len(set(piece)) for piece in pieces) == len(set(users))
