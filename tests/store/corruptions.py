"""Ways to damage a store of two versions, one of them in production, decided by a random number.

Each returns what must be refused: the version or alias to open, and the files that changed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
from store_workload import promote, publish

from embedding_store import EmbeddingStore, open_version
from embedding_store.errors import Corrupted
from embedding_store.manifest import seal

PAGE = 4096


@dataclass(frozen=True)
class Damage:
    """What was done."""

    ref: int | str  # whose open must be refused
    files: dict[Path, bytes]  # what they held before

    def undo(self):
        for path, content in self.files.items():
            path.write_bytes(content)


class Victim:
    """A store to damage again and again."""

    def __init__(self, root):
        self.root = Path(root)
        publish(self.root)
        publish(self.root, "second", "2026-03-02", 2)
        promote(self.root, 2)
        self.slots = sorted((self.root / "versions").iterdir())
        self.documents = [json.loads(slot.read_bytes()) for slot in self.slots]
        self.files = sorted(path for path in self.root.rglob("*") if path.is_file())
        self.data = [path for path in self.files if path.is_relative_to(self.root / "data")]

    def ref_of(self, path):
        """What to open so that the file is needed."""
        for document in self.documents:
            if document["attempt"] in path.parts or path.stem == document["run_key"]:
                return document["version"]
            if path.stem == f"{document['version']:020d}":
                return document["version"]
        return "production"

    def of_version(self, version):
        attempt = self.documents[version - 1]["attempt"]
        return [path for path in self.data if attempt in path.parts]

    def changed(self, ref, contents):
        before = {path: path.read_bytes() for path in contents}
        for path, content in contents.items():
            path.write_bytes(content)
        return Damage(ref, before)


def flipped_bit(victim, random):
    path = random.choice(victim.files)
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    return victim.changed(victim.ref_of(path), {path: bytes(content)})


def zeroed_page(victim, random):
    while True:
        path = random.choice(victim.data)
        content = bytearray(path.read_bytes())
        start = random.randrange(0, len(content), PAGE)
        if any(content[start : start + PAGE]):
            content[start : start + PAGE] = bytes(len(content[start : start + PAGE]))
            return victim.changed(victim.ref_of(path), {path: bytes(content)})


def truncation(victim, random):
    path = random.choice(victim.files)
    content = path.read_bytes()
    return victim.changed(victim.ref_of(path), {path: content[: random.randrange(len(content))]})


def swapped(victim, random, *, is_same_size):
    while True:
        one, other = random.sample(victim.data, 2)
        first, second = one.read_bytes(), other.read_bytes()
        if first != second and (len(first) == len(second)) is is_same_size:
            return victim.changed(victim.ref_of(one), {one: second, other: first})


def swapped_files_of_one_size(victim, random):
    return swapped(victim, random, is_same_size=True)


def swapped_files_of_two_sizes(victim, random):
    return swapped(victim, random, is_same_size=False)


def index_of_another_version(victim, random):
    """Sound, of the right shape, and over other vectors."""
    version = random.choice([1, 2])
    (own,) = [path for path in victim.of_version(version) if path.suffix == ".faiss"]
    (other,) = [path for path in victim.of_version(3 - version) if path.suffix == ".faiss"]
    return victim.changed(version, {own: other.read_bytes()})


def edits(document, random):
    """The document with one of its values changed."""
    files = document["files"]
    one = random.randrange(len(files))
    other_hash = {**files[one], "sha256": f"{random.getrandbits(256):064x}"}
    change = random.choice(
        [
            {"day": f"2025-01-{random.randrange(1, 29):02d}"},
            {"attributes": {"global_bias": random.random()}},
            {"space": {"space_id": f"other-{random.random()}", "dim": 8}},
            {"run_key": f"other-{random.randrange(10**6)}"},
            {"files": [other_hash if file is files[one] else file for file in files]},
            {"files": files[:one] + files[one + 1 :]},
            {"created_at": str(random.random())},
        ]
    )
    return {**document, **change}


def edited_manifest(victim, random):
    """By hand, its own hash left as it was."""
    version = random.choice([1, 2])
    document = edits(victim.documents[version - 1], random)
    content = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return victim.changed(version, {victim.slots[version - 1]: content.encode()})


def resealed(document):
    return seal({key: value for key, value in document.items() if key != "self_sha256"})


def resealed_manifest(victim, random):
    """With a hash of its own that fits: the decision before it says otherwise."""
    version = random.choice([1, 2])
    document = edits(victim.documents[version - 1], random)
    return victim.changed(version, {victim.slots[version - 1]: resealed(document)})


def resealed_manifest_and_decision(victim, random):
    """Both with fitting hashes: the next version or the alias knows the manifest's sha256."""
    version = random.choice([1, 2])
    document = victim.documents[version - 1]
    edited = edits(document, random)
    while edited["run_key"] != document["run_key"]:  # another file would be the decision
        edited = edits(document, random)
    intent = victim.root / "intents" / f"{document['run_key']}.json"
    body = {k: v for k, v in edited.items() if k not in ("version", "parent", "self_sha256")}
    decision = resealed({**json.loads(intent.read_bytes()), "body": body})
    contents = {victim.slots[version - 1]: resealed(edited), intent: decision}
    return victim.changed(1 if version == 1 else "production", contents)


KINDS = {
    kind.__name__: kind
    for kind in (
        flipped_bit,
        zeroed_page,
        truncation,
        swapped_files_of_one_size,
        swapped_files_of_two_sizes,
        index_of_another_version,
        edited_manifest,
        resealed_manifest,
        resealed_manifest_and_decision,
    )
}


# -- doors -----------------------------------------------------------------------------------------


@cache
def connection():
    """One for all: making it takes longer than everything else here."""
    return duckdb.connect()


def disconnect():
    """At the end, before the interpreter takes DuckDB apart."""
    connection().close()
    connection.cache_clear()


def search(root, ref):
    version = EmbeddingStore(root).open(ref, lease=False)
    version["item_semantics"].search(ids=[30], k=3)


def lookup(root, ref):
    open_version(root, ref, lease=False)["item_semantics"].vectors_of([30])


def sql(root, ref):
    EmbeddingStore(root).attach(connection(), [ref])


def cached_when_cold(root, ref):
    shutil.rmtree(root.with_name("cache"), ignore_errors=True)
    open_version(root, ref, verify="cached", lease=False)


DOORS = {"search": search, "lookup": lookup, "SQL": sql, "cached, cold": cached_when_cold}


def accepted_by(victim, damage):
    """The doors that let the damage in, and `verify` if it is silent about it."""
    doors = []
    for name, door in DOORS.items():
        try:
            door(victim.root, damage.ref)
            doors.append(name)
        except Corrupted:
            pass
    if not is_reported(victim.root):
        doors.append("verify")
    return doors


def is_reported(root):
    try:
        return bool(EmbeddingStore(root).verify())
    except Corrupted:  # of STORE.json, without which nothing is looked at
        return True
