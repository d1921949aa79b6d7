"""The planted world as evidence for systems: with times, histories, strangers, and codes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jobs.collab.systems import Catalogue, Evidence, Histories, Labelled, Requests
from tests.collab.planted import World, world

HOUR = 3_600_000_000
N_USERS, N_STRANGERS = 60, 10  # the last ones have no train row


@dataclass(frozen=True)
class Bench:
    """What a system is given, and the rows that judge it."""

    evidence: Evidence
    test: Labelled


def codes_of(truth: World) -> np.ndarray:
    """(n_items, 2) which topic is strongest, with its sign, and which is second."""
    strength = np.argsort(-np.abs(truth.topics), axis=1)
    signs = np.take_along_axis(truth.topics, strength, axis=1) > 0
    return (2 * strength + signs)[:, :2]


def labelled(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, labels: np.ndarray
) -> tuple[Labelled, Histories]:
    """Rows, which must ascend in time, and the histories of everybody in them.

    Rows of one user at one moment do not see each other.
    """
    is_positive = labels > 0
    order = np.lexsort((np.arange(len(users)), users))
    order = order[is_positive[order]]
    starts = np.concatenate([[0], np.cumsum(np.bincount(users[order], minlength=N_USERS))])
    histories = Histories(items[order], times[order], starts)
    ends = np.array(
        [
            np.searchsorted(times[order][starts[user] : starts[user + 1]], time, side="left")
            for user, time in zip(users, times, strict=True)
        ],
        dtype=np.int64,
    )
    return Labelled(Requests(users, items, times, ends), labels.astype(np.float32)), histories


def bench(n_train: int = 2_500, n_later: int = 800, seed: int = 0) -> Bench:
    """Train rows of users who are no strangers; then valid rows; then as many test rows.

    The later rows have strangers, and items that train has not.
    """
    truth = world(n_users=N_USERS)
    n = n_train + 2 * n_later
    random = np.random.default_rng(seed + 100)
    users = random.integers(0, N_USERS, n)
    users[:n_train] = random.integers(0, N_USERS - N_STRANGERS, n_train)
    items = random.integers(0, len(truth.topics), n)
    seen = np.setdiff1d(np.arange(len(truth.topics)), truth.unseen)
    items[:n_train] = random.choice(seen, n_train)
    chance = 1 / (1 + np.exp(-truth.logits(users, items)))
    labels = (random.random(n) < chance).astype(np.float32)
    times = np.arange(n) // 2 * HOUR + HOUR  # pairs of rows share a moment
    rows, histories = labelled(users, items, times, labels)
    catalogue = Catalogue(
        n_users=N_USERS,
        n_items=len(truth.topics),
        semantics=truth.embeddings,
        groups=np.arange(len(truth.topics)),
        codes=codes_of(truth),
    )
    places = np.arange(n)
    parts = [rows.at(each) for each in np.split(places, [n_train, n_train + n_later])]
    return Bench(Evidence(catalogue, histories, parts[0], parts[1]), parts[2])


def without_valid(given: Bench) -> Bench:
    """The same without valid rows."""
    valid = given.evidence.valid.at(np.zeros(0, np.int64))
    return replace(given, evidence=replace(given.evidence, valid=valid))


def only_train(given: Bench, keep: np.ndarray) -> Bench:
    """The same with some of the train rows."""
    return replace(given, evidence=replace(given.evidence, train=given.evidence.train.at(keep)))


def all_labelled(given: Bench, label: float) -> Bench:
    """The same with one label for every train row; the histories stay."""
    train = given.evidence.train
    train = replace(train, labels=np.full_like(train.labels, label))
    return replace(given, evidence=replace(given.evidence, train=train))


def with_another_future(given: Bench, requests: Requests) -> tuple[Evidence, Histories]:
    """Histories that differ wherever no row may look: for fitting, and for these requests.

    The positives that come after the last visible one of a user are other items at other times,
    and there is one more of them. A fit may also know what its own rows were.
    """
    evidence = given.evidence
    looks = _looks(evidence.catalogue.n_users, requests)
    rows = evidence.train.requests, evidence.valid.requests
    known = np.maximum(*(_looks(evidence.catalogue.n_users, each) for each in rows))
    histories = evidence.histories
    for part in rows:
        last = np.full(evidence.catalogue.n_users, -1)
        np.maximum.at(last, part.users, part.times)
        own = [
            np.searchsorted(histories.times[start:end], time, side="right")
            for start, end, time in zip(histories.starts, histories.starts[1:], last, strict=False)
        ]
        known = np.maximum(known, own)
    fitting, scoring = _changed(evidence, known), _changed(evidence, looks)
    return replace(evidence, histories=fitting), scoring


def _looks(n_users: int, requests: Requests) -> np.ndarray:
    """(n_users,) the most that any of the rows may see of its user."""
    last = np.zeros(n_users, np.int64)
    np.maximum.at(last, requests.users, requests.history_ends)
    return last


def _changed(evidence: Evidence, last: np.ndarray) -> Histories:
    histories, n_users = evidence.histories, evidence.catalogue.n_users
    items, times, lengths = [], [], []
    for user in range(n_users):
        start, end = histories.starts[user], histories.starts[user + 1]
        cut = start + last[user]
        hidden = histories.items[cut:end]
        others = (np.append(hidden, 0) + 1 + user) % evidence.catalogue.n_items
        later = np.append(histories.times[cut:end], times_end(histories)) + HOUR // 3
        items.append(np.concatenate([histories.items[start:cut], others]))
        times.append(np.concatenate([histories.times[start:cut], later]))
        lengths.append(len(items[-1]))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Histories(np.concatenate(items), np.concatenate(times), starts)


def times_end(histories: Histories) -> int:
    """After everything that happened."""
    return int(histories.times.max(initial=0)) + HOUR
