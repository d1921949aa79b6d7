"""Files that would do something if anybody trusted them; what they do is seen from a canary."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self._canary,))


def pickled(canary: Path) -> bytes:
    """A bare pickle, as `.pkl` and old `.bin` and `.pt` files are."""
    return pickle.dumps({"weight": Payload(canary)})


def object_array(canary: Path) -> bytes:
    """A `.npy` file of objects: numpy's header, then a pickle."""
    file = io.BytesIO()
    np.save(file, np.array([Payload(canary)], dtype=object), allow_pickle=True)
    return file.getvalue()


def torch_archive(canary: Path) -> bytes:
    """What `torch.save` writes: a zip whose `data.pkl` is a pickle."""
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(canary))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def parquet_with_a_pickled_type(path: Path, canary: Path, rows: pa.Table) -> None:
    """Parquet whose first column says that its type is a pickled one (CVE-2023-47248)."""
    field = rows.schema.field(0).with_metadata(
        {
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickled(canary),
        }
    )
    schema = pa.schema([field, *list(rows.schema)[1:]])
    pq.write_table(rows.cast(schema), path)


def has_gone_off(content: bytes) -> None:
    """Unpickle, to show that a payload is live where somebody does trust it."""
    pickle.loads(content)
