"""Reading a version without a search engine: vectors by id, whole tables, extra files."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedding_store.aliases import Aliases
from embedding_store.blobs import Blobs, open_blobs
from embedding_store.commit import Ledger, Stored
from embedding_store.errors import (
    BadInput,
    FileNotInVersion,
    IdNotFound,
    Incompatible,
    TableNotFound,
)
from embedding_store.integrity import Level, check_decision, check_files, check_successor
from embedding_store.manifest import Json, Manifest, TableEntry
from embedding_store.tables import PREFIX

Ids: TypeAlias = Sequence[int] | Sequence[str] | np.ndarray | pa.Array | pa.ChunkedArray
_BISECT_SHARE = 64  # hashing all ids costs about as much as bisecting for one in this many


class VectorSet:
    """One table of one version: its ids, its vectors, its rows. Immutable.

    Attributes:
        name: the table's name.
        version: number of the version that it belongs to.
        key: name of the id column.
        dim: length of a vector; None for a plain table.
        metric: how vectors compare; None for a plain table.
    """

    def __init__(self, blobs: Blobs, manifest: Manifest, name: str) -> None:
        self._blobs, self._manifest = blobs, manifest
        self.name, self.version = name, manifest.version
        self.entry: TableEntry = manifest.tables[name]
        self.key, self.dim, self.metric = self.entry.key, self.entry.dim, self.entry.metric

    def __len__(self) -> int:
        """Number of ids."""
        return self.entry.rows

    def __repr__(self) -> str:
        """Name, size and version."""
        size = f"{len(self)} x {self.dim}" if self.dim else f"{len(self)} rows"
        return f"<{type(self).__name__} {self.name} of version {self.version}: {size}>"

    @cached_property
    def ids(self) -> pa.Array:
        """All ids, ascending; memory-mapped."""
        return self._mapped(self.entry.ids)

    @cached_property
    def vectors(self) -> np.ndarray:
        """(n, d) float32, row i being the vector of `ids[i]`; memory-mapped and read-only.

        Raises:
            BadInput: the table has no vectors.
        """
        if self.entry.vectors is None:
            raise BadInput(f"{self.name} is a plain table, without vectors; read it with table()")
        values = self._mapped(self.entry.vectors).flatten()
        return values.to_numpy(zero_copy_only=True).reshape(len(self), -1)

    def vectors_of(self, ids: Ids) -> np.ndarray:
        """(n, d) float32, a copy, in the order of `ids`; an id may be asked for twice.

        Raises:
            IdNotFound: names the ids that the table does not hold.
            BadInput: ids of another type than the key, or a table without vectors.
        """
        vectors = self.vectors  # first: a plain table says so before an id is looked up
        return vectors[self.rows_of(ids)]

    def rows_of(self, ids: Ids) -> np.ndarray:
        """(n,) int64 places of `ids` among `self.ids`; raises as `vectors_of` does."""
        wanted = self._as_ids(ids)
        rows = find_rows(self.ids, wanted)
        if (rows < 0).any():
            raise IdNotFound(self.name, wanted.filter(pa.array(rows < 0)).to_pylist())
        return rows

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as published, sorted by id; the schema's metadata names the version."""
        for column in columns or ():
            if column not in self.entry.columns:
                there = ", ".join(self.entry.columns)
                raise BadInput(f"{self.name} has no column '{column}'; there is: {there}")
        parts = [self._path(name) for name in self.entry.parts]
        rows = pa.concat_tables(
            pq.read_table(
                part,
                columns=list(columns) if columns is not None else None,
                partitioning=None,
                page_checksum_verification=True,
            )
            for part in parts
        )
        return self._stamped(rows)

    def _stamped(self, rows: pa.Table, **said: str) -> pa.Table:
        """`rows` with the version in the schema's metadata."""
        said |= {"version": str(self.version), "table": self.name}
        own = {f"{PREFIX}{key}".encode(): text.encode() for key, text in said.items()}
        return rows.replace_schema_metadata({**(rows.schema.metadata or {}), **own})

    def _path(self, name: str) -> Path:
        entry = self._manifest.file(name)
        assert entry is not None  # check_references
        return self._blobs.local_path(entry.path)

    def _mapped(self, name: str) -> pa.Array:
        with pa.memory_map(str(self._path(name))) as file, pa.ipc.open_file(file) as arrow:
            return arrow.get_batch(0).column(0)

    def _as_ids(self, ids: Ids) -> pa.Array:
        """`ids` as an array of the key's type."""
        what = f"{self.name}: ids are {self.entry.key_type}"
        if isinstance(ids, str | bytes):
            raise BadInput(f"{what}; give a list of them, not {ids!r}")
        try:
            array = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids)
            if isinstance(array, pa.ChunkedArray):
                array = array.combine_chunks()
            if len(array) == 0:
                return array.cast(self.ids.type)
            is_right = pa.types.is_integer if self.ids.type == pa.int64() else _is_text
            if not is_right(array.type) or array.null_count:
                raise BadInput(f"{what}, all given; got {array.type} with {array.null_count} nulls")
            return array.cast(self.ids.type)
        except (pa.ArrowException, TypeError, OverflowError) as error:
            raise BadInput(f"{what}; {error}") from error


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def find_rows(ids: pa.Array, wanted: pa.Array) -> np.ndarray:
    """(n,) int64 places of `wanted` in the ascending `ids`; -1 for those that are absent."""
    if ids.type == pa.int64():
        have, want = ids.to_numpy(zero_copy_only=True), wanted.to_numpy(zero_copy_only=True)
        rows = np.searchsorted(have, want)
        is_there = have[np.minimum(rows, len(have) - 1)] == want
        return np.where(is_there, rows, -1)
    if len(wanted) * _BISECT_SHARE > len(ids):
        found = pc.index_in(wanted, value_set=ids).cast(pa.int64())
        return found.fill_null(-1).to_numpy(zero_copy_only=True)
    # Arrow sorts text by its UTF-8 bytes, which is how Python compares code points.
    texts = wanted.to_pylist()
    rows = np.array(
        [bisect_left(range(len(ids)), text, key=lambda row: ids[row].as_py()) for text in texts],
        dtype=np.int64,
    )
    hits = [
        row < len(ids) and ids[row].as_py() == text for row, text in zip(rows, texts, strict=True)
    ]
    return np.where(hits, rows, -1)


