"""Three packings of rows into sequences: one prompt a row, a tree of candidates, a user's stream.

All write the same parts - prefix, entries of the history, question - and differ in what they share.
A row's visible history is decided by a window, from its user's chain and its own end in it alone,
so its score depends neither on the packing nor on which other rows are scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jobs.errors import JobError
from jobs.llm.answers import answer_logits
from jobs.llm.events import Events, UserEvents
from jobs.llm.prompts import PromptTokens, Segment
from jobs.llm.sequences import (
    PREFIX_EVENT,
    Batch,
    PackedSequence,
    batches,
    collate,
    visible,
)

__all__ = [
    "Batch",
    "Blocks",
    "Events",
    "LastTitles",
    "PackedSequence",
    "Packing",
    "RowPacking",
    "StreamPacking",
    "TreePacking",
    "answer_logits",
    "batches",
    "collate",
    "visible",
]

Ints = NDArray[np.int64]


# -- which history a row sees --------------------------------------------------------------------


class Window(Protocol):
    """Where a row's visible history begins."""

    def begins(self, lengths: Ints) -> Ints:
        """First visible entry for each end.

        Args:
            lengths: (c,) tokens of the user's entries, oldest first.

        Returns:
            (c + 1,); a row that ends at p sees entries [begins[p], p).
        """


@dataclass(frozen=True)
class LastTitles:
    """The last `n` entries, fewer if they would take more than `max_tokens`: as the papers do."""

    n: int | None = 10
    max_tokens: int = 1_024

    def begins(self, lengths: Ints) -> Ints:
        """See `Window`."""
        sums = np.concatenate([[0], np.cumsum(lengths)])
        by_tokens = np.searchsorted(sums, sums - self.max_tokens)
        if self.n is None:
            return by_tokens
        return np.maximum(by_tokens, np.arange(len(sums)) - self.n)


@dataclass(frozen=True)
class Blocks:
    """All entries since a block began, so that rows of one block share where their history begins.

    When they would exceed `max_tokens`, a new block begins with the latest of them that fit into
    `kept_tokens`. Block borders depend on the user's chain alone. The defaults, 5 to 18 film
    titles, were the cheapest of those tried on MovieLens-1M (benchmarks/packing.py): a dense mask
    costs the square of a sequence's length, a short block repeats more.
    """

    max_tokens: int = 256
    kept_tokens: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.kept_tokens < self.max_tokens:
            raise JobError(
                f"a block that keeps {self.kept_tokens} tokens must be able to hold more than "
                f"that, not {self.max_tokens}"
            )

    def begins(self, lengths: Ints) -> Ints:
        """See `Window`."""
        sums = np.concatenate([[0], np.cumsum(lengths)])
        begins = np.zeros(len(sums), np.int64)
        begin = 0
        while True:
            # The first end whose history would be too long opens the next block.
            end = int(np.searchsorted(sums, sums[begin] + self.max_tokens, side="right"))
            if end >= len(sums):
                return begins
            begin = int(np.searchsorted(sums, sums[end] - self.kept_tokens))
            begins[end:] = begin


# -- writing a sequence --------------------------------------------------------------------------


