"""The collector, with no patience: what is not needed now goes now.

python -m drill.collecting STORE
"""

from __future__ import annotations

import json
import sys

from embedding_store import EmbeddingStore
from embedding_store.garbage import Policy

AT_ONCE = Policy(keep_last=1, younger_than_s=0, attempt_age_s=0, skew_s=0)


def main() -> None:
    """Condemn, then delete what was condemned; prints the outcomes of the second turn."""
    store = EmbeddingStore(sys.argv[1])
    for _ in range(2):
        outcomes = store.gc(AT_ONCE)
    sys.stdout.write(json.dumps({one.what: one.done for one in outcomes}) + "\n")


if __name__ == "__main__":
    main()
