"""Publishes on a small disk that is full at every page of 4 KiB; prints what it saw as JSON.

Runs in a mount namespace of its own: `unshare --map-root-user --mount python full_disk.py FOLDER`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from store_workload import facts, promote, publish

from embedding_store import EmbeddingStore
from embedding_store.errors import StorageFull

PAGE = 4_096
SECOND = ("second", "2026-03-02", 2)


def fill(path, n_free):
    """A file that leaves exactly so many pages."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(PAGE))
        except OSError:
            size = file.tell() // PAGE * PAGE
        os.truncate(path, max(0, size - n_free * PAGE))


def main(folder):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=True)
    disk = Path(folder)
    template, root, filler = disk / "template", disk / "store", disk / "filler"
    EmbeddingStore(template).initialise(grace_s=60)
    publish(template)
    promote(template, 1)
    template.with_name("store.projectors-2").write_bytes(bytes(range(256)) * 3)
    seen = {"refused": 0, "published": 0, "errors": [], "wrong": []}
    n_free = 0
    while not seen["published"]:
        shutil.copytree(template, root)
        fill(filler, n_free)
        try:
            publish(root, *SECOND)
            seen["published"] += 1
        except StorageFull as error:
            seen["refused"] += 1
            if "no space left for" not in str(error) or "try again" not in str(error):
                seen["errors"].append(str(error))
        store = EmbeddingStore(root)
        with store.open("production") as old:  # still full: there may be no room for a lease
            if len(old["item_semantics"].vectors_of([10])) != 1 or old.version != 1:
                seen["wrong"].append(n_free)
        filler.unlink()
        if publish(root, *SECOND) != 2 or facts(root)["problems"]:
            seen["wrong"].append(n_free)
        shutil.rmtree(root)
        n_free += 1
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
