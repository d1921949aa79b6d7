from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def reference_split(ml_1m: Path) -> dict[str, dict[str, np.ndarray]]:
    """The published split of MovieLens-1M: split -> column -> values."""
    columns = ["split", "user_id", "item_id", "label"]
    table = pq.read_table(ml_1m / "reference_split.parquet", columns=columns)
    return {
        split: {
            name: table.filter(pc.equal(table["split"], split))[name].to_numpy()
            for name in columns[1:]
        }
        for split in ("train", "valid", "test")
    }
