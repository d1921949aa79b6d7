"""SQL views of versions in somebody's DuckDB, to be joined with the tables of a warehouse."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import duckdb
import pyarrow as pa

from embedding_store.closed_sql import quoted
from embedding_store.errors import BadInput
from embedding_store.lookup import VectorSet, Version

VERSIONS = "versions"
_MINE = "embedding_store"  # how a view's comment starts
_PREFIX = re.compile(r"[A-Za-z0-9_]*")
_GLOB = re.compile(r"[*?\[]")
# Views read files long after this call: their versions are held as long as the connection lives.
_held: WeakKeyDictionary[duckdb.DuckDBPyConnection, list[Version]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Attached:
    """What a connection can name now.

    Attributes:
        views: name of each view, with the number of its version.
        versions: name of the table of the versions.
    """

    views: Mapping[str, int]
    versions: str


@dataclass(frozen=True)
class Named:
    """An opened version and the aliases that are to have views of it."""

    version: Version
    aliases: list[str] = field(default_factory=list)


def attach(
    connection: duckdb.DuckDBPyConnection,
    named: Sequence[Named],
    schema: str | None = None,
    prefix: str = "",
) -> Attached:
    """Make a view of each table of some opened versions, and a table of the versions.

    The views are `<prefix><table>_v<number>` and `<prefix><table>_<alias>`; vectors are
    `FLOAT[d]`. An alias's view is of the version that it names now. The table
    `<prefix>versions` says which that is.

    Args:
        connection: a DuckDB that may read the store's files. It holds the versions, so that none
            of their files is deleted as long as it lives.
        named: versions that were verified when they were opened.
        schema: where to make them, in the connection's database; created if absent. Without one
            they are temporary: this connection alone sees them, and a read-only database does.
        prefix: of every name: letters, digits and underscores.

    Raises:
        BadInput: a name is taken by something else, or would mean two versions; nothing was made.
    """
    if not _PREFIX.fullmatch(prefix):
        raise BadInput(f"prefix {prefix!r} does not match {_PREFIX.pattern}")
    views = _views(named, prefix)
    listed = f"{prefix}{VERSIONS}"
    _check_free(connection, [*views, listed], schema)
    if schema is not None:
        connection.execute(f"create schema if not exists {quoted(schema)}")
    for name, table in views.items():
        connection.execute(_view(_place(name, schema), table, is_temporary=schema is None))
    _list_versions(connection, named, _place(listed, schema), is_temporary=schema is None)
    for name in (*views, listed):
        kind = "table" if name == listed else "view"
        said = f"{_MINE} version {views[name].version}" if name in views else _MINE
        connection.execute(f"comment on {kind} {_place(name, schema)} is {_text(said)}")
    _held.setdefault(connection, []).extend(one.version for one in named)
    return Attached({name: table.version for name, table in views.items()}, listed)


def _views(named: Iterable[Named], prefix: str) -> dict[str, VectorSet]:
    """The table that each view shows."""
    views: dict[str, VectorSet] = {}
    for suffix, version in _suffixes(named):
        for name in version:
            view = f"{prefix}{name}_{suffix}"
            other = views.setdefault(view, version[name])
            if (other.name, other.version) != (name, version.version):
                raise BadInput(
                    f"view {view} would show {other.name} of version {other.version} and {name} "
                    f"of version {version.version}; attach fewer versions or aliases at once"
                )
    return views


def _suffixes(named: Iterable[Named]) -> Iterator[tuple[str, Version]]:
    for one in named:
        yield f"v{one.version.version}", one.version
        for alias in one.aliases:
            yield alias, one.version


def _check_free(
    connection: duckdb.DuckDBPyConnection, names: Sequence[str], schema: str | None
) -> None:
    """Refuse names that something else has: a temporary view would hide a warehouse's table."""
    taken = connection.execute(
        """
        select schema_name, view_name, comment from duckdb_views() where not internal
        union all select schema_name, table_name, comment from duckdb_tables() where not internal
        """
    ).fetchall()
    wanted = {name.casefold() for name in names}
    for place, name, comment in taken:
        is_mine = str(comment or "").startswith(_MINE)
        is_here = schema is None or place.casefold() == schema.casefold()
        if is_here and not is_mine and name.casefold() in wanted:
            raise BadInput(
                f"the database has {place}.{name} already; give another prefix= or schema="
            )


def _view(place: str, table: VectorSet, *, is_temporary: bool) -> str:
    files = ", ".join(_text(_GLOB.sub(r"[\g<0>]", str(part))) for part in table.parts)
    typed = ", ".join(
        f"{quoted(name)}::{kind} as {quoted(name)}" for name, kind in _vector_types(table)
    )
    return (
        f"create or replace {'temp ' if is_temporary else ''}view {place} as "
        f"select *{f' replace ({typed})' if typed else ''} "
        f"from read_parquet([{files}], hive_partitioning = false)"
    )


def _vector_types(table: VectorSet) -> Iterator[tuple[str, str]]:
    """Parquet forgets the length of fixed-size lists of floats; SQL's array functions need it."""
    for name, kind in table.entry.columns.items():
        if found := re.fullmatch(r"fixed_size_list<\w+: (float|double)[^>]*>\[(\d+)\]", kind):
            yield name, f"{found[1]}[{found[2]}]"


def _list_versions(
    connection: duckdb.DuckDBPyConnection,
    named: Sequence[Named],
    place: str,
    *,
    is_temporary: bool,
) -> None:
    listed = pa.table(
        {
            "version": pa.array([one.version.version for one in named], pa.int64()),
            "day": pa.array([one.version.day for one in named], pa.string()),
            "aliases": pa.array([list(one.aliases) for one in named], pa.list_(pa.string())),
            "created_at": pa.array([one.version.manifest.created_at for one in named], pa.string()),
            "run_key": pa.array([one.version.manifest.run_key for one in named], pa.string()),
            "manifest_sha256": pa.array(
                [one.version.manifest_sha256 for one in named], pa.string()
            ),
        }
    )
    passing = "embedding_store_versions_on_their_way"
    connection.register(passing, listed)
    try:
        connection.execute(
            f"create or replace {'temp ' if is_temporary else ''}table {place} as "
            f"select * replace (day::date as day, created_at::timestamp as created_at) "
            f"from {passing} order by version"
        )
    finally:
        connection.unregister(passing)


def _place(name: str, schema: str | None) -> str:
    return f"{'temp' if schema is None else quoted(schema)}.{quoted(name)}"


def _text(text: str) -> str:
    doubled = text.replace("'", "''")
    return f"'{doubled}'"
