"""What must hold after a fault, whatever it was: each function returns what is wrong, in words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from drill.runs import Nursery
from embedding_store import EmbeddingStore
from embedding_store.errors import StoreError, StoreNotFound
from jobs.datasets import ADAPT_CURVE, METRICS, REPORT, TUNE_CURVE, Dataset, Format, made_by
from jobs.errors import JobError
from jobs.files import sha256_file
from jobs.home import Home
from jobs.job import load_manifest
from jobs.manifest import Manifest

# The report tells what the night took, so its bytes are no function of the night's inputs.
_OF_THE_RUN = {"cost", "seconds", "peak_memory_bytes", "code_version", "created_at", "produced_by"}


def outputs(home: Home, job: str, day: date) -> dict[str, str]:
    """A hash of everything that a job made: its files, and its version in the store."""
    made = {
        dataset.name: _content(home.output(dataset, day), dataset)
        for dataset in made_by(job)
        if home.output(dataset, day).exists() and dataset is not REPORT
    }
    if job == "publish":
        made |= _published(home, day)
    return made


def _published(home: Home, day: date) -> dict[str, str]:
    """Files of the last version of a day, every byte of which was read."""
    store = EmbeddingStore(home.store)
    numbers = [each.version for each in store.versions() if each.day == str(day)]
    if not numbers:
        return {}
    with store.open(max(numbers)) as version:
        return {f"store/{each.name}": each.sha256 for each in version.manifest.files}


def _content(path: Path, dataset: Dataset) -> str:
    """Of its bytes, or, of what tells how long it took, of the rest of what it says."""
    if dataset is METRICS:
        return json.dumps(_settled(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True)
    if dataset in (ADAPT_CURVE, TUNE_CURVE):
        rows = pq.read_table(path, partitioning=None).drop_columns(["seconds"]).to_pylist()
        return json.dumps(rows)
    return sha256_file(path)


def _settled(value: Any) -> Any:
    """A document without what depends on the run that wrote it."""
    if isinstance(value, dict):
        return {name: _settled(one) for name, one in value.items() if name not in _OF_THE_RUN}
    return [_settled(one) for one in value] if isinstance(value, list) else value


def differences(
    found: Mapping[str, str], wanted: Mapping[str, str], *, aside: Collection[str] = ()
) -> list[str]:
    """Outputs that are not those of the undisturbed run; some may differ."""
    names = sorted({*found, *wanted} - set(aside))
    return [
        f"{name} is not that of the undisturbed run"
        for name in names
        if found.get(name) != wanted.get(name)
    ]


# -- tables ----------------------------------------------------------------------------------------


def half_visible(home: Home) -> list[str]:
    """Outputs that a manifest names and that are not what it says; Parquet files without an end."""
    found = []
    for path in sorted(home.root.glob("runs/*/day=*/manifest.json")):
        day = date.fromisoformat(path.parent.name.removeprefix("day="))
        try:
            manifest = load_manifest(home, path.parent.parent.name, day)
        except (JobError, ValueError) as error:
            found.append(f"{path.name} of {path.parent.parent.name}: {error}")
            continue
        found += list(_not_as_named(home, manifest)) if manifest else []
    return found + _torn(home)


def _not_as_named(home: Home, manifest: Manifest) -> Iterator[str]:
    for output in manifest.outputs:
        path = home.root / output.path
        if not path.is_file() or sha256_file(path) != output.sha256:
            yield f"{output.path} is not what the manifest of {manifest.job} says"


def _torn(home: Home) -> list[str]:
    """Tables that have their name and are no whole files."""
    return [
        f"{path.relative_to(home.root)} has its name and is not whole"
        for path in home.root.glob(f"tables/*/*/*.{Format.PARQUET.value}")
        if path.stat().st_size < 8 or path.read_bytes()[-4:] != b"PAR1"
    ]


def leftovers(home: Home) -> list[str]:
    """Staging that a finished run should have removed."""
    return [
        f"{path.relative_to(home.root)} was left behind"
        for path in home.root.glob("runs/*/day=*/staging")
    ]


# -- the store -------------------------------------------------------------------------------------


def store_problems(home: Home, nursery: Nursery | None = None) -> list[str]:
    """Numbers with a gap, a run published twice, an alias that names nothing whole, damage.

    Args:
        home: whose store.
        nursery: runs the command `embedding-store verify`; without it the library is asked.
    """
    store = EmbeddingStore(home.store)
    try:
        versions = store.versions()
    except StoreNotFound:
        return []
    found = []
    if (numbers := [each.version for each in versions]) != list(range(1, len(versions) + 1)):
        found.append(f"versions are not counted through: {numbers}")
    keys = Counter(each.run_key for each in versions)
    found += [f"{n} versions of the run {key[:12]}" for key, n in keys.items() if n > 1]
    found += _aliases_that_do_not_open(store)
    return found + _verified(home, nursery)


def _aliases_that_do_not_open(store: EmbeddingStore) -> list[str]:
    found = []
    for alias in store.aliases():
        try:
            store.open(alias).close()
        except StoreError as error:
            found.append(f"'{alias}' does not open: {error}")
    return found


def _verified(home: Home, nursery: Nursery | None) -> list[str]:
    if nursery is None:
        return [str(problem) for problem in EmbeddingStore(home.store).verify()]
    words = ["verify", "--store", home.store, "--format", "json"]
    done = nursery.run("embedding_store.cli", words, home.root)
    return [] if done.status == 0 else [f"verify ended with {done.status}: {done.printed[-400:]}"]


def versions_of(home: Home) -> list[int]:
    """Numbers of the versions; none where there is no store."""
    try:
        return [each.version for each in EmbeddingStore(home.store).versions()]
    except StoreNotFound:
        return []


def production(home: Home) -> int | None:
    """The version that readers get."""
    return EmbeddingStore(home.store).aliases().get("production")
