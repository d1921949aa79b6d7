"""The store's documents: canonical JSON that carries its own hash, and the models in it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embedding_store.errors import BadInput, Corrupted

FORMAT = "tidemark-embedding-store"
PROTOCOL = 1
LEASE_TTL_S, GRACE_S = 600.0, 3_600.0
Metric = Literal["cosine", "inner_product", "l2"]
Key = Literal["int64", "string"]
Json = dict[str, Any]

_SHA256 = r"^[0-9a-f]{64}$"


class Document(BaseModel):
    """A part of a stored document.

    A newer writer may have added fields: they are hashed with the rest and ignored here. What an
    old reader may not ignore raises `min_reader`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class StoreFile(Document):
    """STORE.json: who may read and write the store."""

    format: str
    protocol: int
    min_reader: int
    min_writer: int
    lease_ttl_s: float = Field(LEASE_TTL_S, gt=0)  # a reader that died delays the collector by this
    grace_s: float = Field(GRACE_S, ge=0)  # between condemning and deleting, for who has no lease


class FileEntry(Document):
    """One object of a version: where it is and which bytes it must have."""

    name: str
    path: str
    bytes: int
    sha256: str = Field(pattern=_SHA256)
    rows: int | None = None
    schema_sha256: str | None = None


class TableEntry(Document):
    """One table of a version: its key, its vectors if it has any, and the files that hold it."""

    key: str
    key_type: Key
    rows: int
    columns: dict[str, str]
    vector: str | None = None
    dim: int | None = None
    dtype: str | None = None
    metric: Metric | None = None
    normalised: bool | None = None  # every vector has length 1 (to 1e-4)
    parts: list[str]  # names of the Parquet files, in order of id
    ids: str  # name of the lookup sidecar with the sorted ids
    vectors: str | None = None  # name of the lookup sidecar with the vectors, row i <-> id i
    ids_sha256: str  # equal in two versions that hold the same ids


class Certificate(Document):
    """How much of what exact search finds an index finds, and bounds for all queries."""

    k: int
    queries: str  # table whose vectors were the queries
    n_rows: int  # all queries that there are
    n_queries: int  # those that were asked
    seed: int
    recall: float
    confidence: float
    low: float
    high: float


class IndexEntry(Document):
    """One search index, bound to the bytes that it was built from."""

    table: str
    metric: Metric
    file: str
    built_from: dict[str, str]  # name -> sha256
    factory: str
    library: str
    threads: int
    params: dict[str, Any]
    rows: int
    dim: int
    certificate: Certificate | None = None


class InputEntry(BaseModel):
    """A dataset that the version was made from."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    day: str
    sha256: str
    n_rows: int | None = None


class Parent(Document):
    """The version before: the link of the hash chain."""

    version: int
    manifest_sha256: str = Field(pattern=_SHA256)


class GateEntry(Document):
    """One check that a version must pass before an alias moves to it, and what it found."""

    name: str
    passed: bool
    value: float | None = None  # None: there was nothing to measure or to compare with
    at_least: float | None = None
    at_most: float | None = None
    says: str


class AlignmentGroup(Document):
    """One rotation, shared by tables whose vectors are compared with one another."""

    name: str
    tables: list[str]
    dim: int
    rank: int  # directions that the shared rows determine
    n_shared: int
    residual: float  # ||other @ rotation - this|| / ||this|| over the shared rows
    unrotated: float  # the same without the rotation


class AlignmentEntry(Document):
    """How a version's axes lie against those of an earlier one."""

    to: Parent
    file: str
    groups: list[AlignmentGroup]
    skipped: dict[str, str]  # group -> why it has no rotation

    def group_of(self, table: str) -> AlignmentGroup | None:
        """The group that a table turned with, if it did."""
        return next((group for group in self.groups if table in group.tables), None)


class Superseded(Document):
    """The version that another one replaces, and the erasure that asked for it."""

    version: int
    manifest_sha256: str = Field(pattern=_SHA256)
    erasure: str


