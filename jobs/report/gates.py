"""The gates of a version as a reader wants them, and what they say of drift."""

from __future__ import annotations

import re
from collections.abc import Sequence

from embedding_store.manifest import GateEntry
from jobs.report.figures import Estimate
from jobs.report.night_figures import Gate, VectorDrift

TITLES = {
    "auc": "AUC on the last labelled days, upper end of its interval",
    "auc_change": "Change of AUC since the version before, upper end of its interval",
    "overlap": "Share of neighbours kept",
    "mean_shift": "Move of the mean vector, in root mean square norms",
    "norm_shift": "Median norm over that of the version before",
    "catalogue": "Share of the catalogue held",
    "coverage": "Share of the ids of the version before held",
    "finite": "Vectors with NaN or infinity",
    "zero": "Share of zero vectors",
    "norms": "Longest vector over the median",
    "collapse": "Mean cosine of all pairs",
    "recall": "Recall of the index, lower end of its interval",
}
_CHANGE = re.compile(
    r"(?P<value>[+-]\d+\.\d+) \((?P<low>[+-]\d+\.\d+) to (?P<high>[+-]\d+\.\d+)\) on (?P<rows>.+)"
)


def gates(entries: Sequence[GateEntry]) -> list[Gate]:
    """All gates: those that failed first, then in the order of `TITLES`, unmeasured ones last."""
    order = list(TITLES)
    found = [_gate(entry) for entry in entries]

    def place(gate: Gate) -> tuple[bool, bool, int]:
        kind = gate.name.split(".")[0]
        return gate.passed, gate.value is None, order.index(kind) if kind in order else len(order)

    return sorted(found, key=place)


def _gate(entry: GateEntry) -> Gate:
    kind, _, about = entry.name.partition(".")
    return Gate(
        name=entry.name,
        title=TITLES.get(kind, kind),
        about=about,
        value=entry.value,
        at_least=entry.at_least,
        at_most=entry.at_most,
        passed=entry.passed,
        says=entry.says,
    )


def auc_change(entries: Sequence[GateEntry]) -> tuple[Estimate | None, str]:
    """The change of AUC that the publication measured, and on which rows or why not.

    The gate keeps the interval's upper end as its value, and the rest in its words.
    """
    entry = next((each for each in entries if each.name == "auc_change"), None)
    if entry is None:
        return None, "the publication compared no AUC"
    found = _CHANGE.fullmatch(entry.says)
    if found is None or entry.value is None:
        return None, entry.says
    value, low, high = (float(found[name]) for name in ("value", "low", "high"))
    return Estimate(value=value, low=low, high=high), found["rows"]


def vector_drift(entries: Sequence[GateEntry]) -> list[VectorDrift]:
    """Tables that were compared with those of the version before."""
    values = {entry.name: entry.value for entry in entries}
    tables = [name.removeprefix("overlap.") for name in values if name.startswith("overlap.")]
    found = [
        VectorDrift(
            table=table,
            norm_shift=values.get(f"norm_shift.{table}"),
            mean_shift=values.get(f"mean_shift.{table}"),
            overlap=values[f"overlap.{table}"],
        )
        for table in tables
    ]
    return [each for each in found if each.overlap is not None]
