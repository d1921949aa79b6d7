"""Reading a version without a search engine: vectors by id, whole tables, extra files."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embedding_store import outputs
from embedding_store.blobs import Blobs, open_blobs
from embedding_store.commit import Ledger, Stored
from embedding_store.errors import (
    BadInput,
    FileNotInVersion,
    IdNotFound,
    Incompatible,
    StoreNotFound,
    TableNotFound,
)
from embedding_store.fates import Fates
from embedding_store.integrity import Level
from embedding_store.leases import Hold
from embedding_store.manifest import Json, Manifest, TableEntry
from embedding_store.names import checked_day
from embedding_store.opening import opened
from embedding_store.rotations import rotation_between
from embedding_store.soft_tokens import (
    Absent,
    Histories,
    Source,
    soft_tokens,
    soft_tokens_of_histories,
)
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

    def __init__(
        self, blobs: Blobs, manifest: Manifest, name: str, held: Hold | None = None
    ) -> None:
        self._blobs, self._manifest, self._held = blobs, manifest, held
        self.name, self.version = name, manifest.version
        self.entry: TableEntry = manifest.tables[name]
        self.key, self.dim, self.metric = self.entry.key, self.entry.dim, self.entry.metric
        self._matrices: dict[str, np.ndarray] = {}

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

    def map_to(self, version: int) -> np.ndarray:
        """(n, d) float32: these vectors on the axes of the same table in another version.

        By the rotations that the versions carry, see `rotations.rotation_between`; lengths, and
        scores within the table and its group, stay what they are.

        Raises:
            VersionNotFound: no such version.
            Incompatible: no rotation leads there: another dimension, another space.
        """
        vectors = self.vectors
        rotation = rotation_between(Ledger(self._blobs), self.name, self.version, version)
        return (vectors @ rotation.astype(np.float32)).astype(np.float32, copy=False)

    def rows_of(self, ids: Ids) -> np.ndarray:
        """(n,) int64 places of `ids` among `self.ids`; raises as `vectors_of` does."""
        rows = self.places_of(ids)
        if (rows < 0).any():
            missing = self._as_ids(ids).filter(pa.array(rows < 0))
            raise IdNotFound(self.name, missing.to_pylist())
        return rows

    def places_of(self, ids: Ids) -> np.ndarray:
        """(n,) int64 places of `ids` among `self.ids`; -1 for those that the table lacks."""
        self.check_held()
        return find_rows(self.ids, self._as_ids(ids))

    def matrix(self, column: str) -> np.ndarray:
        """(n, d) float32 of any column of vectors, row i being that of `ids[i]`.

        Those of `self.vectors` are memory-mapped; another column is read once, and kept.

        Raises:
            BadInput: there is no such column, or it holds no vectors.
        """
        if column == self.entry.vector:
            return self.vectors
        self.check_held()
        if column not in self._matrices:
            values = self.table([column])[column]
            if not pa.types.is_fixed_size_list(values.type):
                raise BadInput(f"{self.name}.{column} is {values.type}, not vectors")
            flat = pc.list_flatten(values).combine_chunks().to_numpy(zero_copy_only=False)
            self._matrices[column] = flat.reshape(len(self), -1).astype(np.float32, copy=False)
        return self._matrices[column]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as published, sorted by id; the schema's metadata names the version."""
        for column in columns or ():
            if column not in self.entry.columns:
                there = ", ".join(self.entry.columns)
                raise BadInput(f"{self.name} has no column '{column}'; there is: {there}")
        rows = pa.concat_tables(
            pq.read_table(
                part,
                columns=list(columns) if columns is not None else None,
                partitioning=None,
                page_checksum_verification=True,
            )
            for part in self.parts
        )
        return self._stamped(rows)

    @property
    def parts(self) -> list[Path]:
        """The table's Parquet files, in order of id."""
        return [self._path(name) for name in self.entry.parts]

    def to_arrow(self, ids: Ids | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of some ids in the order asked, or of all; the metadata names the version.

        Args:
            ids: which; all of them, ascending, if not given.
            columns: which besides the key; the vectors of a table that has any, else all.
        """
        if columns is None and self.entry.vector is not None:
            lists = pa.FixedSizeListArray.from_arrays(self.vectors.ravel(), self.dim)
            rows = self._stamped(pa.table({self.key: self.ids, self.entry.vector: lists}))
        else:
            rest = [one for one in columns or self.entry.columns if one != self.key]
            rows = self.table([self.key, *rest])
        return rows if ids is None else rows.take(self.rows_of(ids))

    def to_pandas(self, ids: Ids | None = None, columns: Sequence[str] | None = None) -> Any:
        """`to_arrow` as a pandas.DataFrame, the version in its `attrs`."""
        return outputs.to_pandas(self.to_arrow(ids, columns))

    def to_polars(self, ids: Ids | None = None, columns: Sequence[str] | None = None) -> Any:
        """`to_arrow` as a polars.DataFrame, with a last column `version`."""
        return outputs.to_polars(self.to_arrow(ids, columns))

    def to_torch(self, ids: Ids | None = None) -> outputs.Tensors:
        """Version, ids and vectors as tensors, copied; raises as `vectors_of` does."""
        vectors = self.vectors if ids is None else self.vectors_of(ids)
        wanted = self.ids if ids is None else self._as_ids(ids)
        lists = pa.FixedSizeListArray.from_arrays(vectors.ravel(), self.dim)
        rows = self._stamped(pa.table({self.key: wanted, "vector": lists}))
        return outputs.to_torch(rows, self.key, "vector")

    def _stamped(self, rows: pa.Table, **said: str) -> pa.Table:
        """`rows` with the version in the schema's metadata."""
        said |= {"version": str(self.version), "table": self.name}
        own = {f"{PREFIX}{key}".encode(): text.encode() for key, text in said.items()}
        return rows.replace_schema_metadata({**(rows.schema.metadata or {}), **own})

    def check_held(self) -> None:
        """Raise LeaseLost if the version was closed, or may be deleted by now."""
        if self._held:
            self._held.check()

    def _path(self, name: str) -> Path:
        self.check_held()
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

    def __init__(self, blobs: Blobs, stored: Stored, held: Hold | None = None) -> None:
        self._blobs, self._stored, self._held = blobs, stored, held
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
        return VectorSet(self._blobs, self.manifest, table, self._held)

    def close(self) -> None:
        """Let go of the version: gc need not wait for this reader any more.

        What was read stays valid; whatever asks the version or its tables again gets LeaseLost.
        """
        if self._held:
            self._held.release()

    def __enter__(self) -> Self:
        """The version, to be closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

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
        if self._held:
            self._held.check()
        return self._blobs.local_path(entry.path)

    def map_to(self, version: int) -> dict[str, np.ndarray]:
        """All tables that can be brought onto the axes of another version; see `VectorSet.map_to`.

        Raises:
            VersionNotFound: no such version.
            Incompatible: none can; the message says why.
        """
        mapped: dict[str, np.ndarray] = {}
        reasons = []
        for name in self:
            try:
                if self[name].dim is not None:
                    mapped[name] = self[name].map_to(version)
            except Incompatible as error:
                reasons.append(str(error))
        if not mapped:
            raise Incompatible("; ".join(reasons) or f"version {self.version} has no vectors")
        return mapped

    def soft_tokens(
        self,
        kind: str,
        ids: Ids,
        *,
        dtype: Any = np.float32,
        source: Source = "auto",
        absent: Absent = "refuse",
    ) -> np.ndarray:
        """(n, n_tokens, d_llm) soft tokens of items or users; see `soft_tokens.soft_tokens`."""
        return soft_tokens(self, kind, ids, dtype, source, absent)

    def soft_tokens_of_histories(
        self, histories: Histories, *, kind: str = "user", dtype: Any = np.float32
    ) -> np.ndarray:
        """(n, n_tokens, d_llm) of users known by a history alone; see `soft_tokens.py`."""
        return soft_tokens_of_histories(self, histories, kind, dtype)

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
    lease: bool | None = None,
) -> Version:
    """A version, verified, and held until it is closed or nobody has it any more.

    Args:
        root: the store.
        ref: a number, a number as text, or an alias; an alias is resolved once, here.
        expect: what `space` must say; anything else, silence included, is refused. See
            `compatibility.check_expected`.
        verify: `full` hashes every file; `cached` leaves out those that this machine hashed lately
            and that the file system says are the same; `footer` looks at sizes and footers; `off`
            trusts the disk. The manifest is verified always.
        lease: keeps `gc` from deleting what is open, see `leases.hold`. None takes a lease where
            this process may write to the store; a reader without one has the store's grace period.

    Raises:
        VersionNotFound, StoreNotFound: nothing there.
        VersionExpired: its files are deleted, or will be.
        Corrupted: a file is not what was published; the message names it.
        Incompatible: made for a newer reader, or in another space than expected.
    """
    ledger = Ledger(open_blobs(root))
    return Version(ledger.blobs, *opened(ledger, ref, expect, verify, lease))


def previous_version(root: str | os.PathLike[str], day: date | str) -> int | None:
    """Last night's version: of the highest day before `day`, the last that passed its gates.

    Versions whose files are deleted, or soon will be, do not count.

    Returns:
        Its number; None if there is none, or no store.
    """
    wanted, ledger = checked_day(day), Ledger(open_blobs(root))
    try:
        ledger.check_readable()
    except StoreNotFound:
        return None
    manifests = (stored.manifest for stored in ledger.all_stored())
    fates = Fates(ledger.blobs)
    earlier = [
        one
        for one in manifests
        if one.day < wanted and not one.refused and fates.of(one.version).is_readable
    ]
    return max(earlier, key=lambda one: (one.day, one.version)).version if earlier else None
