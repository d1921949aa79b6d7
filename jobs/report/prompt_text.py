"""A row's prompt as text, for people: what the LLM reads, without loading one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.errors import JobError
from jobs.llm.prompts import Pieces, PromptTemplate, load_template

DEFAULT_TEMPLATE, DEFAULT_TITLES = "ctr_titles", 10
_YES = "Yes"


@dataclass(frozen=True)
class Wording:
    """How rows become prompts.

    Attributes:
        template: the words.
        n_titles: of the history, the latest.
    """

    template: PromptTemplate
    n_titles: int


def wording(facts: Mapping[str, Any], noun: str) -> Wording:
    """The words of the LLM that a night has tuned or adapted, or of none: the default ones.

    Args:
        facts: TOKEN_CONFIG or ADAPTER_CONFIG: `reading` as `jobs.llm.reading` has it, and how many
            soft tokens stand at its `places`; empty if there is no such LLM.
        noun: DOMAINS.item_noun.
    """
    reading = facts.get("reading") or {}
    counts = facts.get("places") or {}
    try:
        template = load_template(reading.get("template") or DEFAULT_TEMPLATE, noun=noun)
        template = template.with_soft(counts) if counts else template
    except JobError:  # a file of somebody's own that is no longer there, or no longer says this
        template = load_template(DEFAULT_TEMPLATE, noun=noun)
    return Wording(template, reading.get("max_titles") or DEFAULT_TITLES)


def prompt_text(words: Wording, history: Sequence[str | None], title: str | None) -> str:
    """The prompt of one row; a soft token, which has no text, is its kind in brackets.

    Args:
        words: see `wording`.
        history: titles that the row may see, oldest first; all of them liked.
        title: of the candidate.
    """
    template = words.template
    shown = [template.harmless(each) for each in history[-words.n_titles :]]
    said = [_filled(template.prefix, "", template)]
    said += [_filled(template.entry, each, template) for each in shown]
    if not shown:
        said.append(template.no_history)
    said.append(_filled(template.question, template.harmless(title), template))
    return "".join(said)


def _filled(pieces: Pieces, title: str, template: PromptTemplate) -> str:
    answer = f" {_YES}" if template.answer_with_space else _YES
    words = {"title": title, "answer": answer}
    return "".join(
        words.get(piece.place, f"[{piece.place}]") if piece.place else piece.text
        for piece in pieces
    )
