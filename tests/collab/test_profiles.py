"""Profiles: against answers worked out by hand, and against looking at every row anew."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jobs.collab import votes as votes_module
from jobs.collab.profiles import (
    Histograms,
    ProfileConfig,
    aversions,
    content_as_of_rows,
    content_histograms,
    content_profiles,
    global_histogram,
    lifted_centroids,
    merged_targets,
    profile_targets,
    profiles_as_of_rows,
    profiles_of,
    user_histograms,
)
from jobs.collab.systems import Histories, Requests
from jobs.collab.votes import DAY_US, DenseVotes, ends_before, running_sums

NO_PRIOR = np.zeros((1, 3), np.float32)
PLAIN = ProfileConfig(pseudo_counts=0, decay_days=None, dislike_weight=0.5)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def labels(*values: int) -> np.ndarray:
    return np.array(values, np.float32)


# -- one moment ------------------------------------------------------------------------------------

CODES = np.array([[0], [1], [1], [2]])


def test_an_event_of_the_age_h_weighs_one_over_e() -> None:
    found = user_histograms(
        ints(0, 0), ints(0, 1), labels(1, 0), ints(0, 90 * DAY_US), CODES, 180 * DAY_US, 2, 3,
        ProfileConfig(),
    )  # fmt: skip
    assert found.likes[0] == pytest.approx(np.array([[1 / math.e, 0, 0]]))
    assert found.dislikes[0] == pytest.approx(np.array([[0, math.exp(-0.5), 0]]))
    assert not found.likes[1].any()
    assert not found.dislikes[1].any()


def test_the_moment_itself_is_the_future() -> None:
    found = user_histograms(
        ints(0, 0), ints(0, 1), labels(1, 1), ints(9, 10), CODES, 10, 1, 3, PLAIN
    )
    assert found.likes.tolist() == [[[1, 0, 0]]]


def test_popular_items_weigh_less_where_popularity_is_damped() -> None:
    config = ProfileConfig(decay_days=None, popularity_damping=True)
    found = user_histograms(
        ints(0, 0), ints(0, 1), labels(1, 1), ints(0, 0), CODES, 1, 1, 3, config, ints(4, 16, 1, 1)
    )
    assert found.likes.tolist() == [[[0.5, 0.25, 0]]]
    with pytest.raises(ValueError, match="needs the popularity"):
        user_histograms(ints(0), ints(0), labels(1), ints(0), CODES, 1, 1, 3, config)


def one(likes: list[float], dislikes: list[float]) -> Histograms:
    return Histograms(np.array([[likes]], np.float32), np.array([[dislikes]], np.float32))


def test_a_profile_is_likes_less_half_the_dislikes_with_the_common_taste_in_shares() -> None:
    prior = np.array([[0.5, 0.3, 0.2]], np.float32)
    config = ProfileConfig(pseudo_counts=10, decay_days=None)
    # 6 - 0 + 5, 1 - 2 + 3, 0 - 3 + 2: eleven, two, and one too little
    histograms = one([6, 1, 0], [0, 4, 6])
    assert profiles_of(histograms, prior, config)[0, 0] == pytest.approx([11 / 13, 2 / 13, 0])
    assert aversions(histograms, prior, config)[0, 0] == pytest.approx([0, 0, 1])


def test_a_sharp_profile_squares_the_shares_and_a_hard_vote_takes_the_strongest() -> None:
    histograms = one([3, 1, 0], [0, 0, 0])
    sharp = profiles_of(histograms, NO_PRIOR, PLAIN.model_copy(update={"sharpness": 2.0}))
    assert sharp[0, 0] == pytest.approx([0.9, 0.1, 0])
    hard = profiles_of(histograms, NO_PRIOR, PLAIN.model_copy(update={"vote": "hard"}))
    assert hard[0, 0].tolist() == [1, 0, 0]


def test_of_equally_strong_codes_the_lowest_number_wins() -> None:
    config = PLAIN.model_copy(update={"vote": "hard"})
    assert profiles_of(one([0, 2, 2], [0, 0, 0]), NO_PRIOR, config)[0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("sharpness", [1.0, 50.0])
def test_who_has_nothing_or_only_dislikes_has_the_common_taste(sharpness: float) -> None:
    config = PLAIN.model_copy(update={"sharpness": sharpness})
    prior = np.array([[0.25, 0.25, 0.5]], np.float32)
    for histograms in (one([0, 0, 0], [0, 0, 0]), one([0, 0, 0], [3, 4, 5])):
        found = profiles_of(histograms, prior, config)[0, 0]
        assert found == pytest.approx([0.25, 0.25, 0.5] if sharpness == 1 else [0, 0, 1], abs=1e-3)
    empty = profiles_of(one([0, 0, 0], [0, 0, 0]), NO_PRIOR, PLAIN)[0, 0]
    assert empty == pytest.approx([1 / 3] * 3)


def test_the_common_taste_is_that_of_the_events_or_without_any_of_the_catalogue() -> None:
    assert global_histogram(ints(0, 1, 2, 1), CODES, 3).tolist() == [[0.25, 0.75, 0]]
    assert global_histogram(ints(), CODES, 3).tolist() == [[0.25, 0.5, 0.25]]


# -- in the LLM's space ----------------------------------------------------------------------------

AXES = np.array([[1, 0], [0, 1], [0, -1], [-1, 0]], np.float32)


def test_a_code_is_lifted_to_the_mean_of_its_members_and_one_without_any_to_zero() -> None:
    codes = np.array([[0, 1], [0, 1], [1, 1], [1, 0]])
    members = lifted_centroids(AXES, codes, 3)
    assert members[0].tolist() == [[0.5, 0.5], [-0.5, -0.5], [0, 0]]
    assert members[1].tolist() == [[-1, 0], [pytest.approx(1 / 3), 0], [0, 0]]
    residuals = lifted_centroids(AXES, codes, 3, lift="residuals")
    assert residuals[0].tolist() == members[0].tolist()
    # what level 0 leaves: (.5, -.5), (-.5, .5), (.5, -.5) | (-.5, .5)
    assert residuals[1] == pytest.approx(np.array([[-0.5, 0.5], [1 / 6, -1 / 6], [0, 0]]))


def test_a_target_is_the_direction_of_the_mixed_codes_and_of_the_winner_alone() -> None:
    lifted = np.array([[[2, 0], [0, 2]], [[0, 1], [0, 0]]], np.float32)
    profiles = np.array([[[0.6, 0.8], [0, 1]], [[0, 1], [1, 0]]], np.float32)
    found = profile_targets(profiles, lifted)
    assert found == pytest.approx(np.array([[[0.6, 0.8], [0, 0]], [[0, 1], [0, 1]]]))
    assert (profile_targets(profiles.reshape(2, 4), lifted) == found).all()
    assert merged_targets(found) == pytest.approx(np.array([[0.6, 0.8], [0, 1]]))


def test_without_codes_a_profile_is_the_direction_of_the_weighted_mean() -> None:
    sums = content_histograms(
        ints(0, 0, 1), ints(0, 1, 2), labels(1, 0, 1), ints(0, 0, 0), AXES, 1, 3, PLAIN
    )
    found = content_profiles(sums, np.zeros(2, np.float32), PLAIN)
    assert found[0] == pytest.approx(np.array([1, -0.5]) / math.sqrt(1.25))
    assert found[1] == pytest.approx([0, -1])
    assert found[2].tolist() == [0, 0]


# -- as of each row, against a scan of everything for each row -------------------------------------

N_USERS, N_ITEMS, N_CODES = 4, 6, 3


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Requests, Histories, Histories, np.ndarray]:
    """Positives and negatives in time, rows that see a prefix of the positives, and codes."""
    sides = []
    for _ in range(2):
        lengths = draw(st.lists(st.integers(0, 6), min_size=N_USERS, max_size=N_USERS))
        n = sum(lengths)
        times = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 400)))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        for a, b in pairwise(starts):
            times[a:b].sort()
        items = draw(hnp.arrays(np.int64, n, elements=st.integers(0, N_ITEMS - 1)))
        sides.append(Histories(items, times * DAY_US, starts))
    n_rows = draw(st.integers(0, 12))
    users = draw(hnp.arrays(np.int64, n_rows, elements=st.integers(0, N_USERS - 1)))
    longest = np.diff(sides[0].starts)[users]
    shares = draw(hnp.arrays(np.float64, n_rows, elements=st.floats(0, 1)))
    requests = Requests(
        users,
        draw(hnp.arrays(np.int64, n_rows, elements=st.integers(0, N_ITEMS - 1))),
        draw(hnp.arrays(np.int64, n_rows, elements=st.integers(0, 500))) * DAY_US,
        np.floor(shares * (longest + 1)).clip(0, longest).astype(np.int64),
    )
    codes = draw(hnp.arrays(np.int64, (N_ITEMS, 2), elements=st.integers(0, N_CODES - 1)))
    return requests, sides[0], sides[1], codes


def rescanned(
    requests: Requests,
    positives: Histories,
    negatives: Histories,
    vectors: np.ndarray,
    config: ProfileConfig,
    popularity: np.ndarray,
) -> Histograms:
    """For each row, each event that it may see, one after the other."""

    def weight(time: int, row: int, item: int) -> float:
        fades = config.decay_days is not None
        age = (requests.times[row] - time) / DAY_US
        damped = math.sqrt(max(popularity[item], 1)) if config.popularity_damping else 1.0
        return (math.exp(-age / config.decay_days) if fades else 1.0) / damped

    sides = [np.zeros((len(requests), vectors.shape[1])) for _ in range(2)]
    for row in range(len(requests)):
        user = requests.users[row]
        begin = positives.starts[user]
        for event in range(begin, begin + requests.history_ends[row]):
            item = positives.items[event]
            sides[0][row] += weight(positives.times[event], row, item) * vectors[item]
        for event in range(negatives.starts[user], negatives.starts[user + 1]):
            if negatives.times[event] < requests.times[row]:
                item = negatives.items[event]
                sides[1][row] += weight(negatives.times[event], row, item) * vectors[item]
    return Histograms(*(side.astype(np.float32) for side in sides))


CONFIGS = (
    ProfileConfig(),
    ProfileConfig(decay_days=30, popularity_damping=True, sharpness=2.0),
    ProfileConfig(decay_days=None, dislike_weight=1.0),
)


@pytest.mark.parametrize("config", CONFIGS)
@settings(max_examples=40, deadline=None)
@given(world=worlds())
def test_running_sums_are_what_a_scan_for_each_row_finds(
    config: ProfileConfig, world: tuple[Requests, Histories, Histories, np.ndarray]
) -> None:
    requests, positives, negatives, codes = world
    popularity = np.arange(N_ITEMS) * 3
    one_hot = np.eye(N_CODES)[codes].reshape(N_ITEMS, -1)
    prior = global_histogram(ints(), codes, N_CODES)
    expected = rescanned(requests, positives, negatives, one_hot, config, popularity)
    found = profiles_as_of_rows(requests, positives, codes, prior, config, negatives, popularity)
    shaped = Histograms(
        expected.likes.reshape(-1, 2, N_CODES), expected.dislikes.reshape(-1, 2, N_CODES)
    )
    np.testing.assert_allclose(
        found.reshape(-1, 2, N_CODES), profiles_of(shaped, prior, config), atol=1e-4
    )


@settings(max_examples=25, deadline=None)
@given(world=worlds())
def test_sums_of_embeddings_are_what_a_scan_for_each_row_finds(
    world: tuple[Requests, Histories, Histories, np.ndarray],
) -> None:
    requests, positives, negatives, _ = world
    config = ProfileConfig(pseudo_counts=1.0)
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32)
    prior = vectors.mean(axis=0)
    found = content_as_of_rows(requests, positives, vectors, prior, config, negatives)
    sums = rescanned(requests, positives, negatives, vectors, config, np.ones(N_ITEMS))
    np.testing.assert_allclose(found, content_profiles(sums, prior, config), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(world=worlds(), rows_at_once=st.integers(1, 5), events_at_once=st.integers(1, 4))
def test_how_the_work_is_cut_does_not_matter(
    world: tuple[Requests, Histories, Histories, np.ndarray], rows_at_once: int, events_at_once: int
) -> None:
    requests, positives, _, _ = world
    votes = DenseVotes(np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32))
    whole = running_sums(requests, positives, votes, ProfileConfig())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(votes_module, "_ROWS_AT_ONCE", rows_at_once)
        patched.setattr(votes_module, "_EVENTS_AT_ONCE", events_at_once)
        in_pieces = running_sums(requests, positives, votes, ProfileConfig())
    np.testing.assert_allclose(in_pieces, whole, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(world=worlds(), data=st.data())
def test_nothing_at_or_after_a_row_changes_its_profile(
    world: tuple[Requests, Histories, Histories, np.ndarray], data: st.DataObject
) -> None:
    requests, positives, negatives, codes = world
    if not len(requests):
        return
    prior = global_histogram(ints(), codes, N_CODES)
    row = data.draw(st.integers(0, len(requests) - 1))
    asked = requests.at(ints(row))
    before = profiles_as_of_rows(asked, positives, codes, prior, CONFIGS[0], negatives)
    # Of every user: other items and times for the positives that this row may not see, and other
    # items for the negatives from its moment on.
    place = np.arange(len(positives.items)) - np.repeat(
        positives.starts[:-1], np.diff(positives.starts)
    )
    hidden = place >= asked.history_ends[0]
    later = replace(
        positives,
        items=np.where(hidden, N_ITEMS - 1 - positives.items, positives.items),
        times=np.where(hidden, positives.times + 7 * DAY_US, positives.times),
    )
    unborn = negatives.times >= asked.times[0]
    other = replace(
        negatives, items=np.where(unborn, N_ITEMS - 1 - negatives.items, negatives.items)
    )
    after = profiles_as_of_rows(asked, later, codes, prior, CONFIGS[0], other)
    assert (before == after).all()


def test_a_rows_own_label_is_not_in_its_profile() -> None:
    """The row itself is the user's second event; once liked, once disliked."""
    request = Requests(ints(0), ints(1), ints(10), ints(1))
    first = ints(0)
    liked = Histories(ints(0, 1), ints(5, 10), ints(0, 2)), Histories(ints(), ints(), ints(0, 0))
    disliked = Histories(first, ints(5), ints(0, 1)), Histories(ints(1), ints(10), ints(0, 1))
    prior = global_histogram(ints(), CODES, 3)
    found = [
        profiles_as_of_rows(request, positives, CODES, prior, ProfileConfig(), negatives)
        for positives, negatives in (liked, disliked)
    ]
    assert (found[0] == found[1]).all()