class Manifest(Document):
    """Everything about one version; the file that holds it is the commit."""

    version: int = Field(ge=1)
    parent: Parent | None
    protocol: int
    min_reader: int
    run_key: str
    generation: int
    attempt: str
    day: str
    created_at: str
    files: list[FileEntry]
    tables: dict[str, TableEntry]
    indexes: list[IndexEntry]
    extra_files: list[str]
    space: dict[str, Any]
    attributes: dict[str, Any]
    inputs: list[InputEntry]
    env: dict[str, Any]
    gates: list[GateEntry]
    supersedes: Superseded | None = None
    reviewed_against: int | None = None  # the version that the gates compared it with
    alignment: AlignmentEntry | None = None
    self_sha256: str = Field(pattern=_SHA256)

    @property
    def refused(self) -> list[GateEntry]:
        """The gates that it did not pass."""
        return [gate for gate in self.gates if not gate.passed]

    def file(self, name: str) -> FileEntry | None:
        """The file of that name, if the version has one."""
        return next((entry for entry in self.files if entry.name == name), None)

    def index_of(self, table: str) -> IndexEntry | None:
        """The index of a table, if it has one."""
        return next((entry for entry in self.indexes if entry.table == table), None)


class Intent(Document):
    """What was decided about a run: commit one attempt, or give it up for ever."""

    decision: Literal["COMMIT", "ABORT"]
    run_key: str
    generation: int
    attempt: str | None = None
    base: int | None = None  # highest version when the decision fell; the walk starts after it
    body: dict[str, Any] | None = None  # the manifest without version, parent and own hash


class AliasPrevious(Document):
    """The entry before in an alias log."""

    sequence: int
    version: int
    entry_sha256: str = Field(pattern=_SHA256)


class AliasEntry(Document):
    """One move of an alias: to what, from what, why and by whom."""

    alias: str
    sequence: int = Field(ge=1)
    version: int = Field(ge=1)
    manifest_sha256: str = Field(pattern=_SHA256)
    prev: AliasPrevious | None
    reason: str
    actor: str
    gates: list[GateEntry]
    created_at: str


M = TypeVar("M", bound=Document)


def sha256_hex(content: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(content).hexdigest()


def canonical(document: Mapping[str, Any]) -> bytes:
    """The one way to write a document: sorted keys, UTF-8, no spaces, no NaN."""
    text = json.dumps(
        document, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    return text.encode("utf-8")


def seal(document: Mapping[str, Any]) -> bytes:
    """Canonical bytes of `document` with `self_sha256`, the hash of everything else in it."""
    return canonical({**document, "self_sha256": sha256_hex(canonical(document))})


def unseal(name: str, content: bytes, model: type[M]) -> tuple[M, Json]:
    """The document that `seal` wrote, as a model and as the JSON that it came from.

    Raises:
        Corrupted: the bytes are not canonical, do not match their own hash, or say something
            that the model does not allow.
    """
    try:
        document = json.loads(content)
        stated = document.pop("self_sha256")
        is_whole = seal(document) == content
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise Corrupted(name, f"is not a document of the store ({error})") from error
    if not is_whole:
        raise Corrupted(name, "was changed after it was written (its own sha256 does not match)")
    document["self_sha256"] = stated
    try:
        return model.model_validate(document), document
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Corrupted(name, f"{place}: {first['msg']}") from error


def plain_json(value: Any, place: str) -> Any:
    """`value`, if JSON can hold it exactly.

    Raises:
        BadInput: it holds a key that is not a string, a number that is not finite, text that is
            not Unicode, or another kind of object; the message names the place.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise BadInput(f"{place}: key {key!r} is not a string")
        return {_text(key, place): plain_json(one, f"{place}.{key}") for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(one, f"{place}[{number}]") for number, one in enumerate(value)]
    if isinstance(value, str):
        return _text(value, place)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise BadInput(f"{place}: {value!r} ({type(value).__name__}) cannot be kept as JSON")


def _text(text: str, place: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(f"{place}: {text!r} is not valid Unicode ({error.reason})") from error
    return str(text)
