"""A small world whose truth is known: tastes, item topics, qualities and leniencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.collab.align import AlignConfig
from jobs.collab.factors import Floats, Ints, Ratings

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
