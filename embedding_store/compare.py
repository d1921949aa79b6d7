"""Two versions side by side, and one row through all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedding_store.alignment import align, shared_rows
from embedding_store.errors import IdNotFound, NotFound
from embedding_store.gates import neighbour_overlap
from embedding_store.lookup import VectorSet
from embedding_store.search import SearchableVersion
from embedding_store.store import EmbeddingStore
from embedding_store.tables import row_norms

# -- two versions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableDiff:
    """What is different about one table of two versions; None where it is in one of them only.

    Attributes:
        table: its name.
        rows_a: rows in the first version.
        rows_b: rows in the second.
        added: ids that only the second has.
        removed: ids that only the first has.
        changed: shared ids of which any column that both have differs in any bit.
        columns: those that differ, and columns that only one version has.
        mean_norm_a: mean length of the first version's vectors.
        mean_norm_b: of the second's.
        overlap: mean share of ten nearest neighbours that shared vectors have in both.
        residual: what is left of the difference after the best rotation, of the second's length.
    """

    table: str
    rows_a: int | None
    rows_b: int | None
    added: int | None = None
    removed: int | None = None
    changed: int | None = None
    columns: str = ""
    mean_norm_a: float | None = None
    mean_norm_b: float | None = None
    overlap: float | None = None
    residual: float | None = None


def table_diffs(a: SearchableVersion, b: SearchableVersion) -> Iterator[TableDiff]:
    """Every table of either version."""
    for name in sorted({*a, *b}):
        if name not in a or name not in b:
            rows_a, rows_b = (len(side[name]) if name in side else None for side in (a, b))
            yield TableDiff(name, rows_a, rows_b)
            continue
        one, other = a[name], b[name]
        n_shared = len(shared_rows(one, other)[0]) if one.ids.type == other.ids.type else 0
        differs = changed_columns(one, other)
        by_row = np.logical_or.reduce([np.zeros(n_shared, bool), *differs.values()])
        only_one = set(one.entry.columns) ^ set(other.entry.columns)
        yield TableDiff(
            table=name,
            rows_a=len(one),
            rows_b=len(other),
            added=len(other) - n_shared,
            removed=len(one) - n_shared,
            changed=int(by_row.sum()),
            columns=" ".join(
                sorted([*(column for column in differs if differs[column].any()), *only_one])
            ),
            **_vector_diff(a, b, name),
        )


def _vector_diff(a: SearchableVersion, b: SearchableVersion, name: str) -> dict[str, Any]:
    one, other = a[name], b[name]
    if one.dim is None or other.dim is None:
        return {}
    found: dict[str, Any] = {
        "mean_norm_a": float(row_norms(one.vectors).mean()),
        "mean_norm_b": float(row_norms(other.vectors).mean()),
    }
    alignment = align(b, a, {name: (name,)})
    if one.dim == other.dim and one.ids.type == other.ids.type:
        overlap, n = neighbour_overlap(other, one)
        found["overlap"] = overlap if n else None
    if alignment.entry.groups:
        found["residual"] = alignment.entry.groups[0].residual
    return found


def id_changes(one: VectorSet, other: VectorSet) -> list[dict[str, Any]]:
    """{id, change} of every id that is not the same in both: added, removed or changed."""
    mine, theirs = shared_rows(one, other)
    gone, new = np.ones(len(one), bool), np.ones(len(other), bool)
    gone[mine] = new[theirs] = False
    differs = changed_columns(one, other).values()
    changed = mine[np.logical_or.reduce([np.zeros(len(mine), bool), *differs])]
    kinds = {
        "removed": one.ids.take(pa.array(np.flatnonzero(gone))),
        "added": other.ids.take(pa.array(np.flatnonzero(new))),
        "changed": one.ids.take(pa.array(changed)),
    }
    rows = [{"id": id, "change": kind} for kind, ids in kinds.items() for id in ids.to_pylist()]
    return sorted(rows, key=lambda row: row["id"])


def changed_columns(one: VectorSet, other: VectorSet) -> dict[str, np.ndarray]:
    """For each column of both tables, (n_shared,) whether the shared ids differ in it."""
    if one.ids.type != other.ids.type:
        return {}
    mine, theirs = (pa.array(rows) for rows in shared_rows(one, other))
    both = [name for name in one.entry.columns if name in other.entry.columns and name != one.key]
    return {
        name: _differs(
            one.table([name])[name].take(mine).combine_chunks(),
            other.table([name])[name].take(theirs).combine_chunks(),
        )
        for name in both
    }


def _differs(one: pa.Array, other: pa.Array) -> np.ndarray:
    if one.type != other.type:
        return np.ones(len(one), bool)
    if pa.types.is_nested(one.type):
        if pa.types.is_fixed_size_list(one.type) and not one.null_count + other.null_count:
            width = one.type.list_size
            sides = (side.flatten().to_numpy(zero_copy_only=False) for side in (one, other))
            left, right = (side.reshape(-1, width) for side in sides)
            return (left != right).any(axis=1)
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([left != right for left, right in pairs], dtype=bool)
    same = pc.fill_null(pc.equal(one, other), False)
    same = pc.or_(same, pc.and_(one.is_null(), other.is_null()))
    return ~same.to_numpy(zero_copy_only=False)


def space_diff(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """{what, a, b} of every fact in which two spaces differ."""
    return [
        {"what": name, "a": a.get(name), "b": b.get(name)}
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name)
    ]


# -- one row -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lineage:
    """Where one row comes from.

    Attributes:
        version: the version that was asked.
        first_version: the first of the versions before it, without a gap, that has the id.
        since: for each column, the first version from which on it has not changed, and its day.
        complete: False if an older version could not be read any more, so that the row may be
            older than it says.
    """

    version: SearchableVersion
    first_version: int
    since: dict[str, tuple[int, str]]
    complete: bool


def lineage(store: EmbeddingStore, ref: int | str, table: str, id: int | str) -> Lineage:
    """Walk back from a version, in the order of their numbers, while a row is there.

    Raises:
        IdNotFound: the version's table does not hold the id.
    """
    version = store.open(ref)
    row = _row(version[table], id)
    since = dict.fromkeys(row, (version.version, version.day))
    open_columns, first, complete = set(row), version.version, True
    for number in range(version.version - 1, 0, -1):
        try:
            with store.open(number, verify="off") as older:
                before, day = _row(older[table], id), older.day
        except IdNotFound:
            break
        except NotFound:  # its files are gone, or it had no such table
            complete = False
            break
        first = number
        open_columns = {name for name in open_columns if _same(before.get(name), row[name])}
        since |= dict.fromkeys(open_columns, (number, day))
    return Lineage(version, first, since, complete)


def _row(table: VectorSet, id: int | str) -> dict[str, pa.Scalar]:
    """The columns of one row; reads one row group."""
    place = int(table.rows_of([id])[0])
    for part in table.parts:
        with pq.ParquetFile(part, page_checksum_verification=True) as file:
            if place >= file.metadata.num_rows:
                place -= file.metadata.num_rows
                continue
            group = 0
            while place >= (n_rows := file.metadata.row_group(group).num_rows):
                place, group = place - n_rows, group + 1
            row = file.read_row_group(group).slice(place, 1)
            return {name: row[name][0] for name in row.column_names if name != table.key}
    raise IdNotFound(table.name, [id])


def _same(one: pa.Scalar | None, other: pa.Scalar) -> bool:
    return one is not None and one.equals(other)
