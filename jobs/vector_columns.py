"""A table's column of vectors, as a matrix and back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def as_matrix(column: pa.ChunkedArray) -> Floats:
    """(n, d) float32 rows of a column of fixed-size lists."""
    flat = pc.list_flatten(column).combine_chunks().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def as_column(matrix: Floats) -> pa.FixedSizeListArray:
    """Column of fixed-size lists that holds `matrix` (n, d)."""
    flat = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
