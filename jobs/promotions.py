"""Moves of an alias that no scheduler was told of: listed for the task that tells, then marked.

The store keeps them (its outbox), so a scheduler that dies between the move and the event is told
by the next one that asks. Each is told at least once; whoever listens runs jobs that redo nothing.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from typing import Any

from embedding_store.errors import StoreNotFound
from embedding_store.manifest import AliasEntry
from embedding_store.store import EmbeddingStore
from jobs import failures
from jobs.answer import answer
from jobs.home import Home
from jobs.logs import configure_logs

ALIAS = "production"


def untold(store: EmbeddingStore, alias: str = ALIAS) -> list[AliasEntry]:
    """Moves of one alias without a mark, oldest first; none where there is no store yet."""
    try:
        return [entry for entry in store.pending_events() if entry.alias == alias]
    except StoreNotFound:
        return []


def told(store: EmbeddingStore, up_to: int, alias: str = ALIAS) -> list[int]:
    """Mark the moves up to a sequence number as told; the numbers that were marked now."""
    entries = [entry for entry in untold(store, alias) if entry.sequence <= up_to]
    for entry in entries:
        store.mark_sent(entry)
    return [entry.sequence for entry in entries]


def _answer(store: EmbeddingStore, up_to: int | None) -> dict[str, Any]:
    if up_to is not None:
        return {"told": told(store, up_to)}
    entries = untold(store)
    days = {each.version: each.day for each in store.versions()} if entries else {}
    # One event a day: the last move to a version of that day is the one that counts.
    versions = {days[entry.version]: entry.version for entry in entries if entry.version in days}
    return {"versions": versions, "up_to": max((each.sequence for each in entries), default=0)}


def main() -> None:
    """Command line: `python -m jobs.promotions --day 2026-03-02 [--told 7]`."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.promotions",
        description="Name the version of each day that 'production' has moved to and that no "
        "scheduler was told of; with --told, mark the moves up to a sequence number.",
        epilog="example: python -m jobs.promotions --day 2026-03-02",
    )
    parser.add_argument("--day", required=True, type=date.fromisoformat, help="for the log")
    parser.add_argument("--told", type=int, default=None, metavar="SEQUENCE")
    given = parser.parse_args()
    configure_logs()
    home = Home.from_environment()
    try:
        found = _answer(EmbeddingStore(home.store), given.told)
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(failures.told(f"promotions {given.day}", error, home))
    answer({"job": "promotions", "day": str(given.day), **found})


if __name__ == "__main__":
    main()
