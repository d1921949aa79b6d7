"""What `Run.write` demands of a table before it gets its name: columns, types, key, nulls, NaN."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from jobs.datasets import Dataset
from jobs.errors import ContractError

_TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "timestamp": pa.timestamp("us"),
}
_IDS = (pa.int64(), pa.string())


def _fits(declared: str, actual: pa.DataType) -> bool:
    if declared == "id":
        return actual in _IDS
    if declared == "list<id>":
        return pa.types.is_list(actual) and actual.value_type in _IDS
    if declared == "vector":
        return pa.types.is_fixed_size_list(actual) and actual.value_type == pa.float32()
    return actual == _TYPES[declared]


def _check_columns(dataset: Dataset, columns: dict[str, str], table: pa.Table) -> None:
    if table.column_names != list(columns):
        raise ContractError(
            f"{dataset.name}: columns are {table.column_names}, the contract says {list(columns)}"
        )
    for name, declared in columns.items():
        if not _fits(declared, actual := table.schema.field(name).type):
            raise ContractError(f"{dataset.name}.{name}: type is {actual}, expected {declared}")


def _first_row_where(mask: pa.ChunkedArray) -> int:
    return pc.index(mask, True).as_py()


def _is_nested(column: pa.ChunkedArray) -> bool:
    return pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)


def _check_values(dataset: Dataset, name: str, column: pa.ChunkedArray) -> None:
    values, n_nulls = column, column.null_count
    if _is_nested(column):
        values = pc.list_flatten(column)
        n_nulls += values.null_count
    if n_nulls and name not in dataset.nullable:
        raise ContractError(f"{dataset.name}.{name}: {n_nulls} nulls; the contract allows none")
    if pa.types.is_floating(values.type):
        bad = pc.invert(pc.fill_null(pc.is_finite(values), True))
        if pc.any(bad).as_py():
            place = _first_row_where(bad)
            per_row = column.type.list_size if pa.types.is_fixed_size_list(column.type) else 1
            raise ContractError(
                f"{dataset.name}.{name}: row {place // per_row} holds {values[place].as_py()}; "
                "NaN and infinities are refused"
            )


def _check_key(dataset: Dataset, table: pa.Table) -> None:
    counts = table.group_by(list(dataset.key)).aggregate([([], "count_all")])
    doubles = counts.filter(pc.greater(counts["count_all"], 1))
    if doubles.num_rows:
        key = {name: doubles[name][0].as_py() for name in dataset.key}
        raise ContractError(
            f"{dataset.name}: {doubles.num_rows} keys occur more than once, for instance {key}"
        )


def conform(dataset: Dataset, table: pa.Table) -> pa.Table:
    """`table`, sorted by its key, after it has met the contract of `dataset`.

    Sorting makes the bytes independent of the order in which rows were computed.

    Raises:
        ContractError: a column is missing, extra or of another type, a key occurs twice, or a
            value is null, NaN or infinite where the contract allows none.
    """
    assert dataset.columns is not None
    _check_columns(dataset, dataset.columns, table)
    for name in dataset.columns:
        _check_values(dataset, name, table[name])
    _check_key(dataset, table)
    return table.sort_by([(name, "ascending") for name in dataset.key]).combine_chunks()
