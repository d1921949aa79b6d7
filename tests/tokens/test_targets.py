"""Targets of user and item tokens, from tables whose targets were worked out by hand."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from jobs.datasets import (
    CODEBOOK,
    DOMAINS,
    ITEM_SEMANTICS,
    SPLITS,
    USER_PROFILES,
)
from jobs.errors import JobError
from jobs.home import Home
from jobs.job import Config, Run, mark_checked
from jobs.tokens.targets import (
    content_of_tables,
    has_target,
    item_targets,
    lifted_of,
    permuted,
    profile_of_tables,
    read_targets,
)
from jobs.vector_columns import as_column
from tests.conftest import DAY

E = np.eye(4, dtype=np.float32)
USERS = pa.array([1, 2, 3, 9])  # 9 has no profile
# Two levels of two codes; their vectors are not of unit length, as the lifted means are not.
LIFTED = np.array([[2 * E[0], 1 * E[1]], [3 * E[2], 5 * E[3]]])


def codebook(order=(3, 0, 2, 1)):
    """CODEBOOK, its rows in some order."""
    rows = np.array(order)
    return pa.table(
        {
            "level": pa.array(rows // 2, pa.int16()),
            "code": pa.array(rows % 2, pa.int16()),
            "lifted": as_column(LIFTED.reshape(4, 4)[rows]),
        }
    )


def profiles(kind="codes", shares=((0.25, 0.75, 1, 0), (0.5, 0.5, 0.4, 0.6), (1, 0, 0, 1))):
    """USER_PROFILES of users 1, 2, 3; the nightly rows say something else."""
    own = np.array(shares, np.float32)
    return pa.table(
        {
            "protocol": ["nightly"] * 3 + ["paper"] * 3,
            "user_id": [1, 2, 3, 3, 1, 2],
            "kind": [kind] * 6,
            "profile": as_column(np.concatenate([np.full_like(own, 0.5), own[[2, 0, 1]]])),
            "likes": as_column(np.zeros((6, own.shape[1]), np.float32)),
            "dislikes": as_column(np.zeros((6, own.shape[1]), np.float32)),
            "n_events": pa.array([1] * 6, pa.int32()),
        }
    )


def splits():
    """User 1 likes item 10 and dislikes 20, at once; user 2 likes 30 in train and 10 in valid."""
    now = datetime(2003, 1, 1)
    rows = [
        ("train", 1, 10, 1, now),
        ("train", 1, 20, 0, now),
        ("train", 2, 30, 1, now - timedelta(days=180)),
        ("valid", 2, 10, 1, now + timedelta(days=1)),
    ]
    names = ("split", "user_id", "item_id", "label", "rated_at")
    table = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    return table.set_column(3, "label", table["label"].cast(pa.int8()))


def semantics():
    return pa.table(
        {
            "item_id": [30, 10, 20],
            "content_key": ["c", "a", "b"],
            "vector": as_column(E[[2, 0, 1]]),
        }
    )


def units(vectors):
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# -- codes and labels ----------------------------------------------------------------------------


def test_soft_codes_are_the_shares_of_the_lifted_codes_in_the_order_asked():
    found = profile_of_tables("codes_soft", profiles(), codebook(), USERS, 2)
    # User 1: .25 * 2 e0 + .75 * e1, then 3 e2; user 2: e0 + .5 e1, then 1.2 e2 + 3 e3.
    expected = [
        [units([0.5, 0.75, 0, 0]), E[2]],
        [units([1, 0.5, 0, 0]), units([0, 0, 1.2, 3])],
        [E[0], E[3]],
    ]
    np.testing.assert_allclose(found[:3], expected, atol=1e-6)
    assert has_target(found).tolist() == [True, True, True, False]
    assert found.dtype == np.float32


def test_a_hard_vote_is_the_direction_of_the_strongest_code():
    found = profile_of_tables("codes_hard", profiles(), codebook(), USERS, 2)
    np.testing.assert_allclose(found[:3], [[E[1], E[2]], [E[0], E[3]], [E[0], E[3]]], atol=1e-6)


def test_one_token_gets_the_mean_of_the_levels():
    found = profile_of_tables("codes_hard", profiles(), codebook(), USERS, 1)
    assert found.shape == (4, 1, 4)
    np.testing.assert_allclose(found[0, 0], units([0, 1, 1, 0]), atol=1e-6)
    assert not found[3].any()


def test_labels_are_read_like_codes_from_the_label_codebook():
    found = profile_of_tables("labels_hard", profiles("labels"), codebook(), USERS, 2)
    np.testing.assert_allclose(found[0], [E[1], E[2]], atol=1e-6)


def test_profiles_of_another_kind_are_refused_with_the_way_out():
    with pytest.raises(JobError, match=r"kind codes.*labels.*user_profiles --kind labels"):
        profile_of_tables("labels_hard", profiles("codes"), codebook(), USERS, 2)


def test_tokens_must_be_as_many_as_levels_or_one():
    with pytest.raises(JobError, match="3 user tokens for the 2 levels of codebook"):
        profile_of_tables("codes_soft", profiles(), codebook(), USERS, 3)


def test_profiles_of_another_codebook_are_refused():
    wide = profiles(shares=np.full((3, 6), 1 / 3))
    with pytest.raises(JobError, match="6 shares a user, codebook has 2 levels of 2 codes"):
        profile_of_tables("codes_soft", wide, codebook(), USERS, 2)


def test_a_soft_profile_cannot_be_had_from_a_hard_vote():
    hard = profiles(shares=((0, 1, 1, 0), (1, 0, 0, 1), (1, 0, 0, 1)))
    with pytest.raises(JobError, match="made by a hard vote"):
        profile_of_tables("codes_soft", hard, codebook(), USERS, 2)
    profile_of_tables("codes_hard", hard, codebook(), USERS, 2)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 1, 2, 2), ()])
def test_a_codebook_with_a_missing_or_double_code_is_refused(order):
    with pytest.raises(JobError, match="each pair once is needed; run codebook again"):
        lifted_of(codebook(np.array(order, int)), CODEBOOK)


def test_ids_of_another_type_are_refused():
    with pytest.raises(JobError, match=r"user_profiles has ids of type int64.*string"):
        profile_of_tables("codes_soft", profiles(), codebook(), USERS.cast(pa.string()), 2)


# -- content, items, controls --------------------------------------------------------------------


def test_content_is_the_likes_less_half_the_dislikes_of_train_for_every_token():
    found = content_of_tables(splits(), semantics(), pa.array([2, 1, 9]), 3)
    assert found.shape == (3, 3, 4)
    np.testing.assert_allclose(found[0], [E[2]] * 3, atol=1e-6)  # not the valid row's item 10
    np.testing.assert_allclose(found[1], [units([1, -0.5, 0, 0])] * 3, atol=1e-6)
    assert not found[2].any()


def test_sampled_negatives_are_nobodys_opinion():
    found = content_of_tables(splits(), semantics(), USERS, 1, dislikes_count=False)
    np.testing.assert_allclose(found[0, 0], E[0], atol=1e-6)


def test_item_targets_are_the_texts_vectors_in_the_order_asked():
    found = item_targets(semantics(), pa.array([10, 77, 30]))
    np.testing.assert_allclose(found[:, 0], [E[0], 0 * E[0], E[2]])


def test_the_null_control_deals_out_profiles_among_those_who_have_one():
    rng = np.random.default_rng(0)
    targets = units(rng.normal(size=(50, 3, 4))).astype(np.float32)
    targets[::5] = 0
    dealt = permuted(targets, seed=1)
    assert np.array_equal(has_target(dealt), has_target(targets))
    moved = (dealt != targets).any(axis=(1, 2))
    assert moved.sum() > 30
    # The three tokens of a profile stay together, and every profile is dealt once.
    key = sorted(row.tobytes() for row in targets)
    assert sorted(row.tobytes() for row in dealt) == key
    assert np.array_equal(permuted(targets, seed=1), dealt)
    assert not np.array_equal(permuted(targets, seed=2), dealt)


# -- reading a day -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A day with the tables that targets are made of; profiles are of codes."""
    home = Home(tmp_path_factory.mktemp("targets"))
    n = splits().num_rows
    code_rows = codebook((0, 1, 2, 3))
    whole_splits = splits().append_column("row", pa.array(range(n), pa.int32()))
    whole_splits = whole_splits.append_column("history_end", pa.array([0] * n, pa.int32()))
    whole_codes = code_rows.append_column("centroid", code_rows["lifted"])
    whole_codes = whole_codes.append_column("n_items", pa.array([1] * 4, pa.int32()))
    for dataset, table in (
        (DOMAINS, domain()),
        (SPLITS, whole_splits.append_column("is_warm", pa.array([True] * n))),
        (ITEM_SEMANTICS, semantics().append_column("raw", semantics()["vector"])),
        (CODEBOOK, whole_codes.append_column("top_titles", pa.array([["a"]] * 4))),
        (USER_PROFILES, profiles()),
    ):
        with Run(dataset.producer, DAY, Config(), home) as run:
            in_order = table.sort_by([(name, "ascending") for name in dataset.key])
            run.write(dataset, in_order.select(list(dataset.columns)))
        mark_checked(home, dataset, DAY)
    return home


