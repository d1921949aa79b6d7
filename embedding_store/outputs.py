"""What the store returns, as other libraries hold it; each result keeps its ids and its version.

The libraries are loaded when they are asked for. `import_module` rather than `import`: who reads
vectors on a GPU needs none of them, and the layer check follows imports inside functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from embedding_store.errors import BadInput, Incompatible
from embedding_store.tables import PREFIX

_VERSION, _TABLE = f"{PREFIX}version".encode(), f"{PREFIX}table".encode()


class Tensors(NamedTuple):
    """Vectors for torch.

    Attributes:
        version: number of the version that they are from.
        ids: int64 tensor, or a list of strings.
        vectors: (n, d) float32 tensor, row i belonging to id i.
    """

    version: int
    ids: Any
    vectors: Any


def version_of(table: pa.Table) -> int:
    """The version that a table of the store's came from.

    Raises:
        BadInput: it does not say; it is not of the store, or its metadata was dropped.
    """
    try:
        return int((table.schema.metadata or {})[_VERSION])
    except (KeyError, ValueError) as error:
        raise BadInput("the table does not say which version it is from") from error


def to_pandas(table: pa.Table) -> Any:
    """A pandas.DataFrame; `attrs` hold version and table. Vectors are arrays in a column."""
    _library("pandas")
    frame = table.to_pandas()
    frame.attrs["version"] = version_of(table)
    if _TABLE in table.schema.metadata:
        frame.attrs["table"] = table.schema.metadata[_TABLE].decode()
    return frame


def to_polars(table: pa.Table) -> Any:
    """A polars.DataFrame, with a last column `version`: its frames keep no metadata."""
    polars = _library("polars")
    if "version" in table.column_names:
        raise BadInput("the table has a column 'version' of its own; rename it first")
    version = pa.array(np.full(table.num_rows, version_of(table)))
    return polars.from_arrow(table.append_column("version", version))


def to_torch(table: pa.Table, key: str, vector: str) -> Tensors:
    """The columns `key` and `vector` for torch, copied: a version cannot be changed by tensors."""
    torch = _library("torch")
    ids = table[key]
    column = table[vector].combine_chunks()
    matrix = column.flatten().to_numpy().reshape(len(column), -1)
    return Tensors(
        version=version_of(table),
        ids=torch.tensor(ids.to_numpy()) if ids.type == pa.int64() else ids.to_pylist(),
        vectors=torch.tensor(matrix),
    )


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise Incompatible(
            f"{name} is not installed here; install it, or take the Arrow table"
        ) from error
