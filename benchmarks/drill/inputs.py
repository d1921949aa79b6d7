"""Inputs that are not what they should be: deliveries, tables, versions, manifests, checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from drill.faults import Kind, Seen, Setting
from drill.invariants import half_visible, outputs, production, store_problems, versions_of
from drill.runs import Ended
from drill.world import FIRST, SECOND, run_checked
from embedding_store import EmbeddingStore
from jobs.datasets import BY_NAME
from jobs.home import Home
from jobs.job import load_manifest
from jobs.launch import MODULES, NIGHTLY

DELIVERY = f"ratings/{FIRST}.csv"  # what the second night reads for the first time


def flip(path: Path, chance: Random, n_bits: int = 1) -> None:
    """Turn some bits of a file over."""
    content = bytearray(path.read_bytes())
    for _ in range(n_bits):
        place = chance.randrange(len(content))
        content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: Random) -> None:
    """Take away a random end of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(1, len(content))])


# -- deliveries ------------------------------------------------------------------------------------


def _own_source(setting: Setting, home: Home) -> Path:
    source = home.root.with_name(f"{home.root.name}.raw")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(setting.world.source, source)
    return source


def _ingested(setting: Setting, home: Home, source: Path, **flags: object) -> Ended:
    words = setting.world.words("ingest", source=source, **flags)
    return run_checked(setting.nursery, "ingest", words, home)


def _damaged_delivery(setting: Setting, seen: Seen, damage: Callable[[Path], None]) -> None:
    """Rows go to the quarantine, or the night stops; `--restate` takes the file that is whole."""
    with setting.home(setting.world.before("ingest")) as home:
        source = _own_source(setting, home)
        damage(source / DELIVERY)
        first = _ingested(setting, home, source)
        if first.status:
            seen.refused_in_words("ingest", first, f"{FIRST}.csv")
        seen.end += ": refused" if first.status else ": bad rows went to the quarantine"
        seen.problems += half_visible(home)
        shutil.copy2(setting.world.source / DELIVERY, source / DELIVERY)
        if not first.status:
            refused = _ingested(setting, home, source)
            seen.refused_in_words("ingest of the file put right", refused, "--restate", "changed")
        again = _ingested(setting, home, source, restate=True if not first.status else None)
        seen.recovered_by = "a retry" if first.status else "ingest --restate"
        if seen.ended_well("ingest of the file put right", again):
            _as_undisturbed_content(setting, home, seen)
        shutil.rmtree(source)


def _as_undisturbed_content(setting: Setting, home: Home, seen: Seen) -> None:
    """What `splits` makes of the events is compared, for it holds no numbers of rows.

    Rows of a second version of a file are numbered anew.
    """
    seen.problems += half_visible(home)
    done = run_checked(setting.nursery, "splits", setting.world.words("splits"), home)
    if seen.ended_well("splits", done):
        found, wanted = (
            outputs(home, "splits", SECOND),
            outputs(setting.world.done, "splits", SECOND),
        )
        seen.expect(found == wanted, "splits of the file put right are not those undisturbed")


def delivery_cut_short(setting: Setting, seen: Seen) -> None:
    """A transfer that broke off."""
    seen.end = "the newest delivery ends early"
    _damaged_delivery(setting, seen, lambda path: cut(path, setting.random))


def delivery_with_flipped_bits(setting: Setting, seen: Seen) -> None:
    """A disk or a wire that errs."""
    n_bits = setting.random.randint(1, 20)
    seen.end = f"{n_bits} bits of the newest delivery are flipped"
    _damaged_delivery(setting, seen, lambda path: flip(path, setting.random, n_bits))


def delivery_with_other_columns(setting: Setting, seen: Seen) -> None:
    """Whoever delivers has changed the form."""

    def rename(path: Path) -> None:
        column = setting.random.choice(("user_id", "item_id", "rating", "rated_at"))
        path.write_text(path.read_text().replace(column, f"{column}_v2", 1))

    seen.end = "a column of the newest delivery has another name"
    _damaged_delivery(setting, seen, rename)


# -- between jobs ----------------------------------------------------------------------------------


