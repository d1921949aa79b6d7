"""Rules and bounds of a first mapping: rows that are no events, and dirt that is known already."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from jobs.prepare.first_look.column_roles import as_number, plain_name, share
from jobs.prepare.first_look.source_draft import Draft
from jobs.prepare.first_look.source_look import Column
from jobs.prepare.mapping_words import scalar

_QUANTITY = re.compile(r"(^|_)(quantity|qty|units|amount|count)$")
_ORDER = re.compile(r"(^|_)(invoice|order|transaction|receipt|basket)")
_WORTH_A_BOUND = 0.01  # of the rows seen; what is rarer fits into the common bound


@dataclass(frozen=True)
class Rule:
    """A rule that rows of the sample met.

    Attributes:
        condition: as a mapping writes it.
        seen: what the rows have in common, for people.
        met: share of the sampled rows.
    """

    column: Column
    condition: str
    reason: str
    seen: str
    met: float


def _rules(draft: Draft) -> list[Rule]:
    found = []
    for column in draft.events.columns:
        name = plain_name(column.name)
        if _ORDER.search(name) and (letter := _odd_letter(column)):
            met = _met(column, lambda text, of=letter: text.startswith(of))  # type: ignore[misc]
            condition = f'starts_with: "{letter}"'
            found.append(Rule(column, condition, "cancellation", f"begin with {letter}", met))
        elif _QUANTITY.search(name) and (met := _met(column, lambda t: as_number(t) <= 0)):
            found.append(Rule(column, "at_most: 0", "negative quantity", "are 0 or less", met))
    return found


def _met(column: Column, test: Callable[[str], object]) -> float:
    return share(column.texts, test) * (1 - column.missing_share)


def _odd_letter(column: Column) -> str | None:
    """The letter that begins a few of the values, where the others are numbers."""
    heads = Counter(text.strip()[:1] for text in column.texts)
    letters = [(n, letter) for letter, n in heads.items() if letter.isalpha()]
    is_rare = sum(n for n, _ in letters) < 0.1 * heads.total()
    return max(letters)[1] if letters and is_rare else None


def reject_lines(draft: Draft) -> list[str]:
    """The rules of the mapping; none if no row of the sample asks for one."""
    lines = []
    for rule in _rules(draft):
        name = rule.column.name
        draft.say(
            "reject",
            f"{name} {rule.condition}: {rule.reason}",
            f"{rule.met:.1%} of the rows seen {rule.seen} in {name}",
            f"rows with {name} {rule.condition} count as no events; if they are some, take the "
            "rule out",
        )
        lines.append(f"  - {{column: {scalar(name)}, {rule.condition}, reason: {rule.reason}}}")
    return ["reject:", *lines] if lines else []


def quarantine_lines(draft: Draft) -> list[str]:
    """The common bound, and bounds of their own for dirt that was seen often."""
    seen = {
        f"missing {noun}": draft.roles[role].missing_share
        for role, noun in (("user_id", "user"), ("item_id", "item"))
    }
    seen |= {rule.reason: rule.met for rule in _rules(draft)}
    often = {reason: part for reason, part in seen.items() if part > _WORTH_A_BOUND}
    if not often:
        return ["quarantine: {max_share: 0.05}"]
    bounds = {reason: min(1.0, math.ceil(150 * part) / 100) for reason, part in often.items()}
    for reason, bound in bounds.items():
        why = f"seen in {often[reason]:.1%} of the rows, and half as much again"
        draft.say("quarantine", f"{reason}: up to {bound:.0%} of the rows", why)
    pairs = ", ".join(f"{reason}: {bound:g}" for reason, bound in bounds.items())
    return [f"quarantine: {{max_share: 0.05, expected: {{{pairs}}}}}"]
