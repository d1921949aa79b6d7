"""SQL over the tables of one version and nothing else: no files, no settings, no writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from embedding_store.errors import BadInput
from embedding_store.tables import PREFIX

if TYPE_CHECKING:
    from embedding_store.lookup import VectorSet, Version

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]
Node: TypeAlias = dict[str, Any]

# In this order: nothing can be set after the last one.
_CLOSED = {
    "python_enable_replacements": "false",  # no Python variable is a table
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "''",  # a large sort fails rather than writes
    "enable_external_access": "false",
    "lock_configuration": "true",
}
_TABLE_FUNCTIONS = {"range", "generate_series", "unnest"}
_NOT_FUNCTIONS = {"current_setting", "getenv", "getvariable", "write_log"}
_CATALOGUE = re.compile(r"duckdb_|pragma_|sqlite_|pg_")
_SHOWN = {"", '"tables"'}  # DESCRIBE and SUMMARIZE of a query or a table, SHOW TABLES


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def dataset(table: VectorSet) -> ds.Dataset:
    """The table's Parquet files as an Arrow dataset, whose vectors are fixed-size lists."""
    scanning = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    return ds.dataset(
        [str(part) for part in table.parts],
        format=ds.ParquetFileFormat(default_fragment_scan_options=scanning),
    )


class ClosedSql:
    """A DuckDB in memory that can see the tables of a version, under their own names.

    The tables are registered as Arrow datasets, external access is off and the configuration
    locked. Statements are parsed first: one SELECT that names only these tables, its own common
    table expressions, and the table functions range, generate_series and unnest.
    """

    def __init__(self, version: Version) -> None:
        self._version, self._lock = version, Lock()

    def query(self, query: str, params: Parameters | None = None) -> pa.Table:
        """The answer to one SELECT; the schema's metadata names the version.

        Args:
            query: SQL.
            params: values of its `?` or `$name`.

        Raises:
            BadInput: it is something else than one SELECT over the version's tables, or DuckDB
                refuses it; the message says why.
        """
        for name in self._version:
            self._version[name].check_held()
        with self._lock:
            self._check(query)
            try:
                answer = self._connection.sql(query, params=params).to_arrow_table()
            except (duckdb.Error, AttributeError) as error:  # no relation: it answers nothing
                raise BadInput(_words(error)) from error
        said = {f"{PREFIX}version".encode(): str(self._version.version).encode()}
        return answer.replace_schema_metadata(said)

    def ids_where(self, table: VectorSet, condition: str, params: Parameters | None) -> pa.Array:
        """Ids of the rows of a table that meet a condition.

        The condition may name columns of the table, and of the version's other tables with the
        same key. A table that it does not name is not read.
        """
        key = quoted(table.key)
        # The condition is on lines of its own: it may end in a comment.
        probe = self._parse(f"select 1 from {quoted(table.name)} where (\n{condition}\n)")
        node = probe["statements"][0]["node"]
        if node["type"] != "SELECT_NODE" or node["modifiers"]:
            raise BadInput(f"{condition!r} is not one condition")
        joined = "".join(
            f" left join {quoted(name)} using ({key})" for name in self._named(table, probe)
        )
        found = self.query(
            f"select {key} from {quoted(table.name)}{joined} where (\n{condition}\n)", params
        )
        return found[0].combine_chunks()

    def _named(self, table: VectorSet, parsed: Node) -> list[str]:
        """Other tables with the same key whose columns the statement names."""
        own = {column.casefold() for column in table.entry.columns}
        named = {
            tuple(part.casefold() for part in node["column_names"])
            for node in _nodes(parsed)
            if node.get("class") == "COLUMN_REF"
        }
        free = {names[0] for names in named if names[0] not in own}
        entries = self._version.manifest.tables
        return [
            name
            for name in self._version
            if name != table.name
            and (entries[name].key, entries[name].key_type) == (table.key, table.entry.key_type)
            and free & {name, *(column.casefold() for column in entries[name].columns)}
        ]

    # -- what may be asked -----------------------------------------------------------------------

    def _check(self, query: str) -> None:
        own = {name.casefold() for name in self._version}
        parsed = self._parse(query)
        named = {
            key["key"].casefold()
            for node in _nodes(parsed)
            for key in (node.get("cte_map") or {}).get("map", ())
        }
        if hidden := sorted(filter(_CATALOGUE.match, named)):
            raise BadInput(f"{hidden[0]} is a name of DuckDB's own; take another")
        for node in _nodes(parsed):
            _check_node(node, own | named, sorted(self._version))

    def _parse(self, query: str) -> Node:
        """The syntax tree of one SELECT."""
        if not isinstance(query, str):
            raise BadInput(f"{query!r} is no SQL")
        try:
            answer = self._parser.execute("select json_serialize_sql(?)", [query]).fetchall()
            parsed = json.loads(answer[0][0])
        except (duckdb.Error, RecursionError) as error:
            raise BadInput(f"this SQL cannot be parsed: {_words(error)}") from error
        if parsed["error"]:
            raise BadInput(f"only SELECT can be asked here: {parsed['error_message']}")
        if len(parsed["statements"]) != 1:
            raise BadInput(f"one SELECT at a time; there are {len(parsed['statements'])}")
        return parsed

    @cached_property
    def _parser(self) -> duckdb.DuckDBPyConnection:
        return _closed(duckdb.connect(":memory:"))

    @cached_property
    def _connection(self) -> duckdb.DuckDBPyConnection:
        connection = duckdb.connect(":memory:")
        for name in self._version:
            connection.register(name, dataset(self._version[name]))
        return _closed(connection)


def _closed(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    for setting, value in _CLOSED.items():
        connection.execute(f"set {setting} = {value}")
    return connection


def _nodes(parsed: Any) -> Iterator[Node]:
    """Every object of a syntax tree."""
    if isinstance(parsed, dict):
        yield parsed
        parsed = list(parsed.values())
    if isinstance(parsed, list):
        for one in parsed:
            yield from _nodes(one)


def _check_node(node: Node, allowed: set[str], there: Sequence[str]) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        place = {node.get("schema_name", ""), node.get("catalog_name", "")} - {"", "main", "memory"}
        if place or node["table_name"].casefold() not in allowed:
            raise BadInput(f"no table '{node['table_name']}'; there is: {', '.join(there)}")
    elif kind == "SHOW_REF":
        if node.get("table_name") not in _SHOWN:
            raise BadInput("of SHOW, only SHOW TABLES can be asked here")
    elif kind == "TABLE_FUNCTION":
        _check_function(node["function"]["function_name"], _TABLE_FUNCTIONS)
    elif node.get("class") == "FUNCTION":
        _check_function(node["function_name"], None)


def _check_function(name: str, allowed: set[str] | None) -> None:
    is_allowed = name in allowed if allowed is not None else name not in _NOT_FUNCTIONS
    if not is_allowed:
        raise BadInput(f"{name}() cannot be asked here: it looks outside the version's tables")


def _words(error: Exception) -> str:
    """DuckDB's message, on one line, without the picture of the query."""
    return " ".join(str(error).split("\n\nLINE ")[0].split())
