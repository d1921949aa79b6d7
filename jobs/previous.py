"""Which version and adapter are last night's: so that no DAG and no job reads "the latest"."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date

from embedding_store.errors import StoreError
from embedding_store.lookup import open_version, previous_version
from jobs.home import Home
from jobs.job import EXIT_FAILED, load_manifest
from jobs.launch import ADAPTER_DAYS


def adapter_of(home: Home, version: int | None, day: date) -> date:
    """The day whose adapter the night of `day` uses: last night's, or its own for a new one.

    An adapter serves ADAPTER_DAYS days. It is taken from what the version of the night before was
    tuned with, so a backfilled day gets the adapter that it had.
    """
    if version is None:
        return day
    before = date.fromisoformat(open_version(home.store, version, verify="off").day)
    tuned = load_manifest(home, "tune", before)
    try:
        found = date.fromisoformat(str(tuned.config["adapter"] if tuned else None))
    except ValueError:
        return day  # tuned without one, or with one from a folder
    is_there = load_manifest(home, "adapt", found) is not None
    return found if is_there and 0 <= (day - found).days < ADAPTER_DAYS else day


def main() -> None:
    """Command line: `python -m jobs.previous --day 2026-03-02`; the last line is a small JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.previous",
        description="Name the version of the highest day before a day, for --previous-version, and "
        "the day of the adapter that the night uses, for --adapter.",
        epilog="example: python -m jobs.previous --day 2026-03-02",
    )
    parser.add_argument("--day", required=True, type=date.fromisoformat)
    day = parser.parse_args().day
    home = Home.from_environment()
    try:
        version = previous_version(home.store, day)
        adapter = adapter_of(home, version, day)
    except StoreError as error:
        sys.stderr.write(f"previous {day}: {error}\n")
        sys.exit(EXIT_FAILED)
    said = {"job": "previous", "day": str(day), "version": version, "adapter": str(adapter)}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
