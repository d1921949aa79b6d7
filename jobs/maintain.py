"""Upkeep of the store, one step a call: what `embedding-store` does by hand, for a scheduler."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

from embedding_store.errors import StoreNotFound
from embedding_store.garbage import Policy
from embedding_store.rebuild import rebuild_check
from embedding_store.store import EmbeddingStore
from jobs.answer import answer
from jobs.errors import JobError
from jobs.failures import told
from jobs.home import Home
from jobs.logs import configure_logs

_SHOWN = 5
_DAY_S = 86_400.0


def recover(store: EmbeddingStore, policy: Policy) -> dict[str, Any]:
    """Give a version to every decided run whose process died before it had one."""
    return {"recovered": sorted(store.recover().values())}


def verify(store: EmbeddingStore, policy: Policy) -> dict[str, Any]:
    """Read every byte of every version.

    Raises:
        JobError: something is not as it was published; names the files.
    """
    found = store.verify()
    if found:
        shown = "\n  ".join(str(problem) for problem in found[:_SHOWN])
        raise JobError(
            f"{len(found)} problems in {store.root}, the first:\n  {shown}\n"
            "Bring the files back from a copy; until then 'embedding-store rollback production' "
            "serves the version before"
        )
    return {"versions": len(store.versions())}


def collect(store: EmbeddingStore, policy: Policy) -> dict[str, Any]:
    """Condemn the versions that nobody needs, and delete those whose readers are gone."""
    outcomes = store.gc(policy)
    kinds = ("condemned", "pardoned", "waiting", "deleted")
    return {kind: [each.what for each in outcomes if each.done == kind] for kind in kinds}


def rebuild(store: EmbeddingStore, policy: Policy) -> dict[str, Any]:
    """Make the sidecars and indexes of `production` once more and compare their bytes.

    Raises:
        JobError: a byte differs; names the files.
    """
    with store.open("production") as version:
        files = rebuild_check(version)
    if different := [each.file for each in files if not each.is_equal]:
        raise JobError(
            f"version {version.version}: {', '.join(different[:_SHOWN])} come out otherwise than "
            "they were published; another faiss or machine explains it, else publish the day again"
        )
    return {"version": version.version, "files": len(files)}


Step = Callable[[EmbeddingStore, Policy], dict[str, Any]]
STEPS: dict[str, Step] = {
    "recover": recover,
    "verify": verify,
    "collect": collect,
    "rebuild": rebuild,
}


def main() -> None:
    """Command line: `python -m jobs.maintain --step collect --day 2026-03-02`."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs.maintain",
        description=__doc__,
        epilog="example: python -m jobs.maintain --step verify --day 2026-03-02",
    )
    parser.add_argument("--step", required=True, choices=STEPS)
    parser.add_argument("--day", required=True, type=date.fromisoformat, help="for the log")
    parser.add_argument("--keep-last", type=int, default=3, help="versions that an alias named")
    parser.add_argument("--keep-days", type=float, default=7.0, help="versions younger than this")
    given = parser.parse_args()
    configure_logs()
    home = Home.from_environment()
    try:
        policy = Policy(keep_last=given.keep_last, younger_than_s=given.keep_days * _DAY_S)
        found = STEPS[given.step](EmbeddingStore(home.store), policy)
    except StoreNotFound:
        found = {"note": f"nothing is published at {home.store} yet"}  # upkeep may begin earlier
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(told(f"maintain {given.step} {given.day}", error, home))
    answer({"job": "maintain", "step": given.step, "day": str(given.day), **found})


if __name__ == "__main__":
    main()
