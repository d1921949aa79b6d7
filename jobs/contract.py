"""What `Run.write` demands of a table before it gets its name: columns, types, key, nulls, NaN."""

from __future__ import annotations

from collections.abc import Iterator

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
    "date": pa.date32(),
}
_IDS = (pa.int64(), pa.string())


def _fits(declared: str, actual: pa.DataType) -> bool:
    if declared == "id":
        return actual in _IDS
    if declared.startswith("list<"):
        return pa.types.is_list(actual) and _fits(declared[5:-1], actual.value_type)
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


# -- tables larger than memory -------------------------------------------------------------------


class Conforming:
    """The contract of a dataset, held batch by batch: `conform` for a table that streams by.

    Args:
        dataset: whose contract.
        schema: of every batch.

    Raises:
        ContractError: a column is missing, extra or of another type.
    """

    def __init__(self, dataset: Dataset, schema: pa.Schema) -> None:
        assert dataset.columns is not None
        self.dataset, self.n_rows = dataset, 0
        self._last: pa.Table | None = None  # key of the last row of the batch before
        _check_columns(dataset, dataset.columns, schema.empty_table())

    def checked(self, batch: pa.RecordBatch) -> pa.Table:
        """The rows of `batch`, which follow those before and break nothing.

        Raises:
            ContractError: a value is null, NaN or infinite where the contract allows none, or the
                rows are not in strictly ascending order of the key.
        """
        table = pa.Table.from_batches([batch])
        for name in self.dataset.columns or ():
            _check_values(self.dataset, name, table[name])
        if table.num_rows:
            self._check_order(table.select(list(self.dataset.key)))
        self.n_rows += table.num_rows
        return table

    def _check_order(self, keys: pa.Table) -> None:
        joined = pa.concat_tables([self._last, keys]) if self._last else keys
        self._last = keys.slice(keys.num_rows - 1)
        before, after = joined.slice(0, joined.num_rows - 1), joined.slice(1)
        is_equal = pa.chunked_array([pa.repeat(True, before.num_rows)])
        is_less = pa.chunked_array([pa.repeat(False, before.num_rows)])
        for name in self.dataset.key:
            less = pc.less(before[name], after[name])
            is_less = pc.or_(is_less, pc.and_(is_equal, less))
            is_equal = pc.and_(is_equal, pc.equal(before[name], after[name]))
        if not pc.all(is_less, min_count=0).as_py():
            row = _first_row_where(pc.invert(is_less))
            pair = [
                {name: rows[name][row].as_py() for name in self.dataset.key}
                for rows in (before, after)
            ]
            raise ContractError(
                f"{self.dataset.name}: the key is not strictly ascending: "
                f"{pair[0]} is followed by {pair[1]}"
            )


class RowGroups:
    """Cuts a stream of tables into pieces of `n_rows`: bytes do not depend on how rows arrived."""

    def __init__(self, n_rows: int) -> None:
        self._n_rows = n_rows
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def add(self, table: pa.Table) -> Iterator[pa.Table]:
        """Take `table`; yields what is full."""
        self._waiting.append(table)
        self._n_waiting += table.num_rows
        if self._n_waiting < self._n_rows:
            return
        rows = pa.concat_tables(self._waiting)
        n_full = self._n_waiting // self._n_rows * self._n_rows
        for start in range(0, n_full, self._n_rows):
            yield rows.slice(start, self._n_rows).combine_chunks()
        self._waiting, self._n_waiting = [rows.slice(n_full)], self._n_waiting - n_full

    def rest(self) -> Iterator[pa.Table]:
        """What is left, if anything is."""
        if self._n_waiting:
            yield pa.concat_tables(self._waiting).combine_chunks()
