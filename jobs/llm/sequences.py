"""Packed sequences, batches of them, and which token may attend to which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobs.errors import JobError
from jobs.llm.batches import token_budget_batches

PREFIX_EVENT = 0
PADDING_EVENT = -1


@dataclass(frozen=True)
class PackedSequence:
    """One forward sequence: n tokens, m answers, s soft tokens.

    Attributes:
        input_ids: (n,) int32.
        position_ids: (n,) int32; counts the tokens that the token may see, not those before it.
        event: (n,) int32; 0 is the prefix, k the k-th event of this sequence.
        is_shown: (n,) bool; whether later events see this token's event (the prefix: True).
        answer_at: (m,) int32; places where l_yes - l_no is read.
        answer_row: (m,) int64; the row of the caller's table that each answer scores. Events that
            are context alone have no answer.
        soft_at: (s,) int32; places of soft tokens.
        soft_kind: (s,) int8; `SoftKind`.
        soft_nth: (s,) int8; number among the soft tokens of its kind in its event.
        soft_of: (s,) int64; which user (`Events.user_ids`) or item (`Events.item_ids`) it is of.
        soft_end: (s,) int32; entries [0, soft_end) of the user's chain are what it may know. In
            the prefix these are the entries before the window that all its rows share.
    """

    input_ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    event: NDArray[np.int32]
    is_shown: NDArray[np.bool_]
    answer_at: NDArray[np.int32]
    answer_row: NDArray[np.int64]
    soft_at: NDArray[np.int32]
    soft_kind: NDArray[np.int8]
    soft_nth: NDArray[np.int8]
    soft_of: NDArray[np.int64]
    soft_end: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Batch:
    """b sequences padded on the right to n tokens, with m answers and s soft tokens in all.

    Attributes:
        input_ids, position_ids: (b, n) int64.
        event: (b, n) int32; -1 at padding.
        is_shown: (b, n) bool.
        answer_sequence, answer_at: (m,) int64; where each answer is read.
        answer_row: (m,) int64; which row it scores.
        soft_sequence, soft_at, soft_of, soft_end: (s,) int64; soft_kind, soft_nth: (s,) int8.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    event: torch.Tensor
    is_shown: torch.Tensor
    answer_sequence: torch.Tensor
    answer_at: torch.Tensor
    answer_row: torch.Tensor
    soft_sequence: torch.Tensor
    soft_at: torch.Tensor
    soft_kind: torch.Tensor
    soft_nth: torch.Tensor
    soft_of: torch.Tensor
    soft_end: torch.Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        moved: dict[str, Any] = {
            f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)
        }
        return replace(self, **moved)

    @property
    def n_tokens(self) -> int:
        """Tokens that are not padding."""
        return int((self.event != PADDING_EVENT).sum())


def collate(sequences: Sequence[PackedSequence], pad_id: int = 0, multiple: int = 1) -> Batch:
    """A batch on the CPU, padded on the right. No token sees padding.

    Args:
        sequences: at least one.
        pad_id: any valid token id; nothing depends on it.
        multiple: n is rounded up to a multiple of it (block-sparse kernels want 128).
    """
    longest = max(len(sequence) for sequence in sequences)
    shape = (len(sequences), -(-longest // multiple) * multiple)
    input_ids = np.full(shape, pad_id, np.int64)
    position_ids = np.zeros(shape, np.int64)
    event = np.full(shape, PADDING_EVENT, np.int32)
    is_shown = np.zeros(shape, np.bool_)
    for number, sequence in enumerate(sequences):
        n = len(sequence)
        input_ids[number, :n] = sequence.input_ids
        position_ids[number, :n] = sequence.position_ids
        event[number, :n] = sequence.event
        is_shown[number, :n] = sequence.is_shown
    return Batch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(position_ids),
        event=torch.from_numpy(event),
        is_shown=torch.from_numpy(is_shown),
        answer_sequence=_owner(sequences, "answer_at"),
        answer_at=_joined(sequences, "answer_at", np.int64),
        answer_row=_joined(sequences, "answer_row", np.int64),
        soft_sequence=_owner(sequences, "soft_at"),
        soft_at=_joined(sequences, "soft_at", np.int64),
        soft_kind=_joined(sequences, "soft_kind", np.int8),
        soft_nth=_joined(sequences, "soft_nth", np.int8),
        soft_of=_joined(sequences, "soft_of", np.int64),
        soft_end=_joined(sequences, "soft_end", np.int64),
    )


def _joined(sequences: Sequence[PackedSequence], name: str, dtype: Any) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(s, name) for s in sequences]).astype(dtype))


def _owner(sequences: Sequence[PackedSequence], name: str) -> torch.Tensor:
    counts = [len(getattr(sequence, name)) for sequence in sequences]
    return torch.from_numpy(np.repeat(np.arange(len(sequences)), counts))


def batches(
    sequences: Sequence[PackedSequence], batch_tokens: int, pad_id: int = 0, multiple: int = 1
) -> Iterator[Batch]:
    """Batches within a budget of tokens, padding included; longest sequences first."""
    lengths = [len(sequence) for sequence in sequences]
    for rows in token_budget_batches(lengths, batch_tokens):
        yield collate([sequences[row] for row in rows], pad_id, multiple)


def visible(batch: Batch) -> torch.Tensor:
    """(b, 1, n, n) bool: whether query q may attend to key k.

    It may iff k <= q and (k is in the prefix, in q's own event, or in an event that is shown). A
    sequence holds an event before the first shown event that it may not see, so order alone keeps
    events that tie in time, and those of the future, out of sight.
    """
    n = batch.event.shape[1]
    event, is_shown = batch.event, batch.is_shown
    allowed = is_shown[:, None, :] | (event[:, :, None] == event[:, None, :])
    return allowed.tril_()[:, None] if n else allowed[:, None]


def refuse_too_long(sequences: Sequence[PackedSequence], model: str, config: Any) -> None:
    """Refuse sequences with a token further from its prompt's beginning than the model can read.

    Args:
        sequences: packed for the model.
        model: its name.
        config: its architecture.

    Raises:
        JobError: names the longest prompt and the limit.
    """
    limit = getattr(config, "max_position_embeddings", None)
    longest = 1 + max((int(each.position_ids.max()) for each in sequences), default=0)
    if limit and longest > limit:
        raise JobError(
            f"a prompt takes {longest} tokens, {model} reads at most {limit}; lower "
            "--block-tokens, --max-titles or --max-title-tokens"
        )
