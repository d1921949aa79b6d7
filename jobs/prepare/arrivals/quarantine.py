"""Looks into the quarantine of a night."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from jobs.datasets import QUARANTINED_EVENTS
from jobs.errors import NotAvailable
from jobs.home import Home
from jobs.job import load_manifest
from jobs.manifest import Manifest
from jobs.query import query


@dataclass(frozen=True)
class Wanted:
    """Which rows; None and the empty tuple let all through."""

    reason: str | None = None
    source_file: str | None = None
    lines: tuple[int, ...] = ()
    column: str | None = None
    value: str | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """As the queries take them."""
        return {
            "of_reason": self.reason,
            "of_file": self.source_file,
            "of_column": self.column,
            "of_value": self.value,
            "of_lines": list(self.lines) or None,
        }


def night_of(home: Home, day: date | None) -> Manifest:
    """The ingest of `day`, or of the last night that the home holds.

    Raises:
        NotAvailable: there is none.
    """
    nights = home.nights("ingest")
    if not nights:
        raise NotAvailable(
            f"{home.root}: no night has run here; give the home by TIDEMARK_HOME=<folder>"
        )
    manifest = load_manifest(home, "ingest", day or nights[-1])
    if manifest is None or manifest.output(QUARANTINED_EVENTS.name) is None:
        raise NotAvailable(
            f"{home.root}: no quarantine of {day}; there are {len(nights)} nights from {nights[0]} "
            f"to {nights[-1]}"
        )
    return manifest


def _table(home: Home, night: Manifest) -> Path:
    return home.output(QUARANTINED_EVENTS, date.fromisoformat(night.day))


def counts(home: Home, night: Manifest, wanted: Wanted) -> list[dict[str, Any]]:
    """`kind, known_day, reason, n_rows` of the rows that are wanted."""
    tables = {"quarantined_events": _table(home, night)}
    return query("prepare/quarantined_by_day", tables, **wanted.parameters).to_pylist()


def rows(home: Home, night: Manifest, wanted: Wanted, n_shown: int) -> list[dict[str, Any]]:
    """At most `n_shown` of the rows that are wanted, in the order of their places."""
    tables = {"quarantined_events": _table(home, night)}
    found = query("prepare/quarantined_shown", tables, n_shown=n_shown, **wanted.parameters)
    return found.to_pylist()