class Version:
    """One published version: tables by name, extra files, and what is known about them.

    Attributes:
        version: its number.
        manifest: everything that was recorded about it.
        manifest_sha256: names its content.
    """

    def __init__(self, blobs: Blobs, stored: Stored) -> None:
        self._blobs, self._stored = blobs, stored
        self.manifest = stored.manifest
        self.version, self.manifest_sha256 = stored.manifest.version, stored.sha256
        self._sets: dict[str, VectorSet] = {}

    def __getitem__(self, table: str) -> VectorSet:
        """The table of that name.

        Raises:
            TableNotFound: the version has none.
        """
        if table not in self._sets:
            if table not in self.manifest.tables:
                there = ", ".join(self)
                raise TableNotFound(
                    f"version {self.version} has no table '{table}'; there is: {there}"
                )
            self._sets[table] = self._open(table)
        return self._sets[table]

    def _open(self, table: str) -> VectorSet:
        return VectorSet(self._blobs, self.manifest, table)

    def __contains__(self, table: object) -> bool:
        """Whether the version has a table of that name."""
        return table in self.manifest.tables

    def __iter__(self) -> Iterator[str]:
        """Names of the tables."""
        return iter(sorted(self.manifest.tables))

    def __repr__(self) -> str:
        """Number, day and tables."""
        return f"<{type(self).__name__} {self.version} of {self.day}: {', '.join(self)}>"

    @property
    def day(self) -> str:
        """YYYY-MM-DD; the day itself is the version's future."""
        return self.manifest.day

    @property
    def attributes(self) -> Json:
        """What the publisher recorded, a global bias for instance."""
        return self.manifest.attributes

    @property
    def space(self) -> Json:
        """Which space the vectors are in: backbone, tokenizer, prompt, pooling, ..."""
        return self.manifest.space

    @property
    def document(self) -> Json:
        """The manifest as it is written."""
        return self._stored.document

    def file(self, name: str) -> Path:
        """Path of an extra file, verified when the version was opened.

        Raises:
            FileNotInVersion: the version has none of that name.
        """
        entry = self.manifest.file(name) if name in self.manifest.extra_files else None
        if entry is None:
            there = ", ".join(self.manifest.extra_files) or "none"
            raise FileNotInVersion(
                f"version {self.version} has no file '{name}'; there is: {there}"
            )
        return self._blobs.local_path(entry.path)

    def values_of(self, column: str, key: str, ids: pa.Array) -> list[Any] | None:
        """What any of the tables with this key says about `ids` in `column`, a title for instance.

        Returns:
            A value for each id, None for an id that the table does not hold; None instead of the
            list if no table with that key has the column.
        """
        for name in self:
            table = self[name]
            if table.key == key and column in table.entry.columns and table.ids.type == ids.type:
                rows = find_rows(table.ids, ids)
                found = pa.array(rows, mask=rows < 0)
                return table.table([column])[column].take(found).to_pylist()
        return None


def open_version(
    root: str | os.PathLike[str],
    ref: int | str,
    *,
    expect: Mapping[str, Any] | None = None,
    verify: Level = "full",
) -> Version:
    """A version, verified.

    Args:
        root: the store.
        ref: a number, a number as text, or an alias; an alias is resolved once, here.
        expect: what `space` must say; anything else, silence included, is refused.
        verify: `full` hashes every file, `footer` looks at sizes and footers, `off` trusts the
            disk. The manifest is verified always.

    Raises:
        VersionNotFound, StoreNotFound: nothing there.
        Corrupted: a file is not what was published; the message names it.
        Incompatible: made for a newer reader, or in another space than expected.
    """
    ledger = Ledger(open_blobs(root))
    return Version(ledger.blobs, verified(ledger, ref, expect, verify))


def verified(
    ledger: Ledger, ref: int | str, expect: Mapping[str, Any] | None, level: Level
) -> Stored:
    """The manifest that `ref` means, once it and its files have passed; see `open_version`."""
    ledger.check_readable()
    stored = resolve(ledger, ref)
    check_successor(ledger, stored)
    check_decision(ledger, stored)
    _check_space(stored.manifest, expect or {})
    check_files(ledger.blobs, stored.manifest, level)
    return stored


def resolve(ledger: Ledger, ref: int | str) -> Stored:
    """The manifest that a number, a number as text or an alias names now."""
    if isinstance(ref, str) and not (ref.isascii() and ref.isdigit()):
        return Aliases(ledger).target(ref)
    if isinstance(ref, bool) or not isinstance(ref, int | str):
        raise BadInput(f"{ref!r} is neither a version's number nor an alias")
    return ledger.stored(int(ref))


def _check_space(manifest: Manifest, expect: Mapping[str, Any]) -> None:
    for name, wanted in expect.items():
        if manifest.space.get(name) != wanted:
            raise Incompatible(
                f"version {manifest.version} is in another space: {name} is "
                f"{manifest.space.get(name)!r}, expected {wanted!r}"
            )
