"""The protocol as a machine of states, small enough that every interleaving can be looked at.

Each step of a process is one operation on the storage. Between any two of them any other process
may step, and a lease may run out. A publisher or reader that dies is one that takes no further
step, and what must hold is looked at in every world: so deaths of any number of them are among
the interleavings. The collector is started again where it dies. Numbers start at 0 here.

What is left out: the bytes, several aliases, and the pause between a reader's look at its clock
and its use of a file, which the margin on leases covers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

LIVE, CONDEMNED, DOOMED, DELETED = range(4)
VALID, OVER_FOR_READER, OVER_FOR_GC = range(3)  # a reader's clock is the more careful one
ANY = (VALID, OVER_FOR_READER, OVER_FOR_GC)
ABORT = "abort"
MOST_MARKS = 3  # a version is not condemned a third time
NO_SECOND_LOOK = "gc that does not look at aliases again"
ENDED = ("end", "lost")


class World(NamedTuple):
    """Everything that the storage and the processes know."""

    intents: tuple  # by run and generation: None, ABORT or (attempt, base)
    slots: tuple  # (run, attempt) of each version
    whole: tuple  # attempts: None not there, the generation that it was begun in, 0 deleted
    fates: tuple  # (fate, sequence) of each version
    alias: tuple  # versions, in order
    leases: tuple  # of each reader: the leases that it made, each (version, VALID...)
    locals: tuple  # of each process: (step, what it remembers...)


@dataclass(frozen=True)
class Setting:
    """Which processes there are.

    Attributes:
        writers: the run of each; two of the same run are a run and its retry.
        readers: how many.
        gc: whether there is a collector.
        versions: versions that are there already, the last under the alias.
        promoter: promotes the first of them, while the alias names another.
        promoting: whether publishers go on to promote what they published.
        mutant: a mistake that must be found.
    """

    writers: tuple = ()
    readers: int = 0
    gc: bool = True
    versions: int = 0
    promoter: bool = False
    promoting: bool = True
    mutant: str = ""

    def start(self) -> World:
        """The world before the first step."""
        n_attempts = self.versions + len(self.writers)
        n_runs = self.versions + len(set(self.writers))
        done = tuple((n, n) for n in range(self.versions))
        locals_ = [("begin", 0)] * len(self.writers) + [("resolve", 0)] * self.readers
        locals_ += [("read", 0)] * self.promoter + [("idle",)] * self.gc
        return World(
            intents=tuple((n, n) for n in range(self.versions))
            + ((None,) * (2 * n_runs - self.versions)),
            slots=done,
            whole=(1,) * self.versions + (None,) * (n_attempts - self.versions),
            fates=((LIVE, 0),) * self.versions,
            alias=(self.versions - 1,) if self.versions else (),
            leases=((),) * self.readers,
            locals=tuple(locals_),
        )


Steps: TypeAlias = Iterator[World]


def put(values: tuple, place: int, value: object) -> tuple:
    """`values` with another one at a place."""
    return (*values[:place], value, *values[place + 1 :])


class Machine:
    """The steps of every process of a setting, and what must always hold."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.mutant = setting, setting.mutant
        n = len(setting.writers)
        self.kinds = ["writer"] * n + ["reader"] * setting.readers
        self.kinds += ["promoter"] * setting.promoter + ["gc"] * setting.gc
        self.n_runs = setting.versions + len(set(setting.writers))

    # -- all steps -------------------------------------------------------------------------------

    def after(self, world: World) -> Iterator[World]:
        """Every world that one step leads to."""
        for number, kind in enumerate(self.kinds):
            own = world.locals[number]
            if own[0] in ENDED:
                continue
            yield from getattr(self, f"do_{own[0]}")(world, number, *own[1:])
            if kind == "gc" and own[0] != "idle":
                yield self.to(world, number, "idle")  # it died, and another runs
        yield from self.time(world)

    def to(self, world: World, number: int, *own: object, **changes: object) -> World:
        """`world` with changes, a process being at another step."""
        return world._replace(locals=put(world.locals, number, own), **changes)

    def time(self, world: World) -> Iterator[World]:
        """A lease runs out: first for its reader, later for the collector."""
        for reader, leases in enumerate(world.leases):
            for place, (version, state) in enumerate(leases):
                if state < OVER_FOR_GC and not (place and leases[place - 1][1] < state + 1):
                    older = put(leases, place, (version, state + 1))
                    yield world._replace(leases=put(world.leases, reader, older))

    # -- publishers ------------------------------------------------------------------------------

    def run_of(self, number: int) -> int:
        return self.setting.versions + self.setting.writers[number]

    def place(self, run: int, generation: int) -> int:
        """Where the decision about a run is among the intents."""
        return run + (generation - 1) * self.n_runs

    def do_begin(self, world: World, number: int, _: int) -> Steps:
        for generation in (1, 2):
            intent = world.intents[self.place(self.run_of(number), generation)]
            if intent is None:
                whole = put(world.whole, self.setting.versions + number, generation)
                yield self.to(world, number, "head", generation, whole=whole)
                return
            if intent != ABORT:
                yield self.to(world, number, "walk", *intent)
                return
        yield self.to(world, number, "end")

    def do_head(self, world: World, number: int, generation: int) -> Steps:
        yield self.to(world, number, "intent", generation, len(world.slots))

    def do_intent(self, world: World, number: int, generation: int, base: int) -> Steps:
        place, intents = self.place(self.run_of(number), generation), world.intents
        if intents[place] is None:
            intents = put(intents, place, (self.setting.versions + number, base))
        yield self.to(world, number, "decided", generation, intents=intents)

    def do_decided(self, world: World, number: int, generation: int) -> Steps:
        intent = world.intents[self.place(self.run_of(number), generation)]
        yield self.to(world, number, *(("end",) if intent == ABORT else ("walk", *intent)))

    def do_walk(self, world: World, number: int, attempt: int, slot: int) -> Steps:
        published = ("read", slot) if self.setting.promoting else ("end",)
        run = self.run_of(number)
        if slot == len(world.slots):
            slots, fates = (*world.slots, (run, attempt)), (*world.fates, (LIVE, 0))
            yield self.to(world, number, *published, slots=slots, fates=fates)
        elif world.slots[slot][0] == run and self.mutant != "walk without run-key check":
            yield self.to(world, number, *published)
        else:
            yield self.to(world, number, "walk", attempt, slot + 1)

    # -- promotion -------------------------------------------------------------------------------

    def head(self, world: World) -> int | None:
        """What the alias names: its last entry whose version is not gone."""
        alive = (one for one in reversed(world.alias) if world.fates[one][0] < DOOMED)
        return next(alive, None)

    def do_read(self, world: World, number: int, version: int) -> Steps:
        is_backwards = self.kinds[number] == "writer" and version < (self.head(world) or 0)
        if world.fates[version][0] >= DOOMED or is_backwards:
            yield self.to(world, number, "end")
        elif world.alias and world.alias[-1] == version:
            yield self.to(world, number, "spare", version)
        else:
            yield self.to(world, number, "append", version, len(world.alias))

    def do_append(self, world: World, number: int, version: int, length: int) -> Steps:
        alias = (*world.alias, version)
        if len(world.alias) != length:
            yield self.to(world, number, "read", version)
        elif self.mutant == "promotion that does not look back":
            yield self.to(world, number, "end", "acked", version, alias=alias)
        else:
            yield self.to(world, number, "spare", version, alias=alias)

    def do_spare(self, world: World, number: int, version: int) -> Steps:
        fate, sequence = world.fates[version]
        if fate == LIVE:
            yield self.to(world, number, "end", "acked", version)
        elif fate == CONDEMNED:
            yield self.to(world, number, "pardon", version, sequence)
        else:
            yield self.to(world, number, "end")

    def do_pardon(self, world: World, number: int, version: int, sequence: int) -> Steps:
        fates = self.moved(world, version, sequence, LIVE)
        yield self.to(world, number, "spare", version, fates=fates)

    def moved(self, world: World, version: int, sequence: int, fate: int) -> tuple:
        """The fates after one step of a version's, if nobody has taken another before."""
        if world.fates[version][1] != sequence:
            return world.fates
        return put(world.fates, version, (fate, sequence + 1))

    # -- readers ---------------------------------------------------------------------------------

    def leased(self, world: World, number: int, *leases: tuple) -> tuple:
        """The leases of all readers, those of this one being others."""
        return put(world.leases, number - len(self.setting.writers), leases)

    def do_resolve(self, world: World, number: int, tries: int) -> Steps:
        version = self.head(world)
        if version is not None:
            yield self.to(world, number, "lease", version, tries)

    def do_lease(self, world: World, number: int, version: int, tries: int) -> Steps:
        if self.mutant != "reader that looks before its lease":
            leases = self.leased(world, number, (version, VALID))
            yield self.to(world, number, "look", version, tries, leases=leases)
        elif world.fates[version][0] == LIVE:
            yield self.to(world, number, "lease_late", version)

    def do_lease_late(self, world: World, number: int, version: int) -> Steps:
        leases = self.leased(world, number, (version, VALID))
        yield self.to(world, number, "open", version, 0, leases=leases)

    def do_look(self, world: World, number: int, version: int, tries: int) -> Steps:
        if world.fates[version][0] == LIVE:
            yield self.to(world, number, "open", version, 0)
        else:
            again = ("end",) if tries else ("resolve", 1)
            yield self.to(world, number, *again, leases=self.leased(world, number))

    def do_open(self, world: World, number: int, version: int, renewals: int) -> Steps:
        yield self.to(world, number, "end", leases=self.leased(world, number))
        if not renewals:  # one a reader, in time or late
            yield self.to(world, number, "renew", version)

    def do_renew(self, world: World, number: int, version: int) -> Steps:
        before = world.leases[number - len(self.setting.writers)]
        leases = self.leased(world, number, *before, (version, VALID))
        yield self.to(world, number, "renewed", version, leases=leases)

    def do_renewed(self, world: World, number: int, version: int) -> Steps:
        before = world.leases[number - len(self.setting.writers)][0]
        in_time = before[1] == VALID or self.mutant == "late renewal without a look"
        if in_time or world.fates[version][0] == LIVE:
            yield self.to(world, number, "open", version, 1)
        else:
            yield self.to(world, number, "lost", leases=self.leased(world, number))

    # -- the collector ---------------------------------------------------------------------------

    def do_idle(self, world: World, number: int) -> Steps:
        head = self.head(world)
        for version, (fate, sequence) in enumerate(world.fates):
            if fate == LIVE and version != head and sequence < MOST_MARKS:
                yield self.to(world, number, "condemn", version, sequence)
            elif fate == CONDEMNED:
                yield self.to(world, number, "clock", version, sequence)
            elif fate == DOOMED:
                yield self.to(world, number, "delete", version)
        named = {attempt for _, attempt in world.slots}
        for attempt in range(self.setting.versions, len(world.whole)):
            if world.whole[attempt] and attempt not in named:
                yield self.to(world, number, "abort", attempt)

    def do_condemn(self, world: World, number: int, version: int, sequence: int) -> Steps:
        fates = self.moved(world, version, sequence, CONDEMNED)
        step = ("idle",) if self.mutant == NO_SECOND_LOOK else ("again", version)
        yield self.to(world, number, *step, fates=fates)

    def do_again(self, world: World, number: int, version: int) -> Steps:
        fate, sequence = world.fates[version]
        is_named = self.head(world) == version and fate == CONDEMNED
        fates = self.moved(world, version, sequence, LIVE) if is_named else world.fates
        yield self.to(world, number, "idle", fates=fates)

    def leases_on(self, world: World, version: int, states: tuple) -> set:
        return {
            (reader, place)
            for reader, leases in enumerate(world.leases)
            for place, (leased, state) in enumerate(leases)
            if leased == version and state in states
        }

    def do_clock(self, world: World, number: int, version: int, sequence: int) -> Steps:
        """Note which leases are over by now; the mutant notes which there are."""
        states = ANY if self.mutant == "clock after the list" else (OVER_FOR_GC,)
        noted = tuple(sorted(self.leases_on(world, version, states)))
        yield self.to(world, number, "aliases", version, sequence, noted)

    def do_aliases(
        self, world: World, number: int, version: int, sequence: int, noted: tuple
    ) -> Steps:
        if self.head(world) == version and self.mutant != NO_SECOND_LOOK:
            fates = self.moved(world, version, sequence, LIVE)
            yield self.to(world, number, "idle", fates=fates)
        else:
            yield self.to(world, number, "list", version, sequence, noted)

    def do_list(
        self, world: World, number: int, version: int, sequence: int, noted: tuple
    ) -> Steps:
        if self.mutant == "clock after the list":
            active = set(noted) - self.leases_on(world, version, (OVER_FOR_GC,))
        else:
            active = self.leases_on(world, version, ANY) - set(noted)
        if active and self.mutant != "gc without a look at leases":
            yield self.to(world, number, "idle")
        else:
            yield self.to(world, number, "strike", version, sequence)

    def do_strike(self, world: World, number: int, version: int, sequence: int) -> Steps:
        fates = self.moved(world, version, sequence, DOOMED)
        step = ("idle",) if fates == world.fates else ("delete", version)
        yield self.to(world, number, *step, fates=fates)

    def do_delete(self, world: World, number: int, version: int) -> Steps:
        whole = put(world.whole, world.slots[version][1], 0)
        yield self.to(world, number, "mark", version, whole=whole)

    def do_mark(self, world: World, number: int, version: int) -> Steps:
        fates = self.moved(world, version, world.fates[version][1], DELETED)
        yield self.to(world, number, "idle", fates=fates)

    def do_abort(self, world: World, number: int, attempt: int) -> Steps:
        if self.mutant == "gc that does not fence":
            yield self.to(world, number, "remove", attempt)
            return
        run = self.run_of(attempt - self.setting.versions)
        place, intents = self.place(run, world.whole[attempt]), world.intents
        if intents[place] is None:
            intents = put(intents, place, ABORT)
        given_up = intents[place] == ABORT or intents[place][0] != attempt
        step = ("remove", attempt) if given_up else ("idle",)
        yield self.to(world, number, *step, intents=intents)

    def do_remove(self, world: World, number: int, attempt: int) -> Steps:
        yield self.to(world, number, "idle", whole=put(world.whole, attempt, 0))

    # -- what must hold --------------------------------------------------------------------------

    def wrong(self, world: World) -> str:
        """What does not hold in a world; empty if all does."""
        runs = [run for run, _ in world.slots]
        if len(set(runs)) < len(runs):
            return "a run has two versions"
        for version, (_, attempt) in enumerate(world.slots):
            if world.fates[version][0] < DOOMED and not world.whole[attempt]:
                return "a version has lost its files"
        for place, intent in enumerate(world.intents):
            run = place % self.n_runs
            if intent not in (None, ABORT) and run not in runs and not world.whole[intent[0]]:
                return "a decided run has lost its files"
        return self.wrong_for_a_process(world)

    def wrong_for_a_process(self, world: World) -> str:
        for number, own in enumerate(world.locals):
            if own[0] == "open":
                leases = world.leases[number - len(self.setting.writers)]
                may_read = any(state == VALID for _, state in leases)
                if may_read and not world.whole[world.slots[own[1]][1]]:
                    return "a reader with a valid lease has lost its files"
            is_named = own[:2] == ("end", "acked") and world.alias[-1] == own[2]
            if is_named and world.fates[own[2]][0] >= DOOMED:
                return "an acknowledged promotion is lost"
        return ""


