"""A small source that grows day by day: late, corrected, duplicate and dirty rows, by hand."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.datasets import EVENTS, QUARANTINED_EVENTS

if TYPE_CHECKING:
    from tests.prepare.conftest import Night

MAPPING = """\
domain: shop
events:
  files: ["ratings/{day}.csv"]
  format: csv
  columns: {user_id: user, item_id: item, rating: stars, at: at}
  user_id: {type: string}
  item_id: {type: integer}
  at: {form: iso}
feedback: {kind: rating, minimum: 1, maximum: 5, positive_from: 4}
items: {files: ["items/{day}.csv"], format: csv, columns: {item_id: item, title: title}}
quarantine: {max_share: 1.0}
"""
HEADER = "user,item,stars,at"
# Of each delivery's rows: good ones, a late one, a correction, duplicates, and dirt.
DELIVERIES = {
    "2026-01-01": """\
ann,1,5,2026-01-01 10:00:00
ann,2,3,2026-01-01 11:00:00
bob,1,4,2026-01-01 12:00:00
bob,3,2,2026-01-01 12:00:00
cy,1,six,2026-01-01 13:00:00
bob,1,4,2026-01-01 12:00:00
""",
    "2026-01-02": """\
ann,1,4,2026-01-01 10:00:00
cy,2,5,2026-01-02 09:00:00
cy,2,1,2026-01-02 09:00:00
dan,1,3,2026-01-01 23:59:59
,1,3,2026-01-02 10:00:00
""",
    "2026-01-03": """\
ann,1,5,2026-01-01 10:00:00
bob,2,5,2026-01-03 08:00:00
cy,2,5,2026-01-02 09:00:00
dan,2,9,2026-01-03 08:00:00
""",
    "2026-01-04": """\
eve,1,2,2026-01-04 00:00:00
eve,2,2,2026-01-02 07:00:00
bob,3,2,2026-01-04 12:00:00
ann,1,5,2026-01-01 10:00:00
gus,1,5,2026-01-09 10:00:00
""",
}
ITEMS = {"2026-01-01": "1,Alien\n2,Heat\n", "2026-01-03": "3,Ran\n2,Heat (1995)\n"}
DAYS = tuple(date(2026, 1, n) for n in (2, 3, 4, 5))


def write_shop(folder: Path, until: date = date(2026, 1, 9)) -> Path:
    """The deliveries that arrived before `until`, with the mapping."""
    (folder / "ratings").mkdir(parents=True, exist_ok=True)
    (folder / "items").mkdir(exist_ok=True)
    (folder / "tidemark.yaml").write_text(MAPPING)
    for name, rows in DELIVERIES.items():
        if date.fromisoformat(name) < until:
            (folder / "ratings" / f"{name}.csv").write_text(f"{HEADER}\n{rows}")
    for name, rows in ITEMS.items():
        if date.fromisoformat(name) < until:
            (folder / "items" / f"{name}.csv").write_text(f"item,title\n{rows}")
    return folder


def make_unreadable(path: Path) -> None:
    """Other bytes, and nothing that shows it from outside: who reads them will notice."""
    status = path.stat()
    path.write_bytes(b"\xff" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def ratings(tonight: Night) -> dict[tuple[str, int], float]:
    """Rating by user and item of the night's events."""
    rows = tonight.table(EVENTS).to_pylist()
    return {(row["user_id"], row["item_id"]): row["rating"] for row in rows}


def reasons(tonight: Night) -> list[tuple[str, int, str]]:
    rows = tonight.table(QUARANTINED_EVENTS).to_pylist()
    return [(Path(row["source_file"]).stem[-2:], row["line"], row["reason"]) for row in rows]
