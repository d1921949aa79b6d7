"""CPU seconds and memory of the job user_profiles against the number of events.

    python benchmarks/profiles_scale.py FOLDER 1000000 2000000

Each size is made once below FOLDER and run in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa

from jobs.codebook.tables import item_codes_table
from jobs.codebook.user_profiles import UserProfilesConfig, job
from jobs.collab.votes import DAY_US
from jobs.datasets import CODEBOOK, CODEBOOK_SPACE, DOMAINS, ITEM_CODES, SPLITS
from jobs.home import Home
from jobs.job import Config, Run, execute, mark_checked
from jobs.vector_columns import as_column

DAY = date(2026, 3, 2)
N_ITEMS, N_LEVELS, N_CODES, EVENTS_PER_USER = 200_000, 3, 32, 20
_ARROW = {
    "string": pa.string(),
    "float32": pa.float32(),
    "int32": pa.int32(),
    "int64": pa.int64(),
}


def make(home: Home, n_events: int) -> None:
    """A home with random events and codes; nine rows in ten are train."""
    rng = np.random.default_rng(0)
    n_train = n_events * 9 // 10
    row = np.concatenate([np.arange(n_train), np.arange(n_events - n_train)])
    last = (DAY - date(1970, 1, 1)).days * DAY_US
    splits = pa.table(
        {
            "split": pa.concat_arrays(
                [pa.repeat("train", n_train), pa.repeat("valid", n_events - n_train)]
            ),
            "row": pa.array(row, pa.int32()),
            "user_id": rng.integers(0, n_events // EVENTS_PER_USER, n_events),
            "item_id": rng.integers(0, N_ITEMS, n_events),
            "label": rng.integers(0, 2, n_events).astype(np.int8),
            "rated_at": pa.array(last - rng.integers(1, 700 * DAY_US, n_events)).cast(
                pa.timestamp("us")
            ),
            "history_end": pa.array(np.zeros(n_events, np.int32)),
            "is_warm": pa.array(np.ones(n_events, bool)),
        }
    )
    domain = {name: "" if kind == "string" else 0 for name, kind in (DOMAINS.columns or {}).items()}
    schema = pa.schema({name: _ARROW[kind] for name, kind in (DOMAINS.columns or {}).items()})
    codes = rng.integers(0, N_CODES, (N_ITEMS, N_LEVELS))
    about = {"n_levels": N_LEVELS, "n_codes": N_CODES}
    empty = as_column(np.zeros((0, 1), np.float32))
    book = pa.table(
        {
            "level": pa.array([], pa.int16()),
            "code": pa.array([], pa.int16()),
            "centroid": empty,
            "lifted": empty,
            "n_items": pa.array([], pa.int32()),
            "top_titles": pa.array([], pa.list_(pa.string())),
        }
    )
    with Run("ingest", DAY, Config(), home) as run:
        run.write(DOMAINS, pa.Table.from_pylist([domain], schema))
    with Run("splits", DAY, Config(), home) as run:
        run.write(SPLITS, splits)
    with Run("codebook", DAY, Config(), home) as run:
        run.write(ITEM_CODES, item_codes_table(pa.array(np.arange(N_ITEMS)), codes, about))
        run.write(CODEBOOK, book)
        run.write_tensors(CODEBOOK_SPACE, {"mean": np.zeros(1, np.float32)})
    for dataset in (DOMAINS, SPLITS, ITEM_CODES, CODEBOOK):
        mark_checked(home, dataset, DAY)


def measure(home: Home, n_events: int) -> None:
    """Run the job and print what it took."""
    started, wall = time.process_time(), time.monotonic()
    outcome = execute("user_profiles", UserProfilesConfig(), DAY, home, job, force=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = outcome.manifest.outputs[0].n_rows
    print(
        f"{n_events:,} events, {rows:,} profiles: {time.process_time() - started:.1f} CPU s, "
        f"{time.monotonic() - wall:.1f} s, peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    if sys.argv[1] == "--measure":
        measure(Home(Path(sys.argv[2])), int(sys.argv[3]))
    else:
        for size in sys.argv[2:]:
            folder = Path(sys.argv[1]) / size
            if not folder.exists():
                make(Home(folder), int(size))
            subprocess.run([sys.executable, __file__, "--measure", str(folder), size], check=True)
