"""A reader that opens an alias again and again and compares what it sees with what was made.

    python -m drill.reading STORE KNOWN STOP PAUSE_S [VERSION]

Until the file STOP is there, opens `production` (or holds VERSION open, and reads it again) and
compares ids and vectors with those that KNOWN holds for the version's day. Prints as JSON how often
it read, which versions, and what was wrong.
"""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from embedding_store.lookup import Version, open_version

TABLES = ("item_semantics", "user_factors")


def differences(version: Version, known: Mapping[str, np.ndarray]) -> list[str]:
    """Tables of a version that are not those of its day."""
    found = []
    for name in TABLES:
        ids = known[f"{version.day}/{name}/ids"]
        vectors = known[f"{version.day}/{name}/vectors"]
        if not np.array_equal(version[name].vectors_of(ids), vectors):
            found.append(f"version {version.version} gave a {name} that is not that of its day")
    return found


def main() -> None:
    """See the module's docstring."""
    store, known_path, stop, pause_s, *pinned = sys.argv[1:]
    known = dict(np.load(known_path))
    n_reads, versions, wrong = 0, set(), []
    held = open_version(store, int(pinned[0])) if pinned else None
    while True:
        try:
            if held is not None:
                seen = held
                wrong += differences(held, known)
            else:
                with open_version(store, "production") as seen:
                    wrong += differences(seen, known)
            versions.add(seen.version)
            n_reads += 1
        except Exception as error:
            wrong.append(repr(error))
        if Path(stop).exists():
            break
        # Under libfaketime time.sleep raises now and then.
        select.select([], [], [], float(pause_s))
    if held is not None:
        held.close()
    said = {"reads": n_reads, "versions": sorted(versions), "wrong": wrong[:5]}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
