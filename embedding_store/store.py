"""The store as its users see it: publish, promote, open, list, verify."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from embedding_store import index as indexes
from embedding_store import tables as written
from embedding_store.aliases import Aliases, now
from embedding_store.blobs import open_blobs, sha256_of
from embedding_store.commit import RUN_FILE, Attempt, Ledger
from embedding_store.errors import BadInput
from embedding_store.index import IndexSpec
from embedding_store.integrity import Level, Problem, problems
from embedding_store.lookup import resolve, verified
from embedding_store.manifest import PROTOCOL, AliasEntry, FileEntry, InputEntry, plain_json
from embedding_store.names import checked_day, checked_file, checked_run_key, checked_table
from embedding_store.search import SearchableVersion
from embedding_store.tables import Prepared, TableSpec


@dataclass(frozen=True)
class VersionSummary:
    """One line about a version."""

    version: int
    day: str
    created_at: str
    run_key: str
    rows: dict[str, int]  # of each table
    bytes: int
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class _Publication:
    """What is to be published, after every check that needs no disk."""

    tables: list[Prepared]
    indexes: dict[str, IndexSpec]
    files: dict[str, Path]
    said: dict[str, Any]  # day, space, attributes, inputs


class EmbeddingStore:
    """Immutable numbered versions of embedding tables below one root.

    Args:
        root: a folder; the first publish makes it.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._blobs = open_blobs(root)
        self._ledger = Ledger(self._blobs)
        self._aliases = Aliases(self._ledger)

    @property
    def root(self) -> str:
        """Where the store is."""
        return self._blobs.root

    # -- writing ---------------------------------------------------------------------------------

    def publish(
        self,
        tables: Mapping[str, TableSpec | pa.Table],
        *,
        run_key: str,
        day: date | str,
        space: Mapping[str, Any] | None = None,
        files: Mapping[str, str | os.PathLike[str]] | None = None,
        indexes: Sequence[IndexSpec] = (),
        inputs: Sequence[Mapping[str, Any]] = (),
        attributes: Mapping[str, Any] | None = None,
    ) -> int:
        """Make all of this one version, visible at once or not at all.

        Args:
            tables: each with its key and, unless it is a plain table, its vectors; a bare
                pyarrow.Table declares them in its schema's metadata (`tables.declared`).
            run_key: the same for all retries of a run, another for other inputs. A key that has
                a version already gets that version's number, and nothing is written.
            day: the as-of day; the day itself is the future.
            space: JSON that says which space the vectors are in; `open(expect=...)` compares it.
            files: extra files by the name that they shall have.
            indexes: at most one a table.
            inputs: {name, day, sha256, n_rows} of each dataset that went in.
            attributes: other JSON that readers need, a global bias for instance.

        Returns:
            The version's number.

        Raises:
            BadInput: something that the store does not take; nothing was written.
        """
        checked_run_key(run_key)
        if (version := self._ledger.decided(run_key)) is not None:
            return version
        publication = _checked(tables, files, indexes, _said(day, space, inputs, attributes))
        self._ledger.initialise()
        attempt = self._ledger.begin(run_key)
        return self._ledger.commit(attempt, self._write(attempt, publication))

    def promote(
        self, version: int, alias: str, *, reason: str, actor: str, expected_prev: int | None = None
    ) -> AliasEntry:
        """Point `alias` at a version, for the record; see `Aliases.promote`."""
        self._ledger.check_writable()
        return self._aliases.promote(
            version, alias, reason=reason, actor=actor, expected_prev=expected_prev
        )

    # -- reading ---------------------------------------------------------------------------------

    def open(
        self, ref: int | str, *, expect: Mapping[str, Any] | None = None, verify: Level = "full"
    ) -> SearchableVersion:
        """A version by number or alias, verified; see `lookup.open_version`."""
        return SearchableVersion(self._blobs, verified(self._ledger, ref, expect, verify))

    def versions(self) -> list[VersionSummary]:
        """Every version, oldest first."""
        self._ledger.check_readable()
        named: dict[int, list[str]] = {}
        for alias, version in self.aliases().items():
            named.setdefault(version, []).append(alias)
        return [
            VersionSummary(
                version=manifest.version,
                day=manifest.day,
                created_at=manifest.created_at,
                run_key=manifest.run_key,
                rows={name: table.rows for name, table in sorted(manifest.tables.items())},
                bytes=sum(entry.bytes for entry in manifest.files),
                aliases=tuple(named.get(manifest.version, ())),
            )
            for manifest in (stored.manifest for stored in self._ledger.all_stored())
        ]

    def aliases(self) -> dict[str, int]:
        """The version that each alias names now."""
        self._ledger.check_readable()
        heads = {alias: self._aliases.head(alias) for alias in self._aliases.names()}
        return {alias: head.version for alias, head in heads.items() if head}

    def alias_log(self, alias: str) -> list[AliasEntry]:
        """Every move of an alias, oldest first; empty if it was never given."""
        return self._aliases.log(alias)

    def verify(self, version: int | str | None = None) -> list[Problem]:
        """What is wrong with a version, or with everything; reads every byte, trusts no cache."""
        if version is None:
            return problems(self._ledger)
        self._ledger.check_readable()
        return problems(self._ledger, resolve(self._ledger, version).manifest.version)

    # -- one attempt -----------------------------------------------------------------------------

    def _write(self, attempt: Attempt, publication: _Publication) -> dict[str, Any]:
        """Write the attempt's objects; the manifest without version, parent and own hash."""
        entries = {RUN_FILE: self._entry(attempt, RUN_FILE)}
        described, built = {}, []
        for table in publication.tables:
            files = written.write(table, lambda name: self._blobs.creating(attempt.name(name)))
            entries |= {file.name: self._entry(attempt, **vars(file)) for file in files}
            described[table.name] = written.table_entry(table, entries)
            if table.name in publication.indexes:
                built.append(self._index(attempt, table, entries))
        for name, source in publication.files.items():
            with self._blobs.creating(attempt.name(name)) as path:
                shutil.copyfile(source, path)
            entries[name] = self._entry(attempt, name)
        return {
            **publication.said,
            "protocol": PROTOCOL,
            "min_reader": 1,
            "run_key": attempt.run_key,
            "generation": attempt.generation,
            "attempt": attempt.id,
            "created_at": now(),
            "files": [entries[name].model_dump() for name in sorted(entries)],
            "tables": {name: entry.model_dump() for name, entry in described.items()},
            "indexes": [entry.model_dump() for entry in built],
            "extra_files": sorted(publication.files),
            "env": _environment(),
            "gates": [],
        }

    def _index(self, attempt: Attempt, table: Prepared, entries: dict[str, FileEntry]) -> Any:
        """Build a table's index from the vectors as written, and bind it to their bytes."""
        assert table.vectors is not None
        assert table.metric is not None
        name = indexes.index_name(table.name)
        with self._blobs.creating(attempt.name(name)) as path:
            built = indexes.build(table.vectors, table.metric, path)
        entries[name] = self._entry(attempt, name)
        sources = (written.ids_name(table.name), written.vectors_name(table.name))
        return indexes.entry(
            IndexSpec(table.name, table.metric),
            built,
            table.vectors,
            {source: entries[source].sha256 for source in sources},
        )

    def _entry(self, attempt: Attempt, name: str, **described: Any) -> FileEntry:
        """A written object as the disk gives it back."""
        path = self._blobs.local_path(attempt.name(name))
        return FileEntry(
            name=name,
            **described,
            path=attempt.name(name),
            bytes=path.stat().st_size,
            sha256=sha256_of(path),
        )