class _Writer:
    """Collects the parts of one sequence."""

    def __init__(self, user: int) -> None:
        self.user = user
        self.ids: list[int] = []
        self.parts: list[tuple[int, int, int, bool]] = []  # length, position, event, is shown
        self.answers: list[tuple[int, int]] = []
        self.soft: list[tuple[int, int, int, int, int]] = []
        self.n_visible = 0  # tokens that later events see
        self.n_events = PREFIX_EVENT - 1

    def shown(self, segment: Segment, item: int, end: int) -> int:
        """Write what later events see, soft tokens as of entry `end`; returns where it begins."""
        self.n_events += 1
        return self._write(segment, item, end, is_shown=True)

    def hidden(
        self, segment: Segment, item: int, end: int, row: int, no_history: Segment | None
    ) -> None:
        """Write a question that nothing else sees, soft tokens as of entry `end`."""
        self.n_events += 1
        position = self.n_visible
        if no_history:
            self._write(no_history, item, end, is_shown=False)
            self.n_visible += len(no_history)
        start = self._write(segment, item, end, is_shown=False)
        self.n_visible = position
        self.asked(start + len(segment) - 1, row)

    def asked(self, place: int, row: int) -> None:
        """An answer is read at `place`."""
        self.answers.append((place, row))

    def _write(self, segment: Segment, item: int, end: int, *, is_shown: bool) -> int:
        start = len(self.ids)
        self.ids += segment.ids
        self.parts.append((len(segment), self.n_visible, self.n_events, is_shown))
        for offset, kind, nth in segment.soft:
            self.soft.append((start + offset, int(kind), nth, item if kind else self.user, end))
        if is_shown:
            self.n_visible += len(segment)
        return start

    def sequence(self) -> PackedSequence:
        """What was written."""
        lengths, positions, events, is_shown = (
            np.array(column) for column in zip(*self.parts, strict=True)
        )
        starts = np.cumsum(lengths) - lengths
        within = np.arange(len(self.ids)) - np.repeat(starts, lengths)
        answers = np.array(self.answers, np.int64).reshape(-1, 2)
        soft = np.array(self.soft, np.int64).reshape(-1, 5)
        return PackedSequence(
            input_ids=np.array(self.ids, np.int32),
            position_ids=(np.repeat(positions, lengths) + within).astype(np.int32),
            event=np.repeat(events, lengths).astype(np.int32),
            is_shown=np.repeat(is_shown, lengths),
            answer_at=answers[:, 0].astype(np.int32),
            answer_row=answers[:, 1],
            soft_at=soft[:, 0].astype(np.int32),
            soft_kind=soft[:, 1].astype(np.int8),
            soft_nth=soft[:, 2].astype(np.int8),
            soft_of=soft[:, 3],
            soft_end=soft[:, 4].astype(np.int32),
        )


class _User:
    """A user's events with the tokens of their parts."""

    def __init__(self, events: UserEvents, prompt: PromptTokens, window: Window) -> None:
        self.events, self.prompt = events, prompt
        if not (prompt.shows_answers or events.chain_liked.all()):
            raise JobError(
                "--shown labelled needs a template whose entry holds {answer}: without it a title "
                "that the user did not like would read as one that was liked"
            )
        pair = (prompt.entries_no, prompt.entries_yes)
        self.entries = [
            pair[liked][item]
            for item, liked in zip(
                events.chain_items.tolist(), events.chain_liked.tolist(), strict=True
            )
        ]
        lengths = np.fromiter(map(len, self.entries), np.int64, len(self.entries))
        self.begins = window.begins(lengths)[events.ends]
        self.lengths = lengths

    def writer(self, begin: int, end: int) -> _Writer:
        """A sequence with the prefix and entries [begin, end) as context."""
        writer = _Writer(self.events.user)
        # The prefix is the same for all rows of a window: it may know what lies before that alone.
        writer.shown(self.prompt.prefix, -1, begin)
        for place in range(begin, end):
            writer.shown(self.entries[place], int(self.events.chain_items[place]), place)
        return writer

    def ask(self, writer: _Writer, number: int, *, is_first: bool) -> None:
        """Write row `number` as a question that nothing else sees."""
        item, row = int(self.events.items[number]), int(self.events.rows[number])
        no_history = self.prompt.no_history if is_first else None
        end = int(self.events.ends[number])
        writer.hidden(self.prompt.questions[item], item, end, row, no_history)


class _Group(NamedTuple):
    begin: int
    start: int  # rows [start, stop) of the user
    stop: int


def _groups(*keys: Ints) -> list[_Group]:
    """Runs of rows in which all keys are equal; the first key is where history begins."""
    changes = np.zeros(len(keys[0]), np.bool_)
    for key in keys:
        changes |= np.diff(key, prepend=-1) != 0
    starts = np.flatnonzero(changes)
    stops = np.append(starts[1:], len(keys[0]))
    return [_Group(int(keys[0][a]), int(a), int(b)) for a, b in zip(starts, stops, strict=True)]


