"""Which version is last night's: a small task, so that no DAG and no job reads "the latest"."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date

from embedding_store.errors import StoreError
from embedding_store.lookup import previous_version
from jobs.home import Home
from jobs.job import EXIT_FAILED


def main() -> None:
    """Command line: `python -m jobs.previous --day 2026-03-02`; the last line is a small JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.previous",
        description="Name the version of the highest day before a day, for --previous-version.",
        epilog="example: python -m jobs.previous --day 2026-03-02",
    )
    parser.add_argument("--day", required=True, type=date.fromisoformat)
    day = parser.parse_args().day
    try:
        version = previous_version(Home.from_environment().store, day)
    except StoreError as error:
        sys.stderr.write(f"previous {day}: {error}\n")
        sys.exit(EXIT_FAILED)
    said = {"job": "previous", "day": str(day), "version": version}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