def test_only_events_strictly_before_a_row_count_as_earlier() -> None:
    events = Histories(ints(0, 0, 0, 0), ints(3, 5, 5, 4), ints(0, 3, 4))
    rows = Requests(ints(0, 0, 0, 1, 1), ints(0, 0, 0, 0, 0), ints(3, 5, 6, 4, 9), ints(*[0] * 5))
    assert ends_before(rows, events).tolist() == [0, 1, 3, 0, 1]


def test_a_decay_of_a_day_over_twenty_years_neither_overflows_nor_forgets_yesterday() -> None:
    days = ints(0, 7_000, 7_299) * DAY_US
    histories = Histories(ints(0, 1, 3), days, ints(0, 3))
    request = Requests(ints(0, 0), ints(0, 0), ints(7_000, 7_300) * DAY_US, ints(1, 3))
    config = ProfileConfig(decay_days=1, pseudo_counts=0)
    found = profiles_as_of_rows(request, histories, CODES, NO_PRIOR, config)
    assert found[1].tolist() == [0, 0, 1]


def test_no_rows_have_no_profiles() -> None:
    none = Requests(ints(), ints(), ints(), ints())
    histories = Histories(ints(0), ints(0), ints(0, 1))
    assert profiles_as_of_rows(none, histories, CODES, NO_PRIOR, PLAIN).shape == (0, 3)
