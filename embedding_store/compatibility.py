"""Whether vectors may be read, or searched, together: spaces that differ are refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from embedding_store.errors import Incompatible
from embedding_store.manifest import Manifest

_OF_TABLE = ("dim", "metric", "key_type", "normalised")
_SILENT = "nothing"


def check_expected(manifest: Manifest, expect: Mapping[str, Any]) -> None:
    """Refuse a version that is not in the space that its reader was made for.

    Args:
        manifest: of the version.
        expect: what `space` must say, by name: the fingerprints of backbone, adapter, tokenizer,
            prompt, pooling and projectors, for instance. `<table>.dim`, `.metric`, `.key_type` and
            `.normalised` are compared with what the manifest says of that table.

    Raises:
        Incompatible: something else was said, or nothing; the message has all differences, with
            both sides of each.
    """
    differences = [
        f"{name} is {_said(found)}, expected {wanted!r}"
        for name, wanted in expect.items()
        if (found := _found(manifest, name)) != [wanted]
    ]
    if differences:
        raise Incompatible(
            f"version {manifest.version} is in another space: {'; '.join(differences)}"
        )


def _found(manifest: Manifest, name: str) -> list[Any]:
    """The value in a list of one; an empty list for what the manifest is silent about."""
    if name in manifest.space:
        return [manifest.space[name]]
    table, _, field = str(name).rpartition(".")
    if table in manifest.tables and field in _OF_TABLE:
        return [getattr(manifest.tables[table], field)]
    return []


def _said(found: list[Any]) -> str:
    return repr(found[0]) if found else _SILENT


def check_one_version(asked: Manifest, queries: Manifest) -> None:
    """Refuse to compare vectors of one version with those of another.

    Two nights have two spaces even where all fingerprints agree: factors are fitted anew, and
    what is taken out of the semantics is another mean. Only a rotation leads across.
    """
    if asked.self_sha256 == queries.self_sha256:
        return
    said = "; ".join(_differences(asked.space, queries.space)) or "the facts about both agree"
    raise Incompatible(
        f"vectors of version {queries.version} do not lie in the space of version "
        f"{asked.version} ({said}): give map_to({asked.version}) of them, or search in their own"
    )


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            yield f"{name} is {other.get(name)!r} there and {one.get(name)!r} here"
