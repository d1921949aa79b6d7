"""Tables on their way in: what the store takes, and the files it writes them to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedding_store.errors import BadInput
from embedding_store.manifest import FileEntry, Key, Metric, TableEntry, sha256_hex
from embedding_store.names import checked_table

PREFIX = "embedding_store."  # of the store's own entries in a schema's metadata
_ROW_GROUP = 8_192  # by id: 4-10 ms in DuckDB, against 43 ms with groups of 65,536
_BATCH_VALUES = 131_072  # Arrow's 1,024 cost a fifth more where a row is a list of hundreds
_PART_ROWS = 4_194_304
_KEY_TYPES = {pa.int64(): "int64", pa.string(): "string"}
LONGEST = 1e18  # a dot product of two such vectors still fits a float32
SHORTEST = 1e-18  # a direction of less is lost in float32
_UNIT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TableSpec:
    """A table to publish.

    Args:
        rows: any columns; no row twice, no null key.
        key: column with the ids, int64 or string, in any order and not necessarily dense.
        vector: column with the vectors, fixed-size lists of float32; None for a plain table.
        metric: how `search` compares vectors. None takes that of the table's index, or
            inner_product without one.
    """

    rows: pa.Table
    key: str
    vector: str | None = None
    metric: Metric | None = None


@dataclass(frozen=True)
class Prepared:
    """A table that the store takes: sorted by id, in one piece, its vectors as a matrix."""

    name: str
    rows: pa.Table
    key: str
    ids: pa.Array
    vector: str | None
    vectors: np.ndarray | None  # (n, d) float32
    metric: Metric | None
    normalised: bool | None


def declared(name: str, given: TableSpec | pa.Table) -> TableSpec:
    """The spec of a table; a bare table declares it in its schema's metadata.

    The entries are `embedding_store.key`, `.vector` and `.metric`, which tables read from a
    version have, so that they can be published again as they are.
    """
    if isinstance(given, TableSpec):
        return given
    if not isinstance(given, pa.Table):
        raise BadInput(f"{name}: {type(given).__name__} is neither a TableSpec nor a pyarrow.Table")
    said = {
        key.decode().removeprefix(PREFIX): value.decode()
        for key, value in (given.schema.metadata or {}).items()
        if key.startswith(PREFIX.encode())
    }
    if "key" not in said:
        raise BadInput(
            f"{name}: which column is the key? Give TableSpec(rows, key=..., vector=...)"
        )
    return TableSpec(given, said["key"], said.get("vector"), cast(Any, said.get("metric")))


def prepare(name: str, spec: TableSpec, index_metric: Metric | None) -> Prepared:
    """`spec.rows` sorted by id, after every check; nothing is written yet.

    Raises:
        BadInput: a name, column, type or value that the store does not take; the message says
            which and where.
    """
    checked_table(name)
    rows = _sorted_by_key(name, spec)
    _check_lists_are_finite(name, rows, spec.vector)
    vectors, metric, normalised = None, None, None
    if spec.vector is not None:
        metric = _metric(name, spec.metric, index_metric)
        vectors = _matrix(name, spec.vector, rows)
        normalised = _check_lengths(f"{name}.{spec.vector}", vectors, rows[spec.key], metric)
    elif spec.metric or index_metric:
        raise BadInput(f"{name}: a metric or an index needs a vector column")
    ids = rows[spec.key].combine_chunks()  # a copy: of a slice, files would hold what is around
    return Prepared(name, rows, spec.key, ids, spec.vector, vectors, metric, normalised)


def _metric(name: str, own: Metric | None, of_index: Metric | None) -> Metric:
    if own and of_index and own != of_index:
        raise BadInput(f"{name}: metric is {own} in the table's spec and {of_index} in the index's")
    metric = own or of_index or "inner_product"
    if metric not in get_args(Metric):
        raise BadInput(f"{name}: metric {metric!r} is none of {', '.join(get_args(Metric))}")
    return metric


def _sorted_by_key(name: str, spec: TableSpec) -> pa.Table:
    rows, key = spec.rows, spec.key
    doubles = {column for column in rows.column_names if rows.column_names.count(column) > 1}
    if doubles:
        raise BadInput(f"{name}: columns occur more than once: {', '.join(sorted(doubles))}")
    for column in [key] if spec.vector is None else [key, spec.vector]:
        if column not in rows.column_names:
            raise BadInput(f"{name}: no column '{column}'; there are {rows.column_names}")
    if not rows.num_rows:
        raise BadInput(f"{name}: has no rows; a version without them would answer nothing")
    if (key_type := rows.schema.field(key).type) not in _KEY_TYPES:
        raise BadInput(f"{name}.{key}: ids are int64 or string, not {key_type}; cast the column")
    if n_nulls := rows[key].null_count:
        raise BadInput(f"{name}.{key}: {n_nulls} ids are null")
    columns = [key, *(column for column in rows.column_names if column != key)]
    return _in_order(name, key, rows.select(columns))


def _in_order(name: str, key: str, rows: pa.Table) -> pa.Table:
    if _ascends(rows[key]):  # the usual case, and a sort copies everything
        return rows.combine_chunks()
    rows = rows.sort_by(key).combine_chunks()
    same = pc.equal(rows[key][1:], rows[key][:-1])
    if n_doubles := pc.sum(same).as_py():
        first = rows[key][pc.index(same, True).as_py()]
        raise BadInput(f"{name}.{key}: {n_doubles} ids occur more than once, for instance {first}")
    return rows


def _ascends(ids: pa.ChunkedArray) -> bool:
    """Whether every id is larger than the one before."""
    return pc.all(pc.less(ids[:-1], ids[1:])).as_py() is not False


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array; `combine_chunks` copies even where there is only one."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _check_lists_are_finite(name: str, rows: pa.Table, vector: str | None) -> None:
    """Refuse NaN and infinity in lists; those of the vector column show in its lengths."""
    for column, field in zip(rows.columns, rows.schema, strict=True):
        kind = field.type
        if field.name == vector:
            continue
        if not (pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)):
            continue
        bad = pc.invert(pc.is_finite(pc.list_flatten(column)))
        if pc.any(bad).as_py():
            row = pc.index(bad, True).as_py() // kind.list_size
            raise BadInput(
                f"{name}.{field.name}: NaN or infinity in the vector of id {rows[0][row]}"
            )


def _matrix(name: str, column: str, rows: pa.Table) -> np.ndarray:
    """(n, d) float32, row i being the vector of id i."""
    kind, place = rows.schema.field(column).type, f"{name}.{column}"
    if not (pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()):
        raise BadInput(f"{place}: vectors are fixed-size lists of float32, not {kind}")
    if not kind.list_size:
        raise BadInput(f"{place}: vectors have no dimension")
    vectors = _in_one_piece(rows[column])
    values = vectors.flatten()
    if vectors.null_count or values.null_count:
        raise BadInput(f"{place}: there are nulls among the vectors")
    return values.to_numpy(zero_copy_only=True).reshape(-1, kind.list_size)


def _check_lengths(place: str, vectors: np.ndarray, ids: Any, metric: Metric) -> bool:
    """Whether all vectors have length 1; refuses lengths that the metric cannot use."""
    norms = row_norms(vectors)
    if not np.isfinite(norms).all():
        row = int(np.isfinite(norms).argmin())
        raise BadInput(f"{place}: NaN or infinity in the vector of id {ids[row]}")
    if norms.max() > LONGEST:
        row = int(norms.argmax())
        raise BadInput(f"{place}: the vector of id {ids[row]} is {norms[row]:.1e} long; too long")
    if metric == "cosine" and norms.min() < SHORTEST:
        row = int(norms.argmin())
        raise BadInput(f"{place}: the vector of id {ids[row]} is zero; cosine has no answer for it")
    return bool(np.abs(norms - 1).max() <= _UNIT_TOLERANCE)


def bias_of(table: Prepared, column: str | None) -> np.ndarray | None:
    """(n,) float32, the numbers of a column that are added to a table's scores; None for None.

    Raises:
        BadInput: no such column, or one that does not hold a finite number in every row.
    """
    return None if column is None else bias_values(table.name, column, table.rows)


def bias_values(name: str, column: str, rows: pa.Table) -> np.ndarray:
    """The column as `bias_of` gives it."""
    if column not in rows.column_names:
        raise BadInput(f"{name}: no column '{column}'; there are {rows.column_names}")
    values = rows[column]
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise BadInput(f"{name}.{column}: {values.type} cannot be added to a score")
    numbers = np.asarray(values.to_numpy(), dtype=np.float32)
    if values.null_count or not (np.abs(numbers) <= LONGEST).all():
        raise BadInput(f"{name}.{column}: nulls, NaN or numbers too large to be added to a score")
    return numbers


def row_norms(vectors: np.ndarray) -> np.ndarray:
    """(n,) float64 Euclidean lengths of (n, d) vectors, in pieces that fit the cache."""
    norms = np.empty(len(vectors))
    for start in range(0, len(vectors), _ROW_GROUP):
        block = vectors[start : start + _ROW_GROUP].astype(np.float64)
        norms[start : start + _ROW_GROUP] = np.sqrt((block * block).sum(axis=1))
    return norms


# -- files ---------------------------------------------------------------------------------------

Creating = Callable[[str], AbstractContextManager[Path]]


def part_name(table: str, number: int) -> str:
    """Name of one Parquet file of a table."""
    return f"{table}.part-{number:04d}.parquet"


def ids_name(table: str) -> str:
    """Name of the sidecar with the sorted ids."""
    return f"{table}.ids.arrow"


def vectors_name(table: str) -> str:
    """Name of the sidecar with the vectors, row i belonging to id i."""
    return f"{table}.vec.arrow"


@dataclass(frozen=True)
class Written:
    """What is in a file of a table."""

    name: str
    rows: int
    schema_sha256: str


def write(table: Prepared, creating: Creating, part_rows: int = _PART_ROWS) -> list[Written]:
    """Write a table's Parquet files and sidecars; the same rows give the same bytes."""
    return [*_write_parts(table, creating, part_rows), *_write_sidecars(table, creating)]


