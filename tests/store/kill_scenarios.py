"""What a process is killed in, at every operation on the file system, and what must hold then."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from store_workload import ERASED, call, promote, publish

from embedding_store import EmbeddingStore
from embedding_store.commit import Ledger

KILLED = {"killed": signal.SIGKILL}
AT_ONCE = 8
FATES = ("live", "condemned", "doomed", "deleted")


def small_times(root):
    """Readers that died are waited for, but not for long."""
    EmbeddingStore(root).initialise(lease_ttl_s=600, grace_s=0)


def empty(root, seed):
    small_times(root)


def one_version(root, seed):
    small_times(root)
    publish(root, "first", "2026-03-01", seed)
    promote(root, 1)


def two_versions(root, seed):
    one_version(root, seed)
    publish(root, "second", "2026-03-02", seed + 1)


def full_of_garbage(root, seed):
    """Of four versions one is needed; one is doomed; there is an orphan and a decided run."""
    two_versions(root, seed)
    publish(root, "third", "2026-03-03", seed)
    publish(root, "fourth", "2026-03-04", seed)
    promote(root, 4)
    ledger = Ledger(EmbeddingStore(root)._blobs)
    store = EmbeddingStore(root)
    fates = store._aliases._fates
    for state in ("condemned", "doomed"):
        fates.move(fates.of(2), state, "gc", "a test")
    ledger.begin("orphan")


def decided(root, seed):
    """Two runs were decided, and their processes died before the slot."""
    one_version(root, seed)
    for number, key in ((2, "second"), (3, "third")):
        publish(root, key, "2026-03-02", seed + number)
    for number in (3, 2):
        (Path(root) / "versions" / f"{number:020d}.json").unlink()


@dataclass
class Scenario:
    """An action, and the store that it is killed in."""

    name: str
    template: Callable[[Path, int], None]
    action: str
    arguments: Callable[[int], tuple] = field(default=lambda seed: ())
    leaves_no_orphans: bool = False


SCENARIOS = (
    Scenario("first publish", empty, "publish", lambda seed: ("first", "2026-03-01", seed)),
    Scenario("publish", one_version, "publish", lambda seed: ("second", "2026-03-02", seed + 1)),
    Scenario("promote", two_versions, "promote", lambda seed: (2,)),
    Scenario("gc", full_of_garbage, "collect", leaves_no_orphans=True),
    Scenario("erase", two_versions, "erase", lambda seed: (ERASED + 10 * (seed % 9),)),
    Scenario("recover", decided, "recover"),
)


@dataclass
class Tally:
    """How many processes died, and how long the fresh ones took to put things right."""

    kills: dict[str, int] = field(default_factory=dict)
    recovery_s: list[float] = field(default_factory=list)
    recovery_cpu_s: list[float] = field(default_factory=list)  # of that, not waiting for others

    @property
    def total(self):
        return sum(self.kills.values())


def run(scenario, processes, folder, seed, tally, kills_of_retries=None):
    """Kill the action before each of its operations, and the retries of some; look; retry; look.

    Args:
        scenario: what is done.
        processes: runs it.
        folder: an empty one for the stores.
        seed: of the data.
        tally: is added to.
        kills_of_retries: a random generator: every retry is killed as well, somewhere.
    """
    template, whole = folder / "template" / "store", folder / "whole" / "store"
    template.parent.mkdir(parents=True)
    scenario.template(template, seed)
    arguments = scenario.arguments(seed)
    before = processes.run("facts", template)["result"]
    copy(template, whole)
    undisturbed = processes.run(scenario.action, whole, *arguments)
    after = processes.run("facts", whole)["result"]
    n_operations = undisturbed["operations"]
    assert n_operations > 3, scenario.name
    assert after["problems"] == []

    def kill(roots, places):
        requests = zip(roots, places, strict=True)
        deaths = processes.all(
            *(call(scenario.action, root, *arguments, at=at) for root, at in requests)
        )
        n_kills = sum(death == KILLED for death in deaths)
        tally.kills[scenario.name] = tally.kills.get(scenario.name, 0) + n_kills
        return n_kills

    for start in range(1, n_operations + 1, AT_ONCE):
        places = list(range(start, min(start + AT_ONCE, n_operations + 1)))
        roots = [folder / str(at) / "store" for at in places]
        for root in roots:
            copy(template, root)
        assert kill(roots, places) == len(roots), scenario.name
        if kills_of_retries is not None:  # it may end before the place where it was to die
            kill(roots, [int(kills_of_retries.integers(1, n_operations)) for _ in roots])
        for answer in processes.each("mend", roots, scenario.action, arguments):
            check_between(scenario, before, answer["found"], after)
            check_same(scenario, answer["mended"], after)
            tally.recovery_s.append(answer["seconds"])
            tally.recovery_cpu_s.append(answer["cpu_s"])
        for root in roots:
            shutil.rmtree(root.parent)
    shutil.rmtree(folder)


def copy(template, root):
    root.parent.mkdir(parents=True)
    shutil.copytree(template, root, copy_function=shutil.copy2)


def check_between(scenario, before, found, after):
    """No part of a version, no gap, no double, no alias elsewhere, no step backwards."""
    assert found["problems"] == [], scenario.name
    keys = found["keys"]
    assert before["keys"] == keys[: len(before["keys"])], scenario.name
    assert sorted(set(keys)) == sorted(keys), scenario.name
    assert set(keys) <= set(after["keys"]), scenario.name
    for alias in before["aliases"].keys() | found["aliases"].keys():
        allowed = (before["aliases"].get(alias), after["aliases"].get(alias))
        assert found["aliases"].get(alias) in allowed, scenario.name
    for one, mine in zip(before["states"], found["states"], strict=False):
        assert FATES.index(one) <= FATES.index(mine), scenario.name
    for mine, other in zip(found["states"], after["states"], strict=False):
        assert FATES.index(mine) <= FATES.index(other), scenario.name


def check_same(scenario, found, after):
    """As if nothing had happened; files of tries that failed may be left."""
    for what in ("keys", "problems", "aliases", "states", "files"):
        assert found[what] == after[what], (scenario.name, what)
    if scenario.leaves_no_orphans:
        assert found["folders"] == after["folders"], scenario.name