def _read_by(job: str, setting: Setting) -> list[str]:
    """Datasets that a job of the undisturbed night has read, and another job of it has made."""
    manifest = load_manifest(setting.world.done, job, SECOND)
    assert manifest is not None
    return [each.name for each in manifest.inputs if BY_NAME[each.name].producer in NIGHTLY]


def table_with_flipped_bits(setting: Setting, seen: Seen) -> None:
    """The job that reads it refuses and names the job that makes it, which mends it."""
    readers = ("splits", "distil", "codebook", "align", "tune", "project", "publish", "score")
    job = setting.random.choice(readers)
    dataset = BY_NAME[setting.random.choice(_read_by(job, setting))]
    seen.end = f"a bit of {dataset.name} is flipped before {job} reads it"
    seen.recovered_by = f"{dataset.producer} again"
    with setting.home(setting.world.before(job)) as home:
        flip(home.output(dataset, SECOND), setting.random)
        refused = setting.nursery.run(MODULES[job], setting.world.words(job), home.root)
        seen.refused_in_words(job, refused, dataset.producer, "run that job again")
        setting.retried(dataset.producer, home, seen)
        setting.retried(job, home, seen)


def partition_with_flipped_bits(setting: Setting, seen: Seen) -> None:
    """Events of a day rot; the next reader refuses, and ingest makes them again."""
    with setting.home(setting.world.before("splits")) as home:
        parts = sorted((home.root / "tables" / "events").glob("event_day=*/*.parquet"))
        path = setting.random.choice(parts)
        seen.end = (
            f"a bit of the events of {path.parent.name.removeprefix('event_day=')} is flipped"
        )
        seen.recovered_by = "remove the file, then ingest --restate"
        flip(path, setting.random)
        refused = setting.nursery.run(MODULES["splits"], setting.world.words("splits"), home.root)
        seen.refused_in_words("splits", refused, path.name, "--restate")
        path.unlink()
        again = run_checked(
            setting.nursery, "ingest", setting.world.words("ingest", restate=True), home
        )
        if seen.ended_well("ingest --restate", again):
            setting.retried("splits", home, seen)


def torn_manifest(setting: Setting, seen: Seen) -> None:
    """A manifest that cannot be read is no manifest: its job runs again."""
    job = setting.random.choice(("splits", "distil", "align"))
    after = {"splits": "adapt", "distil": "codebook", "align": "tune"}[job]
    seen.end = f"the manifest of {job} ends early"
    seen.recovered_by = f"{job} again"
    with setting.home(setting.world.before(after)) as home:
        cut(home.manifest(job, SECOND), setting.random)
        refused = setting.nursery.run(MODULES[after], setting.world.words(after), home.root)
        seen.refused_in_words(after, refused, job)
        setting.retried(job, home, seen)
        setting.retried(after, home, seen)


def torn_checkpoint(setting: Setting, seen: Seen) -> None:
    """A killed training left checkpoints of which the newest rots: the one before it serves."""
    job = setting.random.choice(("adapt", "tune", "align"))
    seen.end = f"{job} was killed late, and a bit of its newest checkpoint flipped"
    with setting.home(setting.world.before(job)) as home:
        run = setting.start(MODULES[job], setting.world.words(job), home)
        folder, deadline = home.run(job, SECOND) / "checkpoints", time.monotonic() + 120
        while not list(folder.glob("**/step-*.json")) and time.monotonic() < deadline:
            time.sleep(0.005)
        run.kill()
        run.wait()
        kept = sorted(folder.glob("**/step-*.safetensors"))
        if kept:
            flip(kept[-1], setting.random)
        setting.retried(job, home, seen)


def backbone_cut_short(setting: Setting, seen: Seen) -> None:
    """Weights that end early are refused by name; the whole file serves again."""
    seen.end = "the weights of the backbone end early"
    seen.recovered_by = "a retry with the whole file"
    with setting.home(setting.world.before("distil")) as home:
        folder = home.root.with_name(f"{home.root.name}.backbone")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(setting.world.backbone, folder)
        cut(folder / "model.safetensors", setting.random)
        words = setting.world.words("distil", model=folder)
        refused = setting.nursery.run(MODULES["distil"], words, home.root)
        seen.refused_in_words("distil", refused, str(folder))
        seen.problems += half_visible(home)
        setting.retried("distil", home, seen)
        shutil.rmtree(folder)


