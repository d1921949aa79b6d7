"""Publishers, promoters and readers on an object store that misbehaves, all decided by a seed.

Every request of every actor is a step. Between two steps the schedule decides who goes on, and
before each what goes wrong with it. Only one actor runs at a time, so a seed is a whole history.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError
from obstore.store import MemoryStore

from embedding_store.aliases import Aliases
from embedding_store.commit import RUN_FILE, Ledger
from embedding_store.errors import AliasMoved, DayGoesBackwards, StorageUnavailable, StoreError
from embedding_store.integrity import problems
from embedding_store.manifest import PROTOCOL, FileEntry, sha256_hex
from embedding_store.object_blobs import ObjectBlobs

N_KEYS, N_TWINS = 3, 2
MAX_FAULTS = 80  # then the store behaves, so that every schedule ends
ALIAS = "production"
TAKEN = (AlreadyExistsError, PreconditionError, GenericError)
READ_FAULTS = ("timeout before", "503 before", "died before")
LIST_FAULTS = (*READ_FAULTS, "partial", "partial", "partial")
WRITE_FAULTS = (
    "timeout before",
    "timeout after",
    "503 before",
    "503 after",
    "late",  # the client gave up, and the request arrives some time later
    "twice",  # the request was repeated on its way; the answer is that of the second
    "409",
    "412",
    "died before",
    "died after",
)


class Died(BaseException):
    """The actor's process is gone; another one takes its work up."""


class Client:
    """The bucket as one actor's process reaches it."""

    def __init__(self, schedule, actor):
        self.schedule, self.actor = schedule, actor

    def put(self, path, content, *, mode, use_multipart=None):
        def action():
            self.schedule.put(path, content, mode)

        fault = self.schedule.step(self.actor, WRITE_FAULTS)
        if fault in ("409", "412"):
            raise self.schedule.random.choice(TAKEN)(fault)
        if fault == "late":
            self.schedule.under_way.append(action)
            raise GenericError("timed out")
        if fault == "twice":
            with suppress(AlreadyExistsError):
                action()
        return self.around(fault, action)

    def get(self, path):
        return self.reading(READ_FAULTS, self.schedule.store.get, path)[0]

    def head(self, path):
        return self.reading(READ_FAULTS, self.schedule.store.head, path)[0]

    def delete(self, paths):
        self.reading(READ_FAULTS, self.schedule.store.delete, paths)

    def list_with_delimiter(self, prefix):
        found, fault = self.reading(LIST_FAULTS, self.schedule.store.list_with_delimiter, prefix)
        if fault == "partial":  # the newest names are missing, and perhaps others
            random, objects = self.schedule.random, found["objects"]
            some = objects[: random.randrange(len(objects) + 1)]
            found = {**found, "objects": [one for one in some if random.random() < 0.8]}
        return found

    def reading(self, faults, action, path):
        fault = self.schedule.step(self.actor, faults)
        return self.around(fault, lambda: action(path)), fault

    def around(self, fault, action):
        what, _, when = (fault or "").partition(" ")
        said = Died() if what == "died" else GenericError(what)
        if when == "before":
            raise said
        answer = action()
        if when == "after":
            raise said
        return answer


