"""Logits of train rows from fits that have not seen them: the control behind an offset link."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from jobs.collab.factors import Floats, Ints
from jobs.collab.systems import Evidence, System
from jobs.errors import JobError
from jobs.job import Config


class Folds(Config):
    """How train rows are held out: users in folds, time in blocks."""

    n_users: int = Field(default=4, gt=1, description="folds of users")
    n_blocks: int = Field(default=3, gt=0, description="blocks of time, of about equal rows")


def out_of_fold_logits(
    system: System,
    evidence: Evidence,
    seed: int,
    n_epochs: int | None = None,
    folds: Folds | None = None,
) -> Floats:
    """(n_train,) logits of the train rows, each by a fit that knows neither it nor what follows it.

    A row of user fold f and time block b is scored by a fit on all rows of the other folds, and on
    those of its own fold before the block. So in the first block everybody is a stranger, and in
    the later ones users are as warm as they are on a real night, while items are known as well as
    they will be. Rows of one moment are in one block.

    Args:
        system: what is fitted, `n_users * n_blocks` times.
        evidence: train rows in order of time; valid rows choose the number of epochs, once.
        seed: of the fits and of who is in which fold.
        n_epochs: of every fit; None: what a fit on all of train that stops on valid takes.
        folds: how many; None: the defaults.

    Raises:
        JobError: fewer users than folds.
    """
    folds = folds or Folds()
    requests = evidence.train.requests
    fold = _user_folds(requests.users, folds.n_users, seed)
    block = _blocks(requests.times, folds.n_blocks)
    n_epochs = n_epochs or system.fit(evidence, seed).n_epochs or None
    nothing = evidence.valid.at(np.zeros(0, dtype=np.int64))
    logits = np.zeros(len(requests), dtype=np.float32)
    for each in range(folds.n_users):
        for moment in np.unique(block[fold == each]):
            wanted = np.flatnonzero((fold == each) & (block == moment))
            learned = evidence.train.at((fold != each) | (block < moment))
            known = Evidence(evidence.catalogue, evidence.histories, learned, nothing)
            fitted = system.fit(known, seed, n_epochs)
            logits[wanted] = fitted.score(requests.at(wanted), evidence.histories)
    return logits


def _user_folds(users: Ints, n: int, seed: int) -> Ints:
    """(n_rows,) fold of each row's user; folds have about equal numbers of users."""
    known, places = np.unique(users, return_inverse=True)
    if len(known) < n:
        raise JobError(f"{len(known)} users cannot make {n} folds; ask for fewer")
    return (np.random.default_rng(seed).permutation(len(known)) % n)[places]


def _blocks(times: Ints, n: int) -> Ints:
    """(n_rows,) block of each row, by quantiles of time."""
    order = np.sort(times)
    edges = order[np.arange(1, n) * len(order) // n] if len(order) else order
    return np.searchsorted(edges, times, side="right")
