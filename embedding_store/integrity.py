"""Whether the store's files are the bytes that were published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from embedding_store.aliases import Aliases, entry_name
from embedding_store.blobs import Blobs, sha256_of
from embedding_store.commit import INTENTS, RUN_FILE, Ledger, Stored, intent_name, slot_name
from embedding_store.errors import BadInput, Corrupted, NotFound, StoreError
from embedding_store.fates import Fates
from embedding_store.local_cache import HashedFiles
from embedding_store.manifest import FileEntry, Intent, Manifest, sha256_hex, unseal
from embedding_store.tables import schema_sha256

Level = Literal["full", "cached", "footer", "off"]


@dataclass(frozen=True)
class Problem:
    """Something in the store that is not as it was published."""

    file: str
    problem: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.file}: {self.problem}"


# -- files of a version --------------------------------------------------------------------------


def check_files(
    blobs: Blobs, manifest: Manifest, level: Level, known: HashedFiles | None = None
) -> None:
    """Refuse a version whose files are not those of its manifest.

    Args:
        blobs: where they are.
        manifest: what they must be.
        level: `full` reads every byte; `cached` too, unless this machine has done so lately and
            the file system says that the file is the same (`local_cache.HashedFiles`); `footer`
            looks at sizes and at the footers of Parquet and Arrow files; `off` looks at none, and
            the vectors may then be silently wrong.
        known: what `cached` remembers; in the user's cache folder if not given.

    Raises:
        Corrupted: names the first file that differs.
    """
    if level not in get_args(Level):
        raise BadInput(f"verify={level!r} is none of {', '.join(get_args(Level))}")
    check_references(manifest)
    if level == "cached" and known is None:
        known = HashedFiles()
    for entry in manifest.files if level != "off" else ():
        check_file(blobs, entry, level, known)


def check_file(
    blobs: Blobs, entry: FileEntry, level: Level, known: HashedFiles | None = None
) -> None:
    """Refuse one file that is not what its entry says; arguments as in `check_files`."""
    with _readable(entry):
        path = blobs.fetch(entry.path)
        try:
            _check_path(path, entry, level, known)
        except Corrupted:  # a local copy may have rotted where the object is whole
            path = blobs.fetch(entry.path, afresh=True)
            _check_path(path, entry, level, None)
        blobs.hold(entry.path, path)


def check_stored(blobs: Blobs, entry: FileEntry) -> None:
    """Refuse one file whose bytes, read from the storage now, are not what its entry says."""
    with _readable(entry):
        _check_digest(entry, *blobs.digest(entry.path))


@contextmanager
def _readable(entry: FileEntry) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Corrupted(entry.path, "is missing") from None
    except OSError as error:
        raise Corrupted(entry.path, f"cannot be read ({error.strerror})") from error


def _check_path(path: Path, entry: FileEntry, level: Level, known: HashedFiles | None) -> None:
    size, sha256 = path.stat().st_size, entry.sha256
    if size == entry.bytes and level == "full":
        sha256 = sha256_of(path)
    elif size == entry.bytes and level == "cached":
        sha256 = known.sha256_of(path, sha256_of) if known else sha256_of(path)
    _check_digest(entry, size, sha256)
    if level == "footer":
        _check_footer(str(path), entry)


def _check_digest(entry: FileEntry, size: int, sha256: str) -> None:
    if size != entry.bytes:
        raise Corrupted(entry.path, f"has {size} bytes, {entry.bytes} were published")
    if sha256 != entry.sha256:
        raise Corrupted(
            entry.path, f"sha256 is {sha256[:12]}..., {entry.sha256[:12]}... was published"
        )


def _check_footer(path: str, entry: FileEntry) -> None:
    try:
        if entry.name.endswith(".parquet") and entry.rows is not None:
            with pq.ParquetFile(path) as parquet:
                schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
        elif entry.name.endswith(".arrow") and entry.rows is not None:
            with pa.memory_map(path) as file, pa.ipc.open_file(file) as arrow:
                schema, rows = arrow.schema, arrow.get_batch(0).num_rows
        else:
            return
    except (pa.ArrowException, OSError) as error:
        raise Corrupted(entry.path, f"has a broken footer ({error})") from error
    if rows != entry.rows or schema_sha256(schema) != entry.schema_sha256:
        raise Corrupted(entry.path, "has other rows or columns than were published")


def check_references(manifest: Manifest) -> None:
    """Refuse a manifest whose parts do not fit together, an index of other data included."""
    slot, files = slot_name(manifest.version), {entry.name: entry for entry in manifest.files}
    named = [RUN_FILE, *manifest.extra_files]
    for table in manifest.tables.values():
        named += [*table.parts, table.ids, *([table.vectors] if table.vectors else [])]
    for index in manifest.indexes:
        if index.table not in manifest.tables:
            raise Corrupted(slot, f"has an index of '{index.table}', which it does not have")
        named += [index.file, *index.built_from]
        for source, sha256 in index.built_from.items():
            if source in files and files[source].sha256 != sha256:
                raise Corrupted(slot, f"{index.file} was built from another {source}")
    if missing := sorted(set(named) - set(files)):
        raise Corrupted(slot, f"names files that it does not list: {', '.join(missing)}")


def check_successor(ledger: Ledger, stored: Stored) -> None:
    """Refuse a manifest that is not the one its successor was chained to.

    A successor that is itself damaged says nothing here; `problems` reports it.
    """
    version = stored.manifest.version
    try:
        parent = ledger.stored(version + 1).manifest.parent
    except StoreError:
        return
    if parent is None or (parent.version, parent.manifest_sha256) != (version, stored.sha256):
        raise Corrupted(
            slot_name(version), f"is not the manifest that {slot_name(version + 1)} follows"
        )


def check_decision(ledger: Ledger, stored: Stored) -> None:
    """Refuse a manifest that says anything else than was decided before it was written."""
    run = stored.manifest
    decided = ledger.intent(run.run_key, run.generation)
    own = ("version", "parent", "self_sha256")
    body = {key: value for key, value in stored.document.items() if key not in own}
    decision = intent_name(run.run_key, run.generation)
    if decided is None:
        raise Corrupted(decision, f"is missing; it decided what is in {slot_name(run.version)}")
    if decided[0].body != body:
        raise Corrupted(slot_name(run.version), f"is not what {decision} says")


# -- the whole store -----------------------------------------------------------------------------


def problems(ledger: Ledger, version: int | None = None) -> list[Problem]:
    """Everything that is wrong with one version, or with the whole store; reads every byte.

    Orphans (attempts that never became a version, decided runs not yet finished) are what a
    crash leaves and no problem.

    Raises:
        NotFound: no such store or version.
    """
    ledger.check_readable()
    if version is not None:
        return list(_of_version(ledger, version))
    found = [one for n in range(1, ledger.head() + 1) for one in _of_version(ledger, n)]
    found += _of_chain(ledger)
    found += _of_aliases(Aliases(ledger))
    return found + list(_of_intents(ledger))


def _caught(check: Callable[..., object], *arguments: Any) -> Iterator[Problem]:
    try:
        check(*arguments)
    except Corrupted as error:
        yield Problem(error.file, error.problem)


def _of_version(ledger: Ledger, version: int) -> Iterator[Problem]:
    try:
        stored = ledger.stored(version)
    except Corrupted as error:
        yield Problem(error.file, error.problem)
        return
    yield from _caught(check_successor, ledger, stored)
    yield from _caught(check_decision, ledger, stored)
    yield from _caught(check_references, stored.manifest)
    found = [one for e in stored.manifest.files for one in _caught(check_stored, ledger.blobs, e)]
    try:
        is_gone = Fates(ledger.blobs).of(version).is_gone  # asked last: gc may run meanwhile
    except Corrupted as error:
        yield Problem(error.file, error.problem)
        is_gone = False
    if not is_gone:
        yield from found


def _of_chain(ledger: Ledger) -> Iterator[Problem]:
    """First version without a parent, every run key once."""
    seen: dict[str, int] = {}
    for version in range(1, ledger.head() + 1):
        try:
            manifest = ledger.stored(version).manifest
        except Corrupted:
            continue  # `_of_version` has reported it
        if (manifest.parent is None) != (version == 1):
            yield Problem(slot_name(version), "is not chained to the version before it")
        if (first := seen.setdefault(manifest.run_key, version)) != version:
            yield Problem(slot_name(version), f"has the run_key of version {first}")


def _of_aliases(aliases: Aliases) -> Iterator[Problem]:
    for alias in aliases.names():
        before: str | None = None  # sha256 of the entry before, None where it cannot be read
        for sequence in range(1, aliases.last(alias) + 1):
            name = entry_name(alias, sequence)
            try:
                entry, content = aliases.entry(alias, sequence)
                aliases.named(entry)
            except (Corrupted, NotFound) as error:
                yield Problem(name, str(error))
                before = None
                continue
            stated = entry.prev.entry_sha256 if entry.prev else None
            if before and stated != before:
                yield Problem(name, "does not follow the entry before it")
            before = sha256_hex(content)


def _of_intents(ledger: Ledger) -> Iterator[Problem]:
    """Decisions whose version was never made must be readable too: a retry will need them."""
    for name in ledger.blobs.list(INTENTS):
        path = f"{INTENTS}/{name}"
        yield from _caught(unseal, path, ledger.blobs.read(path), Intent)