def _described(name: str, ids: pa.Array, schema: pa.Schema) -> Written:
    return Written(
        name=name,
        rows=len(ids),
        schema_sha256=schema_sha256(schema),
    )


def schema_sha256(schema: pa.Schema) -> str:
    """Hash of column names, types and metadata."""
    return sha256_hex(schema.serialize().to_pybytes())


def _write_parts(table: Prepared, creating: Creating, part_rows: int) -> Iterator[Written]:
    """Parquet for SQL: dictionary only for text, vectors neither compressed nor summarised."""
    rows = table.rows.replace_schema_metadata(_metadata(table))
    plain = [field.name for field in rows.schema if not pa.types.is_nested(field.type)]
    text = [name for name in plain if pa.types.is_string(rows.schema.field(name).type)]
    for number, start in enumerate(range(0, rows.num_rows, part_rows)):
        name, part = part_name(table.name, number), rows.slice(start, part_rows)
        with creating(name) as path:
            pq.write_table(
                part,
                path,
                row_group_size=_ROW_GROUP,
                use_dictionary=text or False,
                write_statistics=plain,
                compression=dict.fromkeys(plain, "zstd"),
                write_page_checksum=True,
                write_page_index=True,
                write_batch_size=_BATCH_VALUES,
                sorting_columns=[pq.SortingColumn(0)],
            )
            schema = pq.read_schema(path)  # Parquet has its own names for what is in a list
        yield _described(name, table.ids.slice(start, part_rows), schema)


