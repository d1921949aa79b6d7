"""A look at what was written, before anything is decided: the last step of a publication's try."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from embedding_store.alignment import Alignment
from embedding_store.blobs import Blobs
from embedding_store.commit import Stored
from embedding_store.manifest import Certificate, FileEntry, GateEntry, Json, Manifest
from embedding_store.rotations import ALIGNMENT_FILE
from embedding_store.search import SearchableVersion

_NOT_SEALED = "0" * 64


@dataclass(frozen=True)
class Review:
    """What was found out about a candidate.

    Attributes:
        gates: each with its value, its bound and whether it passed.
        certificates: of the indexes, by table.
        alignment: rotations from the version before; None if there is none.
        reference: number of the version that it was compared with.
    """

    gates: Sequence[GateEntry] = ()
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    alignment: Alignment | None = None
    reference: int | None = None


Reviewer = Callable[[SearchableVersion], Review]


def reviewed(
    blobs: Blobs,
    body: dict[str, Any],
    number: int,
    reviewer: Reviewer,
    creating: Callable[[str], AbstractContextManager[Path]],
    entry_of: Callable[[str], FileEntry],
) -> dict[str, Any]:
    """The manifest's content with the gates, certificates and rotations that a review gave.

    Args:
        blobs: where the candidate is written.
        body: the manifest's content so far.
        number: which version it will be if nobody is faster; gates may not rely on it.
        reviewer: sees the candidate through the reader that everybody has.
        creating: makes one more file of the attempt.
        entry_of: describes a file of the attempt as the disk gives it back.
    """
    found = reviewer(_draft(blobs, body, number))
    body = {**body, "gates": [gate.model_dump() for gate in found.gates]}
    body["reviewed_against"] = found.reference
    body["indexes"] = [_certified(index, found.certificates) for index in body["indexes"]]
    if found.alignment is not None and found.alignment.rotations:
        with creating(ALIGNMENT_FILE) as path:
            found.alignment.save(path)
        files = [*body["files"], entry_of(ALIGNMENT_FILE).model_dump()]
        body["files"] = sorted(files, key=lambda entry: entry["name"])
        body["extra_files"] = sorted([*body["extra_files"], ALIGNMENT_FILE])
    if found.alignment is not None:
        body["alignment"] = found.alignment.entry.model_dump()
    return body


def _draft(blobs: Blobs, body: Mapping[str, Any], number: int) -> SearchableVersion:
    """The candidate as a version that nobody else can see."""
    document: Json = {**body, "version": number, "parent": None, "self_sha256": _NOT_SEALED}
    return SearchableVersion(
        blobs, Stored(Manifest.model_validate(document), document, _NOT_SEALED)
    )


def _certified(index: Json, certificates: Mapping[str, Certificate]) -> Json:
    found = certificates.get(index["table"])
    return {**index, "certificate": found.model_dump()} if found else index
