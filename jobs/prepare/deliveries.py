"""Reads a folder of daily deliveries, the form of the sample warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from jobs.errors import SourceError
from jobs.prepare.lines import line_table, shown, split_lines
from jobs.prepare.source import Domain, RawWarehouse, read_bytes
from jobs.query import query

SAMPLE = Domain(domain="sample", item_noun="Movie", positive_rating=4.0, split_protocol="rolling")
MARKER = "sample.json"
RATINGS, ITEMS = "ratings", "items"
RATING_HEADER = "user_id,item_id,rating,rated_at"
ITEM_HEADER = "item_id,title"


def read_marker(folder: Path) -> dict[str, Any]:
    """What `sample.json` says of the folder: parameters, first and last delivery.

    Raises:
        SourceError: it cannot be read or does not say so.
    """
    path = folder / MARKER
    try:
        marker = json.loads(read_bytes(path))
        for key in ("first_delivery", "last_delivery"):
            date.fromisoformat(marker[key])
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{path}: expected JSON with first_delivery and last_delivery as YYYY-MM-DD ({error!r})"
        ) from error
    return marker


def files_before(folder: Path, day: date) -> tuple[Path, ...]:
    """The marker and every delivery that arrived before `day`, oldest first.

    Raises:
        SourceError: none arrived before `day`, a rating delivery is missing, or a file's name is
            no date.
    """
    marker = read_marker(folder)
    first, last = (date.fromisoformat(marker[f"{end}_delivery"]) for end in ("first", "last"))
    if day <= first:
        raise SourceError(
            f"{folder}: nothing was delivered before {day}; the first delivery is that of {first}, "
            f"so the first day that can be run is {first + timedelta(days=1)}"
        )
    rating_files = _deliveries(folder / RATINGS, day)
    n_expected = (min(last, day - timedelta(days=1)) - first).days + 1
    expected = [first + timedelta(days=n) for n in range(n_expected)]
    delivered = {_delivery_day(path) for path in rating_files}
    if missing := [d for d in expected if d not in delivered]:
        raise SourceError(
            f"{folder / RATINGS / f'{missing[0]}.csv'}: this delivery is missing ({len(missing)} "
            f"in all); {MARKER} promises one for each day from {first} to {last}"
        )
    item_files = _deliveries(folder / ITEMS, day)
    if not item_files:
        raise SourceError(f"{folder / ITEMS}: no delivery of items before {day}")
    return (folder / MARKER, *item_files, *rating_files)


def _deliveries(folder: Path, day: date) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.glob("*.csv") if _delivery_day(path) < day))


def _delivery_day(path: Path) -> date:
    try:
        return date.fromisoformat(path.stem)
    except ValueError:
        raise SourceError(
            f"{path}: a delivery's name is its day; expected YYYY-MM-DD.csv"
        ) from None


def read_deliveries(folder: Path, day: date) -> RawWarehouse:
    """The sample as far as it was delivered before `day`."""
    files = files_before(folder, day)
    lines = _rating_lines([path for path in files if path.parent.name == RATINGS])
    ratings = query("prepare/sample_ratings", {"rating_lines": lines})
    items = [_item_delivery(path) for path in files if path.parent.name == ITEMS]
    return RawWarehouse(
        domain=SAMPLE,
        ratings=ratings,
        catalogue=query("prepare/sample_catalogue", {"item_deliveries": pa.concat_tables(items)}),
        appearances=ratings.filter(pc.is_null(ratings["reason"])).select(["item_id", "source_row"]),
    )


def _rating_lines(files: Iterable[Path]) -> pa.Table:
    """All rating lines, numbered through in the order of their deliveries."""
    tables = []
    for path in files:
        lines = split_lines(read_bytes(path), str(path), encoding="utf-8")
        if lines[0].as_py() != RATING_HEADER:
            raise SourceError(
                f"{path}, line 1: expected the header {RATING_HEADER}, "
                f"found {shown(lines[0].as_py())}"
            )
        table = line_table(lines[1:], f"{RATINGS}/{path.name}", first_line=2)
        known_from = datetime.combine(_delivery_day(path), time()) + timedelta(days=1)
        arrival = pa.repeat(pa.scalar(known_from, pa.timestamp("us")), table.num_rows)
        tables.append(table.append_column("ingested_at", arrival))
    everything = pa.concat_tables(tables).unify_dictionaries()
    return everything.append_column(
        "source_row", pa.array(np.arange(1, everything.num_rows + 1, dtype=np.int64))
    )


def _item_delivery(path: Path) -> pa.Table:
    """Columns `item_id, title, delivery, line` of one item delivery."""
    content = read_bytes(path)
    try:
        table = csv.read_csv(
            pa.BufferReader(content),
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(
                column_types={"item_id": pa.int64(), "title": pa.string()},
                null_values=[],
            ),
        )
    except pa.ArrowInvalid as error:
        said = str(error).splitlines()[0] if str(error) else "no CSV"
        raise SourceError(f"{path}: expected CSV with the columns {ITEM_HEADER}; {said}") from error
    if table.column_names != ITEM_HEADER.split(","):
        raise SourceError(
            f"{path}, line 1: expected the columns {ITEM_HEADER}, "
            f"found {','.join(table.column_names)}"
        )
    is_blank = pc.equal(pc.utf8_trim_whitespace(table["title"]), "")
    if pc.any(is_blank).as_py():
        blank = table["item_id"][pc.index(is_blank, True).as_py()].as_py()
        raise SourceError(f"{path}: item {blank} has no title; expected the columns {ITEM_HEADER}")
    delivery = pa.repeat(pa.scalar(path.stem), table.num_rows)
    line = pa.array(np.arange(2, table.num_rows + 2, dtype=np.int64))
    return table.append_column("delivery", delivery).append_column("line", line)
