"""A small world whose truth is known: tastes, item topics, qualities and leniencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.collab.align import AlignConfig
from jobs.collab.factors import Floats, Ints, Ratings
from jobs.collab.history_map import HistoryEvidence
from jobs.collab.visible import Visible

# Few events and steps: a test has seconds. `alignment_weight=0` is the same without alignment.
QUICK = AlignConfig(
    n_factors=8,
    n_hidden=32,
    aligned_items=64,
    batch_size=256,
    temperature=0.2,
    learning_rate=1e-2,
    max_epochs=25,
    patience=25,
)


@dataclass(frozen=True)
class World:
    """What generates labels: logit = leniency + quality + 3 <taste, topic>."""

    tastes: np.ndarray  # (n_users, 3)
    topics: np.ndarray  # (n_items, 3), unit length
    leniency: np.ndarray  # (n_users,)
    quality: np.ndarray  # (n_items,)
    embeddings: Floats  # (n_items, 16) unit length: a linear image of the topics, with noise
    unseen: Ints  # items that no event has

    def logits(self, users: Ints, items: Ints) -> np.ndarray:
        taste = np.einsum("nd,nd->n", self.tastes[users], self.topics[items])
        return self.leniency[users] + self.quality[items] + 3 * taste

    def events(self, n: int, seed: int) -> Ratings:
        """`n` events of random users and random items that are not unseen, with drawn labels."""
        random = np.random.default_rng(seed)
        seen = np.setdiff1d(np.arange(len(self.topics)), self.unseen)
        users = random.integers(0, len(self.tastes), n)
        items = random.choice(seen, n)
        chance = 1 / (1 + np.exp(-self.logits(users, items)))
        return Ratings(users, items, (random.random(n) < chance).astype(np.float32))


def world(seed: int = 0, n_users: int = 60, n_items: int = 120, n_unseen: int = 20) -> World:
    random = np.random.default_rng(seed)
    topics = random.normal(size=(n_items, 3))
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    embeddings = topics @ random.normal(size=(3, 16)) + 0.1 * random.normal(size=(n_items, 16))
    embeddings -= embeddings.mean(axis=0)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return World(
        tastes=random.normal(size=(n_users, 3)),
        topics=topics,
        leniency=random.normal(size=n_users),
        quality=random.normal(size=n_items) * 0.5,
        embeddings=embeddings.astype(np.float32),
        unseen=np.arange(n_items - n_unseen, n_items),
    )


def profiles_of(planted: World, train: Ratings) -> Floats:
    """(n_users, 16) directions of what each user liked less what each disliked; zero for none."""
    sums = np.zeros((len(planted.tastes), planted.embeddings.shape[1]))
    np.add.at(sums, train.users, (2 * train.labels - 1)[:, None] * planted.embeddings[train.items])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0).astype(np.float32)


def histories_of(planted: World, train: Ratings, valid: Ratings) -> HistoryEvidence:
    """Rows in the order given: a row sees its user's positives before it, valid rows all of train.

    The users of train must be those of the world, by number.
    """
    order = np.argsort(train.users, kind="stable")
    is_positive = train.labels[order] > 0
    items = train.items[order][is_positive]
    before = np.cumsum(is_positive) - is_positive
    bounds = np.searchsorted(train.users[order][is_positive], np.arange(len(planted.tastes) + 1))
    starts, ends = np.empty_like(train.users), np.empty_like(train.users)
    starts[order], ends[order] = bounds[train.users[order]], before
    return HistoryEvidence(
        votes=planted.embeddings,
        train=Visible(items, starts, ends),
        valid=Visible(items, bounds[valid.users], bounds[valid.users + 1]),
        users=Visible(items, bounds[:-1], bounds[1:]),
    )
