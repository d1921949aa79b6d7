"""Parts of a scoring run: users stay together, processes share, what is done stays done."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.errors import JobError
from jobs.llm.processes import Processes
from jobs.llm.scoring import KeptParts
from jobs.llm.sequences import PackedSequence
from jobs.llm.shared_parts import Part, Scored, Scores, score_parts, users_together


def sequence(length: int, rows: list[int]) -> PackedSequence:
    """`length` tokens that answer `rows`."""
    empty = np.zeros(0, np.int32)
    return PackedSequence(
        input_ids=np.zeros(length, np.int32),
        position_ids=np.arange(length, dtype=np.int32),
        event=np.zeros(length, np.int32),
        is_shown=np.ones(length, np.bool_),
        answer_at=np.arange(len(rows), dtype=np.int32),
        answer_row=np.array(rows, np.int64),
        soft_at=empty,
        soft_kind=empty.astype(np.int8),
        soft_nth=empty.astype(np.int8),
        soft_of=empty.astype(np.int64),
        soft_end=empty,
    )


# User 3 has rows 0, 1 and 5, user 1 has 2 and 4, user 2 has 3.
USERS = np.array([3, 3, 1, 2, 1, 3], np.int64)
SEQUENCES = [
    sequence(40, [0, 1]),
    sequence(30, [2]),
    sequence(30, [3]),
    sequence(30, [4]),
    sequence(50, [5]),
]


def rows_of(parts: list[list[PackedSequence]]) -> list[list[int]]:
    return [[row for each in part for row in each.answer_row.tolist()] for part in parts]


def test_rows_of_a_user_lie_in_one_part_in_the_order_of_users():
    assert rows_of(users_together(SEQUENCES, USERS, 30)) == [[2, 4], [3], [0, 1, 5]]
    assert rows_of(users_together(SEQUENCES, USERS, 60)) == [[2, 4], [0, 1, 3, 5]]
    assert rows_of(users_together(SEQUENCES, USERS, 1)) == [[2, 4], [3], [0, 1, 5]]
    assert len(users_together(SEQUENCES, USERS, 10_000)) == 1


def test_no_sequences_make_no_part():
    assert users_together([], USERS, 30) == []


def score(part: Part, advance) -> Scores:
    rows = np.concatenate([each.answer_row for each in part])
    advance(sum(map(len, part)))
    return rows, (rows / 2).astype(np.float32)


def by_row(scored: Scored | None) -> dict[int, float]:
    assert scored is not None
    return dict(zip(scored.rows.tolist(), scored.logits.tolist(), strict=True))


EXPECTED = {row: row / 2 for row in range(6)}


def test_all_parts_are_scored_and_counted(tmp_path):
    parts = users_together(SEQUENCES, USERS, 30)
    scored = score_parts("score", parts, KeptParts(tmp_path, "key"), score)
    assert by_row(scored) == EXPECTED
    assert scored.n_tokens == 180


def test_nothing_to_score_gives_nothing(tmp_path):
    scored = score_parts("score", [], KeptParts(tmp_path, "key"), score)
    assert by_row(scored) == {}


def test_a_part_that_is_done_is_not_done_again(tmp_path):
    parts = users_together(SEQUENCES, USERS, 30)
    failing = iter([True, True, False])

    def breaks_at_the_third(part: Part, advance) -> Scores:
        if not next(failing):
            raise JobError("out of memory")
        return score(part, advance)

    with pytest.raises(JobError, match="out of memory"):
        score_parts("score", parts, KeptParts(tmp_path, "key"), breaks_at_the_third)
    done: list[int] = []
    scored = score_parts("score", parts, KeptParts(tmp_path, "key"), score, going_on=done.append)
    assert done == [2]
    assert scored.n_tokens == 90
    assert by_row(scored) == EXPECTED


# -- several processes -----------------------------------------------------------------------------


@dataclass
class Meeting:
    """Where threads that stand for processes meet."""

    n: int
    values: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.n, timeout=20)


@dataclass(frozen=True)
class Together(Processes):
    """Processes of one machine as threads: the same promises as those of torch.distributed."""

    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def largest(self, value: int, device: torch.device) -> int:
        self.meeting.values.append(value)
        self.meeting.barrier.wait()
        found = max(self.meeting.values)
        self.meeting.barrier.wait()
        return found


def in_threads(n: int, folder: Path, work) -> list[Scored | Exception | None]:
    parts = users_together(SEQUENCES, USERS, 30)
    meeting = Meeting(n)

    def one(rank: int) -> Scored | Exception | None:
        processes = Together(rank=rank, n=n, meeting=meeting)
        try:
            return score_parts(
                "score", parts, KeptParts(folder, "key"), work(rank), processes=processes
            )
        except Exception as error:
            return error

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n)))


def test_processes_share_the_parts_and_the_first_has_them_all(tmp_path):
    done: dict[int, list[int]] = {0: [], 1: []}

    def work(rank: int):
        def own(part: Part, advance) -> Scores:
            done[rank].append(len(part))
            return score(part, advance)

        return own

    first, second = in_threads(2, tmp_path, work)
    assert by_row(first) == EXPECTED
    assert second is None
    assert {rank: len(each) for rank, each in done.items()} == {0: 2, 1: 1}


def test_a_process_that_fails_ends_the_others_and_its_work_alone_is_repeated(tmp_path):
    def work(rank: int):
        def own(part: Part, advance) -> Scores:
            if rank:
                raise JobError("out of memory")
            return score(part, advance)

        return own

    first, second = in_threads(2, tmp_path, work)
    assert "another process failed" in str(first)
    assert "out of memory" in str(second)
    left: list[int] = []

    def counted(part: Part, advance) -> Scores:
        left.append(len(part))
        return score(part, advance)

    parts = users_together(SEQUENCES, USERS, 30)
    scored = score_parts("score", parts, KeptParts(tmp_path, "key"), counted)
    assert by_row(scored) == EXPECTED
    assert len(left) == 1


def test_parts_that_another_machine_keeps_elsewhere_are_missed(tmp_path):
    parts = users_together(SEQUENCES, USERS, 30)
    meeting = Meeting(2)

    def one(rank: int) -> Scored | Exception | None:
        processes = Together(rank=rank, n=2, meeting=meeting)
        kept = KeptParts(tmp_path / str(rank), "key")
        try:
            return score_parts("score", parts, kept, score, processes=processes)
        except JobError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert "need one folder for TIDEMARK_HOME" in str(first)
    assert second is None
