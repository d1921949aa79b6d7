"""Synthetic events as Parquet in time order: Zipf items, 20 to 200 events a user, ties in a second.

    python benchmarks/prepare_events.py /tmp/events-20m --rows 20_000_000
    python benchmarks/prepare_events.py /tmp/heavy --rows 1_000_000 --heavy 100_000

Columns are those of the table `events`. A user comes in sessions of one or three ratings that share
their second: half of all rows have a tie, as in MovieLens. `--heavy n` gives one user n
events on top. Files hold 2 M rows each. The same arguments give the same rows.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Ints = NDArray[np.int64]

START_S = 1_672_531_200  # 2023-01-01
SPAN_S = 2 * 365 * 86_400
N_ITEMS = 100_000
FILE_ROWS = 2_000_000
EVENTS_A_USER = (20, 200)
_SHARES = np.array([0.08, 0.16, 0.22, 0.28, 0.26])  # of ratings 1 to 5: 54 % are positive


def _sessions(n_rows: int, heavy: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """User and length of every session, in time order."""
    low, high = EVENTS_A_USER
    counts = rng.integers(low, high + 1, size=2 * n_rows // (low + high) + 1_000)
    counts = counts[: int(np.searchsorted(np.cumsum(counts), n_rows)) + 1]
    counts[-1] -= counts.sum() - n_rows
    counts = counts[counts > 0]
    if heavy:
        counts = np.append(counts, heavy)
    # 1, 1, 1, 3, 1, 1, 1, 3, ...: sessions of a user, whose last is cut to the user's count.
    whole, rest = np.divmod(counts, 6)
    per_user = 4 * whole + np.array([0, 1, 2, 3, 4, 4])[rest]
    starts = np.cumsum(per_user) - per_user
    users = np.repeat(np.arange(len(counts), dtype=np.int32), per_user)
    nth = np.arange(len(users)) - starts[users]
    lengths = np.where(nth % 4 == 3, 3, 1).astype(np.int8)
    lengths[starts + per_user - 1] += (counts - np.add.reduceat(lengths, starts)).astype(np.int8)
    order = rng.permutation(len(users))
    return users[order], lengths[order]


def _items(n_rows: int, sessions: Ints, rng: np.random.Generator) -> Ints:
    """Zipf items of exponent 1, none twice within a session."""
    weights = np.cumsum(1.0 / np.arange(1, N_ITEMS + 1))
    ranks = np.searchsorted(weights, rng.random(n_rows) * weights[-1])
    for _ in range(2):  # a session has three rows at most
        for back in (1, 2):
            same = (sessions[back:] == sessions[:-back]) & (ranks[back:] == ranks[:-back])
            ranks[back:][same] = (ranks[back:][same] + 7_919 * back) % N_ITEMS
    return (ranks * 48_271) % 9_999_991  # a prime: one id for each rank


def write_events(folder: Path, n_rows: int, *, heavy: int = 0, seed: int = 0) -> None:
    """Write `n_rows` events, and `heavy` more of one user, as folder/part-*.parquet."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    users, lengths = _sessions(n_rows, heavy, rng)
    ends = np.cumsum(lengths, dtype=np.int64)
    seconds = np.sort(rng.integers(SPAN_S, size=len(users), dtype=np.int32))
    for part, start in enumerate(range(0, int(ends[-1]), FILE_ROWS)):
        rows = np.arange(start, min(start + FILE_ROWS, int(ends[-1])))
        session = np.searchsorted(ends, rows, side="right")
        at = (START_S + seconds[session].astype(np.int64)) * 1_000_000
        ratings = np.searchsorted(np.cumsum(_SHARES), rng.random(len(rows))) + 1
        table = pa.table(
            {
                "user_id": users[session].astype(np.int64) * 3 + 1,
                "item_id": _items(len(rows), session, rng),
                "rating": np.minimum(ratings, 5).astype(np.float32),
                "rated_at": pa.array(at, pa.timestamp("us")),
                "ingested_at": pa.array(at + 86_400_000_000, pa.timestamp("us")),
                "source_row": rows + 1,
            }
        )
        pq.write_table(table, folder / f"part-{part:03d}.parquet", compression="zstd")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--heavy", type=int, default=0, help="events of one more user")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.perf_counter()
    write_events(given.folder, given.rows, heavy=given.heavy, seed=given.seed)
    print(f"{given.folder}: {given.rows + given.heavy} rows, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
