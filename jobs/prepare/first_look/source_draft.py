"""Which table of a source holds its events, and which of its columns plays which part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import SourceError
from jobs.prepare.first_look.column_roles import (
    NAMES,
    is_id,
    is_label,
    is_number,
    is_title,
    name_score,
    time_form,
)
from jobs.prepare.first_look.source_look import Column, Table

REQUIRED = ("user_id", "item_id", "at")
_FITS: dict[str, Callable[[Column], bool]] = {
    "user_id": is_id,
    "item_id": is_id,
    "at": lambda column: time_form(column) is not None,
    "ingested_at": lambda column: time_form(column) is not None,
    "rating": is_number,
    "label": is_label,
    "title": is_title,
}


@dataclass(frozen=True)
class Guess:
    """One thing that the first mapping says.

    Attributes:
        what: the key of the mapping.
        value: what was written.
        why: what it was seen from.
        look: what a person has to settle; None if the source leaves no doubt.
    """

    what: str
    value: str
    why: str
    look: str | None = None


@dataclass
class Draft:
    """Everything guessed about a source, in the order in which it is told."""

    events: Table
    roles: dict[str, Column]
    catalogue: tuple[Table, dict[str, Column]] | None = None
    guesses: list[Guess] = field(default_factory=list)

    def say(self, what: str, value: str, why: str, look: str | None = None) -> None:
        """Add one guess."""
        self.guesses.append(Guess(what, value, why, look))


# -- which table, which column ---------------------------------------------------------------------


def _roles(table: Table, chosen: Mapping[str, str]) -> tuple[dict[str, Column], int]:
    """The column of each role in one table, and how sure the names of the required ones are."""
    roles: dict[str, Column] = {}
    total = 0
    for role in NAMES:
        if role in chosen:
            if (column := table.column(chosen[role])) is not None:
                roles[role], total = column, total + 1_000
            continue
        free = [c for c in table.columns if c not in roles.values() and _FITS[role](c)]
        scored = sorted(((-name_score(role, c.name), c.name, c) for c in free), key=lambda s: s[:2])
        if scored and scored[0][0] < 0:
            roles[role] = scored[0][2]
            total -= scored[0][0] if role in REQUIRED else 0
    return roles, total


def events_table(
    source: Path, tables: Sequence[Table], chosen: Mapping[str, str]
) -> tuple[Table, dict[str, Column]]:
    """The table that holds users, items and times: of several, the one of most files.

    Raises:
        SourceError: none does.
    """
    found = [(table, *_roles(table, chosen)) for table in tables]
    whole = [one for one in found if all(role in one[1] for role in REQUIRED)]
    if not whole:
        table, roles, _ = max(found, key=lambda one: (len(one[1].keys() & set(REQUIRED)), one[2]))
        missing = [role for role in REQUIRED if role not in roles]
        raise SourceError(
            f"{source}: no column of {table.label} looks like {' or '.join(missing)}; it has "
            f"{', '.join(c.name for c in table.columns)}; say which one it is: "
            + " ".join(f"--column {role}=NAME" for role in missing)
        )
    table, roles, _ = max(whole, key=lambda one: (one[0].n_files, one[2], one[0].label))
    return table, roles


def catalogue(
    events: Table, item: Column, tables: Sequence[Table]
) -> tuple[Table, dict[str, Column]] | None:
    """Another table with the events' items and a title for each, if one is there."""
    best: tuple[int, Table, dict[str, Column]] | None = None
    for table in tables:
        if table is events:
            continue
        roles, _ = _roles(table, {"item_id": item.name} if table.column(item.name) else {})
        if not {"item_id", "title"} <= roles.keys() or len(roles.keys() & set(REQUIRED)) == 3:
            continue
        n_shared = len(set(roles["item_id"].texts) & set(item.texts))
        if n_shared and (best is None or n_shared > best[0]):
            best = n_shared, table, {role: roles[role] for role in ("item_id", "title")}
    return best[1:] if best else None