def domain():
    """DOMAINS of a source that samples no negatives."""
    values = {"string": "movies", "float32": 0.0, "int32": 0, "int64": 0}
    types = {"string": pa.string(), "float32": pa.float32(), "int32": pa.int32()}
    return pa.table(
        {
            name: pa.array([values[kind]], types.get(kind, pa.int64()))
            for name, kind in DOMAINS.columns.items()
        }
    )


@pytest.mark.parametrize(
    ("kind", "first"),
    [("codes_soft", units([0.5, 0.75, 0, 0])), ("content", units([1, -0.5, 0, 0]))],
)
def test_a_days_targets_are_read_from_the_tables_of_their_kind(home, kind, first):
    with Run("probe", DAY, Config(), home) as run:
        found = read_targets(run, kind, USERS, pa.array([10, 20]), 2)
        inputs = {each.name for each in run.inputs}
    np.testing.assert_allclose(found.users[0, 0], first, atol=1e-6)
    np.testing.assert_allclose(found.items[:, 0], E[:2])
    wanted = {"content": {SPLITS.name, DOMAINS.name}}.get(kind, {USER_PROFILES.name, CODEBOOK.name})
    assert inputs == wanted | {ITEM_SEMANTICS.name}


def test_without_profiles_only_the_items_have_targets(home):
    with Run("probe", DAY, Config(), home) as run:
        found = read_targets(run, "none", USERS, pa.array([10, 20]), 2)
        assert [each.name for each in run.inputs] == [ITEM_SEMANTICS.name]
    assert found.users is None


def test_a_days_null_control_has_the_same_profiles_of_other_users(home):
    with Run("probe", DAY, Config(), home) as run:
        given = read_targets(run, "codes_soft", USERS, pa.array([10]), 2)
        dealt = read_targets(run, "codes_soft", USERS, pa.array([10]), 2, permuted_seed=3)
    np.testing.assert_array_equal(dealt.users, permuted(given.users, 3))
