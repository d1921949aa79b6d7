"""What a night goes on from: so that no DAG and no job reads "the latest"."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from typing import Any

from embedding_store.lookup import open_version, previous_version
from jobs.answer import answer
from jobs.datasets import ADAPTER_CONFIG, TOKEN_CONFIG
from jobs.failures import told
from jobs.home import Home
from jobs.launch import ADAPTER_DAYS
from jobs.logs import configure_logs
from jobs.manifest import load_manifest


def last_adapter(home: Home, day: date) -> date | None:
    """The day whose adapter serves the night of `day`, of whatever age; None if there is none.

    A night that has distilled with an adapter before keeps it, so that a backfill gives what that
    night had; every other one takes the youngest that was trained on a day before it.
    """
    distilled = load_manifest(home, "distil", day)
    kept = _day_of(str(distilled.config.get("adapter")) if distilled else "")
    if kept is not None and _is_trained(home, kept):
        return kept
    days = home.nights(ADAPTER_CONFIG.producer)
    # The youngest first: a manifest that rotted years ago stops no night.
    return next((each for each in reversed(days) if each < day and _is_trained(home, each)), None)


def adapter_of(home: Home, day: date) -> date:
    """The day whose adapter the night of `day` uses if it may train one: its own for a new one.

    An adapter serves ADAPTER_DAYS days.
    """
    last = last_adapter(home, day)
    return last if last is not None and (day - last).days < ADAPTER_DAYS else day


def _is_trained(home: Home, day: date) -> bool:
    made = load_manifest(home, ADAPTER_CONFIG.producer, day)
    return made is not None and made.output(ADAPTER_CONFIG.name) is not None


def _day_of(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None  # without an adapter, or with one from a folder


def tuned_before(home: Home, version: int | None) -> dict[str, Any] | None:
    """The tuning of the night that made `version`: day, adapter and model; None without one."""
    if version is None:
        return None
    with open_version(home.store, version, verify="off", lease=False) as opened:
        day = date.fromisoformat(opened.day)
    made = load_manifest(home, TOKEN_CONFIG.producer, day)
    if made is None or made.output(TOKEN_CONFIG.name) is None:
        return None
    return {"day": str(day), **{key: made.config.get(key) for key in ("adapter", "model")}}


def last_night(home: Home, day: date) -> dict[str, Any]:
    """What the night of `day` goes on from, as `jobs.night_flags` takes it.

    Returns:
        version: of the highest day before, the last that passed its gates; null before the first.
        adapter: the day whose adapter a night that may train one uses; its own day: one is due.
        last_adapter: the youngest adapter of any age, for a night that trains none; or null.
        tuned: day, adapter and model of the soft tokens of that version's night; or null.

    Raises:
        StoreError: the store is damaged.
    """
    version, last = previous_version(home.store, day), last_adapter(home, day)
    return {
        "version": version,
        "adapter": str(adapter_of(home, day)),
        "last_adapter": None if last is None else str(last),
        "tuned": tuned_before(home, version),
    }


def main() -> None:
    """Command line: `python -m jobs.previous --day 2026-03-02`; the last line is a small JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.previous",
        description="Name the version of the highest day before a day, for --previous-version, the "
        "day of the adapter that the night uses, for --adapter, and the night whose soft tokens "
        "it goes on from, for --init-tokens.",
        epilog="example: python -m jobs.previous --day 2026-03-02",
    )
    parser.add_argument("--day", required=True, type=date.fromisoformat)
    day = parser.parse_args().day
    configure_logs()
    home = Home.from_environment()
    try:
        found = last_night(home, day)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(told(f"previous {day}", error, home))
    answer({"job": "previous", "day": str(day), **found})


if __name__ == "__main__":
    main()
