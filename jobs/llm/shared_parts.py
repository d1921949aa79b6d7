"""Parts of a scoring run: kept as they are done, so that several processes can share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.errors import JobError
from jobs.llm.processes import ALONE, Processes
from jobs.llm.scoring import Advance, KeptParts
from jobs.llm.sequences import PackedSequence
from jobs.progress import progress

Part = Sequence[PackedSequence]
Scores = tuple[NDArray[np.int64], NDArray[np.float32]]
_FINE, _FAILED = 0, 1


class Scored(NamedTuple):
    """Scores of all parts, and what this process did for them."""

    rows: NDArray[np.int64]
    logits: NDArray[np.float32]
    n_tokens: int  # read by this process in this run
    seconds: float  # of this process, until its own share was done


def users_together(
    sequences: Part, users: NDArray[np.int64], part_tokens: int
) -> list[list[PackedSequence]]:
    """Sequences in parts of about `part_tokens`; all rows of a user lie in one part.

    Parts depend on the sequences alone, in the order of the users' numbers, so who scores them and
    when changes no byte.

    Args:
        sequences: of one user each.
        users: number of the user of each row that an answer can name.
        part_tokens: a user with more makes a part of his own longer.
    """
    if not sequences:
        return []
    owners = np.array([users[sequence.answer_row[0]] for sequence in sequences], np.int64)
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    _, number = np.unique(owners, return_inverse=True)
    sums = np.bincount(number, weights=lengths).astype(np.int64)
    part_of_user = (np.cumsum(sums) - sums) // part_tokens
    part_of = part_of_user[number]
    order = np.argsort(part_of, kind="stable")
    borders = np.flatnonzero(np.diff(part_of[order])) + 1
    return [[sequences[place] for place in part] for part in np.split(order, borders)]


def score_parts(
    name: str,
    parts: Sequence[Part],
    kept: KeptParts,
    score: Callable[[Part, Advance], Scores],
    *,
    processes: Processes = ALONE,
    device: torch.device | None = None,
    going_on: Callable[[int], None] = lambda n_done: None,
) -> Scored | None:
    """Score every part that no earlier run has kept.

    Process i of n takes every n-th part from i on and keeps its scores where the first finds them.
    All wait for all; the first returns the whole, the others None.

    Args:
        name: of the job, for the progress shown.
        parts: the same in every process.
        kept: of everything that the scores depend on.
        score: rows and their logits of a part.
        processes: those that share the work.
        device: of this process; needed where there are several.
        going_on: told how many parts were found done, if any were.

    Raises:
        JobError: this process or another one failed.
    """
    own = range(processes.rank, len(parts), processes.n)
    found = {number: kept.load(number, parts[number]) for number in own}
    left = [number for number, scores in found.items() if scores is None]
    if len(left) < len(found):
        going_on(len(found) - len(left))
    started, seconds = time.monotonic(), 0.0
    n_tokens = sum(len(sequence) for number in left for sequence in parts[number])
    status = _FAILED
    try:
        with progress(name, n_tokens, "tokens") as advance:
            for number in left:
                scores = score(parts[number], advance)
                kept.keep(number, *scores)
                found[number] = scores
        status, seconds = _FINE, time.monotonic() - started
    finally:  # also where it failed: the others wait for its word
        status = processes.largest(status, device or torch.device("cpu"))
    if status != _FINE:
        raise JobError("another process failed to score its share; it has said why")
    if not processes.is_first:
        return None
    whole = [_whole(number, part, found, kept) for number, part in enumerate(parts)]
    rows = [np.empty(0, np.int64), *(scores[0] for scores in whole)]
    logits = [np.empty(0, np.float32), *(scores[1] for scores in whole)]
    return Scored(np.concatenate(rows), np.concatenate(logits), n_tokens, seconds)


def _whole(number: int, part: Part, found: dict[int, Scores | None], kept: KeptParts) -> Scores:
    scores = found.get(number) or kept.load(number, part)
    if scores is None:
        raise JobError(
            f"part {number} was scored by another process and cannot be read here; processes on "
            "several machines need one folder for TIDEMARK_HOME"
        )
    return scores
