"""Erasing an id from every version there is, and the proof that it is gone."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from embedding_store import index as indexes
from embedding_store.aliases import Aliases, now
from embedding_store.blobs import Blobs
from embedding_store.commit import DATA, Ledger
from embedding_store.errors import (
    BadInput,
    Corrupted,
    DayGoesBackwards,
    IdNotFound,
    TableNotFound,
)
from embedding_store.fates import Fates
from embedding_store.garbage import Collector, Policy
from embedding_store.integrity import check_files
from embedding_store.lookup import Version
from embedding_store.manifest import Document, Json, TableEntry, canonical, seal, sha256_hex, unseal
from embedding_store.names import checked_text

ERASURES = "erasures"
_SHORTEST_NEEDLE = 8  # bytes; shorter ones occur by chance
_POLL_S = 1.0
Id = int | str


class Request(Document):
    """An id that has to go, and why. It names the id, since anybody must be able to continue."""

    name: str
    key: str
    id: Id
    reason: str
    actor: str
    created_at: str


@dataclass(frozen=True)
class Erasure:
    """How far an erasure has come.

    Attributes:
        name: of its documents below `erasures/`.
        state: `proved`, or `pending` until the last reader and the grace period are gone.
        why: what it waits for, or where the proof is.
        superseded: version that held the id -> the one that replaces it; 0 where nothing was left.
    """

    name: str
    state: Literal["pending", "proved"]
    why: str
    superseded: dict[int, int]


Supersede = Callable[[Version, dict[str, pa.Table], str], int]


class Eraser:
    """One erasure, which may be carried on by any process after its own has died.

    Args:
        ledger: the store's versions.
        supersede: publishes a version again with other tables under the name of an erasure.
        skew_s: as in `garbage.Policy`.
    """

    def __init__(self, ledger: Ledger, supersede: Supersede, skew_s: float) -> None:
        self._ledger, self._blobs, self._supersede = ledger, ledger.blobs, supersede
        self._aliases, self._fates = Aliases(ledger), Fates(ledger.blobs)
        self._collector = Collector(ledger, ledger.check_writable(), Policy(skew_s=skew_s))

    # -- requests --------------------------------------------------------------------------------

    def request(self, table: str, id: Id, reason: str, actor: str) -> Request:
        """Write down what is to be erased; an unfinished request for the same id is continued."""
        key = self._key(table, id)
        for number in count(1):
            name = f"{sha256_hex(canonical({'key': key, 'id': id}))[:16]}-{number}"
            if not self._blobs.exists(_proof(name)):
                break
        request = Request(
            name=name,
            key=key,
            id=id,
            reason=checked_text(reason, "reason"),
            actor=checked_text(actor, "actor"),
            created_at=now(),
        )
        if not self._blobs.exists(_request(name)):
            if not any(self._tables_with(peeked, request) for peeked in self._present()):
                raise IdNotFound(f"{table}, in any version", [id])
            self._blobs.create_if_absent(_request(name), seal(request.model_dump(mode="json")))
        return self._read(name)

    def unfinished(self) -> list[Request]:
        """Requests without a proof."""
        names = [one.removesuffix(".json") for one in self._blobs.list(ERASURES)]
        asked = [name for name in names if "." not in name]
        return [self._read(name) for name in asked if not self._blobs.exists(_proof(name))]

    def _read(self, name: str) -> Request:
        return unseal(_request(name), self._blobs.read(_request(name)), Request)[0]

    def _key(self, table: str, id: Id) -> str:
        entry = newest_entry(self._ledger, table)
        is_text = entry.key_type == "string"
        if isinstance(id, bool) or not isinstance(id, str if is_text else int):
            raise BadInput(f"ids of {table} are {entry.key_type}, not {id!r}")
        return entry.key

    # -- versions --------------------------------------------------------------------------------

    def carry_out(self, request: Request) -> Erasure:
        """Replace, condemn, and as soon as nobody reads them any more delete and prove."""
        while holders := [one for one in self._present() if self._is_to_go(one, request)]:
            self._check_aliases_have_somewhere_to_go(holders, request)
            for holder in holders:
                self._replace(holder, request)
        superseded = self._superseded(request)
        for version in superseded:
            self._move_aliases(version, superseded[version], request)
        if not self._blobs.exists(_scan(request.name)):
            self._scan(request, list(superseded))
        now = self._collector.now()
        for version in superseded:
            if why := self._delete(version, now):
                return Erasure(request.name, "pending", f"version {version}: {why}", superseded)
        self._prove(request, superseded)
        return Erasure(request.name, "proved", _proof(request.name), superseded)

    def _present(self) -> Iterator[Version]:
        """Versions whose files are there, verified; a condemned one may be pardoned, so it counts.

        They are read without a lease: one that is deleted meanwhile is one less to do.
        """
        for stored in self._ledger.all_stored():
            try:
                if not self._fates.of(stored.manifest.version).is_gone:
                    check_files(self._blobs, stored.manifest, "full")
                    yield Version(self._blobs, stored)
            except Corrupted:
                if not self._fates.of(stored.manifest.version).is_gone:
                    raise

    def _is_to_go(self, version: Version, request: Request) -> bool:
        is_final = self._fates.of(version.version).is_final
        return not is_final and bool(self._tables_with(version, request))

    def _tables_with(self, version: Version, request: Request) -> list[str]:
        """Tables of a version with a row that has the id, in their key or in another column."""
        return [
            name
            for name in version
            if request.key in version[name].entry.columns
            and _has(version[name].table([request.key])[request.key], request.id)
        ]

    def _check_aliases_have_somewhere_to_go(self, holders: list[Version], request: Request) -> None:
        for version in holders:
            named = [one for one, head in self._heads().items() if head == version.version]
            if named and not _without(version, request):
                raise BadInput(
                    f"version {version.version}, which '{named[0]}' names, holds nothing but this "
                    "id; promote another version first"
                )

    def _heads(self) -> dict[str, int]:
        heads = {alias: self._aliases.head(alias) for alias in self._aliases.names()}
        return {alias: head.version for alias, head in heads.items() if head}

    def _replace(self, version: Version, request: Request) -> None:
        """A version without the id, under the aliases that named the one with it."""
        number, new = version.version, 0
        for alias, named in self._heads().items():
            if named == number:  # gc is about to see that, too
                self._fates.pardon(number, f"alias '{alias}' names it")
        if self._fates.of(number).is_readable:
            new = self._publish_without(number, request)
            self._move_aliases(number, new, request)
        why = f"erased by {request.name}" + (f"; version {new} supersedes it" if new else "")
        while not (fate := self._fates.of(number)).is_final:
            self._fates.move(fate, "condemned", "erase", why)

    def _publish_without(self, number: int, request: Request) -> int:
        """The version that replaces another; 0 if that held nothing else.

        It is read without a lease, which would outlive this process if that died.
        """
        version = Version(self._blobs, self._ledger.stored(number))
        try:
            tables = _without(version, request)
            return self._supersede(version, tables, request.name) if tables else 0
        except (FileNotFoundError, Corrupted):
            if not self._fates.of(number).is_gone:
                raise
            return 0  # gc has deleted it meanwhile

    def _move_aliases(self, old: int, new: int, request: Request) -> None:
        """Where the last entry of an alias names the old version, add one that names the new.

        Done again after the old one is condemned: a promotion may have come in between.
        """
        for alias in self._aliases.names() if new else ():
            last, _ = self._aliases.entry(alias, self._aliases.last(alias))
            if last.version == old:
                why, who = f"erasure {request.name}", request.actor
                try:
                    self._aliases.promote(new, alias, reason=why, actor=who, despite_gates=True)
                except DayGoesBackwards:  # it had been rolled back to the old one
                    self._aliases.rollback(
                        alias, version=new, reason=why, actor=who, despite_gates=True
                    )

    def _superseded(self, request: Request) -> dict[int, int]:
        """What this erasure condemned -> what replaces it."""
        said = f"erased by {request.name}"
        condemned = {
            stored.manifest.version: 0
            for stored in self._ledger.all_stored()
            if (mark := self._fates.of(stored.manifest.version).mark) and said in mark.reason
        }
        for stored in self._ledger.all_stored():
            replaced = stored.manifest.supersedes
            if replaced and replaced.erasure == request.name:
                condemned[replaced.version] = stored.manifest.version
        return condemned

    def _delete(self, version: int, now: float) -> str:
        """Delete a condemned version; what it waits for if it cannot be yet."""
        stored, fate = self._ledger.stored(version), self._fates.of(version)
        if fate.state == "deleted":
            return ""
        if not fate.is_gone and (why := self._collector.why_not_yet(fate, now)):
            return why
        self._collector.delete(stored, fate)
        return ""

    # -- the proof -------------------------------------------------------------------------------

    def _scan(self, request: Request, erased: list[int]) -> None:
        """Look for the bytes of the erased vectors, while there is still something to know them by.

        Raises:
            Corrupted: a file holds them, and no other row accounts for it.
        """
        needles = set()
        for version in erased:
            if not self._fates.of(version).is_gone:
                old = Version(self._blobs, self._ledger.stored(version))
                needles |= set(_needles(old, request))
        looked_at = {}
        for remaining in self._remaining():
            for entry in remaining.manifest.files:
                found = _found(self._blobs, entry.path, needles)
                if not all(_is_anothers(remaining, needle) for needle in found):
                    raise Corrupted(entry.path, f"still holds bytes of what {request.name} erased")
                looked_at[entry.path] = entry.sha256
        scan = {"name": request.name, "n_needles": len(needles), "files": looked_at}
        self._blobs.create_if_absent(_scan(request.name), seal(scan))

    def _remaining(self) -> Iterator[Version]:
        for version in self._present():
            if not self._fates.of(version.version).is_final:
                yield version

    def _prove(self, request: Request, superseded: dict[int, int]) -> None:
        """Decode every remaining table and index, and write down what was looked at."""
        scanned = unseal(_scan(request.name), self._blobs.read(_scan(request.name)), Scan)[0]
        files: Json = {}
        for version in self._remaining():
            if held := self._tables_with(version, request):
                raise BadInput(
                    f"version {version.version} was published with the id again, in "
                    f"{', '.join(held)}: take it out of what is published, and erase again"
                )
            for name in version:
                _decode(self._blobs, version, name, request)
            files |= {entry.path: entry.sha256 for entry in version.manifest.files}
        proof = {
            **request.model_dump(mode="json"),
            "proved_at": now(),
            "superseded": {str(old): new for old, new in superseded.items()},
            "decoded": files,  # path -> sha256, each compared with the bytes on the disk
            "scanned": sorted(p for p, sha in files.items() if scanned.files.get(p) == sha),
            "n_needles": scanned.n_needles,
            "not_looked_at": self._unfinished_attempts(),
        }
        self._blobs.create_if_absent(_proof(request.name), seal(proof))

    def _unfinished_attempts(self) -> list[str]:
        """Folders of tries that no version names: a publisher may be at work there."""
        made = {stored.manifest.attempt for stored in self._ledger.all_stored()}
        return [f"{DATA}/{one}" for one in self._blobs.list(DATA) if one not in made]


class Scan(Document):
    """Which files were searched for the erased bytes."""

    name: str
    n_needles: int
    files: dict[str, str]  # path -> sha256


def newest_entry(ledger: Ledger, table: str) -> TableEntry:
    """What the newest version that has a table says about it."""
    for version in range(ledger.head(), 0, -1):
        if (entry := ledger.stored(version).manifest.tables.get(table)) is not None:
            return entry
    raise TableNotFound(f"no version has a table '{table}'")


def _request(name: str) -> str:
    return f"{ERASURES}/{name}.json"


def _scan(name: str) -> str:
    return f"{ERASURES}/{name}.scan.json"


def _proof(name: str) -> str:
    return f"{ERASURES}/{name}.proof.json"


def _has(column: pa.ChunkedArray, id: Id) -> bool:
    try:
        value = pa.scalar(id, column.type)
    except (pa.ArrowException, TypeError, OverflowError):
        return False  # a column of that name with other things in it
    return bool(pc.any(pc.equal(column, value)).as_py())


def _without(version: Version, request: Request) -> dict[str, pa.Table]:
    """The tables of a version without the id; one in which nothing is left is left out."""
    tables = {}
    for name in version:
        rows = version[name].table()
        if request.key in rows.column_names and _has(rows[request.key], request.id):
            value = pa.scalar(request.id, rows[request.key].type)
            is_other = pc.fill_null(pc.not_equal(rows[request.key], value), True)
            rows = rows.filter(is_other)
        if rows.num_rows:
            tables[name] = rows
    return tables


def _needles(version: Version, request: Request) -> Iterator[bytes]:
    """Bytes by which the erased rows of a version can be known."""
    if isinstance(request.id, str):
        yield request.id.encode()
    for name in version:
        table = version[name]
        if table.dim is None or table.key != request.key:
            continue
        if _has(pa.chunked_array([table.ids]), request.id):
            yield table.vectors_of(pa.array([request.id])).tobytes()


def _found(blobs: Blobs, path: str, needles: set[bytes]) -> list[bytes]:
    long = [one for one in needles if len(one) >= _SHORTEST_NEEDLE]
    file = blobs.local_path(path)
    if not long or not file.stat().st_size:
        return []
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return [needle for needle in long if whole.find(needle) >= 0]


def _is_anothers(version: Version, needle: bytes) -> bool:
    """Whether another row accounts for the bytes: an equal vector, or a text that contains them."""
    for name in version:
        table = version[name]
        if table.dim is not None and needle in table.vectors.tobytes():
            return True
        texts = (one for one in table.table().columns if pa.types.is_string(one.type))
        text = needle.decode(errors="replace")
        if any(pc.any(pc.match_substring(column, text)).as_py() for column in texts):
            return True
    return False


def _decode(blobs: Blobs, version: Version, name: str, request: Request) -> None:
    """Read a table, its sidecar and its index as a reader would, and compare their sizes."""
    table = version[name]
    ids, n_rows = pa.chunked_array([table.ids]), table.table().num_rows
    if len(ids) != n_rows or (table.key == request.key and _has(ids, request.id)):
        raise Corrupted(table.entry.ids, f"does not hold the ids of {name}")
    stated = version.manifest.index_of(name)
    entry = version.manifest.file(stated.file) if stated else None
    if stated and entry:
        index = indexes.read(blobs.local_path(entry.path), entry.path, stated)
        if index.ntotal != n_rows:
            raise Corrupted(entry.path, f"is not the index of {name}")


def until_proved(carry_out: Callable[[], Erasure]) -> Erasure:
    """Try again until the last reader is gone."""
    while (erasure := carry_out()).state == "pending":
        time.sleep(_POLL_S)
    return erasure
