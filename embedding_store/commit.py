"""The commit protocol: one run key, one version, whatever dies and whoever retries.

`docs/store.md` tells the steps and what a crash leaves at each of them.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from embedding_store.blobs import Blobs
from embedding_store.errors import (
    BadInput,
    Corrupted,
    Fenced,
    Incompatible,
    StoreNotFound,
    VersionNotFound,
)
from embedding_store.manifest import (
    FORMAT,
    PROTOCOL,
    Document,
    Intent,
    Json,
    Manifest,
    StoreFile,
    seal,
    sha256_hex,
    unseal,
)

STORE_FILE = "STORE.json"
RUN_FILE = "RUN.json"
DATA, VERSIONS, INTENTS = "data", "versions", "intents"
_SLOT = re.compile(r"(\d{20})\.json")


@dataclass(frozen=True)
class Attempt:
    """One try of one run; its folder belongs to it alone."""

    run_key: str
    generation: int  # one more than the attempts that maintenance gave up for ever
    id: str

    def name(self, file: str) -> str:
        """Name of an object of this attempt."""
        return f"{DATA}/{self.id}/{file}"


class RunFile(Document):
    """RUN.json: the run that an attempt is a try of, so that maintenance finds its decision."""

    run_key: str
    generation: int


@dataclass(frozen=True)
class Stored:
    """A manifest as it was read, with the hash that names it."""

    manifest: Manifest
    document: Json
    sha256: str


def slot_name(version: int) -> str:
    """Name of the manifest of a version."""
    return f"{VERSIONS}/{version:020d}.json"


def intent_name(run_key: str, generation: int) -> str:
    """Name of the decision about a run."""
    return f"{INTENTS}/{run_key}{'' if generation == 1 else f'.{generation}'}.json"


class Ledger:
    """The versions of a store, and the only way to add one.

    Every name is made by create-if-absent. A lost race is answered by reading what won; so is an
    attempt whose answer was lost. What is seen as taken is made durable before it is acted on.
    """

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs

    # -- the store -------------------------------------------------------------------------------

    def initialise(self, **settings: float) -> StoreFile:
        """Make the store if there is none, with `settings` other than the usual ones.

        Returns:
            What the store is; its settings are those that it was made with.

        Raises:
            Incompatible: there is one, and this library is too old to write to it.
        """
        document = {"format": FORMAT, "protocol": PROTOCOL, "min_reader": 1, "min_writer": 1}
        document |= settings
        self.blobs.create_if_absent(STORE_FILE, seal(document))
        return self.check_writable()

    def check_readable(self) -> StoreFile:
        """Refuse a root without a store, and a store made for newer readers."""
        return self._check(writing=False)

    def check_writable(self) -> StoreFile:
        """Refuse a root without a store, and a store made for newer writers."""
        return self._check(writing=True)

    def _check(self, *, writing: bool) -> StoreFile:
        try:
            content = self.blobs.read(STORE_FILE)
        except (FileNotFoundError, NotADirectoryError):
            raise StoreNotFound(
                f"no embedding store at {self.blobs.root}: it has no {STORE_FILE}; "
                "the first publish makes one"
            ) from None
        store, _ = unseal(STORE_FILE, content, StoreFile)
        needed = store.min_writer if writing else store.min_reader
        if store.format != FORMAT or needed > PROTOCOL:
            raise Incompatible(
                f"{self.blobs.root} is a '{store.format}' that asks for protocol {needed}; "
                f"this library speaks '{FORMAT}', protocol {PROTOCOL}"
            )
        return store

    # -- versions --------------------------------------------------------------------------------

    def head(self) -> int:
        """The highest version; 0 if there is none."""
        slots = (_SLOT.fullmatch(name) for name in self.blobs.list(VERSIONS))
        head = max((int(slot[1]) for slot in slots if slot), default=0)
        while self.blobs.exists(slot_name(head + 1)):  # listings of some object stores lag
            head += 1
        return head

    def stored(self, version: int) -> Stored:
        """The manifest of a version.

        Raises:
            VersionNotFound: no such version.
            Corrupted: its manifest is not what was committed.
            Incompatible: it was made for newer readers.
        """
        name = slot_name(version)
        try:
            if version < 1:
                raise FileNotFoundError
            content = self.blobs.read(name)
        except FileNotFoundError:
            head = self.head()
            if 0 < version <= head:
                raise Corrupted(name, f"is missing, but there is a version {head}") from None
            there = f"there are 1 to {head}" if head else "nothing was published yet"
            raise VersionNotFound(f"no version {version} in {self.blobs.root}; {there}") from None
        manifest, document = unseal(name, content, Manifest)
        if manifest.version != version:
            raise Corrupted(name, f"says that it is version {manifest.version}")
        if manifest.min_reader > PROTOCOL:
            raise Incompatible(
                f"version {version} asks for a reader of protocol {manifest.min_reader}; "
                f"this library speaks {PROTOCOL}"
            )
        return Stored(manifest, document, sha256_hex(content))

    def secure(self, stored: Stored) -> None:
        """Make a version that was seen durable: its publisher may have died before it did."""
        own = {key: value for key, value in stored.document.items() if key != "self_sha256"}
        self.blobs.create_if_absent(slot_name(stored.manifest.version), seal(own))

    def all_stored(self) -> Iterator[Stored]:
        """Every manifest, in order; raises as `stored` does, a gap included."""
        for version in range(1, self.head() + 1):
            yield self.stored(version)

    def intent(self, run_key: str, generation: int) -> tuple[Intent, bytes] | None:
        """What was decided about a run, and the bytes that say so; None if nothing was."""
        name = intent_name(run_key, generation)
        try:
            content = self.blobs.read(name)
        except FileNotFoundError:
            return None
        intent, _ = unseal(name, content, Intent)
        if intent.run_key != run_key:  # a file system that does not tell upper from lower case
            raise BadInput(f"run_key {run_key!r} and {intent.run_key!r} share the file {name}")
        return intent, content

    # -- publishing ------------------------------------------------------------------------------

    def decided(self, run_key: str) -> int | None:
        """The version of a run whose decision has fallen; None if it has not.

        A run whose version was never made, because its process died in between, is finished here.
        """
        try:
            self.check_writable()
        except StoreNotFound:
            return None
        generation = self._generation(run_key)
        decided = self.intent(run_key, generation)
        if decided is None:
            return None
        intent, content = decided
        self.blobs.create_if_absent(intent_name(run_key, generation), content)
        return self._walk(intent)

    def recover(self) -> dict[str, int]:
        """Walk for every decided run that has no version; run key -> the version that it got."""
        made = {stored.manifest.run_key for stored in self.all_stored()}
        missing = [run_key for run_key in self.committed() if run_key not in made]
        return {run_key: version for run_key in missing if (version := self.decided(run_key))}

    def committed(self) -> dict[str, str]:
        """The attempt of every run of which one was decided."""
        attempts: dict[str, str] = {}
        for name in self.blobs.list(INTENTS):
            path = f"{INTENTS}/{name}"
            intent, _ = unseal(path, self.blobs.read(path), Intent)
            if intent.decision == "COMMIT" and intent.attempt:
                attempts[intent.run_key] = intent.attempt
        return attempts

    def give_up(self, run_key: str, generation: int, attempt: str, by: str) -> bool:
        """Whether an attempt can never become a version, which is decided here if it is open.

        Maintenance and the publisher create the same name, so one of them decides.
        """
        abort = {"decision": "ABORT", "run_key": run_key, "generation": generation, "by": by}
        self.blobs.create_if_absent(intent_name(run_key, generation), seal(abort))
        decided = self.intent(run_key, generation)
        return decided is not None and (
            decided[0].decision == "ABORT" or decided[0].attempt != attempt
        )

    def begin(self, run_key: str) -> Attempt:
        """Start a try of a run: a folder of its own, with the run's key in it."""
        generation = self._generation(run_key)
        attempt = Attempt(run_key, generation, f"{time.time_ns():019d}-{secrets.token_hex(8)}")
        run = {"run_key": run_key, "generation": generation}
        self.blobs.create_if_absent(attempt.name(RUN_FILE), seal(run))
        return attempt

    def _generation(self, run_key: str) -> int:
        """The first generation of a run that was not given up."""
        for generation in count(1):
            decided = self.intent(run_key, generation)
            if decided is None or decided[0].decision == "COMMIT":
                return generation
        raise AssertionError  # count() has no end

    def commit(self, attempt: Attempt, body: dict[str, Any]) -> int:
        """Make the attempt's objects a version, or adopt the version of a faster twin.

        Args:
            attempt: what `begin` returned; its objects are all durable.
            body: the manifest without version, parent and own hash.

        Raises:
            Fenced: maintenance gave this attempt up.
        """
        name = intent_name(attempt.run_key, attempt.generation)
        intent = {
            "decision": "COMMIT",
            "run_key": attempt.run_key,
            "generation": attempt.generation,
            "attempt": attempt.id,
            "base": self.head(),
            "body": body,
        }
        self.blobs.create_if_absent(name, seal(intent))
        decided = self.intent(attempt.run_key, attempt.generation)
        if decided is None:
            raise Corrupted(name, "vanished after it was written")
        if decided[0].decision == "ABORT":
            raise Fenced(f"attempt {attempt.id} of run {attempt.run_key} was given up; try again")
        return self._walk(decided[0])

    def _walk(self, intent: Intent) -> int:
        """The one slot that carries the intent's run key, made here unless it is there.

        Whoever holds the same intent (a retry, a stalled twin, a recovery) starts at the same
        slot and moves past a slot only when another run has it; so all end at the same one.
        """
        if intent.base is None or intent.body is None:
            raise Corrupted(intent_name(intent.run_key, intent.generation), "has no base or body")
        parent = self._parent(intent.base)
        version = intent.base + 1
        while True:
            document = {**intent.body, "version": version, "parent": parent}
            if self.blobs.create_if_absent(slot_name(version), seal(document)):
                return version
            taken = self.stored(version)
            if taken.manifest.run_key == intent.run_key:
                return version
            parent = {"version": version, "manifest_sha256": taken.sha256}
            version += 1

    def _parent(self, version: int) -> dict[str, Any] | None:
        if version == 0:
            return None
        return {"version": version, "manifest_sha256": self.stored(version).sha256}
