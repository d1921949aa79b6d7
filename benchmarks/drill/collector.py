"""The store while its collector is at work: killed, beside readers, beside a publisher."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable

from drill.faults import Kind, Seen, Setting
from drill.invariants import production, store_problems, versions_of
from drill.runs import Ended
from embedding_store import EmbeddingStore
from jobs.home import Home
from jobs.launch import MODULES

SPARED = ("kept", "waiting")  # for a reader; waiting: it was condemned before somebody opened it
_COLLECT = "drill.collecting"


def full_of_garbage(setting: Setting) -> tuple[Home, int]:
    """A store of four versions of which one is needed, made once; and what gc changes in it."""
    world, marker = setting.world, setting.world.folder / "garbage.changes"
    home = Home(world.folder / "garbage")
    if not marker.is_file() or not home.root.is_dir():
        shutil.rmtree(home.root, ignore_errors=True)
        shutil.copytree(world.done.root, home.root)
        for rebuild in (1, 2):
            words = world.words("publish", rebuild=rebuild)
            ended = setting.nursery.run(MODULES["publish"], words, home.root)
            if ended.status:
                raise RuntimeError(f"publish ended with {ended.status}: {ended.said}")
        with world.copy(home, "garbage") as copy:
            ended = setting.nursery.run(_COLLECT, [copy.store], copy.root, count=True)
        marker.write_text(str(ended.changes), encoding="utf-8")
    return home, int(marker.read_text(encoding="utf-8"))


def _killed(home: Home, setting: Setting, n_changes: int, seen: Seen) -> Ended:
    place = setting.random.randint(1, n_changes)
    seen.end = f"gc was killed before change {place} of {n_changes} of a file"
    return setting.start(_COLLECT, [home.store], home, die_at=place).wait()


def _collected(home: Home, setting: Setting, seen: Seen, spared: int | None = None) -> None:
    """A collector that nobody disturbs; it spares a version that somebody needs."""
    ended = setting.nursery.run(_COLLECT, [home.store], home.root)
    if not seen.ended_well("gc", ended):
        return
    if spared is not None:
        said = ended.answer.get(f"version {spared}")
        seen.expect(said in SPARED, f"gc said '{said}' of version {spared}")


def _only_production_is_left(home: Home, seen: Seen, setting: Setting, number: int = 4) -> None:
    states = {each.version: each.state for each in EmbeddingStore(home.store).versions()}
    wanted = {version: "live" if version == number else "deleted" for version in states}
    seen.expect(states == wanted, f"versions are {states}")
    seen.expect(production(home) == number, f"production is {production(home)}")
    data = len(list((home.root / "store" / "data").iterdir()))
    seen.expect(data == 1, f"{data} folders of data are left")
    seen.problems += store_problems(home, setting.nursery)


def _beside_readers(home: Home, setting: Setting, n_changes: int, seen: Seen) -> None:
    """Killed while one reads production and another holds version 1; run again; both go on."""
    with setting.reader(home, seen):
        with setting.reader(home, seen, pinned=1):
            _wait_for_lease(home)
            ended = _killed(home, setting, n_changes, seen)
            seen.expect(ended.status in (0, -signal.SIGKILL), f"gc ended with {ended.status}")
            seen.problems += store_problems(home)
            _collected(home, setting, seen, spared=1)
        _collected(home, setting, seen)
    _only_production_is_left(home, seen, setting)


def _alone(home: Home, setting: Setting, n_changes: int, seen: Seen) -> None:
    ended = _killed(home, setting, n_changes, seen)
    seen.expect(ended.status == -signal.SIGKILL, f"gc ended with {ended.status}")
    seen.problems += store_problems(home)
    _collected(home, setting, seen)
    _only_production_is_left(home, seen, setting)


def _beside_publish(home: Home, setting: Setting, n_changes: int, seen: Seen) -> None:
    """A version is published while gc runs and is killed; both are run again."""
    words = setting.world.words("publish", rebuild=3)
    with setting.reader(home, seen):
        publish = setting.start(MODULES["publish"], words, home)
        time.sleep(setting.random.uniform(0, 0.8) * setting.world.seconds["publish"])
        _killed(home, setting, n_changes, seen)
        seen.end += " while a version was published"
        published = publish.wait()
        if published.status:  # it took so long that gc took it for dead: publish again
            again = setting.nursery.run(MODULES["publish"], words, home.root)
            seen.ended_well("the retry of publish", again)
        seen.expect(versions_of(home) == [1, 2, 3, 4, 5], f"versions {versions_of(home)}")
        _collected(home, setting, seen, spared=5)
        _collected(home, setting, seen)
    _only_production_is_left(home, seen, setting, number=5)


def _publish_killed(home: Home, setting: Setting, n_changes: int, seen: Seen) -> None:
    """A publisher dies, gc takes its try for an orphan or finishes round it; then it is retried."""
    words, world = setting.world.words("publish", rebuild=3), setting.world
    place = setting.random.randint(1, world.changes["publish"])
    with setting.reader(home, seen):
        died = setting.start(MODULES["publish"], words, home, die_at=place).wait()
        seen.expect(died.status == -signal.SIGKILL, f"publish ended with {died.status}")
        _killed(home, setting, n_changes, seen)
        seen.end += f" after publish had been before its change {place}"
        _collected(home, setting, seen)
        again = setting.nursery.run(MODULES["publish"], words, home.root)
        seen.ended_well("the retry of publish", again)
        seen.expect(versions_of(home) == [1, 2, 3, 4, 5], f"versions {versions_of(home)}")
        _collected(home, setting, seen)
        _collected(home, setting, seen)
    _only_production_is_left(home, seen, setting, number=5)


def _two_collectors(home: Home, setting: Setting, n_changes: int, seen: Seen) -> None:
    """Two at once, of which one is killed."""
    with setting.reader(home, seen):
        other = setting.start(_COLLECT, [home.store], home)
        _killed(home, setting, n_changes, seen)
        seen.end += " beside another one"
        seen.ended_well("the other gc", other.wait())
        _collected(home, setting, seen)
    _only_production_is_left(home, seen, setting)


def _wait_for_lease(home: Home) -> None:
    """Until the reader that holds version 1 does."""
    deadline = time.monotonic() + 60
    while not list((home.root / "store" / "leases" / f"{1:020d}").glob("*.json")):
        if time.monotonic() > deadline:
            raise RuntimeError("the reader took no lease")
        time.sleep(0.02)


SCENES: dict[str, Callable[[Home, Setting, int, Seen], None]] = {
    "killed": _alone,
    "killed beside readers": _beside_readers,
    "killed beside publish": _beside_publish,
    "after a killed publish": _publish_killed,
    "two collectors": _two_collectors,
}


def strike(scene: str, setting: Setting) -> Seen:
    """Copy the store that is full of garbage, and play a scene on it."""
    garbage, n_changes = full_of_garbage(setting)
    seen = Seen(recovered_by="the next gc")
    with setting.home(garbage) as home:
        SCENES[scene](home, setting, n_changes, seen)
    return seen


STORE_MID_GC = Kind(
    name="store-mid-gc",
    expected="readers go on with whole versions; what somebody holds open is not deleted",
    recovery="itself: the next `embedding-store gc`",
    times={
        "killed": 5,
        "killed beside readers": 6,
        "killed beside publish": 5,
        "after a killed publish": 3,
        "two collectors": 3,
    },
    strike=strike,
)