# -- the packings --------------------------------------------------------------------------------


class Packing(Protocol):
    """How rows become sequences."""

    def pack(self, events: Events, prompt: PromptTokens) -> Iterator[PackedSequence]:
        """Sequences that answer every row of `events` exactly once.

        Raises:
            JobError: a history holds what was not liked, and the template cannot say so.
        """


@dataclass(frozen=True)
class RowPacking:
    """One prompt a row: the reference for all others."""

    window: Window = LastTitles()

    def pack(self, events: Events, prompt: PromptTokens) -> Iterator[PackedSequence]:
        """See `Packing`."""
        for each in events.by_user():
            user = _User(each, prompt, self.window)
            for number, (begin, end) in enumerate(
                zip(user.begins.tolist(), each.ends.tolist(), strict=True)
            ):
                writer = user.writer(begin, end)
                user.ask(writer, number, is_first=begin == end)
                yield writer.sequence()


@dataclass(frozen=True)
class TreePacking:
    """Rows of a user that see the same history share it; each candidate is a leaf behind it.

    Attributes:
        window: which history a row sees.
        max_tokens: of a sequence; more candidates are spread over several. A sequence that holds
            one candidate may be longer.
    """

    window: Window = LastTitles()
    max_tokens: int = 1_024

    def pack(self, events: Events, prompt: PromptTokens) -> Iterator[PackedSequence]:
        """See `Packing`."""
        for each in events.by_user():
            user = _User(each, prompt, self.window)
            for group in _groups(user.begins, each.ends):
                end = int(each.ends[group.start])
                writer = user.writer(group.begin, end)
                for number in range(group.start, group.stop):
                    question = prompt.questions[int(each.items[number])]
                    if writer.answers and len(writer.ids) + len(question) > self.max_tokens:
                        yield writer.sequence()
                        writer = user.writer(group.begin, end)
                    user.ask(writer, number, is_first=group.begin == end)
                yield writer.sequence()


@dataclass(frozen=True)
class StreamPacking:
    """A user's events once, in time order: positives stay visible, the others are leaves.

    A row whose own event is the next entry of its user's chain is asked in that entry; every other
    row (a negative, a tie, a row whose history is frozen) is a leaf behind the entries that it may
    see. So each token sees exactly what it would see in a prompt of its row.

    Attributes:
        window: which history a row sees; `Blocks`, because rows of one block share its beginning.
        max_tokens: of a sequence. A longer block is cut: each part begins with the prefix and all
            of the block's entries up to there, so no score depends on it.
    """

    window: Window = Blocks()
    max_tokens: int = 1_024

    def pack(self, events: Events, prompt: PromptTokens) -> Iterator[PackedSequence]:
        """See `Packing`."""
        for each in events.by_user():
            user = _User(each, prompt, self.window)
            for group in _groups(user.begins):
                yield from self._block(user, group)

    def _block(self, user: _User, group: _Group) -> Iterator[PackedSequence]:
        """Sequences of the rows whose history begins at the same entry."""
        events, prompt = user.events, user.prompt
        written = int(events.ends[group.start])
        writer = user.writer(group.begin, written)
        for number in range(group.start, group.stop):
            end = int(events.ends[number])
            need = int(user.lengths[written : end + 1].sum())
            need += len(prompt.questions[int(events.items[number])])
            if writer.answers and len(writer.ids) + need > self.max_tokens:
                yield writer.sequence()
                writer, written = user.writer(group.begin, end), end
            for place in range(written, end):
                writer.shown(user.entries[place], int(events.chain_items[place]), place)
            written = max(written, end)
            if prompt.is_shared and int(events.places[number]) == end == written:
                item = int(events.items[number])
                start = writer.shown(user.entries[end], item, end)
                writer.asked(start + len(prompt.questions[item]) - 1, int(events.rows[number]))
                written = end + 1
            else:
                user.ask(writer, number, is_first=group.begin == end)
        yield writer.sequence()