# -- the store -------------------------------------------------------------------------------------


def _damaged_file(home: Home, setting: Setting, version: int) -> Path:
    with EmbeddingStore(home.store).open(version, verify="off") as opened:
        paths = sorted(entry.path for entry in opened.manifest.files if entry.bytes)
    path = Path(home.store) / setting.random.choice(paths)
    flip(path, setting.random)
    return path


def version_with_flipped_bits(setting: Setting, seen: Seen) -> None:
    """Production rots: nobody reads it any more; the night is published once more."""
    with setting.home(setting.world.done) as home:
        path = _damaged_file(home, setting, 2)
        seen.end = f"a bit of {path.name} of the version in production is flipped"
        seen.recovered_by = "publish --rebuild 1"
        opened = setting.nursery.run(
            "embedding_store.cli", ["verify", "--store", home.store], home.root
        )
        seen.expect(opened.status == 4, f"verify ended with {opened.status}")
        score = setting.world.words("score")
        refused = setting.nursery.run(MODULES["score"], [*score, "--force"], home.root)
        seen.refused_in_words("score", refused, path.name)
        seen.problems += half_visible(home)
        mended = setting.nursery.run(
            MODULES["publish"], setting.world.words("publish", rebuild=1), home.root
        )
        seen.ended_well("publish --rebuild 1", mended)
        seen.expect(production(home) == 3, f"production is {production(home)}")
        seen.expect(versions_of(home) == [1, 2, 3], f"versions {versions_of(home)}")
        with setting.reader(home, seen):
            collected = setting.nursery.run("drill.collecting", [home.store], home.root)
            seen.ended_well("gc of the damaged version", collected)
        seen.problems += store_problems(home, setting.nursery)


def last_night_with_flipped_bits(setting: Setting, seen: Seen) -> None:
    """The version that the night goes on from rots: it is named; published again, it serves."""
    world = setting.world
    with setting.home(world.before("distil")) as home:
        path = _damaged_file(home, setting, 1)
        seen.end = f"a bit of {path.name} of last night's version is flipped"
        seen.recovered_by = f"publish --day {FIRST} --rebuild 1"
        refused = setting.nursery.run(MODULES["distil"], world.words("distil"), home.root)
        if refused.status:
            seen.refused_in_words("distil", refused, path.name)
        words = world.words("publish", FIRST, rebuild=1)
        seen.ended_well("publish again", setting.nursery.run(MODULES["publish"], words, home.root))
        previous = setting.nursery.run(MODULES["previous"], ["--day", str(SECOND)], home.root)
        number = previous.answer.get("version")
        seen.expect(number == 2, f"last night's version is now {number}")
        setting.retried("distil", home, seen, previous_version=number)


Damage = Callable[[Setting, Seen], None]
CASES: dict[str, tuple[Damage, int]] = {
    "delivery cut short": (delivery_cut_short, 3),
    "delivery with flipped bits": (delivery_with_flipped_bits, 4),
    "delivery with other columns": (delivery_with_other_columns, 2),
    "table with flipped bits": (table_with_flipped_bits, 5),
    "events with flipped bits": (partition_with_flipped_bits, 2),
    "manifest cut short": (torn_manifest, 2),
    "checkpoint with flipped bits": (torn_checkpoint, 3),
    "backbone cut short": (backbone_cut_short, 1),
    "version with flipped bits": (version_with_flipped_bits, 3),
    "last night's version with flipped bits": (last_night_with_flipped_bits, 2),
}


def strike(case: str, setting: Setting) -> Seen:
    """Damage, look, mend, look."""
    seen = Seen()
    CASES[case][0](setting, seen)
    return seen


CORRUPT_INPUT = Kind(
    name="corrupt-input",
    expected="rows go to the quarantine, or one line names the file and what makes it again",
    recovery="what the line says: run the job that makes the file; `--restate` for a delivery; "
    "`publish --rebuild 1` for a version",
    times={name: times for name, (_, times) in CASES.items()},
    strike=strike,
)
