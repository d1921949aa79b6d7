"""Users whom training has not seen: a factor from what their history shows, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jobs.collab.align import align
from jobs.collab.factors import UNKNOWN, Ratings
from jobs.collab.history_map import HistoryConfig, HistoryEvidence, HistoryMap
from jobs.collab.profiles import ProfileConfig
from jobs.collab.systems import Histories, Labelled, Requests
from jobs.collab.user_alignment import (
    Codes,
    code_targets,
    content_targets,
    history_evidence,
    one_hot,
)
from jobs.collab.visible import HistoryTaste, Visible
from jobs.errors import JobError
from jobs.report.metrics import uauc
from tests.collab.planted import QUICK, histories_of, profiles_of, world

COLD = QUICK.model_copy(update={"cold_users": "profile", "max_epochs": 15})
DAY_US = 86_400_000_000


def requests(users: list[int], items: list[int], ends: list[int], times: list[int]) -> Requests:
    return Requests(*(np.array(each, np.int64) for each in (users, items, times, ends)))


# -- the factor of a history ----------------------------------------------------------------------


def test_a_factor_is_the_mean_of_what_the_newest_items_say_drawn_to_zero():
    taste = HistoryTaste(np.array([[2.0, 0], [0, 4], [6, 6]], np.float32), 1.0, length=2)
    visible = Visible(np.array([0, 1, 2, 0]), np.array([0, 0, 0, 3]), np.array([3, 1, 0, 4]))
    # Rows: items 1 and 2 of three; item 0; nothing; item 0 of another user.
    expected = np.array([[2, 10 / 3], [1, 0], [0, 0], [1, 0]], np.float32)
    assert np.array_equal(taste.factors(visible), expected)


def test_a_factor_does_not_depend_on_the_rows_beside_it():
    random = np.random.default_rng(0)
    taste = HistoryTaste(random.normal(size=(30, 5)).astype(np.float32), 3.0, length=20)
    starts = random.integers(0, 400, 5_000)
    visible = Visible(random.integers(0, 30, 500), starts, starts + random.integers(0, 90, 5_000))
    together = taste.factors(visible)
    for row in (0, 17, 4_999):
        assert np.array_equal(taste.factors(visible.at(np.array([row])))[0], together[row])


def test_the_tensors_of_a_taste_make_it_again():
    taste = HistoryTaste(np.ones((2, 3), np.float32), 2.5, length=7)
    again = HistoryTaste.of(taste.tensors())
    assert again is not None
    assert np.array_equal(again.of_items, taste.of_items)
    assert (again.pseudo_counts, again.length) == (2.5, 7)
    assert HistoryTaste.of({"global_bias": np.zeros(1, np.float32)}) is None


# -- what a row may see ---------------------------------------------------------------------------


def test_a_row_sees_the_positives_before_it_and_training_ends_with_its_last_row():
    # User 0 liked items 4, 5, 6; the last of them after train. User 1 liked nothing in train.
    histories = Histories(np.array([4, 5, 6, 7]), np.zeros(4, np.int64), np.array([0, 3, 4]))
    train = Labelled(
        requests([0, 0, 1], [4, 5, 9], [0, 1, 0], [1, 2, 3]), np.array([1, 1, 0], np.float32)
    )
    valid = requests([0, 1], [6, 7], [2, 0], [4, 5])
    found = history_evidence(np.eye(10, dtype=np.float32), train, valid, histories, np.arange(2))
    assert (found.train.starts.tolist(), found.train.ends.tolist()) == ([0, 0, 3], [0, 1, 3])
    assert (found.valid.starts.tolist(), found.valid.ends.tolist()) == ([0, 3], [2, 3])
    assert (found.users.starts.tolist(), found.users.ends.tolist()) == ([0, 3], [2, 3])


def test_the_last_day_of_a_user_is_known_when_training_ends():
    # Three positives of one day: no row of that day sees another of them.
    histories = Histories(np.array([4, 5, 6]), np.array([1, 2, 3]), np.array([0, 3]))
    train = Labelled(requests([0, 0, 0], [4, 5, 6], [0, 0, 0], [1, 2, 3]), np.ones(3, np.float32))
    found = history_evidence(
        np.eye(10, dtype=np.float32), train, requests([0], [7], [3], [9]), histories, np.arange(1)
    )
    assert (found.users.starts.tolist(), found.users.ends.tolist()) == ([0], [3])


def test_nothing_behind_a_row_s_own_history_changes_any_weight():
    planted = world()
    train, valid = planted.events(2_000, 0), planted.events(400, 1)
    evidence = histories_of(planted, train, valid)
    # The list goes on with positives of days to come, which no row may see.
    later = np.concatenate([evidence.train.items, np.arange(100)])
    longer = replace(
        evidence,
        **{
            name: replace(getattr(evidence, name), items=later)
            for name in ("train", "valid", "users")
        },
    )
    short = COLD.model_copy(update={"max_epochs": 2})
    made = [
        align(train, valid, 60, planted.embeddings, np.arange(120), short, history=each)
        for each in (evidence, longer)
    ]
    assert np.array_equal(made[0].history_map, made[1].history_map)
    assert np.array_equal(made[0].factors.user_factors, made[1].factors.user_factors)


# -- what it is for -------------------------------------------------------------------------------


def test_strangers_with_a_history_are_ranked_by_their_taste():
    planted = world(n_users=120)
    known = 60  # the others are strangers, whose history alone is known
    train, valid, theirs = (planted.events(n, seed) for seed, n in enumerate((9_000, 900, 4_000)))
    is_known = train.users < known
    train = Ratings(train.users[is_known], train.items[is_known], train.labels[is_known])
    valid = replace(valid, users=np.where(valid.users < known, valid.users, 0))
    strange = theirs.users >= known
    theirs = Ratings(theirs.users[strange], theirs.items[strange], theirs.labels[strange])
    evidence = histories_of(planted, train, valid)
    for_users = Visible(
        evidence.users.items, evidence.users.starts[:known], evidence.users.ends[:known]
    )
    made = align(
        train,
        valid,
        known,
        planted.embeddings,
        np.arange(120),
        COLD,
        history=replace(evidence, users=for_users),
    )
    seen = histories_of(planted, theirs, theirs).train
    users = np.full(len(theirs), UNKNOWN)
    assert made.fit.history is not None
    with_history = made.factors.logits(users, theirs.items, made.fit.history.factors(seen))
    without = made.factors.logits(users, theirs.items)
    taste = planted.logits(theirs.users, theirs.items) > planted.leniency[theirs.users]
    scores = [uauc(theirs.users, taste, each)[0] for each in (with_history, without)]
    assert scores[0] > scores[1] + 0.05


def test_cold_users_without_histories_is_one_clear_error():
    planted = world()
    with pytest.raises(JobError, match="no histories are given"):
        align(
            planted.events(100, 0),
            planted.events(50, 1),
            60,
            planted.embeddings,
            np.arange(120),
            COLD,
        )


NOTHING = Ratings(*np.zeros((2, 0), np.int64), np.zeros(0, np.float32))


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([(0, 0, 1), (0, 1, 1), (1, 0, 0)], id="users of one class"),
        pytest.param([(0, 0, 1), (0, 1, 0)], id="one user with events"),
        pytest.param([(0, 0, 1), (1, 1, 1)], id="no negatives"),
        pytest.param([(0, 0, 0), (1, 1, 0)], id="no positives, hence no history"),
        pytest.param([(0, 0, 0)], id="one event"),
    ],
)
def test_degenerate_events_give_finite_factors_with_both_sides_and_histories(rows):
    planted = world(n_users=2, n_items=5, n_unseen=2)
    users, items, labels = (np.array(each) for each in zip(*rows, strict=True))
    train = Ratings(users, items, labels.astype(np.float32))
    config = COLD.model_copy(update={"user_alignment_weight": 1.0, "epochs_without_valid": 2})
    made = align(
        train,
        NOTHING,
        2,
        planted.embeddings,
        np.arange(5),
        config,
        profiles=profiles_of(planted, train),
        history=histories_of(planted, train, NOTHING),
    )
    assert made.factors.is_finite()
    assert made.fit.history is not None
    assert np.isfinite(made.fit.history.of_items).all()
    assert made.users_after is not None


# -- profiles in the LLM's space ------------------------------------------------------------------

TRAIN = Labelled(
    requests([0, 0, 2], [0, 1, 2], [0, 1, 0], [0, 100 * DAY_US, 100 * DAY_US]),
    np.array([1, 0, 1], np.float32),
)
CONFIG = ProfileConfig(dislike_weight=0.5, decay_days=None)


def test_a_content_profile_points_to_likes_and_away_from_dislikes():
    found = content_targets(TRAIN, 3, np.eye(3, dtype=np.float32), CONFIG)
    length = np.sqrt(1.25)
    assert found[0].tolist() == pytest.approx([1 / length, -0.5 / length, 0])
    assert found[1].tolist() == [0, 0, 0]  # nobody knows this user
    assert found[2].tolist() == [0, 0, 1]


def test_an_old_event_fades_in_a_profile():
    fading = CONFIG.model_copy(update={"decay_days": 100.0})
    found = content_targets(TRAIN, 3, np.eye(3, dtype=np.float32), fading)
    assert found[0][0] / found[0][1] == pytest.approx(-2 / np.e, rel=1e-5)


def test_a_profile_of_codes_points_to_the_codes_of_the_likes():
    codes = Codes(np.array([[0], [1], [1]]), np.eye(2, dtype=np.float32)[None])
    own = CONFIG.model_copy(update={"pseudo_counts": 0.0})
    found = code_targets(TRAIN, 3, codes, own)
    assert found.tolist() == [[1, 0], [0, 0], [0, 1]]
    assert one_hot(codes).tolist() == [[1, 0], [0, 1], [0, 1]]


def test_a_map_says_of_the_items_what_an_earlier_one_said_in_another_basis():
    random = np.random.default_rng(0)
    votes = random.normal(size=(30, 4)).astype(np.float32)
    votes -= votes.mean(axis=0)
    said = votes @ random.normal(size=(4, 3)).astype(np.float32)
    others = 3 * random.normal(size=(5, 4)).astype(np.float32)
    tonight = np.concatenate([votes, others, -others])  # the same mean, other components
    nothing = Visible(np.zeros(0, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64))
    config = HistoryConfig(cold_users="profile", history_components=4)
    evidence = HistoryEvidence(tonight, nothing, nothing, nothing)
    mapped = HistoryMap(evidence, 3, config, 1e-3, 0, torch.device("cpu"))
    mapped.start_from(np.arange(30), said)
    assert np.allclose(mapped.taste().of_items[:30], said, atol=1e-4)
