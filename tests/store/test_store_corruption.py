"""Damage of every kind is refused at every door, on a first open with a cold cache."""

from __future__ import annotations

import os
from random import Random

import pytest
from corruptions import (
    KINDS,
    Victim,
    accepted_by,
    disconnect,
    edits,
    resealed,
    resealed_manifest_and_decision,
)

from embedding_store import EmbeddingStore
from embedding_store.manifest import sha256_hex

N_OF_EACH = int(os.environ.get("TIDEMARK_CORRUPTIONS", "50"))  # 1,000 in benchmarks/


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    folder = tmp_path_factory.mktemp("victim")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EMBEDDING_STORE_CACHE", str(folder / "cache"))
        yield Victim(folder / "store")
    disconnect()


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_refused_through_search_lookup_sql_and_by_verify(victim, kind):
    random = Random(kind)
    for n in range(N_OF_EACH):
        damage = KINDS[kind](victim, random)
        assert accepted_by(victim, damage) == [], f"number {n}: {sorted(damage.files)}"
        damage.undo()
    assert EmbeddingStore(victim.root).verify() == []


def test_what_a_forger_with_every_hash_can_do_is_known(victim):
    """The last version, opened by number: its successor is not there yet to say otherwise.

    Who rewrites the manifest, its decision and the alias entries, each with a fitting hash, is
    believed; where that matters, keep the manifest's sha256 elsewhere and compare.
    """
    random = Random(0)
    store = EmbeddingStore(victim.root)
    kept = store.open(2).manifest_sha256
    while True:
        damage = resealed_manifest_and_decision(victim, random)
        edited = [path for path in damage.files if path == victim.slots[1]]
        if edited and b"2025-01" in edited[0].read_bytes():
            break
        damage.undo()
    assert store.open(2).day.startswith("2025-01")
    assert store.open(2).manifest_sha256 != kept
    assert accepted_by(victim, damage) == []  # but not by its alias, and `verify` reports it
    damage.undo()
    assert store.open("production").manifest_sha256 == kept


def test_an_edit_changes_the_document_and_its_seal(victim):
    document = victim.documents[0]
    assert all(edits(document, Random(n)) != document for n in range(20))
    assert sha256_hex(resealed(document)) == sha256_hex(victim.slots[0].read_bytes())
