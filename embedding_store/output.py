"""How the command line prints: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

Format = Literal["table", "json", "csv"]
Row = Mapping[str, Any]
_SHOWN_VALUES = 6
_UNBROKEN = 200  # columns, where no terminal says how wide it is


def emit(rows: Sequence[Row], format: Format, about: Row | None = None, title: str = "") -> None:
    """Print rows that share their columns.

    Args:
        rows: what was found.
        format: `table`; `json`, an object that holds `about` and `rows`; `csv`, a header and
            lines, `about` in the last columns.
        about: what holds for all rows, the version for instance.
        title: above the table, for people.
    """
    about = about or {}
    if format == "json":
        emit_document({**about, "rows": [_plain(row) for row in rows]})
    elif format == "csv":
        _emit_csv([{**_flat(row), **about} for row in rows])
    else:
        said = ", ".join(f"{name} {value}" for name, value in about.items())
        _emit_table(rows, ", ".join(filter(None, (title, said))))


def emit_document(document: Row) -> None:
    """Print one JSON object on one line."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")


def _emit_csv(rows: Sequence[Row]) -> None:
    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _emit_table(rows: Sequence[Row], title: str) -> None:
    table = Table(title=title or None, title_justify="left")
    for name in rows[0] if rows else ():
        is_number = isinstance(rows[0][name], int | float | np.number)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_short(value)) for value in row.values()))  # no markup in titles
    width = None if sys.stdout.isatty() else _UNBROKEN
    Console(width=width).print(table if rows else Text(f"{title}: none"))


def _plain(row: Row) -> dict[str, Any]:
    return {name: _numbers(value) for name, value in row.items()}


def _numbers(value: Any) -> Any:
    """float32 in as few digits as give it back, NumPy's numbers as Python's."""
    if isinstance(value, np.ndarray):
        return [_numbers(one) for one in value]
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value


def _flat(row: Row) -> dict[str, Any]:
    """A vector in as many columns as it has dimensions."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, np.ndarray):
            flat |= {f"{name}_{place}": one for place, one in enumerate(value)}
        else:
            flat[name] = value
    return flat


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        first = " ".join(f"{one:.4g}" for one in value[:_SHOWN_VALUES])
        return first if len(value) <= _SHOWN_VALUES else f"{first} ... ({len(value)})"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return "" if value is None else str(value)