# -- checks that come before the first byte ------------------------------------------------------


def _said(
    day: date | str,
    space: Mapping[str, Any] | None,
    inputs: Sequence[Mapping[str, Any]],
    attributes: Mapping[str, Any] | None,
) -> dict[str, Any]:
    try:
        stated = [InputEntry.model_validate(dict(one)).model_dump() for one in inputs]
    except (ValidationError, TypeError, ValueError) as error:
        raise BadInput(f"inputs: {error}") from error
    return {
        "day": checked_day(day),
        "space": plain_json(dict(space or {}), "space"),
        "inputs": plain_json(stated, "inputs"),
        "attributes": plain_json(dict(attributes or {}), "attributes"),
    }


def _checked(
    tables: Mapping[str, TableSpec | pa.Table],
    files: Mapping[str, str | os.PathLike[str]] | None,
    specs: Sequence[IndexSpec],
    said: dict[str, Any],
) -> _Publication:
    if not tables:
        raise BadInput("there is no table to publish")
    by_table = {spec.table: spec for spec in specs}
    if len(by_table) < len(specs) or not by_table.keys() <= tables.keys():
        raise BadInput(
            f"indexes are of {[spec.table for spec in specs]}: at most one for each of the "
            f"tables {sorted(tables)}"
        )
    prepared = []
    for name in sorted(tables, key=checked_table):
        metric = by_table[name].metric if name in by_table else None
        prepared.append(written.prepare(name, written.declared(name, tables[name]), metric))
    sources = {checked_file(name): Path(source) for name, source in (files or {}).items()}
    _check_files(sources, prepared)
    return _Publication(prepared, by_table, sources, said)


def _check_files(sources: dict[str, Path], tables: list[Prepared]) -> None:
    taken = {RUN_FILE.casefold()}
    for name, source in sources.items():
        owner = next((one.name for one in tables if name.casefold().startswith(f"{one.name}.")), "")
        if name.casefold() in taken or owner:
            whose = f"table '{owner}'" if owner else "another file of the version"
            raise BadInput(f"file name '{name}' belongs to {whose}")
        if not source.is_file():
            raise BadInput(f"file '{name}': there is no file {source}")
        taken.add(name.casefold())


def _environment() -> dict[str, Any]:
    return {
        "tidemark": distribution_version("tidemark"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }
