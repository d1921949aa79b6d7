"""What each token of a prompt is: instruction, history, the candidate's title, a soft token."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.llm.answers import AnswerTokens
from jobs.llm.prompts import PromptTemplate, prompt_tokens
from jobs.llm.sequences import PADDING_EVENT, PREFIX_EVENT, PackedSequence


class TokenKind(IntEnum):
    """Soft kinds have the numbers of `jobs.llm.prompts.SoftKind`."""

    USER = 0
    ITEM = 1
    WARM = 2
    SINK = 3  # the first token, which deep layers look at when they look at nothing
    INSTRUCTION = 4
    HISTORY = 5
    TITLE = 6  # of the candidate


@dataclass(frozen=True)
class QuestionShape:
    """Where the title sits in a question.

    Attributes:
        n_before: tokens of the template in front of it.
        n_after: and behind it.
        n_no_history: tokens that stand before the question where there is no history.
    """

    n_before: int
    n_after: int
    n_no_history: int

    @classmethod
    def of(cls, template: PromptTemplate, tokenizer: Any, answers: AnswerTokens) -> QuestionShape:
        """As the template has it with this tokenizer: seen by asking about two titles and none."""
        prompt = prompt_tokens(template, tokenizer, ["a", "b"], answers.ids)
        one, other = (question.ids for question in prompt.questions)
        n_after = _n_equal(one[::-1], other[::-1])
        # Not where they begin to differ: a space in front belongs to the title, and may be a token.
        untitled = prompt_tokens(template, tokenizer, ["a"], answers.ids, 0).questions[0]
        return cls(len(untitled) - n_after, n_after, len(prompt.no_history))


def _n_equal(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def token_kinds(sequence: PackedSequence, shape: QuestionShape) -> NDArray[np.int64]:
    """(n,) the `TokenKind` of each token of a prompt that asks about one candidate.

    Args:
        sequence: from `RowPacking`.
        shape: of its questions.
    """
    event = sequence.event
    kinds = np.full(len(sequence), int(TokenKind.INSTRUCTION), np.int64)
    kinds[sequence.is_shown & (event > PREFIX_EVENT)] = TokenKind.HISTORY
    asked = np.flatnonzero(~sequence.is_shown & (event != PADDING_EVENT))
    if len(asked):
        has_history = bool((kinds == TokenKind.HISTORY).any())
        start = asked[0] + shape.n_before + (0 if has_history else shape.n_no_history)
        kinds[start : asked[-1] + 1 - shape.n_after] = TokenKind.TITLE
    kinds[0] = TokenKind.SINK
    kinds[sequence.soft_at] = sequence.soft_kind
    return kinds
