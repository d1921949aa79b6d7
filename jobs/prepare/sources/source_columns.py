"""Columns of a source: the ones asked for, found by name or refused with the closest name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import pyarrow as pa

from jobs.errors import SourceError

# What a reader adds in front of a source's columns; no column of a source is called so.
LINE, BROKEN, RAW = "#line", "#broken", "#raw"


def places_of(names: Sequence[str], wanted: Sequence[str], where: str) -> list[int]:
    """Place of each wanted column among `names`.

    Args:
        names: what the file has.
        wanted: what the mapping names.
        where: file (and line) for errors.

    Raises:
        SourceError: one is missing, or there twice.
    """
    for name in wanted:
        if (n := names.count(name)) != 1:
            raise SourceError(f"{where}: {_missing(name, names) if not n else _twice(name)}")
    return [names.index(name) for name in wanted]


def _missing(name: str, names: Sequence[str]) -> str:
    by_lower = {found.strip().lower(): found for found in names}
    close = difflib.get_close_matches(name.strip().lower(), list(by_lower), n=1, cutoff=0.5)
    meant = f"the closest is '{by_lower[close[0]]}'; " if close else ""
    found = ", ".join(repr(found)[1:-1] for found in names[:20])
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"column '{name}' is missing; {meant}found {found}{more}; change the mapping or the file"


def _twice(name: str) -> str:
    return f"column '{name}' is there more than once; rename one of them"


def refuse_nested(schema: pa.Schema, where: str) -> None:
    """Refuse columns that hold more than one value a row.

    Raises:
        SourceError: a column is a list, a struct, a map or a union.
    """
    for field in schema:
        if pa.types.is_nested(field.type):
            raise SourceError(
                f"{where}: column '{field.name}' is {field.type}; expected one plain value a row: "
                "flatten it in the source"
            )
