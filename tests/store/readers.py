"""A reader that goes round and round while others publish and delete; prints what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from embedding_store import open_version


def expected(seed):
    """What `store_workload.publish` gave item_semantics."""
    return np.random.default_rng(seed).normal(size=(40, 8)).astype(np.float32)


def main(root, stop):
    n_reads, versions, failures = 0, set(), []
    while not Path(stop).exists():
        try:
            with open_version(root, "production") as version:
                seed = int(version.manifest.run_key)
                table = version["item_semantics"]
                for _ in range(3):
                    if not (table.vectors_of([0, 390]) == expected(seed)[[0, 39]]).all():
                        failures.append(f"version {version.version} gave vectors of another")
                projectors = version.file("projectors.safetensors").read_bytes()
                if len(projectors) != 256 * (seed + 1):
                    failures.append(f"version {version.version} gave a file of another")
                versions.add(version.version)
                n_reads += 1
        except Exception as error:
            failures.append(repr(error))
    seen = {"reads": n_reads, "versions": sorted(versions), "failures": failures}
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