def _write_sidecars(table: Prepared, creating: Creating) -> Iterator[Written]:
    """Uncompressed Arrow IPC in one batch, to be memory-mapped."""
    columns = {ids_name(table.name): pa.record_batch({"id": table.ids})}
    if table.vectors is not None:
        lists = pa.FixedSizeListArray.from_arrays(table.vectors.ravel(), table.vectors.shape[1])
        columns[vectors_name(table.name)] = pa.record_batch({"vector": lists})
    for name, batch in columns.items():
        with (
            creating(name) as path,
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, batch.schema) as writer,
        ):
            writer.write_batch(batch)
        yield _described(name, table.ids, batch.schema)


def _metadata(table: Prepared) -> dict[bytes, bytes]:
    """The rows' own metadata, and what the store says about them."""
    given = table.rows.schema.metadata or {}
    own = {key: given[key] for key in given if not key.startswith(PREFIX.encode())}
    said = {"key": table.key, "vector": table.vector, "metric": table.metric}
    own |= {f"{PREFIX}{key}".encode(): text.encode() for key, text in said.items() if text}
    return dict(sorted(own.items()))


def table_entry(table: Prepared, files: Mapping[str, FileEntry]) -> TableEntry:
    """What the manifest says of a table whose files were written."""
    ids = ids_name(table.name)
    has_vectors = table.vectors is not None
    return TableEntry(
        key=table.key,
        key_type=cast(Key, _KEY_TYPES[table.ids.type]),
        rows=table.rows.num_rows,
        columns={field.name: str(field.type) for field in table.rows.schema},
        vector=table.vector,
        dim=table.vectors.shape[1] if table.vectors is not None else None,
        dtype="float32" if has_vectors else None,
        metric=table.metric,
        normalised=table.normalised,
        parts=[name for name in files if name.startswith(f"{table.name}.part-")],
        ids=ids,
        vectors=vectors_name(table.name) if has_vectors else None,
        ids_sha256=files[ids].sha256,
    )