class Schedule:
    """One history: `run` it, then see `violations`.

    Args:
        seed: decides everything.
        folder: for copies of objects.
        overwrites: whether the store ignores the condition of a put once it was probed: the
            planted fault that the schedules must catch.
    """

    def __init__(self, seed, folder, overwrites=False):
        self.random = Random(seed)
        self.store, self.overwrites = MemoryStore(), overwrites
        self.folder = Path(folder)
        self.rate = self.random.choice([0.1, 0.3, 0.7])
        self.n_days = self.random.choice([1, N_KEYS])
        self.faults, self.n_steps = Counter(), 0
        self.under_way = []  # requests that somebody gave up on
        self.turns, self.finished = {}, set()
        self.scheduler = threading.Semaphore(0)
        self.published, self.moves = {}, []
        self.violations = []

    # -- who goes on, and what goes wrong ----------------------------------------------------------

    def run(self):
        """Everything to its end, then what an onlooker finds."""
        works = {
            f"publisher {key}.{twin}": (self.publishes, key)
            for key in range(N_KEYS)
            for twin in range(N_TWINS)
        }
        works["reader"] = (self.reads, N_KEYS)
        alive = list(works)
        for actor in alive:
            self.turns[actor] = threading.Semaphore(0)
            arguments = (actor, *works[actor])
            threading.Thread(target=self.lives, args=arguments, daemon=True).start()
        while alive:
            actor = self.random.choice(alive)
            self.turns[actor].release()
            self.scheduler.acquire()
            alive = [one for one in alive if one not in self.finished]
        while self.under_way:
            self.arrive()
        self.look()
        return self

    def lives(self, actor, work, argument):
        self.turns[actor].acquire()
        try:
            while True:
                blobs = ObjectBlobs(Client(self, actor), "memory://", self.folder, lambda _: None)
                # a new process after a death, a scheduler's retry after a failure
                with suppress(Died, StorageUnavailable):
                    work(actor, Ledger(blobs), argument)
                    break
        except Exception as error:
            self.violations.append(f"{actor}: {type(error).__name__}: {error}")
        self.finished.add(actor)
        self.scheduler.release()

    def step(self, actor, faults):
        """Wait for the actor's turn; the fault that its request meets, or None."""
        self.scheduler.release()
        self.turns[actor].acquire()
        self.n_steps += 1
        if self.under_way and self.random.random() < 0.3:
            self.arrive()
        rate = self.rate if faults is WRITE_FAULTS else self.rate / 3
        if self.faults.total() >= MAX_FAULTS or self.random.random() >= rate:
            return None
        fault = self.random.choice(faults)
        self.faults[fault] += 1
        return fault

    def arrive(self):
        with suppress(AlreadyExistsError):
            self.under_way.pop(self.random.randrange(len(self.under_way)))()

    def put(self, path, content, mode):
        if self.overwrites and not path.startswith("probe/"):
            mode = "overwrite"
        self.store.put(path, content, mode=mode)

    # -- the actors --------------------------------------------------------------------------------

    def publishes(self, actor, ledger, key):
        """What `EmbeddingStore.publish` does, with no more than a run's own file; then promote."""
        run_key = f"key-{key}"
        version = ledger.decided(run_key)
        if version is None:
            ledger.initialise()
            attempt = ledger.begin(run_key)
            version = ledger.commit(attempt, self.body(ledger, attempt, key))
        self.published.setdefault(run_key, set()).add(version)
        expected = {"expected_prev": version - 1} if self.random.random() < 0.3 else {}
        with suppress(DayGoesBackwards, AliasMoved):
            aliases = Aliases(ledger)
            move = aliases.promote(version, ALIAS, reason=run_key, actor=actor, **expected)
            self.moves.append(move)

    def body(self, ledger, attempt, key):
        name = attempt.name(RUN_FILE)
        content = ledger.blobs.read(name)
        run = FileEntry(name=RUN_FILE, path=name, bytes=len(content), sha256=sha256_hex(content))
        empty = {"tables": {}, "space": {}, "attributes": {}, "env": {}}
        return empty | {
            "day": f"2026-03-{1 + key % self.n_days:02d}",
            "protocol": PROTOCOL,
            "min_reader": 1,
            "run_key": attempt.run_key,
            "generation": attempt.generation,
            "attempt": attempt.id,
            "created_at": "",
            "files": [run.model_dump()],
            **{name: [] for name in ("indexes", "extra_files", "inputs", "gates")},
        }

    def reads(self, _, ledger, until):
        """An alias never goes back behind what was acknowledged before it was read."""
        head = 0
        for _ in range(40):
            acknowledged = max((move.sequence for move in self.moves), default=0)
            before, head = head, Aliases(ledger).last(ALIAS)
            if head < max(acknowledged, before):
                said = f"entry {head} after {before}, {acknowledged} acknowledged"
                self.violations.append(f"reader: the alias went back: {said}")
            if head:
                Aliases(ledger).target(ALIAS)
            if ledger.head() == until and len(self.finished) == N_KEYS * N_TWINS:
                break

    # -- what is there in the end ------------------------------------------------------------------

    def objects(self, folder):
        """Name -> (document, sha256), read from the bucket itself."""
        listed = self.store.list_with_delimiter(folder)["objects"]
        found = {}
        for path in sorted(one["path"] for one in listed):
            content = bytes(self.store.get(path).bytes())
            found[path.rpartition("/")[2]] = (json.loads(content), sha256_hex(content))
        return found

    def expect(self, is_so, what):
        if not is_so:
            self.violations.append(what)

    def look(self):
        self.look_at_versions(list(self.objects("versions").items()))
        self.look_at_alias(list(self.objects(f"refs/{ALIAS}").items()))
        bucket = ObjectBlobs(self.store, "memory://", self.folder)
        try:
            self.violations += [f"verify: {one}" for one in problems(Ledger(bucket))]
        except StoreError as error:
            self.violations.append(f"verify: {error}")

    def look_at_versions(self, versions):
        keys = [document["run_key"] for _, (document, _) in versions]
        wanted = [f"key-{key}" for key in range(N_KEYS)]
        self.expect(sorted(keys) == wanted, f"versions of the keys {keys}")
        names = [name for name, _ in versions]
        self.expect(names == [f"{n:020d}.json" for n in range(1, N_KEYS + 1)], f"slots {names}")
        for n, (_, (document, _)) in enumerate(versions):
            before = {"version": n, "manifest_sha256": versions[n - 1][1][1]} if n else None
            self.expect(document["parent"] == before, f"version {n + 1} breaks the chain")
        for key, said in self.published.items():
            own = {n + 1 for n, one in enumerate(keys) if one == key}
            self.expect(said == own, f"{key} was said to be {said}, is {own}")

    def look_at_alias(self, moves):
        names = [name for name, _ in moves]
        self.expect(names == [f"{n:010d}.json" for n in range(1, len(moves) + 1)], f"log {names}")
        log = [document for _, (document, _) in moves]
        for n in range(1, len(log)):
            prev = log[n]["prev"]["entry_sha256"]
            self.expect(prev == moves[n - 1][1][1], f"move {n + 1} does not follow {n}")
            self.expect(log[n]["version"] != log[n - 1]["version"], f"move {n + 1} moves nothing")
        for move in self.moves:  # acknowledged: it is there, and says the same
            there = log[move.sequence - 1] if move.sequence <= len(log) else {}
            said = {"version": move.version, "manifest_sha256": move.manifest_sha256}
            self.expect(said.items() <= there.items(), f"move {move.sequence} was lost")
