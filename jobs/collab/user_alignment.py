"""What alignment and cold users learn of a user: a profile to point at, a history to be mapped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.collab.factors import Floats, Ints
from jobs.collab.history_map import HistoryEvidence
from jobs.collab.profiles import (
    ProfileConfig,
    common_taste,
    content_histograms,
    content_profiles,
    merged_targets,
    profile_targets,
    profiles_of,
    user_histograms,
)
from jobs.collab.systems import Histories, Labelled, Requests
from jobs.collab.visible import Visible


@dataclass(frozen=True)
class Codes:
    """A codebook of the items, or of labels.

    Attributes:
        of_items: (n_items, L), 0 <= code < K.
        lifted: (L, K, d_llm) the codes as points of the LLM's space.
    """

    of_items: Ints
    lifted: Floats


def content_targets(
    train: Labelled, n_users: int, semantics: Floats, config: ProfileConfig
) -> Floats:
    """(n_users, d_llm) directions of the users' weighted mean embedding, as the train rows end.

    Likes less `dislike_weight` times dislikes, both fading with age. There are no pseudo-counts
    here: drawn to the common taste, users with few events would all be given one target. A user of
    whom nothing is left has zeros.

    Args:
        train: rows whose users are rows of the user table.
        n_users: rows of that table.
        semantics: (n_items, d_llm) unit vectors.
        config: weights of events.
    """
    votes = content_histograms(*_events(train), semantics, _end(train), n_users, config)
    own = config.model_copy(update={"pseudo_counts": 0.0})
    return content_profiles(votes, np.zeros(semantics.shape[1], np.float32), own)


def code_targets(train: Labelled, n_users: int, codes: Codes, config: ProfileConfig) -> Floats:
    """(n_users, d_llm) the users' shares of codes in the LLM's space, merged over the levels.

    As methods.md 7.3 and 7.4 have it. A user without train rows has zeros.

    Args:
        train: rows whose users are rows of the user table.
        n_users: rows of that table.
        codes: of the items.
        config: weights of events, and how votes become shares.
    """
    n_codes = codes.lifted.shape[1]
    votes = user_histograms(*_events(train), codes.of_items, _end(train), n_users, n_codes, config)
    n_events = np.bincount(train.requests.items, minlength=len(codes.of_items))
    prior = common_taste(n_events, codes.of_items, n_codes)
    targets = merged_targets(profile_targets(profiles_of(votes, prior, config), codes.lifted))
    targets[np.bincount(train.requests.users, minlength=n_users) == 0] = 0
    return targets


def _events(train: Labelled) -> tuple[Ints, Ints, Floats, Ints]:
    rows = train.requests
    return rows.users, rows.items, train.labels, rows.times


def _end(train: Labelled) -> int:
    """The moment after the last train row."""
    return int(train.requests.times.max(initial=0)) + 1


def sees(requests: Requests, histories: Histories) -> Visible:
    """What each row may see: the first `history_ends` positives of its user."""
    starts = histories.starts[requests.users]
    return Visible(histories.items, starts, starts + requests.history_ends)


def history_evidence(
    votes: Floats, train: Labelled, valid: Requests, histories: Histories, users: Ints
) -> HistoryEvidence:
    """What the map from histories is trained on.

    As training ends, of a user is known what the last train row saw, and that row if it is a
    positive: what lies behind it in the histories belongs to valid and test.

    Args:
        votes: (n_items, d_x) what an item says in a history: its embedding, or its codes as
            `one_hot` makes them.
        train: rows with users as the histories number them.
        valid: likewise.
        histories: of all users.
        users: (n_users,) whose histories the rows of the user table are.
    """
    rows = train.requests
    is_liked = train.labels > 0
    # What a user's last row sees may end a day before it, and lists may begin before train does.
    ends = np.bincount(rows.users[is_liked], minlength=len(histories.starts) - 1)
    np.maximum.at(ends, rows.users, rows.history_ends + is_liked)
    at_the_end = Requests(users, users, users, ends[users])
    return HistoryEvidence(
        votes=votes,
        train=sees(rows, histories),
        valid=sees(valid, histories),
        users=sees(at_the_end, histories),
    )


def one_hot(codes: Codes) -> Floats:
    """(n_items, L * K) an item's codes, level after level."""
    n_levels, n_codes = codes.lifted.shape[:2]
    votes = np.zeros((len(codes.of_items), n_levels, n_codes), np.float32)
    np.put_along_axis(votes, codes.of_items[:, :, None], np.float32(1), axis=2)
    return votes.reshape(len(votes), -1)
