"""The store as its users see it: publish, promote, open, list, verify."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from embedding_store import index as indexes
from embedding_store import outbox, views
from embedding_store import tables as written
from embedding_store.aliases import Aliases, now
from embedding_store.blobs import open_blobs, sha256_of
from embedding_store.commit import RUN_FILE, Attempt, Ledger
from embedding_store.erasure import Eraser, Erasure, newest_entry, until_proved
from embedding_store.errors import BadInput, Fenced
from embedding_store.fates import Fates
from embedding_store.garbage import DEFAULT_POLICY, Outcome, Policy, collect
from embedding_store.index import IndexSpec
from embedding_store.integrity import Level, Problem, problems
from embedding_store.lookup import Version
from embedding_store.manifest import (
    GRACE_S,
    LEASE_TTL_S,
    PROTOCOL,
    AliasEntry,
    FileEntry,
    GateEntry,
    InputEntry,
    StoreFile,
    plain_json,
)
from embedding_store.names import checked_day, checked_file, checked_run_key, checked_table
from embedding_store.opening import is_alias, opened, resolve
from embedding_store.review import Reviewer, reviewed
from embedding_store.rotations import ALIGNMENT_FILE
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
    state: str = "live"  # or condemned, doomed, deleted
    refused: tuple[str, ...] = ()  # names of the gates that it did not pass


@dataclass(frozen=True)
class _Publication:
    """What is to be published, after every check that needs no disk."""

    tables: list[Prepared]
    indexes: dict[str, IndexSpec]
    files: dict[str, Path]
    said: dict[str, Any]  # day, space, attributes, inputs
    review: Reviewer | None = None


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
        review: Reviewer | None = None,
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
            review: looks at what was written, through the reader that everybody has, before
                anything is decided. What it finds goes into the manifest; a version that fails
                a gate is published all the same, and `promote` refuses it. See `gates.review`.

        Returns:
            The version's number.

        Raises:
            BadInput: something that the store does not take; nothing was written.
        """
        checked_run_key(run_key)
        if (version := self._ledger.decided(run_key)) is not None:
            return version
        publication = _checked(tables, files, indexes, _said(day, space, inputs, attributes))
        publication = replace(publication, review=review)
        self._ledger.initialise()
        return self._attempted(run_key, publication)

    def promote(
        self,
        version: int,
        alias: str,
        *,
        reason: str,
        actor: str,
        expected_prev: int | None = None,
        gates: Sequence[GateEntry] | None = None,
        despite_gates: bool = False,
    ) -> AliasEntry:
        """Point `alias` at a version, for the record; see `Aliases.promote`."""
        self._ledger.check_writable()
        return self._aliases.promote(
            version,
            alias,
            reason=reason,
            actor=actor,
            expected_prev=expected_prev,
            gates=gates,
            despite_gates=despite_gates,
        )

    def rollback(
        self,
        alias: str,
        *,
        reason: str,
        actor: str,
        version: int | None = None,
        despite_gates: bool = False,
    ) -> AliasEntry:
        """Point `alias` back at the version before, or at another; see `Aliases.rollback`."""
        self._ledger.check_writable()
        return self._aliases.rollback(
            alias, reason=reason, actor=actor, version=version, despite_gates=despite_gates
        )

    # -- life and death --------------------------------------------------------------------------

    def initialise(
        self, *, lease_ttl_s: float = LEASE_TTL_S, grace_s: float = GRACE_S
    ) -> StoreFile:
        """Make the store if there is none; a publish does the same, with the usual times.

        Args:
            lease_ttl_s: how long a reader that died keeps `gc` from deleting what it had open.
            grace_s: how long `gc` waits between condemning and deleting, for readers that cannot
                write a lease.

        Returns:
            The times that hold, which are those of the first call.
        """
        return self._ledger.initialise(lease_ttl_s=lease_ttl_s, grace_s=grace_s)

    def gc(self, policy: Policy = DEFAULT_POLICY, *, dry_run: bool = False) -> list[Outcome]:
        """Delete what nobody needs any more, in two steps; see `garbage.collect`."""
        return collect(self._ledger, policy, dry_run=dry_run)

    def recover(self) -> dict[str, int]:
        """Finish decided runs whose version was never made, as their retries would.

        Returns:
            The version of each of their run keys.
        """
        self._ledger.check_writable()
        return self._ledger.recover()

    def erase(
        self,
        table: str,
        id: int | str,
        *,
        reason: str,
        actor: str,
        wait: bool = False,
        skew_s: float = DEFAULT_POLICY.skew_s,
    ) -> Erasure:
        """Take an id out of every version, with everything that a table says about it.

        Every version that holds it is replaced by one that does not, aliases move to that, and
        nobody can open the old one any more. Its files are deleted once the grace period and the
        last lease are over; then every remaining file is searched and decoded for the proof.
        Call it again (or `gc`, then this) to carry on, also after a crash.

        Args:
            table: any table whose key is what the id is an id of; rows of other tables that name
                it in a column like that key go as well.
            id: whose rows go.
            reason: why, for the proof.
            actor: who asked for it.
            wait: come back with the proof, which takes as long as the longest reader may.
            skew_s: as in `garbage.Policy`.

        Raises:
            IdNotFound: no version holds it, and no erasure of it is under way.
            Corrupted: bytes of it are left somewhere.
        """
        eraser = Eraser(self._ledger, self._supersede, skew_s)
        request = eraser.request(table, id, reason, actor)
        if wait:
            return until_proved(lambda: eraser.carry_out(request))
        return eraser.carry_out(request)

    def erasures(self, *, skew_s: float = DEFAULT_POLICY.skew_s) -> list[Erasure]:
        """Carry on with every erasure that has no proof yet."""
        eraser = Eraser(self._ledger, self._supersede, skew_s)
        return [eraser.carry_out(request) for request in eraser.unfinished()]

    def _supersede(self, version: Version, tables: dict[str, pa.Table], erasure: str) -> int:
        """Publish a version again with other rows, and everything else as it was."""
        run_key = f"erase-{erasure}-{version.version}"
        if (made := self._ledger.decided(run_key)) is not None:
            return made
        old = version.manifest
        specs = {one.table: indexes.spec_of(one) for one in old.indexes if one.table in tables}
        prepared = [
            written.prepare(
                name,
                written.declared(name, rows),
                specs[name].metric if name in specs else None,
            )
            for name, rows in sorted(tables.items())
        ]
        kept = {
            key: value
            for key, value in version.document.items()
            if key not in ("version", "parent", "self_sha256")
        }
        kept["supersedes"] = {
            "version": old.version,
            "manifest_sha256": version.manifest_sha256,
            "erasure": erasure,
        }
        files = {name: version.file(name) for name in old.extra_files}
        return self._attempted(run_key, _Publication(prepared, specs, files, kept))

    def key_type(self, table: str) -> str:
        """Type of the ids of a table, in the newest version that has it.

        Raises:
            TableNotFound: none has.
        """
        self._ledger.check_readable()
        return newest_entry(self._ledger, table).key_type

    def pending_events(self) -> list[AliasEntry]:
        """Moves of aliases that no scheduler was told of, oldest first; see `outbox`."""
        self._ledger.check_readable()
        return outbox.pending(self._aliases)

    def mark_sent(self, entry: AliasEntry) -> None:
        """Remember that a scheduler was told of a move; doing so twice is no error."""
        self._ledger.check_writable()
        outbox.mark_sent(self._blobs, entry)

    # -- reading ---------------------------------------------------------------------------------

    def open(
        self,
        ref: int | str,
        *,
        expect: Mapping[str, Any] | None = None,
        verify: Level = "full",
        lease: bool | None = None,
    ) -> SearchableVersion:
        """A version by number or alias, verified and held; see `lookup.open_version`."""
        return SearchableVersion(self._blobs, *opened(self._ledger, ref, expect, verify, lease))

    def attach(
        self,
        connection: Any,
        refs: Sequence[int | str] | None = None,
        *,
        schema: str | None = None,
        prefix: str = "",
        verify: Level = "full",
    ) -> views.Attached:
        """Make views of versions in a DuckDB connection, once they are verified.

        Args:
            connection: see `views.attach`.
            refs: versions and aliases; every version that can be read, with all its aliases, if
                not given.
            schema: see `views.attach`.
            prefix: see `views.attach`.
            verify: as for `open`.

        Raises:
            Corrupted: a file of one of them is not what was published; no view was made.
            BadInput: as `views.attach`.
        """
        named: dict[int, list[str]] = {}
        if refs is None:
            refs = [one.version for one in self.versions() if one.state == "live"]
            refs += list(self.aliases())
        for ref in refs:
            aliases = named.setdefault(resolve(self._ledger, ref).manifest.version, [])
            if is_alias(ref):
                aliases.append(str(ref))
        opened = [
            views.Named(self.open(number, verify=verify), aliases)
            for number, aliases in sorted(named.items())
        ]
        return views.attach(connection, opened, schema, prefix)

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
                state=Fates(self._blobs).of(manifest.version).state,
                refused=tuple(gate.name for gate in manifest.refused),
            )
            for manifest in (stored.manifest for stored in self._ledger.all_stored())
        ]

    def aliases(self) -> dict[str, int]:
        """The version that each alias names now."""
        self._ledger.check_readable()
        heads = {alias: self._aliases.head(alias) for alias in self._aliases.names()}
        return {alias: head.version for alias, head in heads.items() if head}

    def before(self, alias: str, day: date | str) -> int | None:
        """What a version of `day` would replace; see `Aliases.before`. None without a store."""
        return self._aliases.before(alias, checked_day(day))

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

    def _attempted(self, run_key: str, publication: _Publication) -> int:
        """The version of a run that is not decided yet, by a new attempt.

        Raises:
            Fenced: gc took the attempt for dead, so long did it take.
        """
        attempt = self._ledger.begin(run_key)
        try:
            body = self._write(attempt, publication)
        except (FileNotFoundError, RuntimeError) as error:  # FAISS has no other error
            if self._blobs.exists(attempt.name(RUN_FILE)):
                raise
            raise Fenced(f"attempt {attempt.id} of {run_key} was deleted; try again") from error
        return self._ledger.commit(attempt, body)

    def _write(self, attempt: Attempt, publication: _Publication) -> dict[str, Any]:
        """Write the attempt's objects; the manifest without version, parent and own hash."""
        entries = {RUN_FILE: self._entry(attempt, RUN_FILE)}
        described, built = {}, []
        for table in publication.tables:
            files = written.write(table, lambda name: self._blobs.creating(attempt.name(name)))
            entries |= {file.name: self._entry(attempt, **vars(file)) for file in files}
            described[table.name] = written.table_entry(table, entries)
            if table.name in publication.indexes:
                spec = publication.indexes[table.name]
                built.append(self._index(attempt, table, spec, entries))
        for name, source in publication.files.items():
            with self._blobs.creating(attempt.name(name)) as path:
                shutil.copyfile(source, path)
            entries[name] = self._entry(attempt, name)
        body = {
            "gates": publication.said.get(
                "gates", []
            ),  # what was refused stays so when erased from
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
        }
        if publication.review is None:
            return body
        return reviewed(
            self._blobs,
            body,
            self._ledger.head() + 1,
            publication.review,
            lambda name: self._blobs.creating(attempt.name(name)),
            lambda name: self._entry(attempt, name),
        )

    def _index(
        self, attempt: Attempt, table: Prepared, spec: IndexSpec, entries: dict[str, FileEntry]
    ) -> Any:
        """Build a table's index from the vectors as written, and bind it to their bytes."""
        assert table.vectors is not None
        name = indexes.index_name(table.name)
        with self._blobs.creating(attempt.name(name)) as path:
            built = indexes.build(table.vectors, spec, path, written.bias_of(table, spec.bias))
        entries[name] = self._entry(attempt, name)
        sources = [written.ids_name(table.name), written.vectors_name(table.name)]
        if spec.bias is not None:  # the sidecars do not hold it
            sources += [one for one in entries if one.startswith(f"{table.name}.part-")]
        return indexes.entry(
            spec, built, table.vectors, {source: entries[source].sha256 for source in sources}
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
        written.bias_of(prepared[-1], by_table[name].bias if name in by_table else None)
    sources = {checked_file(name): Path(source) for name, source in (files or {}).items()}
    _check_files(sources, prepared)
    return _Publication(prepared, by_table, sources, said)


def _check_files(sources: dict[str, Path], tables: list[Prepared]) -> None:
    taken = {RUN_FILE.casefold(), ALIGNMENT_FILE}
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
