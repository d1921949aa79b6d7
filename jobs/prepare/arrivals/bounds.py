"""How many rows may be bad before a night stops: of all that it knows, and of what is new."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from jobs.errors import SourceError
from jobs.prepare.arrivals.intake import Intake
from jobs.prepare.arrivals.ledger import ALWAYS, Arrival, Ledger
from jobs.prepare.arrivals.snapshot import Totals
from jobs.prepare.sources.mapping_form import Quarantine
from jobs.query import query

# A delivery is small, and its share of bad rows differs from night to night. It is refused by
# itself only if it is plainly broken: beyond three times the bound, and beyond chance.
_FACTOR, _DEVIATIONS, _AT_LEAST = 3.0, 3.0, 10


def _over(
    counts: Mapping[str, int], n_rows: int, bounds: Quarantine, *, factor: float = 1.0
) -> str | None:
    """What is more than the bounds allow, for people; None if nothing is."""
    expected = {r: s for r, s in bounds.expected.items() if r in counts}
    for reason, share in expected.items():
        if _is_over(counts[reason], n_rows, share, factor):
            said = f"{counts[reason]:,} of {n_rows:,} rows ({counts[reason] / n_rows:.1%})"
            return f"{said} would be quarantined as '{reason}', more than the {share:.1%} expected"
    others = sum(n for reason, n in counts.items() if reason not in expected)
    if _is_over(others, n_rows, bounds.max_share, factor):
        said = f"{others:,} of {n_rows:,} rows ({others / n_rows:.1%}) would be quarantined"
        return f"{said}, more than the {bounds.max_share:.1%} of --max-quarantined-share"
    return None


def _is_over(n_bad: int, n_rows: int, share: float, factor: float) -> bool:
    if factor == 1.0:
        return n_bad > share * n_rows
    allowed = min(factor * share, 1.0)
    chance = _DEVIATIONS * math.sqrt(n_rows * allowed * (1 - allowed))
    return n_bad >= _AT_LEAST and n_bad > allowed * n_rows + chance


def refuse_bad_arrival(intake: Intake, ledger: Ledger, bounds: Quarantine) -> None:
    """Stop before anything is written down from a source that has changed its form.

    Raises:
        SourceError: too many of the rows are bad, of the new ones or of all until now.
    """
    assert intake.rejected is not None
    by_reason = query("prepare/quarantined_counts", {"quarantined_events": intake.rejected})
    dated = [each for each in intake.arrivals if each.known_day != ALWAYS]
    if ledger.records and (over := _over(*_counted(dated), bounds, factor=_FACTOR)):
        raise SourceError(
            f"of what became known from {dated[0].known_day} to {dated[-1].known_day}, {over}; "
            + _listed(_counted(dated)[0], by_reason.to_pylist())
        )
    kept = [each for each in ledger.arrivals(intake.after) if intake.after > date.min]
    counts, n_rows = _counted([*kept, *intake.arrivals])
    if over := _over(counts, n_rows, bounds):
        raise SourceError(f"{over}: {_listed(counts, by_reason.to_pylist())}")


def _counted(arrivals: Sequence[Arrival]) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    for each in arrivals:
        counts.update(each.rejected)
    return counts, sum(each.n_rows for each in arrivals)


def _listed(counts: Mapping[str, int], by_reason: list[dict[str, Any]]) -> str:
    by_size = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    said = ", ".join(f"{n:,} {reason}" for reason, n in by_size)
    if not by_reason:
        return said
    first = min(by_reason, key=lambda r: (r["first_row"]["source_file"], r["first_row"]["line"]))
    row = first["first_row"]
    place = f"{row['source_file']}, line {row['line']}"
    return f"{said}; the first: {place}: {row['raw']!r} ({first['reason']})"


def refuse_too_many_bad_rows(totals: Totals, bounds: Quarantine) -> None:
    """Stop before anything is published from a source that has changed its form.

    Raises:
        SourceError: too many of the known rows are bad, or none are good.
    """
    if over := _over(totals.bad, totals.n_rows_in, bounds):
        raise SourceError(f"{over}: {_listed(totals.bad, totals.by_reason)}")
    if not totals.n_events:
        raise SourceError(
            f"no event is known on this day: {totals.n_rows_in:,} rows known, "
            f"{totals.n_quarantined:,} of them bad; name a later --day, or see what was put "
            "aside and why in quarantined_events and the mapping"
        )