def alike(setting: Setting, world: World) -> World:
    """One of the worlds that differ only in which reader is which."""
    first, n = len(setting.writers), setting.readers
    own = world.locals[first : first + n]
    order = sorted(range(n), key=lambda reader: (own[reader], world.leases[reader]))
    if order == list(range(n)):
        return world
    locals_ = [*world.locals[:first], *(own[reader] for reader in order)]
    locals_ += world.locals[first + n :]
    if locals_[-1][0] in ("aliases", "list"):  # the collector remembers leases
        *before, noted = locals_[-1]
        moved = sorted((order.index(reader), place) for reader, place in noted)
        locals_[-1] = (*before, tuple(moved))
    leases = tuple(world.leases[reader] for reader in order)
    return world._replace(leases=leases, locals=tuple(locals_))


def explore(setting: Setting, limit: int = 5_000_000) -> tuple[int, str]:
    """Look at every world that can be reached.

    Returns:
        How many there are, and what is wrong in the first one in which something is.
    """
    machine, start = Machine(setting), setting.start()
    seen, front = {start}, deque([start])
    while front:
        world = front.popleft()
        if problem := machine.wrong(world):
            return len(seen), problem
        for following in (alike(setting, one) for one in machine.after(world)):
            if following not in seen:
                seen.add(following)
                front.append(following)
        assert len(seen) < limit, f"more than {limit} worlds"
    return len(seen), ""
