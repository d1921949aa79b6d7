"""Writes the sample warehouse: daily raw deliveries, dirt included, and the truth behind them."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import JobError, SourceError
from jobs.files import sync_directory
from jobs.job import EXIT_FAILED
from jobs.prepare.sample_dirt import MAX_LATE_DAYS, RATINGS, deliver, planted_dirt
from jobs.prepare.sample_marker import MARKER, read_marker
from jobs.prepare.sample_truth import N_DAYS, Truth, plant

FIRST_DAY = date(2026, 1, 1)
ITEMS, TRUTH = "items", "truth"
RATING_HEADER = "user_id,item_id,rating,rated_at"
ITEM_HEADER = "item_id,title"
MAX_SCALE = 200
_FORM = 2  # raise it when the same parameters give another sample
_ANNOUNCED_DAYS = 3  # an item is in the catalogue before anyone can rate it


def write_sample(folder: Path, *, scale: int = 1, seed: int = 1) -> bool:
    """Make the sample in `folder`, all of it or nothing; an equal sample there is left alone.

    Args:
        folder: gets `ratings/`, `items/`, `truth/` and `sample.json`.
        scale: 1 is 300 users, 400 items and 8,000 events over 60 days from 2026-01-01.
        seed: decides everything else.

    Returns:
        Whether anything was written.

    Raises:
        SourceError: `folder` holds something else.
    """
    if not 1 <= scale <= MAX_SCALE:
        raise SourceError(f"scale {scale}: expected a whole number from 1 to {MAX_SCALE}")
    folder = folder.expanduser().absolute()
    marker = {
        "what": "Tidemark sample warehouse, generated",
        "form": _FORM,
        "scale": scale,
        "seed": seed,
        "first_delivery": str(FIRST_DAY),
        "last_delivery": str(FIRST_DAY + timedelta(days=N_DAYS + MAX_LATE_DAYS - 1)),
    }
    if _is_there(folder, marker):
        return False
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write(aside, scale, seed)
        text = json.dumps(marker, indent=2) + "\n"
        (aside / MARKER).write_text(text, encoding="utf-8")
        return _give_name(aside, folder, marker)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _is_there(folder: Path, marker: dict[str, object]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    found = read_marker(folder) if (folder / MARKER).is_file() else None
    if found != marker:
        asked = f"scale {marker['scale']}, seed {marker['seed']}"
        held = (
            f"a sample of scale {found.get('scale')}, seed {found.get('seed')}"
            if found
            else ("something that is no sample")
        )
        raise SourceError(f"{folder} holds {held}; asked for {asked}: remove it, or name another")
    return True


def _give_name(aside: Path, folder: Path, marker: dict[str, object]) -> bool:
    try:
        aside.replace(folder)
    except OSError:
        if _is_there(folder, marker):  # another process has made it in the meantime
            return False
        raise
    sync_directory(folder.parent)
    return True


def _write(folder: Path, scale: int, seed: int) -> None:
    start_s = int(datetime.combine(FIRST_DAY, time(), UTC).timestamp())
    truth = plant(scale, seed, start_s)
    rows, delivery = deliver(truth.events, N_DAYS, start_s, seed)
    lines = {
        day: [row.raw for row in of_day] for day, of_day in groupby(rows, lambda r: r.delivery)
    }
    (folder / RATINGS).mkdir()
    for day in range(N_DAYS + MAX_LATE_DAYS):
        text = "\n".join([RATING_HEADER, *lines.get(day, [])]) + "\n"
        (folder / RATINGS / _file_of(day)).write_text(text, encoding="utf-8")
    _write_items(folder / ITEMS, truth.items)
    _write_truth(folder / TRUTH, truth, delivery)
    pq.write_table(planted_dirt(rows, _file_of), folder / TRUTH / "dirt.parquet")


def _file_of(day: int) -> str:
    return f"{FIRST_DAY + timedelta(days=day)}.csv"


def _write_items(folder: Path, items: pa.Table) -> None:
    folder.mkdir()
    announced = np.maximum(items["first_day"].to_numpy() - _ANNOUNCED_DAYS, 0)
    for day in np.unique(announced):
        of_day = items.filter(pa.array(announced == day))
        with (folder / _file_of(int(day))).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(ITEM_HEADER.split(","))
            writer.writerows(
                zip(of_day["item_id"].to_pylist(), of_day["title"].to_pylist(), strict=True)
            )


def _write_truth(folder: Path, truth: Truth, delivery: np.ndarray) -> None:
    """What the chain never reads and tests check against."""
    folder.mkdir()
    delivered_on = pa.array(np.datetime64(FIRST_DAY) + delivery)
    pq.write_table(truth.users, folder / "users.parquet")
    pq.write_table(truth.items, folder / "items.parquet")
    events = truth.events.append_column("delivered_on", delivered_on)
    pq.write_table(events, folder / "events.parquet")


def main() -> None:
    """Command line: `python -m jobs.prepare.sample --folder warehouse --scale 1`."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.prepare.sample",
        description=__doc__,
        epilog="example: python -m jobs.prepare.sample --folder warehouse --scale 1",
    )
    parser.add_argument("--folder", required=True, type=Path, help="new folder for the sample")
    parser.add_argument("--scale", default=1, type=int, help="1 is 8,000 events (default: 1)")
    parser.add_argument("--seed", default=1, type=int, help="decides all draws (default: 1)")
    given = parser.parse_args()
    try:
        written = write_sample(given.folder, scale=given.scale, seed=given.seed)
    except JobError as error:
        sys.stderr.write(f"sample: {error}\n")
        sys.exit(EXIT_FAILED)
    status = "done" if written else "unchanged"
    sys.stdout.write(json.dumps({"sample": str(given.folder), "status": status}) + "\n")


if __name__ == "__main__":
    main()
